"""Cases of observation: many local processes, and many machines behind BMCs."""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.cases.workspace import Workspace
from benchmarks.load import calls
from benchmarks.load.generator import CONNECTIONS, Generator, Load
from benchmarks.report.tables import MILLISECONDS, Baseline, Report, Row, at_most, print_progress
from benchmarks.servers import providers
from benchmarks.servers.process import Daemon
from benchmarks.servers.providers import Observation

PROCESS_SPEC: Mapping[str, Any] = {"Properties": {"command": "sleep", "arguments": ["1h"]}, "Tags": {}}

OBSERVATIONS = 4
"""Observations of a new daemon after which it has set aside every instance that it does not find."""


def measure_processes(workspace: Workspace) -> Report:
    """Measure an observation of processes, and count those that do not survive a SIGKILL of their daemon."""
    count = workspace.scale.processes
    print_progress("processes")
    user = () if providers.USER is None else ("--option", f"user={providers.USER}")
    daemon = workspace.create_daemon(0, "process", "--mark", providers.MARK, "--sync-interval", "0.2", *user)
    with Generator() as generator:
        load = Load(generator, daemon, max(CONNECTIONS))
        with daemon:
            ids = load.run([calls.provision(PROCESS_SPEC)], count).ids
        seconds = [_time_process_observation(daemon) for _ in range(workspace.scale.repetitions)]
        # The next daemon adopts the processes of the killed one, and ends them.
        with daemon:
            ready = _count_ready(daemon)
            load.send_all([calls.destroy(id) for id in ids])
            daemon.settle()
    return Report(
        [Row("observation of processes", median(seconds) * MILLISECONDS, "ms", count)],
        [
            at_most(1, median(seconds), "observation of processes, in seconds", count),
            at_most(0, count - ready, "processes lost after a SIGKILL of the daemon", count),
        ],
    )


def _time_process_observation(daemon: Daemon) -> float:
    provider = providers.start_process_provider(daemon.state.parent)
    began = time.perf_counter()
    provider.observe()
    return time.perf_counter() - began


def _count_ready(daemon: Daemon) -> int:
    """Return the number of ready instances after enough observations to set aside each one that is lost."""
    with daemon.open_remote() as remote:
        times: set[float | None] = {None}  # the status has no time before the first observation
        while len(times) <= OBSERVATIONS:
            times.add(remote.status().Observed)
            time.sleep(0.05)
        return remote.status().States["ready"]


def measure_rack(workspace: Workspace) -> Report:
    """Compare observations of all machines with the slowest BMC: while all BMCs work, and while one hangs."""
    count, machines = workspace.scale.bmcs, workspace.scale.machines_per_bmc
    rows, targets = [], []
    with providers.run_bmcs(count, machines) as addresses:
        provider = providers.start_redfish_provider(workspace.folder, addresses, machines)
        for measure, is_hanging in (("observation", False), ("observation while a BMC hangs", True)):
            print_progress(f"rack: {measure}")
            providers.set_hang(addresses[0], is_hanging)
            list(provider.observe())  # the warm-up: it opens sessions, and meets the new fault
            rounds = [providers.time_rack_observation(provider) for _ in range(workspace.scale.repetitions)]
            rows.append(_build_rack_row(f"{measure}, {count} BMCs", rounds, count * machines))
            # BMCs are asked in parallel, so the slowest one bounds an observation. Even the worst round has to meet the target.
            worst = max(each.total / (2 * each.slowest_bmc + 1) for each in rounds)
            targets.append(
                at_most(1.0, worst, f"{measure}: ratio to 2 × the slowest BMC's time + 1 s", count * machines)
            )
    return Report(rows, targets)


def _build_rack_row(measure: str, rounds: Sequence[Observation], machines: int) -> Row:
    total = median(each.total for each in rounds)
    seconds = {
        "slowest BMC": median(each.slowest_bmc for each in rounds),
        "median BMC": median(each.median_bmc for each in rounds),
    }
    baselines = {name: Baseline(value * MILLISECONDS, total / value) for name, value in seconds.items()}
    return Row(measure, total * MILLISECONDS, "ms", machines, None, baselines)
