"""Our end of a load process."""

import subprocess
import sys
from typing import Self

import click
import msgspec

from benchmarks.order import Done, Order
from benchmarks.servers import ROOT

BUSY = 0.9
"""The share of the time from which on it is the load that is slow, and not what it is on."""


class Generator:
    """A load process that runs while this is entered."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.load"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def perform(self, order: Order) -> Done:
        """Have a round done."""
        self.start(order)
        return self.finish()

    def start(self, order: Order) -> None:
        """Have a round begin."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def finish(self) -> Done:
        """Wait for the round that was begun."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException("the load ended early; above it says why")
        done = msgspec.json.decode(line, type=Done)
        if done.busy > BUSY:
            click.echo(f"the load itself had the CPU for {done.busy:.0%} of a round: it may be what was slow", err=True)
        return done
