"""The file operations that durability rests on, all in one place.

`Disk` is the real one. Everything above it counts on this and no more: what was appended and synced is there after a
crash; what was renamed, made or removed is so for good once its folder was synced; what was not synced may be there, in
part or in any order, or not.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path

SYNC_EVERY = 4 * 1024 * 1024
"""Bytes of a large file after which it is synced on the way: one long sync would hold up all shorter ones."""


class File:
    """A file that is being appended to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._end = 0

    def append(self, data: bytes) -> None:
        """Write all of *data* at the end. Raises OSError, and then part of it may be there."""
        left = memoryview(data)
        while left:
            written = os.pwrite(self._fd, left, self._end)
            self._end += written
            left = left[written:]

    def reserve(self, length: int) -> None:
        """Have zeros behind the end, where that can be done: what is then written over them is synced without the file's length.

        That makes a sync a third quicker, on ext4.
        """
        if hasattr(os, "posix_fallocate"):
            with contextlib.suppress(OSError):  # there may be room for what is to be written all the same
                os.posix_fallocate(self._fd, self._end, length)

    def sync(self) -> None:
        """Wait until what was appended is on the disk. Raises OSError, and then nothing is known of it."""
        sync(self._fd)

    def truncate(self, length: int) -> None:
        """Take away what is behind the first *length* bytes."""
        os.ftruncate(self._fd, length)
        self._end = length

    def is_at(self, path: Path) -> bool:
        """Is this the file at *path*? Somebody may have removed it, or moved it away."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        os.close(self._fd)


class Disk:
    """A disk's files and folders. Every method may raise OSError."""

    def read(self, path: Path) -> bytes:
        """Give all of a file."""
        return path.read_bytes()

    def names(self, folder: Path) -> list[str]:
        """Give the names of what is in a folder."""
        return os.listdir(folder)

    def is_private(self, path: Path) -> bool:
        """May nobody but its owner read or write a file?"""
        return not stat.S_IMODE(path.stat().st_mode) & 0o077

    def create(self, path: Path) -> File:
        """Begin a new file, mode 0600, in place of what may be there."""
        path.unlink(missing_ok=True)
        return File(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, in place of what may have it."""
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Wait until what was made, renamed or removed in *folder* is so on the disk."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Make *chunks* the content of *path*: at every instant, and after a crash, it is the old or the new, whole.

        Raises OSError; then the new content may be there or not, but is never torn. Only one writer at a time per path.
        """
        temporary = unfinished(path)
        try:
            self._write(temporary, chunks)
            self.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):  # a full disk gets its room back
                self.remove(temporary)
            raise
        self.sync_folder(path.parent)

    def _write(self, path: Path, chunks: Iterable[bytes]) -> None:
        file = self.create(path)
        unsynced = 0
        try:
            for chunk in chunks:
                file.append(chunk)
                unsynced += len(chunk)
                if unsynced >= SYNC_EVERY:
                    file.sync()
                    unsynced = 0
            file.sync()
        finally:
            file.close()


def unfinished(path: Path) -> Path:
    """Give the name that a file has until it comes into its place; a crash may leave it."""
    return path.with_name(f".{path.name}.new")


def sync(fd: int) -> None:
    """Wait until what was written is on the disk. On macOS fsync leaves it in the drive's cache; F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # some file systems don't have it
            fcntl.fcntl(fd, full)
            return
    getattr(os, "fdatasync", os.fsync)(fd)
