"""The benchmarks run and report every measure. How fast anything is, is not tested."""

import json
import math
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SIZES = (0, 10, 200, 1000)
CONNECTIONS = (1, 8, 64)
DIFFERENCES = (
    "CPU time in 10 s with nothing to do",
    "startup time added by instances",
    "memory growth",
    "processes lost after a SIGKILL of the daemon",
)
"""Measures that may be 0 or negative in a quick run."""

TARGETS = {
    "describe": 11,
    "provision": 20,
    "written": 0,
    "start": 1,
    "memory": 1,
    "flat": 1,
    "latency": 15,
    "slow": 2,
    "processes": 2,
    "rack": 2,
    "groups": 3,
}
"""The number of targets of each case, in the order that the cases run."""


def run_benchmarks(*arguments: str) -> dict[str, Any]:
    """Return the reports of a run. A run that takes too long is terminated, and kills the servers that it started."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            output, _ = process.communicate(timeout=500)
        finally:
            process.terminate()
    assert process.returncode == 0
    reports: dict[str, Any] = json.loads(output)
    return reports


def list_numbers(report: dict[str, Any]) -> list[tuple[str, float]]:
    """Return all numbers of a report, each with the name of its measure."""
    rows = [(row["what"], row["value"]) for row in report["rows"]]
    beside = [
        (row["what"], n) for row in report["rows"] for other in row.get("beside", {}).values() for n in other.values()
    ]
    return [*rows, *beside, *((target["what"], target["measured"]) for target in report["targets"])]


def list_keys(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the measure, instances, and connections of each row."""
    return [(row["what"], row.get("instances"), row.get("connections")) for row in report["rows"]]


@pytest.mark.long
def test_a_quick_run_measures_everything() -> None:
    """A quick run reports all rows and targets of all cases, with finite numbers that are positive except for differences."""
    reports = run_benchmarks("--quick", "--json")
    assert list(TARGETS) == list(reports)
    for case, operations in (
        ("describe", ("describe all", "describe a group of 10")),
        ("provision", ("provision", "label", "destroy")),
    ):
        assert sorted(product(operations, SIZES, CONNECTIONS)) == sorted(list_keys(reports[case]))
        assert all({"constant"} <= row["beside"].keys() for row in reports[case]["rows"])
    assert TARGETS == {case: len(report["targets"]) for case, report in reports.items()}
    for measure, number in (each for report in reports.values() for each in list_numbers(report)):
        assert math.isfinite(number), measure
        assert number > 0 or measure.startswith(DIFFERENCES), measure
