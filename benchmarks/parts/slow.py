"""Many provisions at once with a provider that takes a while: beside the time that so many calls must take."""

import time
from statistics import median

from benchmarks.bench import Bench, say
from benchmarks.contenders import provisions
from benchmarks.generator import Generator
from benchmarks.lane import Lane
from benchmarks.report import Beside, Report, Row, at_most
from benchmarks.scale import CONNECTIONS
from benchmarks.slow import LATENCY
from pyinfrakit.instance.calls import CallLimits

KINDS = ("Async", "Plain")

MILLI = 1000


def measure(bench: Bench) -> Report:
    """Have all asked for before the first is there, and wait for the last one."""
    count = bench.scale.slow
    ideal = count / CallLimits().at_once * LATENCY
    rows, targets = [], []
    with Generator() as generator:
        for kind in KINDS:
            taken = [_seconds(bench, generator, kind, count) for _ in range(bench.scale.starts)]
            ratio = median(taken) / ideal
            what = f"{count:,} provisions at once, {kind.lower()}, of {LATENCY * MILLI:g} ms"
            beside = {"ideal": Beside(ideal * MILLI, ratio)}
            rows.append(Row(what, median(taken) * MILLI, "ms", 0, None, beside))
            targets.append(at_most(1.5, ratio, f"{what}: × the ideal time", 0))
    return Report(rows, targets)


def _seconds(bench: Bench, generator: Generator, kind: str, count: int) -> float:
    say(f"slow: {kind.lower()}")
    requests = list(provisions(count))
    with bench.daemon(0, f"benchmarks.slow:{kind}", "--provision-wait", "0") as daemon:
        daemon.settle()
        began = time.perf_counter()
        Lane(generator, daemon, max(CONNECTIONS)).perform(requests, count)
        daemon.settle()
        return time.perf_counter() - began
