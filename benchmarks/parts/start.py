"""Start-up: from the process's start to the first reply, beside decoding the state file."""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks import calls
from benchmarks.bench import Bench, say
from benchmarks.report import Beside, Report, Row, at_most
from benchmarks.servers import ROOT

MILLI = 1000


def measure(bench: Bench) -> Report:
    """Start daemons with none and with many instances, by turns."""
    large = bench.scale.large
    none, many, decoding = [], [], []
    for round in range(bench.scale.starts):
        say(f"start: round {round + 1} of {bench.scale.starts}")
        none.append(_start(bench, 0))
        many.append(_start(bench, large))
        decoding.append(_decode(bench.fleet(large).path))
    beyond = [m - n for m, n in zip(many, none, strict=True)]
    ratio = median(b / d for b, d in zip(beyond, decoding, strict=True))
    beside = {"decoding the file": Beside(median(decoding) * MILLI, ratio)}
    rows = [
        Row("start", median(none) * MILLI, "ms", 0),
        Row("start", median(many) * MILLI, "ms", large),
        Row("start, beyond the start with none", median(beyond) * MILLI, "ms", large, beside=beside),
    ]
    return Report(rows, [at_most(3, ratio, "start, beyond the start with none: × decoding the file", large)])


def _start(bench: Bench, size: int) -> float:
    """Give the seconds until a group is described."""
    daemon = bench.daemon(size)
    request = calls.describe({"infrakit.group": daemon.fleet.groups[0]})
    began = time.perf_counter()
    with daemon, daemon.connect() as connection:
        connection.sendall(request)
        connection.recv(1)
        return time.perf_counter() - began


def _decode(file: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.decode", str(file)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[0])
