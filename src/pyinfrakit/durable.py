"""Files that survive a crash: what is written here is on the disk, whole, or is not there at all."""

import contextlib
import fcntl
import os
from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Make *data* the content of *path*, mode 0600: at every instant, and after a crash, it is the old or the new, whole.

    Raises OSError; then the new content may be there or not, but is never torn. Only one writer at a time per path.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, data)
        sync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    sync_folder(path.parent)


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def sync(fd: int) -> None:
    """Wait until what was written is on the disk. On macOS fsync leaves it in the drive's cache; F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # some file systems don't have it
            fcntl.fcntl(fd, full)
            return
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Make a rename within *folder* durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
