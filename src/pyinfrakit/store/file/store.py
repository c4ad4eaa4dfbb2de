"""The default store: one JSON file, and a journal of the changes since the file was last written.

The event loop makes changes in memory and gathers them into batches. One task writes the batches, each as
one journal entry with one sync; changes that come during a write form the next batch. From time to time, the
task has a thread write the file anew (a checkpoint). The checkpoint holds the records as they are between
two batches. Later batches go to a new journal, and the old one is removed after the checkpoint.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

from pyinfrakit import paths
from pyinfrakit.disk import Disk, Displaced
from pyinfrakit.errors import CannotStart, Rescued, StoreFailed
from pyinfrakit.logs import NOTICE
from pyinfrakit.record import Record
from pyinfrakit.store import Store
from pyinfrakit.store.file import journal, recovery
from pyinfrakit.store.file.batch import NEVER, Batch, finish
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.file.writer import Pace, Thread, Writer
from pyinfrakit.store.records import Change, Records

log = logging.getLogger(__name__)

LINGER = 0.02
"""Seconds that changes which are not urgent wait for others."""

SOON = 0.3
"""Seconds from a change to the next checkpoint, unless the pace allows fewer of them."""

RETRY = 1.0
"""Seconds after a failed write until the next one, if no commit comes before."""

IN_PLACE = "its state file is in place"
"""What the lock says from the start on: if the file is missing after a kill, then somebody removed it."""

TICK = 0.001
"""Seconds by which a timer may fire early: uvloop rounds to milliseconds."""


def default_path(name: str) -> Path:
    """Return the path of plugin *name*'s state file, unless an operator chooses another."""
    return paths.home() / "state" / f"{name}.json"


def open_file(url: str | None, name: str, mark: str | None, sub_types: Sequence[str]) -> Store:
    """Open the file at *url*, a path or ``file://`` and a path, or the default file. This is an `OpenStore`."""
    if url is None:
        path = default_path(name)
        paths.make_folder(path.parent)
    else:
        path = Path(url.removeprefix("file://"))
    return FileStore(path, f"plugin {name}", mark, sub_types)


class _SubTypeStore(Store):
    """The records of one sub-type in a `FileStore`."""

    def __init__(self, file: "FileStore", sub_type: str) -> None:
        self._file = file
        self.location = file.location
        self.folder = file.folder
        self.sub_type = sub_type
        # With the same provider, two sub-types must not claim each other's machines.
        self.mark = f"{file.own_mark}-{sub_type}" if sub_type else file.own_mark
        self.records = file.parts[sub_type]

    def commit(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        return self._file.commit_to(self.records, changes, urgent)

    def find_elsewhere(self, id: str) -> str:
        parts = self._file.parts.items()
        return next((other for other, records in parts if other != self.sub_type and id in records), "")

    def part(self, sub_type: str) -> Store:
        return self if sub_type == self.sub_type else _SubTypeStore(self._file, sub_type)

    async def flush(self) -> None:
        await self._file.flush()

    def close(self) -> None:
        """Do nothing: the `FileStore` closes the file."""


class FileStore(_SubTypeStore):
    """A state file, which stays locked while this store is open; the `Store` of the file's first sub-type.

    `part` returns the stores of the other sub-types. All commit to the same batches, in order.
    """

    def __init__(
        self, path: Path, holder: str, mark: str | None = None, sub_types: Sequence[str] = ("",), disk: Disk = Disk()
    ) -> None:
        """Read the file at *path*, or create it. *mark* replaces the file's own mark.

        *holder* names this process to others that want the file. Raise `Damaged` if the file is invalid, `InUse`
        if it is locked, and `CannotStart` if the path is unusable or a record is of none of *sub_types*. The file
        is left untouched then.
        """
        self.path = recovery.resolve_path(path)
        self.location = f"state file {path}"
        self.folder = path.absolute().parent
        self._subject = f"state file {self.path}"
        self._lock = recovery.lock(self.path, self.location, holder)
        try:
            start = recovery.start(disk, self.path, mark, sub_types, was_there=IN_PLACE in self._lock.left)
            self._writer = Writer(disk, self.path, self._lock, start)
        except (CannotStart, OSError) as error:
            self._lock.restore()
            if isinstance(error, CannotStart):
                raise
            raise CannotStart(f"{self.location} can't be written: {_explain(error)}") from None
        self._lock.note(IN_PLACE)
        if start.problem:
            log.warning(
                "%s: %s; all is described, and changes are rejected until there is room", self.location, start.problem
            )
        content = start.content
        assert content.mark is not None
        self.own_mark = content.mark
        self.parts = _split(content, sub_types)
        super().__init__(self, sub_types[0])
        self._unknown = content.unknown
        self._waiting: Batch | None = None
        self._writing: Batch | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Future[None] | None = None  # wakes the task, if it rests
        self._timer: asyncio.TimerHandle | None = None  # wakes the task, too; one timer serves many commits
        self._alarm = NEVER  # the time of the timer
        self._checkpoint: asyncio.Future[None] | None = None  # the one under way
        self._due = NEVER  # the time of the next checkpoint; none is due while one is under way
        self._rested = 0.0  # the time before which no checkpoint begins
        self._is_behind = False  # whether the last checkpoint failed
        # Whether a write failed: until a fresh file follows, the journal may hold undone changes.
        self._failed = bool(start.problem)
        self._is_displaced = False  # whether the log says that the files are not this process's own any more
        self._is_closed = False
        self._pace = Pace()
        # The store has its own threads: providers may occupy those of the event loop for as long as they like.
        self._appending = Thread("journal")
        self._checkpointing = Thread("checkpoint")

    def close(self) -> None:
        self._is_closed = True
        self._pace.hurry()
        self._appending.end()
        self._checkpointing.end()
        self._writer.close()
        self._lock.release()

    def commit_to(self, records: Records, changes: Sequence[Change], urgent: bool) -> asyncio.Future[None]:
        """Commit changes to one sub-type's records."""
        if not changes:
            return self._wait_for_all()
        try:
            entries = [journal.encode_change(change) for change in changes]
        except (TypeError, ValueError) as error:  # JSON can't hold it
            return finish(StoreFailed(self._subject, str(error)))
        batch = self._gather(urgent)
        batch.entries.extend(entries)
        batch.undos.append((records, [records.apply(change) for change in changes]))
        return batch.wait()

    def _wait_for_all(self) -> asyncio.Future[None]:
        if self._waiting is None and self._writing is not None and self._loop is asyncio.get_running_loop():
            return self._writing.wait()
        return self._gather(urgent=True).wait() if self._waiting or self._writing else finish()

    def _gather(self, urgent: bool) -> Batch:
        """Return the batch that is written next. *urgent*: have it written in the next turn of the event loop."""
        loop = asyncio.get_running_loop()
        if self._task is None or loop is not self._loop:
            self._start_task(loop)
        batch = self._waiting
        if batch is None:
            batch = self._waiting = Batch()
        if urgent:
            batch.urgent += 1
            if batch.due > 0:
                batch.due = 0.0
                self._wake_up()
        elif batch.due == NEVER:
            batch.due = time.monotonic() + LINGER
            self._set_alarm(batch.due)
        return batch

    # ---- The task that writes. It starts with a commit, and ends when the file holds everything.

    def _start_task(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._writing or self._checkpoint or self._waiting:
            # The last task ended in the middle of its work, with its event loop. Nobody waits for it, but its
            # outcome is unknown until a fresh file holds everything in memory.
            self._failed = True
            self._writing = self._checkpoint = None
            self._waiting = self._waiting if loop is self._loop else None
        self._loop, self._wake, self._timer, self._alarm = loop, None, None, NEVER
        self._task = loop.create_task(self._write(), name="store")

    async def _write(self) -> None:
        """Write batches, and begin and finish checkpoints, for as long as there is something to write."""
        task, loop = self._task, asyncio.get_running_loop()
        try:
            while not self._is_closed:
                if self._checkpoint is not None and self._checkpoint.done():
                    self._finish_checkpoint(self._checkpoint.exception())
                now = time.monotonic() + TICK
                due = NEVER if self._waiting is None else self._waiting.due
                if due <= now or self._due <= now:
                    await self._write_batch(is_due=self._due <= now)
                elif due < NEVER or self._due < NEVER or self._checkpoint is not None:
                    self._set_alarm(min(due, self._due))
                    self._wake = loop.create_future()
                    await self._wake
                else:
                    return
        finally:
            if self._task is task:  # a task of a closed event loop comes here late
                self._task = None

    async def _write_batch(self, is_due: bool) -> None:
        """Write the waiting batch. If a checkpoint *is_due*, begin it right after the batch."""
        batch, self._waiting = self._waiting or Batch(), None
        self._writing = batch
        if is_due:
            self._due = NEVER
        content = None
        try:
            # Until the first await, memory holds this batch and nothing later.
            if is_due and self._checkpoint is None and not self._failed:
                content = self._copy_content()
            if self._failed:
                await self._start_anew(self._copy_content())
            elif batch.entries:
                append = partial(self._writer.append, journal.join_changes(batch.entries))
                if batch.urgent <= 1 and self._writer.is_quick:
                    append()  # a thread would take as long again to wake up and to reply
                else:
                    await self._appending.do(append)
        except (OSError, MemoryError) as error:
            self._log_displaced(error)
            self._undo(batch, StoreFailed(self._subject, _explain(error)))
        else:
            self._writing = None
            batch.settle()
            if self._writer.is_crowded:
                self._pace.hurry()
            if content is not None:
                self._begin_checkpoint(content)
            elif self._due == NEVER:
                self._plan()
        if self._waiting is not None:
            # The callers of this batch run first: their next commits share a sync with those that wait already.
            await asyncio.sleep(0)

    async def _start_anew(self, content: Content) -> None:
        """Write the file with everything, because the journal is not to be trusted after a failed write."""
        if self._checkpoint is not None:
            self._pace.hurry()
        await self._appending.do(lambda: None)  # an append that a closed event loop left behind ends first
        await self._checkpointing.do(partial(self._writer.start_anew, content))  # so does a checkpoint
        self._failed, self._due, self._is_displaced = False, NEVER, False
        log.log(NOTICE, "%s can be written again", self.location)

    def _log_displaced(self, error: BaseException) -> None:
        """Say once that nothing is acknowledged any more, because the files are not this process's own."""
        if isinstance(error, Displaced) and not self._is_displaced:
            self._is_displaced = True
            log.error("%s: %s; until then no change is accepted", self.location, _explain(error))

    def _undo(self, batch: Batch, error: StoreFailed) -> None:
        """Fail *batch*, and the changes that were decided on top of it."""
        failures = [batch] if self._waiting is None else [batch, self._waiting]
        self._writing = self._waiting = None
        self._failed = True
        self._due = time.monotonic() + RETRY
        for each in reversed(failures):
            for records, undos in reversed(each.undos):
                records.undo(reversed(undos))
        for each in failures:
            each.settle(error)

    def _copy_content(self) -> Content:
        records = list(chain.from_iterable(self.parts.values()))
        last_id = min(part.last_id for part in self.parts.values())
        return Content(records, last_id, dict(self.records.notes), self.own_mark, self._unknown)

    def _begin_checkpoint(self, content: Content) -> None:
        self._writer.rotate()
        self._pace = Pace()
        paced = partial(self._pace.pieces, len(content.records))
        self._checkpoint = self._checkpointing.do(partial(self._writer.checkpoint, content, paced))
        # To look at the exception here keeps asyncio quiet if the store is closed before the task looks.
        self._checkpoint.add_done_callback(asyncio.Future.exception)
        self._checkpoint.add_done_callback(lambda _: self._wake_up())

    def _finish_checkpoint(self, error: BaseException | None) -> None:
        if error is not None:
            self._log_displaced(error)
        if error is not None and not self._is_behind and not self._is_displaced:
            template = "%s can't be written anew: %s; no change is lost, the journal beside it holds them all"
            log.error(template, self.location, _explain(error))
        self._is_behind = error is not None
        self._rested = time.monotonic() + max(RETRY if self._is_behind else 0.0, self._pace.rest())
        self._checkpoint = None
        self._plan()

    def _plan(self) -> None:
        """Set the time of the next checkpoint, if there are changes that the file does not hold."""
        if self._due == NEVER and self._checkpoint is None and self._writer.has_journals:
            self._due = max(time.monotonic() + SOON, 0.0 if self._writer.is_crowded else self._rested)

    def _set_alarm(self, due: float) -> None:
        if due < self._alarm:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._ring)
            self._alarm = due

    def _ring(self) -> None:
        self._timer, self._alarm = None, NEVER
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def checkpoint(self) -> None:
        """Write everything to the file now, or have a checkpoint that is under way end soon. Failures are logged."""
        self._due = 0.0
        with suppress(StoreFailed):
            await self._gather(urgent=True).wait()
        if self._checkpoint is not None:
            self._pace.hurry()
            await asyncio.wait({self._checkpoint})

    async def flush(self) -> None:
        """Write everything to the one file and remove the journals. Raise `StoreFailed` if changes may reappear.

        If the files are not this process's own any more, write everything beside them, and raise `Rescued`.
        """
        with suppress(StoreFailed):
            await self._wait_for_all()
        # The first attempt may only end an older checkpoint, and each folds in one of at most two journals.
        for _ in range(3):
            if self._failed or self._writer.has_journals:
                await self.checkpoint()
        await self._check_end()
        if self._failed and self._writer.is_doubtful:
            raise StoreFailed(self._subject, "the last attempt failed too")

    async def _check_end(self) -> None:
        """Raise `StoreFailed` if the files are not this process's own, or `Rescued` if they don't hold everything."""
        try:
            await self._appending.do(self._writer.check)
        except OSError as error:
            if isinstance(error, Displaced):
                try:
                    await self._appending.do(self._writer.check_content)
                except OSError:
                    raise self._rescue(_explain(error)) from None
            raise StoreFailed(self._subject, _explain(error)) from None

    def _rescue(self, problem: str) -> Rescued:
        """Write everything beside the state file, or wherever that is possible."""
        content = self._copy_content()
        for folder in (self.path.parent, self._lock.find_folder(), Path(tempfile.gettempdir())):
            with suppress(OSError):
                if folder is not None:
                    return Rescued(self._subject, problem, str(self._writer.rescue(folder, content)))
        return Rescued(self._subject, problem, "")


def _split(content: Content, sub_types: Sequence[str]) -> dict[str, Records]:
    """Return the records of each sub-type. All share the notes, and mint IDs from the same last one."""
    records: dict[str, list[Record]] = {sub_type: [] for sub_type in sub_types}
    for record in content.records:
        records[record.sub_type].append(record)
    parts = {sub_type: Records(some, content.last_id) for sub_type, some in records.items()}
    notes = dict(content.notes)
    for part in parts.values():
        part.notes = notes
    return parts


def _explain(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
