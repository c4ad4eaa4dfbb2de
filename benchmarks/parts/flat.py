"""Memory over many requests: it should stay flat."""

from collections.abc import Iterator
from statistics import median

from benchmarks.bench import Bench, say
from benchmarks.contenders import Keeper, describing
from benchmarks.generator import Generator
from benchmarks.lane import Lane
from benchmarks.race import Work
from benchmarks.report import Report, Row, at_most
from benchmarks.scale import CONNECTIONS
from benchmarks.servers import Daemon

SAMPLES = 20
"""In a run."""

WARM = SAMPLES // 5
"""How many of them are the warm-up."""

CHANGES = 20
"""One request in so many is a provision, one a label, and one a destroy; the others describe a group."""

MIB = 1 << 20

MOST = 2.0
"""Bytes that memory may grow for each request: 40 for each provision would be more."""


def measure(bench: Bench) -> Report:
    """Send requests of all kinds, and look at the daemon's memory now and then."""
    size, requests = bench.scale.small, bench.scale.requests
    connections = max(CONNECTIONS)
    with Generator() as generator, bench.daemon(size) as daemon:
        samples = list(_samples(daemon, Lane(generator, daemon, connections), requests // SAMPLES))
    window = SAMPLES // 10
    early, late = median(samples[WARM : WARM + window]), median(samples[-window:])
    each = (late - early) / requests * SAMPLES / (SAMPLES - WARM - window)
    rows = [
        Row(f"memory after {requests * WARM // SAMPLES:,} requests", early / MIB, "MiB", size, connections),
        Row(f"memory after {requests:,} requests", late / MIB, "MiB", size, connections),
        Row("growth from the one to the other", (late - early) / MIB, "MiB", size, connections),
        Row("growth from the one to the other", late - early, "B", size, connections),
    ]
    what = "memory's growth for each request, in bytes"
    return Report(rows, [at_most(MOST, each, what, size, connections)])


def _samples(daemon: Daemon, lane: Lane, requests: int) -> Iterator[int]:
    """Give the resident memory, in bytes, after each of so many requests."""
    changes = requests // CHANGES
    keeper = Keeper(lane, daemon.fleet, changes, daemon.settle)
    describes = describing(daemon.fleet)[Work.DESCRIBE_GROUP]
    for sample in range(SAMPLES):
        if sample % WARM == 0:
            say(f"flat: {requests * sample:,} requests of {requests * SAMPLES:,}")
        lane.perform(describes, requests - 3 * changes)
        for work in (Work.PROVISION, Work.LABEL, Work.DESTROY):
            keeper(work)
        yield int(daemon.process.memory_info().rss)
