"""How long it takes to observe many processes, and whether all are there after a restart of the daemon."""

import os
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks import calls
from benchmarks.bench import Bench, say
from benchmarks.generator import Generator
from benchmarks.lane import Lane
from benchmarks.report import Report, Row, at_most
from benchmarks.scale import CONNECTIONS
from benchmarks.servers import Daemon
from pyinfrakit.providers.process.provider import Process, Settings
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.operator.client import OperatorClient

MARK = "benchmarks"

USER = "nobody" if os.geteuid() == 0 else None

MILLI = 1000

SPEC: Mapping[str, Any] = {"Properties": {"command": "sleep", "arguments": ["1h"]}, "Tags": {}}


def measure(bench: Bench) -> Report:
    """Have a daemon start processes, observe them as it does, kill it, and have the next one end them."""
    count = bench.scale.processes
    say("processes")
    flags = ("--mark", MARK, "--sync-interval", "0.2", *(() if USER is None else ("--option", f"user={USER}")))
    daemon = bench.daemon(0, "process", *flags)
    with Generator() as generator:
        with daemon:
            ids = Lane(generator, daemon, max(CONNECTIONS)).perform([calls.provision(SPEC)], count).ids
        took = [_seconds(daemon) for _ in range(bench.scale.starts)]
        with daemon:
            there = _working(daemon)
            Lane(generator, daemon, max(CONNECTIONS)).send_all([calls.destroy(id) for id in ids])
            daemon.settle()
    rows = [Row("an observation of processes", median(took) * MILLI, "ms", count)]
    return Report(
        rows,
        [
            at_most(1, median(took), "seconds of an observation of processes", count),
            at_most(0, count - there, "processes lost when the daemon was killed", count),
        ],
    )


def _seconds(daemon: Daemon) -> float:
    provider = Process("plugin", daemon.state.parent, Settings(user=USER))
    provider.mark = MARK
    provider.start()
    began = time.perf_counter()
    provider.observe()
    return time.perf_counter() - began


def _working(daemon: Daemon) -> int:
    """Give how many instances are ready once they were observed often enough for one that is lost to be set aside."""
    with Client(daemon.socket) as client:
        remote = OperatorClient(client)
        seen: set[float | None] = {None}
        while len(seen) < 5:
            seen.add(remote.status().Observed)
            time.sleep(0.05)
        return remote.status().States["ready"]
