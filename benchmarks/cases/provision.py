"""Cases that provision: rates of changes, bytes written, and provisions with a slow provider."""

import time
from collections.abc import Iterator, Mapping
from statistics import median

from benchmarks.cases.subjects import Testbed
from benchmarks.cases.workspace import Scale, Workspace
from benchmarks.load import calls
from benchmarks.load.calls import Operation, build_provisions
from benchmarks.load.generator import CONNECTIONS, Generator, Load
from benchmarks.report.comparison import Rates, Subject, compare
from benchmarks.report.tables import MILLISECONDS, Baseline, Report, Row, Target, at_least, at_most, print_progress
from benchmarks.servers.process import Daemon
from benchmarks.servers.slow import LATENCY, compute_ideal_seconds

OPERATIONS = (Operation.PROVISION, Operation.LABEL, Operation.DESTROY)
CONSTANT, DISK, SYNCED = Subject("constant"), Subject("disk"), Subject("synced")

# One connection pays for one sync per provision. Several share syncs, so they may exceed the disk's own rate.
_PROVISION_BOUNDS: Mapping[int, tuple[float, str, Mapping[Subject, float]]] = {
    1: (0.4, "disk and constant reply", {DISK: 1, CONSTANT: 1}),
    64: (1, "5 × disk and 0.4 × constant reply", {DISK: 5, CONSTANT: 0.4}),
}
"""By connections: the least ratio of provisions to the lower of several baselines, their names, and their factors."""

PROVISIONS = 1_000
"""Provision requests that are repeated while bytes are counted."""

SLOW_PROVIDERS = ("Async", "Plain")


def measure_provision(workspace: Workspace) -> Report:
    """Compare rates of provisions, labels, and destroys with a constant reply, the disk, and the C demo's method."""
    scale = workspace.scale
    rows: list[Row] = []
    targets: list[Target] = []
    with Testbed(workspace) as testbed:
        for connections in CONNECTIONS:
            print_progress(f"provision, label, destroy: connections: {connections}")
            rates = compare(
                testbed.build_change_trials(connections), OPERATIONS, scale.rounds, scale.max_subject_seconds
            )
            rows += _build_rate_rows(rates, connections, scale)
            targets += _judge_rates(rates, connections, scale)
    return Report(rows, targets)


def _build_rate_rows(rates: Rates, connections: int, scale: Scale) -> Iterator[Row]:
    for operation in OPERATIONS:
        for size in sorted({*scale.sizes, scale.few}):
            baselines = {"constant": CONSTANT, "disk": DISK, "synced": SYNCED, "demo": Subject("demo", size)}
            yield rates.build_row(operation, Subject("daemon", size), baselines, connections)


def _judge_rates(rates: Rates, connections: int, scale: Scale) -> Iterator[Target]:
    if connections in _PROVISION_BOUNDS:
        bound, names, factors = _PROVISION_BOUNDS[connections]
        for size in scale.sizes:
            ratio = rates.ratio_to_lowest(Operation.PROVISION, Subject("daemon", size), factors)
            yield at_least(bound, ratio, f"provision: ratio to the lower of {names}", size, connections)
    for operation in OPERATIONS:
        # The cost of a change does not grow with the number of instances.
        ratio = rates.ratio(operation, Subject("daemon", scale.large), Subject("daemon", scale.small))
        yield at_least(
            0.8, ratio, f"{operation}: ratio to the rate at {scale.small:,} instances", scale.large, connections
        )
        if connections == 1:
            ratio = rates.ratio(operation, Subject("daemon", scale.middle), Subject("demo", scale.middle))
            yield at_least(100, ratio, f"{operation}: ratio to the C demo's method", scale.middle, connections)


def measure_written(workspace: Workspace) -> Report:
    """Count the bytes that a provision writes at each size: over one connection, and over several that share syncs."""
    rows: list[Row] = []
    with Generator() as generator:
        for size in workspace.scale.sizes:
            print_progress(f"written: instances: {size}")
            with workspace.create_daemon(size) as daemon:
                for connections in (min(CONNECTIONS), max(CONNECTIONS)):
                    rows += _count_bytes(daemon, Load(generator, daemon, connections, workspace.scale.write_seconds))
    return Report(rows, [])


def _count_bytes(daemon: Daemon, load: Load) -> Iterator[Row]:
    before = daemon.process.io_counters()
    result = load.run(list(build_provisions(PROVISIONS)))
    after = daemon.process.io_counters()
    load.send_all([calls.destroy(id) for id in result.ids])
    daemon.settle()
    size = len(daemon.fleet.ids)
    # The kernel counts both the bytes that are passed to write calls and the pages that these make dirty.
    passed = (after.write_chars - before.write_chars) / result.count
    yield Row("bytes written per provision, in write calls", passed, "B", size, load.connections)
    dirtied = (after.write_bytes - before.write_bytes) / result.count
    yield Row("bytes written per provision, in disk pages", dirtied, "B", size, load.connections)


def measure_slow(workspace: Workspace) -> Report:
    """Compare the time of many concurrent provisions with the least time that their provider calls take."""
    count = workspace.scale.slow_provisions
    ideal = compute_ideal_seconds(count)
    rows, targets = [], []
    with Generator() as generator:
        for provider in SLOW_PROVIDERS:
            seconds = [
                _time_provisions(workspace, generator, provider, count) for _ in range(workspace.scale.repetitions)
            ]
            ratio = median(seconds) / ideal
            measure = f"{count:,} concurrent provisions of {LATENCY * MILLISECONDS:g} ms, {provider.lower()}"
            baselines = {"ideal": Baseline(ideal * MILLISECONDS, ratio)}
            rows.append(Row(measure, median(seconds) * MILLISECONDS, "ms", 0, None, baselines))
            targets.append(at_most(1.5, ratio, f"{measure}: ratio to the ideal time", 0))
    return Report(rows, targets)


def _time_provisions(workspace: Workspace, generator: Generator, provider: str, count: int) -> float:
    """Return the seconds from the first request until the last instance is ready."""
    print_progress(f"slow: {provider.lower()}")
    requests = list(build_provisions(count))
    # Without a wait, each request is answered before its instance is ready, so all of them are in progress at once.
    with workspace.create_daemon(0, f"benchmarks.servers.slow:{provider}", "--provision-wait", "0") as daemon:
        daemon.settle()
        began = time.perf_counter()
        Load(generator, daemon, max(CONNECTIONS)).run(requests, count)
        daemon.settle()
        return time.perf_counter() - began
