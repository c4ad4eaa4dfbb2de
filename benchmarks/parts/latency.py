"""How long describing a group takes while others provision, beside a constant reply while others have such ones."""

import time
from collections.abc import Mapping, Sequence
from statistics import median, quantiles

from msgspec import Struct
from msgspec.structs import replace

from benchmarks import calls, lengths
from benchmarks.bench import Bench, say
from benchmarks.contenders import describing, provisions
from benchmarks.generator import Generator
from benchmarks.lane import Lane
from benchmarks.race import Work
from benchmarks.report import Beside, Report, Row, at_most
from benchmarks.scale import CONNECTIONS, Scale
from benchmarks.servers import Daemon, Server

Requests = Mapping[Work, list[bytes]]

MILLI = 1000

SPECS = 1_000
"""How many are asked for in turn."""

PACE = 0.005
"""Seconds from one probe to the next."""

PROBES = 32
"""Connections of the probe: one that is late does not hold up the next."""

LEAD = 0.1
"""Seconds that the load is there before, and after, the probe."""


class Quantiles(Struct, frozen=True):
    """Milliseconds that half of the probes, and all but one in a hundred, took at most."""

    p50: float
    p99: float


class Side(Struct, frozen=True):
    """Probes beside a load."""

    load: Lane
    loading: list[bytes]
    probe: Lane
    probing: list[bytes]

    def round(self) -> tuple[Quantiles, list[str]]:
        """Probe for a while; give also the IDs of what was provisioned."""
        self.load.generator.start(self.load.order(self.loading))
        time.sleep(LEAD)
        probed = self.probe.generator.perform(replace(self.probe.order(self.probing), pace=PACE))
        loaded = self.load.generator.finish()
        hundredths = quantiles(probed.latencies, n=100)
        return Quantiles(hundredths[49] * MILLI, hundredths[98] * MILLI), loaded.ids


def measure(bench: Bench) -> Report:
    """Probe the daemon and the constant reply by turns."""
    ours, constant = [], []
    with (
        bench.daemon(bench.scale.middle) as daemon,
        bench.constant() as ceiling,
        Generator() as load,
        Generator() as probe,
    ):
        our_side = _side(bench.scale, load, probe, daemon, _requests(daemon))
        constant_side = _side(bench.scale, load, probe, ceiling, _constant(load, daemon))
        for round in range(bench.scale.probes):
            say(f"latency: round {round + 1} of {bench.scale.probes}")
            measured, ids = our_side.round()
            our_side.load.send_all([calls.destroy(id) for id in ids])
            daemon.settle()
            ours.append(measured)
            constant.append(constant_side.round()[0])
    return _report(bench.scale.middle, ours, constant)


def _side(scale: Scale, load: Generator, probe: Generator, server: Server, requests: Requests) -> Side:
    loading = Lane(load, server, max(CONNECTIONS), scale.probing + 2 * LEAD)
    probing = Lane(probe, server, PROBES, scale.probing)
    return Side(loading, requests[Work.PROVISION], probing, requests[Work.DESCRIBE_GROUP])


def _requests(daemon: Daemon) -> Requests:
    return {**describing(daemon.fleet), Work.PROVISION: list(provisions(SPECS))}


def _constant(generator: Generator, daemon: Daemon) -> Requests:
    """Give the same requests, for constant replies of the same lengths."""
    replies = {**lengths.of_describes(generator, daemon), **lengths.of_changes(generator, daemon)}
    return {work: calls.to_constant(replies[work], requests) for work, requests in _requests(daemon).items()}


def _report(instances: int, ours: Sequence[Quantiles], constant: Sequence[Quantiles]) -> Report:
    halves = _row("p50", instances, [each.p50 for each in ours], [each.p50 for each in constant])
    most = _row("p99", instances, [each.p99 for each in ours], [each.p99 for each in constant])
    what = f"{most.what}: × with constant replies"
    return Report([halves, most], [at_most(2, most.beside["constant"].ratio, what, instances)])


def _row(name: str, instances: int, ours: Sequence[float], constant: Sequence[float]) -> Row:
    ratio = median(own / other for own, other in zip(ours, constant, strict=True))
    what = f"{name} of describing a group, while {max(CONNECTIONS)} connections provision"
    return Row(what, median(ours), "ms", instances, None, {"constant": Beside(median(constant), ratio)})
