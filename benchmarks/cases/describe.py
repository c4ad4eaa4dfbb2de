"""The case of describes: their rate."""

from collections.abc import Iterator

from benchmarks.cases.subjects import Testbed
from benchmarks.cases.workspace import Scale, Workspace
from benchmarks.load.calls import Operation
from benchmarks.load.generator import CONNECTIONS
from benchmarks.report.comparison import Rates, Subject, compare
from benchmarks.report.tables import Report, Row, Target, at_least, print_progress


def measure_describe(workspace: Workspace) -> Report:
    """Compare rates with a constant reply of the same length and with the C demo's method."""
    scale = workspace.scale
    rows: list[Row] = []
    targets: list[Target] = []
    with Testbed(workspace) as testbed:
        for connections in CONNECTIONS:
            trials = testbed.build_describe_trials(connections)
            for operation, judge in ((Operation.DESCRIBE_ALL, _judge_all), (Operation.DESCRIBE_GROUP, _judge_group)):
                print_progress(f"{operation}: connections: {connections}")
                rates = compare(trials, [operation], scale.rounds, scale.max_subject_seconds)
                rows += _build_rows(rates, operation, connections, scale)
                targets += judge(rates, connections, scale)
    return Report(rows, targets)


def _build_rows(rates: Rates, operation: Operation, connections: int, scale: Scale) -> Iterator[Row]:
    for size in sorted({*scale.sizes, scale.few}):
        baselines = {"constant": Subject("constant", size), "demo": Subject("demo", size)}
        yield rates.build_row(operation, Subject("daemon", size), baselines, connections)


def _judge_all(rates: Rates, connections: int, scale: Scale) -> Iterator[Target]:
    operation, size = Operation.DESCRIBE_ALL, scale.middle
    ratio = rates.ratio(operation, Subject("daemon", size), Subject("constant", size))
    yield at_least(0.6, ratio, f"{operation}: ratio to constant reply", size, connections)
    if connections == 1:
        ratio = rates.ratio(operation, Subject("daemon", size), Subject("demo", size))
        yield at_least(20, ratio, f"{operation}: ratio to the C demo's method", size, connections)


def _judge_group(rates: Rates, connections: int, scale: Scale) -> Iterator[Target]:
    operation, large, middle = Operation.DESCRIBE_GROUP, scale.large, scale.middle
    # A group costs the same in a fleet of any size: the daemon looks it up in an index.
    ratio = rates.ratio(operation, Subject("daemon", large), Subject("daemon", scale.few))
    yield at_least(0.8, ratio, f"{operation}: ratio to the rate at {scale.few} instances", large, connections)
    ratio = rates.ratio(operation, Subject("daemon", large), Subject("constant", large))
    yield at_least(0.6, ratio, f"{operation}: ratio to constant reply", large, connections)
    if connections == 1:
        ratio = rates.ratio(operation, Subject("daemon", middle), Subject("demo", middle))
        yield at_least(100, ratio, f"{operation}: ratio to the C demo's method", middle, connections)
