"""The file operations that durability depends on.

`Disk` is the real one. Its callers rely on these guarantees only: after a crash, data that was appended and
synced is there, and so are creations, renames and removals in a folder that was synced after them. Everything
else may be there, in part or in any order, or not.
"""

import errno
import fcntl
import math
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SYNC_EVERY = 4 * 1024 * 1024
"""Bytes of a large file between two syncs: one long sync would delay all shorter ones."""


class Displaced(OSError):
    """A file or folder at its path is no longer the one that this process put or found there."""

    def __init__(self, problem: str) -> None:
        super().__init__(errno.ESTALE, problem)


class AppendFile:
    """A file that grows at its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        status = os.fstat(fd)
        self._end = status.st_size
        self._version = _read_version(status)

    @property
    def size(self) -> int:
        """The length in bytes, without room that is only reserved."""
        return self._end

    def append(self, data: bytes) -> None:
        """Write all of *data* at the end. If this raises OSError, part of it may be there."""
        rest = memoryview(data)
        while rest:
            count = os.pwrite(self._fd, rest, self._end)
            self._end += count
            rest = rest[count:]

    def overwrite(self, data: bytes, start: int) -> None:
        """Replace bytes within the file, all in one sector, so that a power cut leaves either all old or all new.

        Raise `Displaced` if somebody else has written to the file.
        """
        if _read_version(os.fstat(self._fd)) != self._version:
            raise Displaced("another program wrote to the file")
        if os.pwrite(self._fd, data, start) != len(data):
            raise OSError(errno.EIO, "a short write")
        self._version = _read_version(os.fstat(self._fd))

    def reserve(self, length: int) -> None:
        """Fill the room after the end with zeros, if the system can.

        A sync of data in such room leaves the file's length alone, which takes a third less time on ext4.
        """
        if hasattr(os, "posix_fallocate"):
            with suppress(OSError):  # the next append may fit all the same
                os.posix_fallocate(self._fd, self._end, length)

    def sync(self) -> None:
        """Wait until all data is on the disk. If this raises OSError, the state of the data is unknown."""
        sync(self._fd)

    def truncate(self, length: int) -> None:
        """Remove everything after the first *length* bytes."""
        os.ftruncate(self._fd, length)
        self._end = length

    def is_at(self, path: Path) -> bool:
        """Return whether this file is at *path*."""
        try:
            status = os.stat(str(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_dev, status.st_ino) == self._version[:2]

    def is_untouched(self, path: Path) -> bool:
        """Return whether this file is at *path*, and nobody has written to it since it was opened, except `overwrite`."""
        try:
            return _read_version(os.stat(str(path))) == self._version
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_shared(self) -> bool:
        """Return whether the file has more than one name."""
        return os.fstat(self._fd).st_nlink > 1

    def close(self) -> None:
        os.close(self._fd)


class Disk:
    """The files and folders of a disk. Every method may raise OSError."""

    def read(self, path: Path) -> bytes:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            return file.read()

    def names(self, folder: Path) -> list[str]:
        return os.listdir(folder)

    def is_private(self, path: Path) -> bool:
        """Return whether only a file's owner may read and write it."""
        return not stat.S_IMODE(path.stat().st_mode) & 0o077

    def create(self, path: Path) -> AppendFile:
        """Create a file with mode 0600. It replaces an existing one."""
        path.unlink(missing_ok=True)
        return AppendFile(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def open(self, path: Path) -> AppendFile:
        """Open a file that exists."""
        return AppendFile(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))

    def room(self, folder: Path) -> float:
        """Return the bytes that new data in *folder* may take. A file system that does not tell has no limit."""
        status = os.statvfs(folder)
        free = status.f_bfree if os.geteuid() == 0 else status.f_bavail
        return free * status.f_frsize if status.f_blocks else math.inf

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file. It replaces an existing one."""
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Wait until all creations, renames and removals in *folder* are on the disk."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Replace the content of *path*: at every instant, and after a crash, it is whole, either old or new.

        If this raises OSError, the file is still whole. Each path may have one writer at a time.
        """
        temporary = temporary_path(path)
        try:
            self.write(temporary, pieces)
            self.rename(temporary, path)
        except OSError:
            with suppress(OSError):  # free the room on a full disk
                self.remove(temporary)
            raise
        self.sync_folder(path.parent)

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Create a file of *pieces*, and sync its data. Its name is not durable before a sync of the folder."""
        file = self.create(path)
        unsynced = 0
        try:
            for piece in pieces:
                file.append(piece)
                unsynced += len(piece)
                if unsynced >= SYNC_EVERY:
                    file.sync()
                    unsynced = 0
            file.sync()
        finally:
            file.close()


def open_regular(path: Path, flags: int) -> int:
    """Open a file, and return its descriptor. Raise OSError if it is not a regular one, on which a read might wait."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def temporary_path(path: Path) -> Path:
    """Return the path of a file that is not yet in its place. A crash may leave it behind."""
    return path.with_name(f".{path.name}.new")


def is_at(fd: int, path: Path) -> bool:
    """Return whether an open file is at *path*. Someone may have removed or moved it."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _read_version(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes if a file is replaced or written to. Its name and its links do not count."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def sync(fd: int) -> None:
    """Wait until a file's data is on the disk."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:  # on macOS, fsync leaves the data in the drive's cache
        with suppress(OSError):  # some file systems don't support it
            fcntl.fcntl(fd, full)
            return
    getattr(os, "fdatasync", os.fsync)(fd)
