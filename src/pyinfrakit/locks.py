"""Locks between processes: one holder at a time, gone with the process that held it."""

import fcntl
import os
from pathlib import Path

from pyinfrakit.errors import CannotStart, InUse


class Lock:
    """An exclusive lock on *path*, a file of its own, as a lock on a file that is renamed over would be lost."""

    def __init__(self, path: Path, what: str, holder: str) -> None:
        """Take the lock. Raise `InUse`, which names *what* is locked and its holder, who said *holder* here; or `CannotStart`."""
        self._path = path
        while True:
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise CannotStart(f"{what}: {error.strerror}") from None
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = os.read(self._fd, 200).decode(errors="replace").strip()
                os.close(self._fd)
                raise InUse(f"{what} is in use by {other or 'another process'}") from None
            if self._is_in_place():
                break
            os.close(self._fd)
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{holder} (process {os.getpid()})\n".encode())

    def _is_in_place(self) -> bool:
        """Is the file that was locked still at the path? Its last holder may have removed it meanwhile."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Remove the file, then let go of it: in this order nobody can lock a file that is about to vanish."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
