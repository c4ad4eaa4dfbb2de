"""Locks between processes: one holder at a time, released when the holder ends, however it ends.

All of them are `flock` locks. Such a lock belongs to the open file, not to the process: a child that
inherits the descriptor holds the lock with its parent, and keeps it when the parent is killed. That is
how a new daemon learns that a child of an earlier one is still at work.
"""

import fcntl
import os
from pathlib import Path

from pyinfrakit.disk import is_at
from pyinfrakit.errors import CannotStart, InUse


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
        while True:
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise CannotStart(f"{subject}: {error.strerror}") from None
            if not acquire(self._fd):
                other = os.read(self._fd, 200).decode(errors="replace").strip()
                os.close(self._fd)
                raise InUse(f"{subject} is in use by {other or 'another process'}")
            # The last holder may have removed the file between our open and our lock.
            if is_at(self._fd, path):
                break
            os.close(self._fd)
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{holder} (process {os.getpid()})\n".encode())

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Remove the file, then unlock it. In this order, nobody can lock a file that is about to vanish."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
