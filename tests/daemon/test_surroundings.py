"""A daemon in odd surroundings: closed descriptors, other files in the place of its own, other programs' sockets."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from support.harness import COMMAND, Daemon, command, eventually

Run = Callable[..., Daemon]


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors_are_opened(run: Run, closed: str) -> None:
    """A daemon that starts without stdin, stdout or stderr uses their numbers for nothing else, and works."""
    daemon = run(program=("/bin/sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND))
    opened = [Path(f"/proc/{daemon.pid}/fd/{fd}").readlink() for fd, sign in enumerate("012") if sign in closed]
    assert [Path("/dev/null")] * len(opened) == opened
    id = daemon.provision()
    assert daemon.stop() == 0
    assert [id] == [instance["ID"] for instance in daemon.saved()["Instances"]]


@pytest.mark.parametrize("entry", ["socket", "file", "folder"])
def test_what_replaced_the_socket_is_left_at_a_stop(daemon: Daemon, entry: str) -> None:
    """At its stop, a daemon leaves alone what another program has put in the place of its socket and its PID file."""
    daemon.socket.unlink()
    pid = daemon.socket.with_name("rack1.pid")
    pid.write_text("1")
    with socket.socket(socket.AF_UNIX) as other:
        match entry:
            case "socket":
                other.bind(str(daemon.socket))
            case "file":
                daemon.socket.write_text("precious")
            case "folder":
                daemon.socket.mkdir()
        before = daemon.socket.lstat()
        assert daemon.stop() == 0
        after = daemon.socket.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert pid.read_text() == "1"


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize(
    "path",
    [
        "plugins/.own/lock-rack1",
        "state/rack1.json",
        "state/rack1.json.journal-0",
    ],
)
def test_a_start_names_what_is_no_file(home: Path, path: str, kind: str) -> None:
    """If a pipe or folder is in the place of one of its files, a daemon does not start, and says why in one line."""
    place(home / path, kind)
    result = command(home, "--name", "rack1")
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    assert str(home) in line
    assert (home / path).exists()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("path", ["events/rack1.jsonl", "events/rack1.jsonl.1"])
def test_an_event_log_that_is_no_file_is_a_warning(home: Path, path: str, kind: str) -> None:
    """If a pipe or folder is in the place of an event log, a daemon warns, works, and leaves it alone."""
    place(home / path, kind)
    with Daemon(home) as daemon:
        daemon.provision()
        assert eventually(lambda: str(home / path) in daemon.log, "the daemon warns")
        assert daemon.stop(signal.SIGTERM) == 0
    assert not (home / path).is_file()


def place(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
