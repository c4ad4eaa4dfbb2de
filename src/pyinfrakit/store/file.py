"""The default store: one JSON file, replaced as a whole for each change or batch of changes."""

import asyncio
import os
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit import durable
from pyinfrakit.decoding import NotJSON, WrongShape
from pyinfrakit.errors import CannotStart, Damaged, StoreFailed
from pyinfrakit.lock import Lock
from pyinfrakit.records import Change, Records, Undo, UndoNote
from pyinfrakit.store import Store, document

RETRY = 1.0
"""Seconds after a write that failed until the next one, if no change comes before."""


class _Batch(Struct):
    """Changes that are written together: what takes them back, and what whoever made them waits for."""

    undos: list[Undo | UndoNote]
    done: asyncio.Future[None]


class FileStore(Store):
    """A state file, locked for as long as this store is open."""

    def __init__(self, path: Path, holder: str, mark: str | None = None) -> None:
        """Read the file, or start one; *holder* is who has it, for others who want it; *mark* replaces the file's.

        Raises `Damaged` where the file makes no sense, `InUse`, or `CannotStart` for an unusable path. Then the
        file is left as it was.
        """
        self.path = _usable(path)
        self.location = f"state file {path}"
        try:
            self._lock = Lock(self.path.with_name(f"{self.path.name}.lock"), self.location, holder)
        except OSError as error:
            raise CannotStart(f"{self.location}: {error.strerror}") from None
        try:
            content = _load(self.path)
        except CannotStart:
            self._lock.release()
            raise
        try:
            self.records = content.records
            self.mark = mark or content.mark or secrets.token_hex(8)
            self._content = replace(content, mark=self.mark)
            self._write()
        except (OSError, ValueError) as error:
            self._lock.release()
            raise CannotStart(f"{self.location} can't be written: {_reason(error)}") from None
        self._waiting: _Batch | None = None
        self._writing: _Batch | None = None
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "store")
        """Its own: providers may keep the event loop's threads busy for as long as they like."""
        self._again: asyncio.TimerHandle | None = None
        """Set while the file may hold what was taken back, or lack what it should hold."""

    def commit(self, *changes: Change) -> asyncio.Future[None]:
        if changes:
            batch = self._next_batch()
            batch.undos.extend(self.records.apply(change) for change in changes)
            return asyncio.shield(batch.done)
        under_way = self._waiting or self._writing
        if under_way is not None:
            return asyncio.shield(under_way.done)
        nothing = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    async def flush(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._write_again()
        if self._writer is not None:
            await self._writer
        if self._again is not None:
            self._again.cancel()
            raise StoreFailed(self.path, "not even at the end")

    def __enter__(self) -> "FileStore":
        return self

    def __exit__(self, *exception: object) -> None:
        """Let go of the file."""
        self._thread.shutdown()
        self._lock.release()

    def _next_batch(self) -> _Batch:
        if self._waiting is None:
            self._waiting = _Batch([], asyncio.get_running_loop().create_future())
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_batches())
        return self._waiting

    async def _write_batches(self) -> None:
        while self._waiting is not None:
            batch, self._waiting = self._waiting, None
            self._writing = batch
            try:
                data = document.dump(self._content)
                await asyncio.get_running_loop().run_in_executor(self._thread, durable.replace, self.path, data)
            except (OSError, ValueError, TypeError) as error:  # the disk's fault, or a record's that JSON can't hold
                self._take_back(batch, StoreFailed(self.path, _reason(error)))
            else:
                if self._again is not None:
                    self._again.cancel()
                    self._again = None
                batch.done.set_result(None)
        self._writing = self._writer = None

    def _take_back(self, batch: _Batch, error: StoreFailed) -> None:
        """Fail *batch* and what was decided on top of it. The file may hold it all the same, until it is next written."""
        failed = [batch] if self._waiting is None else [batch, self._waiting]
        self._waiting = None
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(RETRY, self._write_again)
        self.records.undo(undo for each in reversed(failed) for undo in reversed(each.undos))
        for each in failed:
            each.done.set_exception(error)

    def _write_again(self) -> None:
        """Have the file agree with memory, whoever waits for that or not."""
        self._next_batch().done.add_done_callback(lambda done: done.exception())

    def _write(self) -> None:
        durable.replace(self.path, document.dump(self._content))


def _usable(path: Path) -> Path:
    """Resolve links, so that what they point to is replaced, not they. Raise `CannotStart`."""
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except FileNotFoundError:
        if not real.parent.is_dir():
            raise CannotStart(f"state file {path}: there is no folder {real.parent}") from None
        return real
    except OSError as error:
        raise CannotStart(f"state file {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise CannotStart(f"state file {path}: not a regular file")
    if not mode & 0o222 or not os.access(real, os.W_OK):
        raise CannotStart(f"state file {path}: read-only (mode {stat.S_IMODE(mode):04o})")
    return real


def _load(path: Path) -> document.Content:
    try:
        return document.load(path.read_bytes())
    except FileNotFoundError:
        return document.Content(Records(), None, {})
    except NotJSON as error:
        raise Damaged(path, "content", str(error)) from None
    except WrongShape as error:
        raise Damaged(path, error.where or "content", error.problem) from None
    except OSError as error:
        raise CannotStart(f"state file {path} can't be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
