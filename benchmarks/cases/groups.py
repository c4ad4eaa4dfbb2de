"""The case of many groups: what a controller costs when there is nothing to do, and how fast it takes commits."""

import time
from collections.abc import Sequence
from statistics import median

from msgspec.structs import replace

from benchmarks.cases.workspace import Scale, Workspace
from benchmarks.load import calls
from benchmarks.load.generator import Generator, Load
from benchmarks.report.tables import MIB, MILLISECONDS, Baseline, Report, Row, at_most, print_progress
from benchmarks.servers.fleet import GROUP_TAG
from benchmarks.servers.groups import Controller, GroupFleet
from benchmarks.servers.process import Daemon, Server

POLL = 10.0
"""The default poll interval in seconds: a controller describes each group as often."""

MAX_BUSY = 2.0
"""CPU seconds that all groups may cost in a poll interval."""

MAX_STALL = 50.0
"""Milliseconds for which a reply of the controller may be late."""

MAX_COMMIT_SECONDS = 60.0

PACE = 0.002
"""Seconds from one probe to the next: far less than a stall."""

PROBE_CONNECTIONS = 64
COMMIT_CONNECTIONS = 8


def measure_groups(workspace: Workspace) -> Report:
    """Compare a controller with nothing to do with a loop that only describes, and measure commits of all groups."""
    scale = workspace.scale
    fleet = GroupFleet(scale.groups, scale.members)
    print_progress(f"groups: {fleet.count} of {fleet.size} members")
    with (
        workspace.create_group_plugin(fleet) as plugin,
        workspace.create_controller(fleet) as controller,
        Generator() as load,
        Generator() as probe,
    ):
        controller.settle(fleet.size)
        reports = [
            _measure_idle(scale, load, controller, plugin),
            _measure_memory(controller, plugin),
            _measure_stalls(scale, probe, controller, plugin),
            _measure_commits(load, controller),
        ]
    return Report([row for each in reports for row in each.rows], [t for each in reports for t in each.targets])


def _measure_idle(scale: Scale, load: Generator, controller: Controller, plugin: Daemon) -> Report:
    fleet, groups, describes = controller.fleet, [], []
    time.sleep(scale.window)  # the work that follows a start is over then
    for round in range(scale.probe_rounds):
        print_progress(f"groups: nothing to do, round {round + 1} of {scale.probe_rounds}")
        before = _read_cpu(controller)
        time.sleep(scale.window)
        groups.append((_read_cpu(controller) - before) * POLL / scale.window)
        describes.append(_describe_groups(scale, load, plugin, fleet))
    ratio = median(each / other for each, other in zip(groups, describes, strict=True))
    measure = f"CPU time in {POLL:g} s with nothing to do"
    baselines = {"describes": Baseline(median(describes), ratio)}
    target = at_most(MAX_BUSY, median(groups), f"{measure}, in seconds", fleet.members)
    return Report([Row(measure, median(groups), "s", fleet.members, None, baselines)], [target])


def _describe_groups(scale: Scale, load: Generator, plugin: Daemon, fleet: GroupFleet) -> float:
    """Return the CPU time of a plugin in a poll interval in which a client describes each group once."""
    requests = [calls.describe({GROUP_TAG: id}) for id in fleet.ids]
    round = Load(load, plugin, 1, scale.window).build_round(requests)
    before = _read_cpu(plugin)
    load.run(replace(round, pace=POLL / fleet.count))
    return (_read_cpu(plugin) - before) * POLL / scale.window


def _read_cpu(server: Server) -> float:
    """Return the CPU seconds that a process has used, to the nanosecond: a quick run uses few of the kernel's ticks."""
    return time.clock_gettime(~server.process.pid << 3 | 2)  # as the C library's `clock_getcpuclockid`


def _measure_memory(controller: Controller, plugin: Daemon) -> Report:
    members = controller.fleet.members
    total, others = (server.process.memory_info().rss for server in (controller, plugin))
    measure = "memory per member"
    return Report(
        [
            Row("memory", total / MIB, "MiB", members, None, {"plugin": Baseline(others / MIB, total / others)}),
            Row(measure, total / members, "B", members, None, {"plugin": Baseline(others / members, total / others)}),
        ],
        [],
    )


def _measure_stalls(scale: Scale, probe: Generator, controller: Controller, plugin: Daemon) -> Report:
    """Compare the latency of the cheapest replies with that of the same plugin without a controller."""
    sizes = [calls.ask_size(id) for id in controller.fleet.ids]
    nothing = [calls.describe({GROUP_TAG: "none"})]
    ours: list[float] = []
    others: list[float] = []
    for round in range(scale.probe_rounds):
        print_progress(f"groups: stalls, round {round + 1} of {scale.probe_rounds}")
        ours += _probe(scale, probe, controller, sizes)
        others += _probe(scale, probe, plugin, nothing)
    members = controller.fleet.members
    rows = [
        _build_latency_row(
            "99.9 % latency with nothing to do", _find_percentile(ours), _find_percentile(others), members
        ),
        _build_latency_row("longest latency with nothing to do", max(ours), max(others), members),
    ]
    return Report(rows, [at_most(MAX_STALL, rows[1].value, f"{rows[1].measure}, in ms", members)])


def _probe(scale: Scale, probe: Generator, server: Server, requests: Sequence[bytes]) -> list[float]:
    """Return the latencies in milliseconds."""
    round = replace(Load(probe, server, PROBE_CONNECTIONS, scale.window).build_round(requests), pace=PACE)
    return [each * MILLISECONDS for each in probe.run(round).latencies]


def _find_percentile(latencies: Sequence[float]) -> float:
    return sorted(latencies)[len(latencies) * 999 // 1000]


def _build_latency_row(measure: str, value: float, other: float, members: int) -> Row:
    return Row(measure, value, "ms", members, None, {"plugin": Baseline(other, value / other)})


def _measure_commits(load: Generator, controller: Controller) -> Report:
    """Commit all groups with one more member each."""
    fleet = controller.fleet
    print_progress("groups: commits")
    properties = fleet.build_properties(fleet.size + 1)
    requests = [calls.commit(id, properties) for id in fleet.ids]
    began = time.monotonic()
    result = Load(load, controller, COMMIT_CONNECTIONS).run(requests, len(requests))
    controller.settle(fleet.size + 1)
    settled = time.monotonic() - began
    measure = "commits of all groups"
    rows = [
        Row(measure, result.seconds, "s", fleet.members, COMMIT_CONNECTIONS),
        Row(f"{measure}, and a new member in each", settled, "s", fleet.members, COMMIT_CONNECTIONS),
    ]
    target = at_most(MAX_COMMIT_SECONDS, result.seconds, f"{measure}, in seconds", fleet.members, COMMIT_CONNECTIONS)
    return Report(rows, [target])
