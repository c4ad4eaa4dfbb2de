"""Cases that describe: the rate of describes, and their latency while other clients provision."""

import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import median, quantiles

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.cases.subjects import Testbed, measure_change_lengths, measure_describe_lengths
from benchmarks.cases.workspace import Scale, Workspace
from benchmarks.load import calls
from benchmarks.load.calls import Operation, build_describes, build_provisions
from benchmarks.load.generator import CONNECTIONS, Generator, Load
from benchmarks.report.comparison import Rates, Subject, compare
from benchmarks.report.tables import MILLISECONDS, Baseline, Report, Row, Target, at_least, at_most, print_progress
from benchmarks.servers.process import Daemon, Server

PROVISIONS = 1_000
"""Provision requests that the load repeats."""

PACE = 0.005
"""Seconds from one probe to the next."""

PROBE_CONNECTIONS = 32
"""Connections of the probe: enough that a late reply does not delay the next probe."""

LEAD = 0.1
"""Seconds that the load runs before the first probe and after the last one."""

Requests = Mapping[Operation, list[bytes]]


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


class Latency(Struct, frozen=True):
    """Percentiles of a round's latencies, in milliseconds."""

    p50: float
    p99: float


class Probe(Struct, frozen=True):
    """A server under a load of provisions, and describes at a steady pace whose latency counts."""

    load: Load
    load_requests: list[bytes]
    probe: Load
    probe_requests: list[bytes]

    def run(self) -> tuple[Latency, list[str]]:
        """Run a round. Return its latencies, and the IDs of the instances that the load provisioned."""
        self.load.generator.start(self.load.build_round(self.load_requests))
        time.sleep(LEAD)
        result = self.probe.generator.run(replace(self.probe.build_round(self.probe_requests), pace=PACE))
        ids = self.load.generator.finish().ids
        percentiles = quantiles(result.latencies, n=100)
        return Latency(percentiles[49] * MILLISECONDS, percentiles[98] * MILLISECONDS), ids


def measure_latency(workspace: Workspace) -> Report:
    """Compare latencies of describes under load with those of constant replies under a load of constant replies."""
    scale = workspace.scale
    daemon_rounds, constant_rounds = [], []
    with (
        workspace.create_daemon(scale.middle) as daemon,
        workspace.create_constant() as constant,
        # Two workers: the probe must not wait for the load's worker.
        Generator() as load,
        Generator() as probe,
    ):
        daemon_probe = _build_probe(scale, load, probe, daemon, _build_requests(daemon))
        constant_probe = _build_probe(scale, load, probe, constant, _build_constant_requests(load, daemon))
        for round in range(scale.probe_rounds):
            print_progress(f"latency: round {round + 1} of {scale.probe_rounds}")
            latency, ids = daemon_probe.run()
            daemon_probe.load.send_all([calls.destroy(id) for id in ids])
            daemon.settle()
            daemon_rounds.append(latency)
            constant_rounds.append(constant_probe.run()[0])
    p50 = _build_latency_row(
        "p50", scale.middle, [each.p50 for each in daemon_rounds], [each.p50 for each in constant_rounds]
    )
    p99 = _build_latency_row(
        "p99", scale.middle, [each.p99 for each in daemon_rounds], [each.p99 for each in constant_rounds]
    )
    target = at_most(2, p99.baselines["constant"].ratio, f"{p99.measure}: ratio to constant replies", scale.middle)
    return Report([p50, p99], [target])


def _build_probe(scale: Scale, load: Generator, probe: Generator, server: Server, requests: Requests) -> Probe:
    return Probe(
        Load(load, server, max(CONNECTIONS), scale.probe_seconds + 2 * LEAD),
        requests[Operation.PROVISION],
        Load(probe, server, PROBE_CONNECTIONS, scale.probe_seconds),
        requests[Operation.DESCRIBE_GROUP],
    )


def _build_requests(daemon: Daemon) -> Requests:
    return {**build_describes(daemon.fleet), Operation.PROVISION: list(build_provisions(PROVISIONS))}


def _build_constant_requests(generator: Generator, daemon: Daemon) -> Requests:
    """Return the same requests for a server of constant replies, which are as long as the daemon's."""
    lengths = {**measure_describe_lengths(generator, daemon), **measure_change_lengths(generator, daemon)}
    return {
        operation: calls.set_reply_length(lengths[operation], each)
        for operation, each in _build_requests(daemon).items()
    }


def _build_latency_row(name: str, instances: int, daemon: Sequence[float], constant: Sequence[float]) -> Row:
    ratio = median(value / baseline for value, baseline in zip(daemon, constant, strict=True))
    measure = f"{name} latency of describing a group while {max(CONNECTIONS)} connections provision"
    return Row(measure, median(daemon), "ms", instances, None, {"constant": Baseline(median(constant), ratio)})
