"""Requests of calls under way: each is a file, which is its executable's stdin, and locked while that is at work.

The lock belongs to the open file, which the executable inherits. So it also tells the next daemon what an executable that
has outlived its own is still at work on, from before it is started until it ends: there is no moment between. A pipe could
tell no such thing, and one that nobody reads would hang its writer.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode


class _About(Struct):
    """What is read again of a request."""

    ids: list[str]


class Requests:
    """All requests of a plugin, in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left: dict[str, Path] = {}
        """By ID, requests of an earlier daemon's that were at work when this one started."""

    def open(self) -> None:
        """Take note of what is still at work, and remove what is not."""
        paths.make_folder(self._folder)
        try:
            for path in self._folder.iterdir():
                if _is_locked(path):
                    self._left |= dict.fromkeys(_ids(path), path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotStart(f"folder {self._folder}: {error.strerror}") from None

    def close(self) -> None:
        """Remove the folder, unless there is something in it."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def refuse_beside(self, id: str) -> None:
        """Raise `TryAgain` while an executable that an earlier daemon started is at work on an instance."""
        path = self._left.get(id)
        if path is None:
            return
        if _is_locked(path):
            raise TryAgain(f"an executable of an earlier daemon is still at work on {id}; its stdin is {path}", after=1)
        path.unlink(missing_ok=True)
        self._left.pop(id, None)

    def at_work(self) -> list[str]:
        """Give the instances that executables of an earlier daemon are at work on."""
        return [id for id, path in list(self._left.items()) if _is_locked(path)]

    @contextlib.contextmanager
    def one(self, request: bytes) -> Iterator[int]:
        """Give a descriptor for an executable's stdin. Its lock is held until the end of the context."""
        try:
            path, fd = self._locked(request)
        except OSError as error:
            raise TryAgain(f"folder {self._folder}: {error.strerror}") from None
        try:
            yield fd
        finally:
            path.unlink(missing_ok=True)  # what the executable left behind may have it open, and locked, for ever
            os.close(fd)

    def _locked(self, request: bytes) -> tuple[Path, int]:
        """Write a request, readable by this user alone; give its path, and a descriptor that can't change it."""
        fd, name = tempfile.mkstemp(dir=self._folder)
        path = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(request)
            reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        fcntl.flock(reading, fcntl.LOCK_EX)
        return path, reading


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _ids(path: Path) -> list[str]:
    try:
        return decode(path.read_bytes(), _About).ids
    except (NotJSON, WrongShape) as error:
        raise CannotStart(f"{path}: it is in use, and no request: {error}") from None
