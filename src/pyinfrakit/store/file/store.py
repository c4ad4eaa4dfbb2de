"""The default store: one JSON file, and beside it a journal of what came since the file was last written.

On the event loop changes are made in memory and gathered into batches; threads write. A batch is one entry of the journal, with
one sync; changes that come meanwhile are the next batch. From time to time the file is written anew, from the
records as they are between two batches, while the next ones go to a new journal; then the old one is removed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from pyinfrakit import paths
from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart, StoreFailed
from pyinfrakit.logs import NOTICE
from pyinfrakit.record import Record
from pyinfrakit.store import Store
from pyinfrakit.store.file import journal, recovery
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.file.recovery import opened, usable
from pyinfrakit.store.file.writer import Failure, Pace, Thread, attempted
from pyinfrakit.store.records import Change, Records, Undo, UndoNote

log = logging.getLogger(__name__)

LINGER = 0.02
"""Seconds that changes which nobody waits for may wait for others."""

SOON = 0.3
"""Seconds after a change until the state file is written, where it may be written so often."""

RETRY = 1.0
"""Seconds after a write that failed until the next one, if no change comes before."""


def default_path(name: str) -> Path:
    """Return the path of plugin *name*'s state file, unless an operator chooses another."""
    return paths.home() / "state" / f"{name}.json"


def open_file(url: str | None, name: str, mark: str | None, sub_types: Sequence[str]) -> Store:
    """Open the file at *url*, which may have the scheme ``file``, or the default one; the `OpenStore` of files."""
    if url is None:
        path = default_path(name)
        paths.make_folder(path.parent)
    else:
        path = Path(url.removeprefix("file://"))
    return FileStore(path, f"plugin {name}", mark, sub_types)


class _Batch:
    """Changes that are written together: what takes them back, and what whoever made them waits for."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.undos: list[tuple[Records, list[Undo | UndoNote]]] = []
        self.hurried = 0
        """How many are in a hurry for it."""
        self._waits: list[asyncio.Future[None]] = []

    def wait(self) -> asyncio.Future[None]:
        """Give a wait of its own, which may be cancelled."""
        wait = asyncio.get_running_loop().create_future()
        self._waits.append(wait)
        return wait

    def settle(self, error: StoreFailed | None) -> None:
        for wait in self._waits:
            if wait.done():
                continue
            if error is None:
                wait.set_result(None)
            else:
                wait.set_exception(error)


class FileStore(Store):
    """A state file, locked for as long as this store is open; the `Store` of the first sub-type that it keeps.

    `part` gives those of the others. They have their changes in the same batches, one after the other as they came.
    """

    def __init__(
        self, path: Path, holder: str, mark: str | None = None, sub_types: Sequence[str] = ("",), disk: Disk = Disk()
    ) -> None:
        """Read the file, or start one; *holder* is who has it, for others who want it; *mark* replaces the file's.

        *sub_types* are the plugin's sub-types. Raises `Damaged` where the file makes no sense, `InUse`, or `CannotStart` for
        an unusable path or a record of no such sub-type. Then the file is left as it was.
        """
        self.path = usable(path)
        self.location = f"state file {path}"
        self.folder = path.absolute().parent
        self._written_at = f"state file {self.path}"
        self._lock = recovery.lock(self.path, self.location, holder)
        try:
            content, self._writer = opened(disk, self.path, mark, sub_types)
        except CannotStart:
            self._lock.release()
            raise
        except OSError as error:
            self._lock.release()
            raise CannotStart(f"{self.location} can't be written: {_reason(error)}") from None
        assert content.mark is not None
        self._mark = content.mark
        self._parts = _parted(content, sub_types)
        self.sub_type = sub_types[0]
        self.mark = _marked(self._mark, self.sub_type)
        self.records = self._parts[self.sub_type]
        self._unknown = content.unknown
        self._waiting: _Batch | None = None
        self._writing: _Batch | None = None
        self._looks = False
        """Will `_work` be called in this turn of the event loop?"""
        self._failed = False
        """Must the file be written anew before anything else, as the journal may hold what was taken back?"""
        self._due = False
        """Is it time to write the file?"""
        self._timer: asyncio.TimerHandle | None = None
        """When the file is due next."""
        self._rested = 0.0
        """Until when the file is not to be written again, on the monotonic clock."""
        self._checkpoint: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._is_behind = False
        """Did the last checkpoint fail?"""
        self._pace = Pace()
        # Threads of its own: providers may keep the event loop's busy for as long as they like.
        self._appending = Thread("journal")
        self._checkpointing = ThreadPoolExecutor(1, "checkpoint")

    def close(self) -> None:
        self._pace.hurry()
        self._appending.end()
        self._checkpointing.shutdown()
        self._writer.close()
        self._lock.release()

    def part(self, sub_type: str) -> Store:
        """Give the store of one sub-type's records, for as long as this one is open."""
        return (
            self
            if sub_type == self.sub_type
            else _Part(self, _marked(self._mark, sub_type), sub_type, self._parts[sub_type])
        )

    def commit(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        return self._commit(self.records, changes, urgent)

    def find_elsewhere(self, id: str) -> str:
        return self._find_elsewhere(id, self.sub_type)

    def _find_elsewhere(self, id: str, sub_type: str) -> str:
        return next((other for other, records in self._parts.items() if other != sub_type and id in records), "")

    def _commit(self, records: Records, changes: Sequence[Change], urgent: bool) -> asyncio.Future[None]:
        if not changes:
            return self._under_way()
        try:
            entries = [journal.changed(change) for change in changes]
        except (TypeError, ValueError) as error:  # JSON can't hold it
            return self._refused(StoreFailed(self._written_at, str(error)))
        batch = self._gathering(urgent)
        batch.entries.extend(entries)
        batch.undos.append((records, [records.apply(change) for change in changes]))
        return batch.wait()

    def _under_way(self) -> asyncio.Future[None]:
        if self._waiting is not None:
            return self._gathering(urgent=True).wait()
        if self._writing is not None:
            return self._writing.wait()
        nothing = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def _refused(self, error: StoreFailed) -> asyncio.Future[None]:
        refused = asyncio.get_running_loop().create_future()
        refused.set_exception(error)
        return refused

    def _gathering(self, urgent: bool) -> _Batch:
        """Give the batch that is written next."""
        if self._waiting is None:
            self._waiting = _Batch()
            if not urgent:
                asyncio.get_running_loop().call_later(LINGER, self._hasten, self._waiting)
        if urgent:
            self._hasten(self._waiting)
        return self._waiting

    def _hasten(self, batch: _Batch) -> None:
        """Have a batch written, with all that is added to it in this turn of the event loop."""
        batch.hurried += 1
        self._look()

    def _look(self) -> None:
        if not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        """Begin to write what waits, unless a write is under way, or there is no hurry."""
        self._looks = False
        if self._writing is not None or not (self._due or (self._waiting is not None and self._waiting.hurried > 0)):
            return
        batch, self._waiting = self._waiting or _Batch(), None
        self._writing = batch
        due, self._due = self._due and self._checkpoint is None, False  # one that is under way plans the next itself
        content = self._content() if due or self._failed else None
        if content is not None and self._failed:
            self._recovery = asyncio.create_task(self._start_anew(batch, content))
        elif batch.entries:
            append = partial(self._writer.append, journal.together(batch.entries))
            if batch.hurried == 1 and self._writer.is_quick:
                self._written(batch, content, attempted(append))  # to ask a thread would take as long again
            else:
                self._appending.do(append, partial(self._written, batch, content))
        else:
            self._written(batch, content, None)

    def _written(self, batch: _Batch, content: Content | None, error: Failure | None) -> None:
        """Tell those who wait for a batch; with *content*, begin to write the file, which is due."""
        self._writing = None
        if error is None:
            batch.settle(None)
            if content is not None:
                self._writer.rotate()
                self._checkpoint = asyncio.create_task(self._write_file(content))
            self._plan()
        else:
            self._take_back(batch, StoreFailed(self._written_at, _reason(error)))
        if self._due or self._waiting is not None:
            self._look()

    async def _start_anew(self, batch: _Batch, content: Content) -> None:
        """Write the file with all there is, as the journal can't be trusted any more."""
        await self._end_checkpoint()
        failed: Failure | None = None
        try:
            await self._in_background(self._writer.start_anew, content)
        except (OSError, MemoryError) as error:
            failed = error
        else:
            self._failed = False
            log.log(NOTICE, "%s can be written again", self.location)
        self._written(batch, None, failed)

    def _content(self) -> Content:
        parts = self._parts.values()
        records, last_id = list(chain.from_iterable(parts)), min(part.last_id for part in parts)
        return Content(records, last_id, dict(self.records.notes), self._mark, self._unknown)

    async def _in_background(self, work: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._checkpointing, work, *arguments)

    async def _write_file(self, content: Content) -> None:
        began = time.monotonic()
        try:
            paced = partial(self._pace.pieces, len(content.records))
            await self._in_background(self._writer.checkpoint, content, paced)
            self._is_behind = False
            pause = 0.0
        except (OSError, MemoryError) as error:
            if not self._is_behind:
                log.error(
                    "%s can't be written anew: %s; all is safe in the journal beside it", self.location, _reason(error)
                )
            self._is_behind = True
            pause = RETRY
        ended = time.monotonic()
        self._rested = ended + max(pause, self._pace.rest(ended - began))
        self._checkpoint = None
        self._plan()

    async def _end_checkpoint(self) -> None:
        """Have a checkpoint that is under way ended soon, and wait for it."""
        if self._checkpoint is not None:
            self._pace.hurry()
            await asyncio.wait({self._checkpoint})
        self._pace = Pace()

    def _plan(self) -> None:
        """Have the file written in a while, if it does not hold everything."""
        if self._writer.has_journals and self._timer is None and self._checkpoint is None:
            self._set_timer(max(SOON, self._rested - time.monotonic()))

    def _set_timer(self, delay: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(delay, self._be_due)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _be_due(self) -> None:
        self._stop_timer()
        self._due = True
        self._look()

    def _take_back(self, batch: _Batch, error: StoreFailed) -> None:
        """Fail *batch* and what was decided on top of it. The disk may hold it all the same, until the file is written anew."""
        self._failed = True
        failed = [batch] if self._waiting is None else [batch, self._waiting]
        self._waiting = None
        self._set_timer(RETRY)
        for each in reversed(failed):
            for records, undos in reversed(each.undos):
                records.undo(reversed(undos))
        for each in failed:
            each.settle(error)

    async def flush(self) -> None:
        """Write everything to the one file, and remove the journals; leave these where that fails. Raise `StoreFailed`."""
        await self._idle()
        await self._end_checkpoint()
        for _ in range(2):  # after a checkpoint that failed there are two journals, and one ends the older
            if self._failed or self._writer.has_journals:
                self._pace.hurry()
                self._be_due()
                await self._idle()
                await self._end_checkpoint()
        self._stop_timer()
        if self._failed:
            raise StoreFailed(self._written_at, "not even at the end")

    async def _idle(self) -> None:
        """Wait until nothing is left to write but the file."""
        while self._due or self._waiting is not None or self._writing is not None:
            batch = self._writing or self._gathering(urgent=True)
            with contextlib.suppress(StoreFailed):
                await batch.wait()


class _Part(Store):
    """One sub-type's records in a state file that keeps others' too."""

    def __init__(self, file: FileStore, mark: str, sub_type: str, records: Records) -> None:
        self._file = file
        self.location = file.location
        self.folder = file.folder
        self.mark = mark
        self.sub_type = sub_type
        self.records = records

    def commit(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        return self._file._commit(self.records, changes, urgent)

    def find_elsewhere(self, id: str) -> str:
        return self._file._find_elsewhere(id, self.sub_type)

    def part(self, sub_type: str) -> Store:
        return self._file.part(sub_type)

    async def flush(self) -> None:
        await self._file.flush()

    def close(self) -> None:
        """Do nothing: the file belongs to the store whose part this is."""


def _parted(content: Content, sub_types: Sequence[str]) -> dict[str, Records]:
    """Give the records of each sub-type. What is kept beside the records they share, and all mint on from the same last ID."""
    records: dict[str, list[Record]] = {sub_type: [] for sub_type in sub_types}
    for record in content.records:
        records[record.sub_type].append(record)
    parts = {sub_type: Records(some, content.last_id) for sub_type, some in records.items()}
    notes = dict(content.notes)
    for part in parts.values():
        part.notes = notes
    return parts


def _marked(mark: str, sub_type: str) -> str:
    """Give a sub-type's own mark: with the same provider it must not take another's machines for its own."""
    return f"{mark}-{sub_type}" if sub_type else mark


def _reason(error: Failure) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
