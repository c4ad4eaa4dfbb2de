"""How long a daemon's replies are, in bytes: constant ones are made as long."""

from collections.abc import Mapping

from benchmarks import calls
from benchmarks.contenders import describing, provisions
from benchmarks.generator import Generator
from benchmarks.lane import Lane
from benchmarks.race import Work
from benchmarks.servers import Daemon


def of_describes(generator: Generator, daemon: Daemon) -> Mapping[Work, int]:
    """Ask for all instances, and for a group."""
    lane = Lane(generator, daemon)
    return {work: lane.perform(requests[:1], 1).received for work, requests in describing(daemon.fleet).items()}


def of_changes(generator: Generator, daemon: Daemon) -> Mapping[Work, int]:
    """Provision, label and destroy an instance."""
    lane = Lane(generator, daemon)
    provisioned = lane.perform(list(provisions(1)), 1)
    id = provisioned.ids[0]
    labelled = lane.perform([calls.label(id, {"a": "b"})], 1)
    destroyed = lane.perform([calls.destroy(id)], 1)
    daemon.settle()
    done = {Work.PROVISION: provisioned, Work.LABEL: labelled, Work.DESTROY: destroyed}
    return {work: each.received for work, each in done.items()}
