"""Servers as processes, each on a unix socket."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import click
import psutil  # type: ignore[import-untyped]

from benchmarks.fleet import Fleet
from pyinfrakit.record import State
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.operator.client import OperatorClient

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0
"""Seconds after which a server that does not answer never will."""


class Server:
    """A Python module that runs while this is entered. What it says goes to *log*."""

    def __init__(self, at: Path, arguments: Sequence[str], log: Path, **variables: str) -> None:
        self.socket = at
        self._arguments = arguments
        self._log = log
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as unless_ready:
            self.start()
            unless_ready.callback(self._end)
            self.wait()
            unless_ready.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def connect(self) -> socket.socket:
        """Open a connection; raise `OSError`."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return connection

    def start(self) -> None:
        """Start it, without waiting: for those who start several. Leaving ends it."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("INFRAKIT")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._arguments],
                cwd=ROOT,
                env=clean | self._variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Wait until it takes connections."""
        end = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > end or self._ended():
                raise click.ClickException(
                    f"{' '.join(self._arguments)} does not answer; it said:\n{self._log.read_text()}"
                )
            time.sleep(0.001)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Daemon(Server):
    """The daemon, with default settings but for *flags*, with a fleet's copy as its state file."""

    def __init__(self, home: Path, state: Path, fleet: Fleet, provider: str, flags: Sequence[str]) -> None:
        arguments = ("pyinfrakit", "--name", "plugin", "--provider", provider, "--state", str(state), *flags)
        log = state.with_suffix(".log")
        super().__init__(home / "plugins" / "plugin", arguments, log, INFRAKIT_HOME=str(home))
        self.fleet = fleet
        self.state = state

    def settle(self) -> None:
        """Wait until what was destroyed is gone."""
        with Client(self.socket) as client:
            remote = OperatorClient(client)
            while self._unrest(remote):
                time.sleep(0.01)

    def _unrest(self, remote: OperatorClient) -> int:
        states = remote.status().States
        return states[State.PROVISIONING] + states[State.DESTROYING]
