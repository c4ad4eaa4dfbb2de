"""Servers as child processes, each on a unix socket."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import click
import psutil  # type: ignore[import-untyped]

from benchmarks.servers.fleet import Fleet
from pyinfrakit.record import State
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.operator.client import OperatorClient

ROOT = Path(__file__).parents[2]
"""The project's folder, which holds the modules that child processes run."""

START_TIMEOUT = 60.0
"""Seconds before a server counts as unable to start."""


class Server:
    """A Python module that runs in a process of its own while this context is open. Its output goes to *log*."""

    def __init__(self, address: Path, arguments: Sequence[str], log: Path, **variables: str) -> None:
        self.socket = address
        self._arguments = arguments
        self._log = log
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            self.start()
            cleanup.callback(self._kill)
            self.wait()
            cleanup.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._kill()

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def connect(self) -> socket.socket:
        """Return a new connection. Raise `OSError` if the server does not accept it."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return connection

    def start(self) -> None:
        """Start the process and return at once, so that several servers can start in parallel. `__exit__` kills it."""
        # Settings in the user's environment would change the daemon's behavior, and thus the results.
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
        """Wait until the server accepts connections. Raise `click.ClickException` if it exits or times out."""
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                raise click.ClickException(
                    f"{' '.join(self._arguments)} did not start; its output:\n{self._log.read_text()}"
                )
            time.sleep(0.001)  # short, as this wait is part of the startup time that a case measures

    def _is_ready(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def _kill(self) -> None:
        # SIGKILL: no case measures a clean stop, and one case checks that instances survive a crash.
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Daemon(Server):
    """The daemon with default settings plus *flags*. Its state file is a copy of the file of *fleet*."""

    def __init__(self, home: Path, state: Path, fleet: Fleet, provider: str, flags: Sequence[str]) -> None:
        arguments = (
            "pyinfrakit",
            "instance",
            "--name",
            "plugin",
            "--provider",
            provider,
            "--state",
            str(state),
            *flags,
        )
        log = state.with_suffix(".log")
        super().__init__(home / "plugins" / "plugin", arguments, log, INFRAKIT_HOME=str(home))
        self.fleet = fleet
        self.state = state

    @contextmanager
    def open_remote(self) -> Iterator[OperatorClient]:
        """Yield a client of the daemon's operator interface."""
        with Client(self.socket) as client:
            yield OperatorClient(client)

    def settle(self) -> None:
        """Wait until no instance is provisioning or destroying."""
        with self.open_remote() as remote:
            while _count_transitions(remote):
                time.sleep(0.01)


def _count_transitions(remote: OperatorClient) -> int:
    states = remote.status().States
    return states[State.PROVISIONING] + states[State.DESTROYING]
