"""The case of startup: the time from the start of the process to its first reply."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.cases.workspace import Workspace
from benchmarks.load import calls
from benchmarks.report.tables import MILLISECONDS, Baseline, Report, Row, at_most, print_progress
from benchmarks.servers.fleet import GROUP_TAG
from benchmarks.servers.process import ROOT


def measure_start(workspace: Workspace) -> Report:
    """Compare the startup time that instances add with the time to decode their state file."""
    large, repetitions = workspace.scale.large, workspace.scale.repetitions
    empty, full, decode = [], [], []
    for round in range(repetitions):
        print_progress(f"start: round {round + 1} of {repetitions}")
        empty.append(_time_start(workspace, 0))
        full.append(_time_start(workspace, large))
        decode.append(_time_decode(workspace.fleet(large).path))
    # Importing the daemon costs the same with any number of instances, so only the difference depends on the file.
    added = [f - e for f, e in zip(full, empty, strict=True)]
    ratio = median(a / d for a, d in zip(added, decode, strict=True))
    baselines = {"decoding the file": Baseline(median(decode) * MILLISECONDS, ratio)}
    rows = [
        Row("startup", median(empty) * MILLISECONDS, "ms", 0),
        Row("startup", median(full) * MILLISECONDS, "ms", large),
        Row("startup time added by instances", median(added) * MILLISECONDS, "ms", large, baselines=baselines),
    ]
    return Report(rows, [at_most(3, ratio, "startup time added by instances: ratio to decoding the file", large)])


def _time_start(workspace: Workspace, size: int) -> float:
    """Return the seconds from the start of a daemon until it describes a group."""
    daemon = workspace.create_daemon(size)
    request = calls.describe({GROUP_TAG: daemon.fleet.groups[0]})
    began = time.perf_counter()
    with daemon, daemon.connect() as connection:
        connection.sendall(request)
        connection.recv(1)
        return time.perf_counter() - began


def _time_decode(file: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.servers.decode", str(file)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[0])
