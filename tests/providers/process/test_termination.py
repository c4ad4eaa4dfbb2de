"""Destroys of instances that do all they can to live on: tests with a real daemon, with and without control groups."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from support.harness import COMMAND, Daemon, eventually, root_only
from support.processes import Instances, Start, destroy, sh_command, wait_for_problem

WITHOUT_GROUPS = ("unshare", "-m", "sh", "-c", 'umount -l -a -t cgroup2 && exec "$@"', "sh", *COMMAND)
"""A daemon of root's that sees no control groups, version 2."""

CHAIN = """
import os, signal, sys, threading, time, ctypes
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pause, kind = float(sys.argv[1]), sys.argv[2]
end = time.monotonic() + 25
if kind == "thread":
    def fork():
        time.sleep(0.5)
        chain()
    threading.Thread(target=time.sleep, args=(60,)).start()
    ctypes.CDLL(None).pthread_exit(None)
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    if kind == "setsid":
        os.setsid()
    time.sleep(pause)
    with open(sys.argv[3], "w") as file:
        file.write(str(os.getpid()))
"""
"""Each process lives for a moment and starts the next one, for 25 seconds. The last one is in a file."""


def python() -> str:
    """Return a Python that every user may run."""
    found = shutil.which("python3", path="/usr/bin:/bin")
    if found is None:
        pytest.skip("there is no Python that every user may run")
    return found


def chain(trace: Path, kind: str, pause: float = 0.005) -> dict[str, Any]:
    return {"command": python(), "arguments": ["-c", CHAIN, str(pause), kind, str(trace)]}


@pytest.fixture
def trace(home: Path) -> Path:
    """A file that every user may write."""
    home.mkdir()
    for each in (home.parent, home):
        each.chmod(0o755)
    path = home / "trace"
    path.touch()
    path.chmod(0o666)
    return path


@pytest.fixture(params=["with groups", pytest.param("without groups", marks=root_only)])
def program(request: pytest.FixtureRequest) -> Sequence[str]:
    """The daemon's command line, with and without control groups. Only root has them everywhere."""
    return COMMAND if request.param == "with groups" else WITHOUT_GROUPS


@pytest.mark.parametrize("kind", ["session", "setsid"])
def test_a_chain_of_processes_ends(start: Start, trace: Path, program: Sequence[str], kind: str) -> None:
    """Processes that each start the next one and end, in 5 ms, do not outlive the destroy."""
    daemon = start(program=program)
    id = daemon.provision(chain(trace, kind))
    eventually(trace.read_text, "the chain runs")
    assert program == COMMAND or not has_group(daemon, id)
    destroy(daemon, id)
    trace.write_text("")
    assert_never_written(trace)


def assert_never_written(trace: Path) -> None:
    """Wait for many lives of a process of a chain, none of which may write."""
    with pytest.raises(AssertionError):
        eventually(trace.read_text, patience=1)


def test_a_process_whose_first_thread_has_ended_ends(
    start: Start, trace: Path, program: Sequence[str], instances: Instances
) -> None:
    """A process that looks like a zombie because its first thread has ended does not outlive the destroy."""
    daemon = start(program=program)
    id = daemon.provision(chain(trace, "thread"))
    main = psutil.Process(int(eventually(lambda: (record := daemon.record(id)) and record.Handle)))
    eventually(lambda: main.status() == psutil.STATUS_ZOMBIE, "its first thread has ended")
    destroy(daemon, id)
    eventually(lambda: not main.is_running(), "the process is gone")


ESCAPE = "(env -i setsid sleep 4711 &) & sleep 0.2; sleep 600"


def find_sleepers() -> list[int]:
    found = (process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "4711"])
    return [process.pid for process in found if process.status() != psutil.STATUS_ZOMBIE]


def has_group(daemon: Daemon, id: str) -> bool:
    return (daemon.state.with_name("rack1.processes") / id / "cgroup").exists()


@root_only
def test_a_control_group_has_processes_that_nothing_else_connects(start: Start) -> None:
    """A process with a clean environment, its own session and no parent ends with its group, also after a restart."""
    daemon = start()
    id = daemon.provision(sh_command(ESCAPE))
    if not has_group(daemon, id):
        pytest.skip("there are no control groups, version 2")
    eventually(find_sleepers, "the process has escaped")
    group = Path((daemon.state.with_name("rack1.processes") / id / "cgroup").read_text())
    daemon.kill()
    daemon.start()
    destroy(daemon, id)
    assert [] == find_sleepers()
    assert not group.exists()


@root_only
def test_groups_of_lost_instances_are_removed(start: Start, instances: Instances) -> None:
    """A start removes the empty control groups of instances whose folder was removed by hand."""
    daemon = start()
    id = daemon.provision(sh_command("exit 0"))
    if not has_group(daemon, id):
        pytest.skip("there are no control groups, version 2")
    folder = daemon.state.with_name("rack1.processes") / id
    group = Path((folder / "cgroup").read_text())
    eventually(lambda: not instances.of(id))
    wait_for_problem(daemon, id)  # so the record is on file, and the next daemon does not provision it again
    daemon.kill()
    shutil.rmtree(folder)
    daemon.start()
    eventually(lambda: not group.exists(), "the group is gone")
