"""The requests of runs under way. Each is a file: the stdin of its executable, locked until that exits.

The executable inherits the open file, and the lock with it. So a new daemon can tell which instances an
executable of an earlier, killed daemon is still working on. There is no gap: the lock is there before the
executable starts. A pipe could not be locked, and would block a daemon whose executable does not read it.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.locks import acquire, is_locked
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode


class RequestIDs(Struct):
    """The part of a request that the next daemon reads."""

    ids: list[str]


class _EarlierRequest:
    """The request of an earlier daemon. It stays open, so that its lock is known even if its file is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")

    def read(self) -> bytes:
        return self._file.read()

    def is_held(self) -> bool:
        """Return whether an executable still holds the lock."""
        return is_locked(self._file.fileno())


class Requests:
    """The requests of one plugin, in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._earlier: dict[str, _EarlierRequest] = {}
        """By instance, the requests of earlier daemons that were locked at the start."""

    def open(self) -> None:
        """Find the requests that earlier daemons' executables still work on, and remove the others."""
        self._make_folder()
        try:
            for path in self._folder.iterdir():
                request = _EarlierRequest(path)
                if request.is_held():
                    self._earlier |= dict.fromkeys(decode(request.read(), RequestIDs).ids, request)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotStart(f"folder {self._folder}: {error.strerror}") from None
        except (NotJSON, WrongShape) as error:
            raise CannotStart(f"{path}: expected a request, as the file is in use: {error}") from None

    def close(self) -> None:
        """Remove the folder, unless earlier daemons' requests are in it."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def find_busy(self) -> dict[str, TryAgain]:
        """Return, by ID, an error for each instance that an executable of an earlier daemon still works on."""
        busy = {}
        for id, request in list(self._earlier.items()):
            if request.is_held():
                problem = f"an executable of an earlier daemon still works on {id}; its stdin is {request.path}"
                busy[id] = TryAgain(problem, after=1)
            else:
                request.path.unlink(missing_ok=True)
                self._earlier.pop(id, None)
        return busy

    def check_idle(self, ids: Sequence[str]) -> None:
        """Raise `TryAgain` if an executable of an earlier daemon still works on one of the instances."""
        for id, error in self.find_busy().items():
            if id in ids:
                raise error

    @contextlib.contextmanager
    def open_stdin(self, request: bytes) -> Iterator[int]:
        """Yield a locked descriptor from which an executable reads a request. Raise `TryAgain` if the disk fails."""
        with contextlib.ExitStack() as cleanup:
            try:
                self._make_folder()
                # mkstemp: only this user may read it, because it holds secrets.
                fd, name = tempfile.mkstemp(dir=self._folder)
                # A process in the background may hold the lock forever. Without its file, it blocks nothing.
                cleanup.callback(Path(name).unlink, missing_ok=True)
                with os.fdopen(fd, "wb") as file:
                    file.write(request)
                stdin = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
                cleanup.callback(os.close, stdin)
                acquire(stdin, wait=True)
            except CannotStart as error:
                raise TryAgain(str(error)) from None
            except OSError as error:
                raise TryAgain(f"folder {self._folder}: {error.strerror}") from None
            yield stdin

    def _make_folder(self) -> None:
        """Make the folder, unless it exists. Somebody may have removed it, with the folder that it is in."""
        paths.make_folder(self._folder.parent)
        paths.make_private(self._folder)
