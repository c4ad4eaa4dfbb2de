"""The case of latency: describes while other clients provision, and while the worst calls and observations run."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median, quantiles
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.cases.subjects import measure_change_lengths, measure_describe_lengths
from benchmarks.cases.workspace import Scale, Workspace
from benchmarks.load import calls
from benchmarks.load.calls import Operation, build_describes, build_provisions
from benchmarks.load.generator import CONNECTIONS, Generator, Load
from benchmarks.report.tables import MILLISECONDS, Baseline, Report, Row, at_most, print_progress
from benchmarks.servers.fleet import GROUP_TAG
from benchmarks.servers.process import ROOT, Daemon, Server
from benchmarks.servers.unsteady import SLOW, SLOW_TAG, World, set_world
from pyinfrakit.rpc.client import Client, Connection
from pyinfrakit.rpc.jsonrpc import MAX_CALLS

PROVISIONS = 1_000
"""Provision requests that the load repeats."""

PACE = 0.005
"""Seconds from one probe to the next."""

PROBE_CONNECTIONS = 32
"""Connections of the probe: enough that a late reply does not delay the next probe."""

LEAD = 0.1
"""Seconds that the load runs before the first probe and after the last one."""

MAX_STALL = 50.0
"""Milliseconds for which a reply may be late, whatever another client asks for or the provider reports."""

INTERVAL = 1.0
"""Seconds between two observations while attacks are measured, so that several are under way in each."""

TIMEOUT = 300.0

Requests = Mapping[Operation, list[bytes]]

Params = Mapping[str, Any]


def measure_latency(workspace: Workspace) -> Report:
    """Measure latencies of describes under a load of provisions, and under each attack."""
    loaded, attacked = _measure_loaded(workspace), _measure_attacked(workspace)
    return Report([*loaded.rows, *attacked.rows], [*loaded.targets, *attacked.targets])


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


def _measure_loaded(workspace: Workspace) -> Report:
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


# --- Attacks


class Attack(Struct, frozen=True):
    """One client's calls, or one observation: the worst of its kind."""

    name: str
    run: Callable[[Daemon], None]


def _measure_attacked(workspace: Workspace) -> Report:
    """Compare the longest latency of a describe during each attack with that of a quiet time."""
    scale, rows, targets = workspace.scale, list[Row](), list[Any]()
    provider = f"{ROOT / 'benchmarks' / 'servers' / 'unsteady.py'}:Unsteady"
    set_world(workspace.folder, World.WELL)
    with (
        workspace.create_daemon(scale.large, provider, "--sync-interval", f"{INTERVAL:g}") as daemon,
        Generator() as probe,
        ThreadPoolExecutor(1) as thread,
    ):
        quiet = _probe(scale, probe, daemon, thread, Attack("nothing", lambda _: None))
        for attack in _list_attacks(workspace):
            print_progress(f"latency: {attack.name}")
            longest = _probe(scale, probe, daemon, thread, attack)
            measure = f"longest latency: {attack.name}"
            rows.append(Row(measure, longest, "ms", scale.large, None, {"quiet": Baseline(quiet, longest / quiet)}))
            targets.append(at_most(MAX_STALL, longest, f"{measure}, in ms", scale.large))
    return Report(rows, targets)


def _probe(scale: Scale, probe: Generator, daemon: Daemon, thread: ThreadPoolExecutor, attack: Attack) -> float:
    """Return the longest latency of a describe in milliseconds, from the start of an attack until it has ended."""
    group = calls.describe({GROUP_TAG: daemon.fleet.groups[0]})
    round = replace(Load(probe, daemon, PROBE_CONNECTIONS, scale.window).build_round([group]), pace=PACE)
    probe.start(round)
    time.sleep(LEAD)
    end = thread.submit(attack.run, daemon)
    longest = max(probe.finish().latencies)
    while not end.done():
        longest = max(longest, *probe.run(round).latencies)
    end.result()
    return longest * MILLISECONDS


def _list_attacks(workspace: Workspace) -> Sequence[Attack]:
    def change(world: World) -> Callable[[Daemon], None]:
        return lambda _: set_world(workspace.folder, world)

    unknown = [{f"unknown-{number}": ""} for number in range(1_000)]
    many = {key: "" for tags in unknown for key in tags}
    return (
        Attack("all instances described", _repeat("Instance.DescribeInstances", [{"Properties": True}])),
        Attack("a describe by 1,000 unknown tags", _repeat("Instance.DescribeInstances", [{"Tags": many}])),
        Attack("a batch of unknown tags", _repeat("Instance.DescribeInstances", [{"Tags": tags} for tags in unknown])),
        Attack("a batch of records", _repeat("Operator.Records", [{}] * 5)),
        Attack(
            "a batch of unknown handles", _repeat("Operator.Adopt", [{"Handle": f"h{n}"} for n in range(MAX_CALLS)])
        ),
        Attack("a batch of paced destroys", _destroy_paced),
        Attack("all live properties change", change(World.NEWS)),
        Attack("as many orphans as instances", change(World.ORPHANS)),
        Attack("all orphans adopted", _repeat("Operator.AdoptOrphans", [{}])),
        Attack("all instances broken", change(World.BROKEN)),
        Attack("the loss confirmed", _repeat("Operator.Confirm", [{}])),
        Attack("all instances healed", change(World.WELL)),
        Attack("all machines gone", change(World.GONE)),
        Attack("that loss confirmed", _repeat("Operator.Confirm", [{}])),
    )


def _repeat(method: str, params: Sequence[Params]) -> Callable[[Daemon], None]:
    """Return an attack of one batch of calls."""
    return lambda daemon: _send_batch(daemon, method, params[:MAX_CALLS])


def _destroy_paced(daemon: Daemon) -> None:
    """Destroy members of a group while another is provisioned for longer than the daemon waits for it."""
    with daemon.open_remote() as remote:
        members = [each.ID for each in remote.records({GROUP_TAG: daemon.fleet.groups[0]})]
    spec = {"Tags": {GROUP_TAG: daemon.fleet.groups[0], SLOW_TAG: ""}}
    with ThreadPoolExecutor(1) as thread, Client(daemon.socket, TIMEOUT) as client:
        new = thread.submit(client.call, "Instance.Provision", {"Spec": spec})
        time.sleep(SLOW / 10)
        context = {"Reason": "rolling_update"}
        repeats = (members * MAX_CALLS)[:MAX_CALLS]
        _send_batch(daemon, "Instance.Destroy", [{"Instance": id, "Context": context} for id in repeats])
        new.result()


def _send_batch(daemon: Daemon, method: str, params: Sequence[Params]) -> None:
    body = [{"jsonrpc": "2.0", "method": method, "params": each, "id": n} for n, each in enumerate(params)]
    connection = Connection(daemon.socket, TIMEOUT)
    try:
        connection.request("POST", "/", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        while reply.read(1 << 20):
            pass
    finally:
        connection.close()
