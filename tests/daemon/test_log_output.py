"""stderr: what happens if nobody reads it, or if a provider closes it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.harness import COMMAND, PROGRAMS, Daemon, environment, eventually

MANY = 3000
"""Provisions whose log lines take more than a pipe and the daemon's queue hold."""


def choose(kind: str) -> tuple[str, ...]:
    return ("--provider", f"{PROGRAMS / 'stubborn.py'}:{kind}", "--sync-interval", "0.1")


@contextmanager
def run_unread(home: Path, *arguments: str, blocking: bool = True) -> Iterator[tuple[Daemon, int]]:
    """Run a daemon whose stderr is a pipe that nobody reads. Yield the daemon, and the end of the pipe to read from."""
    home.mkdir()
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    daemon = Daemon(home)
    program = [*COMMAND, "--name", daemon.name, *arguments]
    with subprocess.Popen(program, stderr=writer, env=environment(home)) as daemon.process:
        os.close(writer)
        try:
            eventually(daemon.socket.exists, "the daemon listens")
            yield daemon, reader
        finally:
            daemon.process.kill()
            os.close(reader)


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("provider", [("--log", "5"), choose("Prints")], ids=["log", "prints"])
def test_a_log_that_nobody_reads_delays_nothing(home: Path, provider: tuple[str, ...], blocking: bool) -> None:
    """A daemon answers and stops, even if nobody reads its log or what its provider prints."""
    with run_unread(home, *provider, blocking=blocking) as (daemon, _):
        with daemon.client() as client:
            for _ in range(MANY if provider == ("--log", "5") else 5):
                client.call("Instance.Provision", {"Spec": {"Properties": {}, "Init": "x" * 100}})
        assert daemon.stop() == 0


def test_dropped_messages_are_counted(home: Path) -> None:
    """A reader that comes back gets the log up to a gap, the number of dropped messages, and then what is new."""
    with run_unread(home, *choose("Prints")) as (daemon, reader):
        for _ in range(5):
            daemon.provision()
        pieces: list[bytes] = []
        with ThreadPoolExecutor() as pool:
            pool.submit(read_all, reader, pieces)
            assert eventually(lambda: b"messages were dropped" in b"".join(pieces), "the gap is reported")
            id = daemon.provision()
            assert eventually(lambda: f"{id}: provisioned".encode() in b"".join(pieces), "the log goes on")
            assert daemon.stop() == 0
    assert b"stopped" in b"".join(pieces).splitlines()[-1]


def read_all(reader: int, pieces: list[bytes]) -> None:
    while data := os.read(reader, 65536):
        pieces.append(data)


def test_a_log_whose_reader_is_gone_delays_nothing(home: Path) -> None:
    """A daemon answers and stops after the reader of its log has ended."""
    with run_unread(home) as (daemon, reader):
        os.dup2(os.open(os.devnull, os.O_RDONLY), reader)
        for _ in range(10):
            daemon.provision()
        assert daemon.stop() == 0


@pytest.mark.parametrize("kind", ["ClosesStderr", "ClosesDescriptor"])
def test_a_provider_can_not_close_the_log(run: Callable[..., Daemon], kind: str) -> None:
    """The log goes on after a provider closes stderr, and nothing else gets its descriptor's text."""
    daemon = run(*choose(kind))
    ids = [daemon.provision() for _ in range(2)]
    assert daemon.stop() == 0
    assert [] == [id for id in ids if f"{id}: provisioned" not in daemon.log]
    assert "stopped" in daemon.log.splitlines()[-1]
    assert sorted(ids) == sorted(instance["ID"] for instance in daemon.saved()["Instances"])
