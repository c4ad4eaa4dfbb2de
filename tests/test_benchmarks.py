"""The benchmarks run, and give all that they should; how fast anything is, is not tested."""

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
    "start, beyond the start with none",
    "growth from the one to the other",
    "memory's growth for each request, in bytes",
    "processes lost when the daemon was killed",
)
"""What may be 0 or less in a short look."""


def run(*arguments: str) -> dict[str, Any]:
    """Run the benchmarks to their end, or end them: they end what they started."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            output, _ = process.communicate(timeout=500)
        finally:
            process.terminate()
    assert process.returncode == 0
    reports: dict[str, Any] = json.loads(output)
    return reports


def numbers(report: dict[str, Any]) -> list[tuple[str, float]]:
    """Give all numbers of a report, and what each is of."""
    rows = [(row["what"], row["value"]) for row in report["rows"]]
    beside = [
        (row["what"], n) for row in report["rows"] for other in row.get("beside", {}).values() for n in other.values()
    ]
    return [*rows, *beside, *((target["what"], target["measured"]) for target in report["targets"])]


def measured(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(row["what"], row.get("instances"), row.get("connections")) for row in report["rows"]]


@pytest.mark.long
def test_a_short_look_measures_everything() -> None:
    """All parts have all their rows, with finite numbers, and positive ones but for differences."""
    reports = run("--quick", "--json")
    assert [
        "describe",
        "provision",
        "written",
        "start",
        "memory",
        "flat",
        "latency",
        "slow",
        "processes",
        "rack",
    ] == list(reports)
    for part, works in (
        ("describe", ("describe all", "describe a group of 10")),
        ("provision", ("provision", "label", "destroy")),
    ):
        assert sorted(product(works, SIZES, CONNECTIONS)) == sorted(measured(reports[part]))
        assert all({"constant"} <= row["beside"].keys() for row in reports[part]["rows"])
    assert {
        "describe": 11,
        "provision": 20,
        "written": 0,
        "start": 1,
        "memory": 1,
        "flat": 1,
        "latency": 1,
        "slow": 2,
        "processes": 2,
        "rack": 2,
    } == {part: len(report["targets"]) for part, report in reports.items()}
    for what, number in (each for report in reports.values() for each in numbers(report)):
        assert math.isfinite(number), what
        assert number > 0 or what.startswith(DIFFERENCES), what
