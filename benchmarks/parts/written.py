"""What a provision has the daemon write."""

from collections.abc import Iterator

from benchmarks import calls
from benchmarks.bench import Bench, say
from benchmarks.contenders import provisions
from benchmarks.generator import Generator
from benchmarks.lane import Lane
from benchmarks.report import Report, Row
from benchmarks.scale import CONNECTIONS
from benchmarks.servers import Daemon

SPECS = 1_000
"""How many are asked for in turn, until the time is over."""


def measure(bench: Bench) -> Report:
    """Count bytes over runs of provisions at each size, for those alone and those that share syncs."""
    rows: list[Row] = []
    with Generator() as generator:
        for size in bench.scale.sizes:
            say(f"written: instances: {size}")
            with bench.daemon(size) as daemon:
                for connections in (min(CONNECTIONS), max(CONNECTIONS)):
                    rows += _rows(daemon, Lane(generator, daemon, connections, bench.scale.writing))
    return Report(rows, [])


def _rows(daemon: Daemon, lane: Lane) -> Iterator[Row]:
    before = daemon.process.io_counters()
    done = lane.perform(list(provisions(SPECS)))
    after = daemon.process.io_counters()
    lane.send_all([calls.destroy(id) for id in done.ids])
    daemon.settle()
    size = len(daemon.fleet.ids)
    written = (after.write_chars - before.write_chars) / done.count
    yield Row("a provision: bytes written, by calls", written, "B", size, lane.connections)
    to_disk = (after.write_bytes - before.write_bytes) / done.count
    yield Row("a provision: bytes written, in pages to the disk", to_disk, "B", size, lane.connections)
