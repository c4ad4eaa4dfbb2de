"""A child process with a time limit, as the cleaning of machines uses it. The tests of exec have the rest."""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyinfrakit.child import Child
from pyinfrakit.errors import TryAgain
from support.harness import eventually

BACKGROUND = "sleep 600 & echo $! >pid"


def start(folder: Path, script: str, pass_fds: Sequence[int] = ()) -> tuple[Child, deque[int]]:
    """Run a shell script, and keep the last 1,000 bytes of its output."""
    tail: deque[int] = deque(maxlen=1000)
    command = ["/bin/sh", "-c", script]
    child = Child(command, os.environ, folder, take_output=tail.extend, take_error=tail.extend, pass_fds=pass_fds)
    return child, tail


def is_gone(file: Path) -> bool:
    """Return whether the process whose number is in a file is gone, or a zombie."""
    try:
        return ") Z " in Path(f"/proc/{file.read_text().strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter, if it ends between the open and the read
        return True


def test_a_child_without_a_limit_may_write_any_amount(tmp_path: Path) -> None:
    """Output of any size passes through, from both streams, and stdin is empty."""
    child, tail = start(tmp_path, "cat; yes | head -c 3000000; echo 'the end' >&2; exit 3")
    assert 3 == child.finish(60)
    assert bytes(tail).endswith(b"y\nthe end\n")


def test_kill_group_ends_background_processes_after_an_exit(tmp_path: Path) -> None:
    """With kill_group, nothing that the child started lives on. Without, it does."""
    child, _ = start(tmp_path, BACKGROUND)
    assert 0 == child.finish(60)
    assert not is_gone(tmp_path / "pid")
    os.kill(int((tmp_path / "pid").read_text()), 9)

    child, _ = start(tmp_path, BACKGROUND)
    assert 0 == child.finish(60, kill_group=True)
    eventually(lambda: is_gone(tmp_path / "pid"), "the background process is gone")


def test_kill_group_ends_everything_at_a_timeout(tmp_path: Path) -> None:
    """With kill_group, a timeout kills the whole group at once."""
    child, _ = start(tmp_path, f"trap '' TERM; {BACKGROUND}; wait")
    with pytest.raises(TryAgain, match=r"timed out after 0.5 s"):
        child.finish(0.5, kill_group=True)
    eventually(lambda: is_gone(tmp_path / "pid"), "the background process is gone")


def test_a_child_inherits_the_descriptors_that_it_is_passed(tmp_path: Path) -> None:
    """A child inherits the descriptors in pass_fds, so that it can hold their locks."""
    with (tmp_path / "lock").open("w") as lock:
        child, _ = start(tmp_path, f"echo locked >/dev/fd/{lock.fileno()}", [lock.fileno()])
        assert 0 == child.finish(60)
    assert "locked\n" == (tmp_path / "lock").read_text()
