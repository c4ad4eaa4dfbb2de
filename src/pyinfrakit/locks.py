"""Locks between processes: one holder at a time, released when the holder ends, however it ends.

All of them are `flock` locks. Such a lock belongs to the open file, not to the process: a child that
inherits the descriptor holds the lock with its parent, and keeps it when the parent is killed. That is
how a new daemon learns that a child of an earlier one is still at work. No child inherits a `Lock`.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

from pyinfrakit.disk import Displaced, is_at
from pyinfrakit.errors import CannotStart, InUse

_HELD: "WeakSet[Lock]" = WeakSet()


def acquire(fd: int, *, wait: bool = False) -> bool:
    """Lock an open file. Return False if another process holds the lock, unless this is to *wait* for it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock on a file; False if the file is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return is_locked(fd)
    finally:
        os.close(fd)


def is_locked(fd: int) -> bool:
    """Return whether another process holds the lock on an open file, which is not locked here."""
    try:
        # A shared lock, so that two observers do not take each other for the holder.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


class Lock:
    """An exclusive lock on *path*. It is a file of its own: a lock on a file that is renamed over is lost."""

    def __init__(self, path: Path, subject: str, holder: str) -> None:
        """Take the lock, and write *holder* into the file for others who want it.

        Raise `InUse`, which names the *subject* and its holder, or `CannotStart` if the file can't be opened.
        """
        self._path = path
        self._text = f"{holder} (process {os.getpid()})\n"
        try:
            self._fd = _open_locked(path, subject)
            self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._status, self._folder_status = os.fstat(self._fd), os.fstat(self._folder)
            left = os.pread(self._fd, 400, 0)
        except OSError as error:
            raise CannotStart(f"{subject}: {error.strerror}") from None
        self.left = left.decode(errors="replace")
        """The text of the last holder, if it did not release the lock."""
        self._write(self._text)
        _HELD.add(self)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.release()
        else:
            self.restore()

    def note(self, text: str) -> None:
        """Leave a line of *text* for the next holder, which finds it in `left` unless this one releases the lock."""
        self._write(f"{self._text}{text}\n")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(self._fd, os.pwrite(self._fd, text.encode(), 0))

    def check(self) -> None:
        """Raise `Displaced` if the lock's file or its folder is no longer at its path: then others can lock it too."""
        if not self._is_at(self._folder_status, self._path.parent):
            raise Displaced(f"folder {self._path.parent} was removed or replaced: put it back")
        if not self._is_at(self._status, self._path):
            raise Displaced(
                f"lock {self._path} was removed or replaced, so that others can use the state too: "
                "stop them, and restart this process"
            )

    def _is_at(self, status: os.stat_result, path: Path) -> bool:
        try:
            return os.path.samestat(os.stat(str(path)), status)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def find_folder(self) -> Path | None:
        """Return the present path of the folder, which may have been renamed; None if it is gone."""
        with suppress(OSError):
            path = Path(os.readlink(f"/proc/self/fd/{self._folder}"))
            return path if is_at(self._folder, path) else None
        return None

    def release(self) -> None:
        """Remove the file, then unlock it. In this order, nobody can lock a file that is about to vanish."""
        if self._fd < 0:
            return  # this is a child of the holder
        if is_at(self._fd, self._path):  # another process's lock stays
            self._path.unlink(missing_ok=True)
        self.close()

    def restore(self) -> None:
        """Unlock the file, and leave it as it was before."""
        if not self.left:
            self.release()
            return
        self._write(self.left)
        self.close()

    def close(self) -> None:
        """Unlock the file, or in a child stop holding it with the parent; leave it in place."""
        for fd in (self._fd, self._folder):
            with suppress(OSError):
                os.close(fd)
        self._fd = self._folder = -1
        _HELD.discard(self)


def _open_locked(path: Path, subject: str) -> int:
    """Open and lock a file. Raise `InUse`, or OSError."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if not acquire(fd):
            text = _describe_holder(fd)
            os.close(fd)
            raise InUse(f"{subject} is in use by {text}")
        # The last holder may have removed the file between our open and our lock.
        if is_at(fd, path):
            return fd
        os.close(fd)


def _describe_holder(fd: int) -> str:
    """Return who holds the lock on a file, as the file says, or as the system does if that process has ended."""
    text = os.pread(fd, 200, 0).decode(errors="replace").partition("\n")[0].strip() or "another process"
    holders = dict(_find_holders(fd))
    if not holders or any(f"(process {pid})" in text for pid in holders):
        return text
    some = ", ".join(f"process {pid} ({name})" for pid, name in holders.items())
    return f"{some}: it inherited the lock of {text}, which has ended; end it first"


def _find_holders(fd: int) -> Iterator[tuple[int, str]]:
    """Yield the processes that hold a lock on a file, with their names, as far as this user may see them."""
    file = os.fstat(fd)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for each in (process / "fd").iterdir():
                with suppress(OSError):
                    same = os.path.samestat(file, each.stat())
                    if same and "FLOCK" in (process / "fdinfo" / each.name).read_text():
                        yield int(process.name), (process / "comm").read_text().strip()
                        break


def _disown() -> None:
    """Let a child that was forked without a new program hold none of its parent's locks."""
    for lock in list(_HELD):
        lock.close()


os.register_at_fork(after_in_child=_disown)
