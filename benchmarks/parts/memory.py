"""What an instance takes in memory, beyond its own bytes."""

from benchmarks import calls
from benchmarks.bench import Bench, say
from benchmarks.generator import Generator
from benchmarks.lane import Lane
from benchmarks.report import Beside, Report, Row, at_most

MIB = 1 << 20
MOST = 2048

WHAT = "memory of an instance, beyond its spec's own bytes"


def measure(bench: Bench) -> Report:
    """Compare a daemon with many instances to one with none."""
    large = bench.scale.large
    say("memory")
    with Generator() as generator:
        none, many = (_resident(bench, generator, size) for size in (0, large))
    own = bench.fleet(large).own / large
    beyond = (many - none) / large - own
    beside = {"its spec's own bytes": Beside(own, beyond / own)}
    rows = [
        Row("memory", none / MIB, "MiB", 0),
        Row("memory", many / MIB, "MiB", large),
        Row(WHAT, beyond, "B", large, beside=beside),
    ]
    return Report(rows, [at_most(MOST, beyond, f"{WHAT}, in bytes", large)])


def _resident(bench: Bench, generator: Generator, size: int) -> int:
    """Give the resident memory, in bytes, once all were described, with properties and without."""
    with bench.daemon(size) as daemon:
        Lane(generator, daemon).perform([calls.describe(properties=True), calls.describe(properties=False)], 2)
        return int(daemon.process.memory_info().rss)
