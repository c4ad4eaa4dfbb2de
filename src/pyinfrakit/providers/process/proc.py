"""The processes of the machine, as /proc shows them, and those that belong to an instance."""

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

INSTANCE_VARIABLE, MARK_VARIABLE = "INFRAKIT_INSTANCE", "PYINFRAKIT_MARK"
"""Environment variables by which an instance's processes are recognized. Children inherit them."""

YOUTH = 1.0
"""Seconds within which a new process is likely to begin its program."""

TICKS = os.sysconf("SC_CLK_TCK")
"""Ticks per second: the unit of a process's start time."""


class ProcessID(Struct, frozen=True):
    """A process for good: the kernel may reuse its PID, but not with this start, in ticks since the boot."""

    pid: int
    start: int


class ProcessStatus(Struct, frozen=True):
    """A process at one moment. One that has ended is a zombie until its parent waits for it.

    *threads* may live on after the first thread, whose end makes the process look like a zombie.
    """

    id: ProcessID
    parent: int
    session: int
    state: str
    threads: int

    @property
    def has_ended(self) -> bool:
        return self.state in "ZX" and self.threads <= 1

    @property
    def is_young(self) -> bool:
        """Return whether the process is likely to begin its program right now."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.id.start / TICKS < YOUTH


def parse_status(line: str) -> ProcessStatus:
    """Return the status in a line of ``/proc/PID/stat``. Raise ValueError if it is not such a line."""
    pid, _, rest = line.partition(" (")
    # The second field is the program's name, which may contain spaces and parentheses itself.
    fields = rest.rpartition(") ")[2].split()
    if len(fields) < 20:
        raise ValueError(f"not a line of /proc/PID/stat: {line!r}")
    id = ProcessID(parse_number(pid, 1 << 31), parse_number(fields[19], 1 << 40))
    return ProcessStatus(id, int(fields[1]), int(fields[3]), fields[0], int(fields[17]))


def parse_number(text: str, end: int) -> int:
    """Return a decimal number below *end*. Raise ValueError if it is something else."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else end
    if number >= end:
        raise ValueError(f"expected a number below {end}, got {text[:20]!r}")
    return number


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


def pauses(seconds: float, longest: float) -> Iterator[float]:
    """Yield pauses between looks, for *seconds*: short at first, as most commands start or end soon."""
    end = time.monotonic() + seconds
    pause = 0.002
    while time.monotonic() < end:
        yield pause
        pause = min(longest, pause * 1.5)


def read_boot() -> tuple[str, int]:
    """Return the ID of the machine's current boot, and its time in seconds since 1970."""
    lines = Path("/proc/stat").read_text().splitlines()
    began = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip(), began


class ProcessTable:
    """The processes of the machine at one moment, except this one and zombies.

    A process can start another one and end, again and again. The kernel lists processes by their numbers, and each new
    one gets the next higher number, until the highest one was used. So such a chain can't stay behind the listing: at
    least one of its processes is in it. But this one may have ended before it is read. *is_complete* is False if that
    is possible.
    """

    def __init__(
        self,
        mark: str,
        uid: int,
        earlier: "ProcessTable | None" = None,
        seize: Callable[[ProcessStatus, Collection[str]], bool] | None = None,
    ) -> None:
        """Read all processes. The user's with *mark* in their environment are found by their instance's ID.

        *earlier* is the table before this one, if any. A process is stopped as soon as it is read if *seize* says so;
        *seize* gets its status and the instances in its environment.
        """
        self.is_complete = True
        self._ended: set[ProcessID] = set()
        self._statuses: dict[int, ProcessStatus] = {}
        self._children: defaultdict[int, set[int]] = defaultdict(set)
        self._sessions: defaultdict[int, set[int]] = defaultdict(set)
        self._marked: defaultdict[str, set[int]] = defaultdict(set)
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
        for pid in sorted(pids, reverse=True):  # short-lived ones first, of which most have a high number
            ids = _read_instances(pid, mark, uid)
            status = read_status(pid)  # after its environment: if it is alive now, that was its environment
            if status is None:
                self.is_complete = False
            elif status.has_ended:
                self._ended.add(status.id)
                self.is_complete &= earlier is not None and status.id in earlier._ended
            else:
                self.is_complete &= ids is not None or not status.is_young
                if seize is not None and seize(status, ids or ()):
                    _stop(status.id)
                self._add(status, ids or ())

    def _add(self, status: ProcessStatus, ids: Iterable[str]) -> None:
        pid = status.id.pid
        self._statuses[pid] = status
        self._children[status.parent].add(pid)
        self._sessions[status.session].add(pid)
        for id in ids:
            self._marked[id].add(pid)

    @property
    def ids(self) -> frozenset[str]:
        """The IDs of all instances with a marked process."""
        return frozenset(self._marked)

    def find(self, id: str, known: Iterable[ProcessID], pids: Iterable[int]) -> set[ProcessID]:
        """Return an instance's processes: marked ones, those in *known* or *pids*, and all their descendants."""
        found = self._marked[id] | {each.pid for each in known if self._has(each)} | (self._statuses.keys() & {*pids})
        new = found
        while new:
            new = {child for pid in new for child in self._children.get(pid, ())} - found
            found |= new
        return {self._statuses[pid].id for pid in found}

    def list_session(self, number: int) -> set[int]:
        """Return the PIDs in a session."""
        return self._sessions.get(number, set())

    def is_reused(self, process: ProcessID) -> bool:
        """Return whether another process has this one's PID."""
        return process.pid in self._statuses and not self._has(process)

    def is_of(self, process: ProcessID, uid: int) -> bool:
        """Return whether a process exists and is the user's."""
        return self._has(process) and _is_of(process.pid, uid)

    def _has(self, process: ProcessID) -> bool:
        status = self._statuses.get(process.pid)
        return status is not None and status.id == process


def _stop(process: ProcessID) -> None:
    with contextlib.suppress(PermissionError):
        send(process, signal.SIGSTOP)


def _read_instances(pid: int, mark: str, uid: int) -> list[str] | None:
    """Return the instance IDs in the environment of a process; none if it has another mark, or is another user's.

    Return None if its environment is empty, as it is for an instant while it begins another program.
    """
    # Another user's process may have any environment, and may make its reader wait.
    if not _is_of(pid, uid):
        return []
    environment = _read_environment(pid)
    variables = environment.split(b"\0")
    if f"{MARK_VARIABLE}={mark}".encode() not in variables:
        return [] if environment else None
    prefix = f"{INSTANCE_VARIABLE}=".encode()
    return [each.removeprefix(prefix).decode(errors="replace") for each in variables if each.startswith(prefix)]


def _read_environment(pid: int) -> bytes:
    """Return the environment of a process. If its first thread has ended, only the others have it."""
    if data := _read(pid, "environ"):
        return data
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return next(filter(None, (_read(pid, f"task/{each}/environ") for each in os.listdir(f"/proc/{pid}/task"))), b"")
    return b""


def _is_of(pid: int, uid: int) -> bool:
    """Return whether a process is a user's, by any of its user IDs; False if it is gone."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The owner is root if the process is protected from its user, such as one that has changed users.
    return owner == uid or (owner == 0 and str(uid).encode() in _read_uids(pid))


def _read_uids(pid: int) -> list[bytes]:
    lines = _read(pid, "status").split(b"\n")
    return next((line.split()[1:] for line in lines if line.startswith(b"Uid:")), [])


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
