"""The load generator: a worker process, and the loads that it puts on servers."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Self

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from benchmarks.load import calls
from benchmarks.load.worker import Result, Round
from benchmarks.servers.process import ROOT, Server

CONNECTIONS = (1, 8, 64)
"""The numbers of connections that rates are measured with."""

MAX_BUSY = 0.9
"""The share of a round's time above which the worker's CPU time may limit the rate."""

UNLIMITED = 3600.0
"""Seconds that no round reaches: its number of requests ends it."""


class Generator:
    """A worker process that runs while this context is open."""

    # The load has a process of its own, since a load in the benchmark's process would share its interpreter lock and heap.

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.load.worker"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def run(self, round: Round) -> Result:
        """Run a round and return its result. Raise `click.ClickException` if the worker exits."""
        self.start(round)
        return self.finish()

    def start(self, round: Round) -> None:
        """Start a round and return at once."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(round) + b"\n")
        self._process.stdin.flush()

    def finish(self) -> Result:
        """Wait for the current round and return its result. Raise `click.ClickException` if the worker exits."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException("the load generator exited early; see its error above")
        result = msgspec.json.decode(line, type=Result)
        if result.busy > MAX_BUSY:
            click.echo(
                f"warning: the load generator was busy for {result.busy:.0%} of a round and may limit the rate",
                err=True,
            )
        return result


class Load(Struct, frozen=True):
    """A load on a server: rounds of *seconds* each over *connections*. A *path* replaces the path of all requests."""

    generator: Generator
    server: Server
    connections: int = 1
    seconds: float = UNLIMITED
    path: str | None = None

    def build_round(self, requests: Sequence[bytes], count: int = sys.maxsize) -> Round:
        """Return a round that repeats the requests until its time is over or *count* requests are sent."""
        targeted = list(requests) if self.path is None else calls.set_path(self.path, requests)
        return Round(str(self.server.socket), self.connections, targeted, self.seconds, count)

    def run(self, requests: Sequence[bytes], count: int = sys.maxsize) -> Result:
        """Run the round that `build_round` returns, and return its result."""
        return self.generator.run(self.build_round(requests, count))

    def send_all(self, requests: Sequence[bytes]) -> None:
        """Send each request once, over as many connections as possible and without a time limit."""
        if requests:
            replace(self, connections=max(CONNECTIONS), seconds=UNLIMITED).run(requests, len(requests))
