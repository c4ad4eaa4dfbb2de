"""Real processes for tests. Daemons start them with the test's own mark. The tests find them without the provider's code."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from support.harness import Daemon, eventually

USER = "nobody"
AS_USER = ("--option", f"user={USER}") if os.geteuid() == 0 else ()

Start = Callable[..., Daemon]


def find_processes(*variables: str) -> list[psutil.Process]:
    """Return the processes of the machine with all these variables, `KEY=VALUE`, in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            lines = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace").split("\0")
            if set(variables) <= set(lines) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def find_session(pid: int) -> list[psutil.Process]:
    """Return the processes in the session of process *pid*."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == os.getsid(pid):
                found.append(process)
    return found


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def kill_all(*variables: str) -> bool:
    """Kill all processes with these variables. Return whether there was none."""
    kill(processes := find_processes(*variables))
    return not processes


class Instances:
    """The processes of a daemon's instances."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def all(self) -> list[psutil.Process]:
        """Return the processes of all instances."""
        return find_processes(f"PYINFRAKIT_MARK={self.mark}")

    def of(self, id: str) -> list[psutil.Process]:
        """Return the processes of one instance."""
        return find_processes(f"PYINFRAKIT_MARK={self.mark}", f"INFRAKIT_INSTANCE={id}")

    def mains(self) -> dict[str, list[int]]:
        """Return the PIDs of the commands from `sleep_command()`, by instance; there should be one each."""
        mains: dict[str, list[int]] = {}
        for process in self.all():
            with suppress(psutil.Error, OSError, KeyError):
                if process.cmdline() == ["/usr/bin/sleep", "600"]:
                    mains.setdefault(process.environ()["INFRAKIT_INSTANCE"], []).append(process.pid)
        return mains


def sleep_command(**more: Any) -> dict[str, Any]:
    return {"command": "/usr/bin/sleep", "arguments": ["600"], **more}


def sh_command(text: str, **more: Any) -> dict[str, Any]:
    return {"command": "sh", "arguments": ["-c", text], **more}


def read_live(daemon: Daemon, id: str) -> Any:
    """Return the live properties of an instance, as InfraKit gets them; None if it is not described."""
    described = daemon.call("Instance.DescribeInstances", Tags={}, Properties=True)["Descriptions"]
    return next((each["Properties"] for each in described if each["ID"] == id), None)


def wait_for_problem(daemon: Daemon, id: str) -> str:
    """Wait until an instance is set aside, and return the reason."""

    def reason() -> str:
        record = daemon.record(id)
        return record.Reason or "" if record is not None and record.State == "non-functional" else ""

    return str(eventually(reason, f"{id} is set aside"))


def destroy(daemon: Daemon, id: str) -> None:
    """Destroy an instance, and wait until it is gone."""
    daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: daemon.record(id) is None, f"{id} is gone")
