"""The processes of the machine, as /proc shows them, and those that belong to an instance."""

import contextlib
import os
import signal
from collections import defaultdict
from pathlib import Path

from msgspec import Struct

INSTANCE_VARIABLE, MARK_VARIABLE = "INFRAKIT_INSTANCE", "PYINFRAKIT_MARK"
"""Environment variables by which an instance's processes are recognized. Children inherit them."""

TICKS = os.sysconf("SC_CLK_TCK")
"""Ticks per second: the unit of a process's start time."""


class ProcessID(Struct, frozen=True):
    """A process for good: the kernel may reuse its PID, but not with this start, in ticks since the boot."""

    pid: int
    start: int


class ProcessStatus(Struct, frozen=True):
    """A process at one moment. One that has ended is a zombie until its parent waits for it."""

    id: ProcessID
    parent: int
    session: int
    has_ended: bool


def parse_status(line: str) -> ProcessStatus:
    """Return the status in a line of ``/proc/PID/stat``. Raise ValueError if it is not such a line."""
    pid, _, rest = line.partition(" (")
    # The second field is the program's name, which may contain spaces and parentheses itself.
    fields = rest.rpartition(") ")[2].split()
    if len(fields) < 20:
        raise ValueError(f"not a line of /proc/PID/stat: {line!r}")
    return ProcessStatus(ProcessID(int(pid), int(fields[19])), int(fields[1]), int(fields[3]), fields[0] in "ZX")


def read_status(pid: int) -> ProcessStatus | None:
    """Return the status of a process; None if it does not exist, or is hidden from this user."""
    line = _read(pid, "stat").decode(errors="replace")
    return parse_status(line) if line else None


def is_alive(process: ProcessID) -> bool:
    """Return whether a process exists and is not a zombie."""
    status = read_status(process.pid)
    return status is not None and status.id == process and not status.has_ended


def open_process(process: ProcessID) -> int | None:
    """Return a descriptor of a process; None if it is not alive.

    A descriptor stays with its process. Between a check of a mere PID and its use, the process could end and an
    innocent one could get the PID.
    """
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if is_alive(process):
        return fd
    os.close(fd)
    return None


def send(process: ProcessID, *signals: signal.Signals) -> None:
    """Send signals to a process, if it is alive. Raise PermissionError if it refuses them."""
    fd = open_process(process)
    if fd is None:
        return
    try:
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def read_boot() -> tuple[str, int]:
    """Return the ID of the machine's current boot, and its time in seconds since 1970."""
    lines = Path("/proc/stat").read_text().splitlines()
    began = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip(), began


class ProcessTable:
    """The processes of the machine at one moment, except this one and zombies."""

    def __init__(self, mark: str) -> None:
        """Read all of them. Those with *mark* in their environment are found by their instance's ID."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        statuses = [status for pid in pids if pid != os.getpid() and (status := read_status(pid)) is not None]
        self._statuses = {status.id.pid: status for status in statuses if not status.has_ended}
        self._children: defaultdict[int, set[int]] = defaultdict(set)
        self._sessions: defaultdict[int, set[int]] = defaultdict(set)
        self._marked: defaultdict[str, set[int]] = defaultdict(set)
        for pid, status in self._statuses.items():
            self._children[status.parent].add(pid)
            self._sessions[status.session].add(pid)
            for id in _read_instances(pid, mark):
                self._marked[id].add(pid)

    @property
    def ids(self) -> frozenset[str]:
        """The IDs of all instances with a marked process."""
        return frozenset(self._marked)

    def find(self, id: str, shell: ProcessID | None, main: ProcessID | None, uid: int) -> set[ProcessID]:
        """Return an instance's processes: marked or recorded ones, the shell's session, all descendants.

        *shell* and *main* are the recorded ones. They count only if they belong to the user *uid*.
        """
        pids = self._marked[id] | {each.pid for each in (shell, main) if each is not None and self._has(each, uid)}
        # A session's number is its leader's PID, which the kernel reuses only once the session is empty. So
        # a session with one of the instance's processes is the shell's, even if the shell is gone.
        if shell is not None and any(self._statuses[pid].session == shell.pid for pid in pids):
            pids |= self._sessions[shell.pid]
        new = pids
        while new:
            new = {child for pid in new for child in self._children.get(pid, ())} - pids
            pids |= new
        return {self._statuses[pid].id for pid in pids}

    def _has(self, process: ProcessID, uid: int) -> bool:
        """Return whether a process exists and is the user's.

        The user's processes can write into the file that records them, and could name another user's.
        """
        status = self._statuses.get(process.pid)
        is_same = status is not None and status.id == process
        return is_same and f"\nUid:\t{uid}\t".encode() in _read(process.pid, "status")


def _read_instances(pid: int, mark: str) -> list[str]:
    """Return the instance IDs in the environment of a process; none if it has another mark."""
    variables = _read(pid, "environ").split(b"\0")
    if f"{MARK_VARIABLE}={mark}".encode() not in variables:
        return []
    prefix = f"{INSTANCE_VARIABLE}=".encode()
    return [each.removeprefix(prefix).decode(errors="replace") for each in variables if each.startswith(prefix)]


def _read(pid: int, name: str) -> bytes:
    """Return the content of a file; nothing if the process does not exist, or is hidden from this user."""
    try:
        # Each look of a destroy reads two files per process of the machine; `open` takes a quarter longer.
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, 65536)
            while more := os.read(fd, 65536):
                data += more
            return data
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
