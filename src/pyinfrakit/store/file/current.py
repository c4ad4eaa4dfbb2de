"""The state file as this process last wrote it: whether it is still at its path, and its link to the journal.

The value ``Journal`` in the file's stamp names the last journal, and a change that was acknowledged in it. It is
written in place. It is synced when a journal begins, so that a missing journal is always noticed. After each append
it is written without a sync of its own: a killed process leaves it as it was, and a power cut an earlier value.
"""

import errno
from contextlib import suppress
from pathlib import Path

from pyinfrakit.disk import AppendFile, Disk, Displaced, temporary_path
from pyinfrakit.store.file.stamp import Bound, bound_place, encode_bound, verify_stamp

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)


class Current:
    """The state file at *path*, with *digest* in its stamp. One thread may use it at a time."""

    def __init__(self, disk: Disk, path: Path, digest: str) -> None:
        self._disk = disk
        self._path = path
        self._file = disk.open(path)
        self._digest = digest
        self._next: tuple[AppendFile, str] | None = None
        """The file of a rename that failed, and its digest: it may be in its place all the same."""

    @property
    def size(self) -> int:
        return self._file.size

    def check(self) -> None:
        """Raise `Displaced` if the file was removed, replaced, or written to by others."""
        if self._file.is_untouched(self._path):
            return
        if self._next is not None and self._next[0].is_untouched(self._path):
            self._adopt()
            return
        self._reopen()

    def _reopen(self) -> None:
        """Open what is at the path, if it has the content of the file that was there. Raise `Displaced`."""
        problem = Displaced(f"state file {self._path} was removed, replaced or changed by another program: put it back")
        try:
            file = self._disk.open(self._path)
        except OSError as error:
            raise (problem if error.errno in _NO_FILE else error) from None
        try:
            stamp = verify_stamp(self._disk.read(self._path)) if file.size else None  # to read a FIFO takes forever
            if stamp is None or stamp.digest != self._digest:
                raise problem
        except OSError:
            file.close()
            raise
        self._file.close()
        self._file = file

    def _adopt(self) -> None:
        assert self._next is not None
        with suppress(OSError):
            self._file.close()
        (self._file, self._digest), self._next = self._next, None

    def mark(self, bound: Bound, *, sync: bool = False) -> None:
        """Write the link to the journal."""
        self._mark(self._file, self._digest, bound)
        if sync:
            self._file.sync()

    def _mark(self, file: AppendFile, digest: str, bound: Bound) -> None:
        file.overwrite(encode_bound(digest, bound), bound_place(file.size))

    def unshare(self) -> None:
        """Break hard links to the file: a write in place must not change a copy."""
        if self._file.is_shared():
            data = self._disk.read(self._path)
            self._disk.write(temporary_path(self._path), [data])
            self.place(self._digest, None)
            self._disk.sync_folder(self._path.parent)

    def place(self, digest: str, bound: Bound | None) -> None:
        """Put the file that is written beside this one, with *digest* and no link to a journal, in its place."""
        temporary = temporary_path(self._path)
        if self._next is not None:
            self._next[0].close()
        self._next = self._disk.open(temporary), digest
        if bound is not None:
            self._mark(*self._next, bound)
            self._next[0].sync()
        self._disk.rename(temporary, self._path)
        self._adopt()

    def close(self) -> None:
        for file in (self._file, *(self._next or ())[:1]):
            with suppress(OSError):
                file.close()
