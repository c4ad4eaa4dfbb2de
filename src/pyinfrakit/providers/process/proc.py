"""Processes as Linux shows them in /proc: known by ID and start, as an ID alone may be another process's by now."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

TICKS = os.sysconf("SC_CLK_TCK")
"""In a second; starts are counted in them."""


class Process(Struct, frozen=True):
    """A process for good: *start* is in ticks since the machine's."""

    pid: int
    start: int


class Seen(Struct, frozen=True):
    """A process as it was at one moment."""

    process: Process
    parent: int
    session: int
    has_ended: bool


def parsed(stat: str) -> Seen:
    """Read a line of ``/proc/PID/stat``; raise ValueError for what is none."""
    pid, _, rest = stat.partition(" (")
    fields = rest.rpartition(") ")[2].split()
    if len(fields) < 20:
        raise ValueError(f"no line of /proc/PID/stat: {stat!r}")
    return Seen(Process(int(pid), int(fields[19])), int(fields[1]), int(fields[3]), fields[0] in "ZX")


def look(pid: int) -> Seen | None:
    """Give a process, None where there is none that we may see."""
    try:
        return parsed(_read(pid, "stat").decode(errors="replace"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def everything() -> dict[int, Seen]:
    """Give all processes of the machine but this one and those that have ended, by ID."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    seen = [each for pid in pids if pid != os.getpid() and (each := look(pid)) is not None]
    return {each.process.pid: each for each in seen if not each.has_ended}


def is_alive(process: Process) -> bool:
    """Is it there, and not a zombie?"""
    seen = look(process.pid)
    return seen is not None and seen.process == process and not seen.has_ended


def environment(pid: int) -> list[bytes]:
    """Give a process's environment as it was when it began, ``KEY=VALUE``; nothing where we may not see it."""
    try:
        return _read(pid, "environ").split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def user(pid: int) -> int | None:
    """Give the ID of the user that a process belongs to, None where there is none."""
    try:
        lines = _read(pid, "status").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(b"Uid:")), None)


def send(process: Process, *numbers: int) -> None:
    """Send signals to this process, and to no other that may have its ID by now. Raises PermissionError."""
    with contextlib.suppress(ProcessLookupError), _opened(process.pid) as fd:
        seen = look(process.pid)
        if seen is not None and seen.process == process:
            for number in numbers:
                signal.pidfd_send_signal(fd, number)


def reap(pid: int) -> bool:
    """Let go of a child of ours if it has ended; give whether there is nothing more to do."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def boot() -> tuple[str, int]:
    """Give what tells this run of the machine from all others, and when it began, in seconds since 1970."""
    lines = Path("/proc/stat").read_text().splitlines()
    began = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip(), began


@contextlib.contextmanager
def _opened(pid: int) -> Iterator[int]:
    """Hold on to a process: as long as this is open, what is sent goes to it or to nobody."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _read(pid: int, what: str) -> bytes:
    fd = os.open(f"/proc/{pid}/{what}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 65536)
        while more := os.read(fd, 65536):
            data += more
        return data
    finally:
        os.close(fd)
