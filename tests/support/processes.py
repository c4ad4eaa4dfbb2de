"""Real processes for tests: started by daemons with a mark of the test's own, found without our own code, all ended after."""

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


def carrying(*variables: str) -> list[psutil.Process]:
    """Give the processes of the machine that have all these, `KEY=VALUE`, in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            lines = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace").split("\0")
            if set(variables) <= set(lines) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def session(pid: int) -> list[psutil.Process]:
    """Give the processes of one's session."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == os.getsid(pid):
                found.append(process)
    return found


def end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def none_left(*variables: str) -> bool:
    """End all that carry these; give whether there is none."""
    end(found := carrying(*variables))
    return not found


class Instances:
    """The processes of a daemon's instances."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def all(self) -> list[psutil.Process]:
        """Give all that were started in the name of any instance."""
        return carrying(f"PYINFRAKIT_MARK={self.mark}")

    def of(self, id: str) -> list[psutil.Process]:
        """Give all that were started in the name of one instance."""
        return carrying(f"PYINFRAKIT_MARK={self.mark}", f"INFRAKIT_INSTANCE={id}")

    def mains(self) -> dict[str, list[int]]:
        """Give the process IDs of the commands that are `sleeping()`, of which there should be one each, by instance."""
        mains: dict[str, list[int]] = {}
        for process in self.all():
            with suppress(psutil.Error, OSError, KeyError):
                if process.cmdline() == ["/usr/bin/sleep", "600"]:
                    mains.setdefault(process.environ()["INFRAKIT_INSTANCE"], []).append(process.pid)
        return mains


def sleeping(**more: Any) -> dict[str, Any]:
    return {"command": "/usr/bin/sleep", "arguments": ["600"], **more}


def script(text: str, **more: Any) -> dict[str, Any]:
    return {"command": "sh", "arguments": ["-c", text], **more}


def live(daemon: Daemon, id: str) -> Any:
    """Give the live properties of an instance, as InfraKit is shown them; None where it is not described."""
    described = daemon.call("Instance.DescribeInstances", Tags={}, Properties=True)["Descriptions"]
    return next((each["Properties"] for each in described if each["ID"] == id), None)


def broken(daemon: Daemon, id: str) -> str:
    """Wait until an instance is set aside, and give the reason."""

    def reason() -> str:
        record = daemon.record(id)
        return record.Reason or "" if record is not None and record.State == "non-functional" else ""

    return str(eventually(reason, f"{id} is set aside"))


def gone(daemon: Daemon, id: str) -> None:
    """Have an instance destroyed, and wait until it is."""
    daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: daemon.record(id) is None, f"{id} is gone")
