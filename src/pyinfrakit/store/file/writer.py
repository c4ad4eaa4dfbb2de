"""Write a state file and its journals, and the threads and the pace at which the store does so."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from pyinfrakit.disk import AppendFile, Disk, Displaced, temporary_path
from pyinfrakit.locks import Lock
from pyinfrakit.store.file import document, journal
from pyinfrakit.store.file.current import Current
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.file.recovery import RESCUED, Start
from pyinfrakit.store.file.stamp import Bound, find_stamp

QUICK = 0.001
"""Seconds. A disk that needs no more is a local one, and faster than a round trip to a thread."""

ROOM = 256 * 1024
"""Bytes that are reserved in a journal at a time."""

MARGIN = 16 * 1024
"""Bytes that a new state file may take beyond its content: blocks, and its folder's growth."""

LARGE = 16 * 1024 * 1024
"""Bytes of journals that may be read at a start, unless the state file itself is larger."""

SHORTEST, LONGEST = 1.0, 9.0
"""The bounds of a pause in a checkpoint, as a multiple of the work before it; more records mean longer pauses.

In a pause other threads get the interpreter's lock; otherwise they would wait 5 ms for it each time.
"""

MANY = 10_000
"""The number of records above which pauses are longer than the shortest."""

SHARE = 0.1
"""The share of the time that checkpoints may take, including the rests between them."""


class Writer:
    """The files of one store: the state file at *path*, the current journal, and the one before it.

    A method that raises OSError may have done part of its work. After an `append` that failed, only `start_anew` may
    follow. All raise `Displaced` if the files at their paths are not this process's own any more, by *lock* too.
    """

    def __init__(self, disk: Disk, path: Path, lock: Lock, start: Start) -> None:
        self._disk = disk
        self._path = path
        self._lock = lock
        self._epoch = start.epoch
        self._base = start.stamp.digest if start.stamp else ""
        self._sequence = start.sequence
        self._rotated = start.sequence
        """The last change that the next checkpoint holds."""
        self._state = Current(disk, path, self._base)
        self._state_in_use = threading.Lock()
        self._stamped = b""
        """The last piece of the state file that is being written: it holds the stamp."""
        self._journal: AppendFile | None = None
        self._length = 0
        self._room = 0
        self._average = 1.0
        """Recent seconds for an append: a disk counts as slow until it proves to be quick."""
        self._current: list[Path] = []
        """The journal in use, if there is one."""
        self._old: list[Path] = list(start.journals)
        """The journals before it, until the state file holds all their changes."""
        self._bound: Bound | None = None
        """The journal in use, once the state file says that it belongs to it, and its last acknowledged change."""
        self._appended = self._rotated_bytes = 0
        """The bytes in all journals, by so much the state file may grow; and those that the next checkpoint holds."""
        self.is_crowded = False
        """Whether the journals are large, or the room is scarce: then a checkpoint must not be put off."""
        self.is_doubtful = False
        """Whether the disk may have changes that failed."""

    @property
    def has_journals(self) -> bool:
        return bool(self._current or self._old)

    @property
    def is_quick(self) -> bool:
        """Whether the next append is likely to be short enough to be done on the event loop."""
        is_free = not self._state_in_use.locked()  # a checkpoint is about to end, and may have to wait for the disk
        return self._journal is not None and is_free and self._average < QUICK

    def check(self) -> None:
        """Raise `Displaced` unless the lock, the folder and the state file are still this process's own."""
        with self._state_in_use:
            self._check()

    def _check(self) -> None:
        self._lock.check()
        self._state.check()

    def check_content(self) -> None:
        """Raise OSError unless the files at their paths hold all acknowledged changes, no matter who holds the lock."""
        with self._state_in_use:
            self._state.check()
        for path in (*self._old, *self._current):
            if not os.path.lexists(path):
                raise Displaced(f"journal {path} was removed")

    def append(self, payload: bytes) -> None:
        """Make an entry durable. It uses up a sequence number even if it fails."""
        file = self._journal or self._begin()
        began = time.perf_counter()
        self._sequence += 1
        data = journal.encode_entry(self._epoch, self._sequence, payload)
        try:
            if self._length + len(data) > self._room:
                self._reserve(file, len(data))
            file.append(data)
            file.sync()
            self._acknowledge(file)
        except OSError:
            self.is_doubtful = True
            with suppress(OSError):  # a daemon that is killed now must not leave a change that it reported as failed
                with self._state_in_use:
                    self._state.mark(self._own_bound(), sync=True)  # first: it never claims more than is there
                file.truncate(self._length)
                file.sync()
            raise
        self._length += len(data)
        self._average += (time.perf_counter() - began - self._average) / 8

    def _acknowledge(self, file: AppendFile) -> None:
        """Say in the state file that the last entry is durable.

        If someone removed or moved a file meanwhile, the entry would be lost with the last close of its file.
        """
        with self._state_in_use:
            self._check()
            if not file.is_at(self._current[0]):
                raise Displaced(f"journal {self._current[0]} was removed or replaced")
            bound = Bound(self._own_bound().after, self._sequence)
            self._state.mark(bound)
            self._bound = bound
            self._appended += file.size - self._length

    def _own_bound(self) -> Bound:
        assert self._bound is not None
        return self._bound

    def _reserve(self, file: AppendFile, length: int) -> None:
        """Reserve room in a journal. Raise OSError if the disk would then be too full for the next state file.

        Otherwise the journal could fill the disk, and nothing but that file could make it smaller.
        """
        needed = self._state.size + self._appended + MARGIN
        # What fills the room here is added to the new file as well.
        spare = (self._disk.room(self._path.parent) - needed) / 2
        self.is_crowded = spare < ROOM or self._appended > max(LARGE, self._state.size)
        if spare < length:
            problem = f"{os.strerror(errno.ENOSPC)}: a new state file needs {needed} bytes, which have to stay free"
            raise OSError(errno.ENOSPC, problem)
        room = int(min(max(ROOM, length), spare))
        file.reserve(room)
        self._room = self._length + room

    def _begin(self) -> AppendFile:
        """Create a journal. A rename puts it in its place complete, so a journal with a torn first entry is damaged.

        Before anything is appended, the state file says that the journal belongs to it.
        """
        path = journal.journal_path(self._path, self._sequence)
        temporary = journal.unfinished_journal(self._path)
        head = journal.encode_header(self._epoch, self._base, self._sequence)
        with self._state_in_use:
            self._check()
            file = self._disk.create(temporary)
            self._length = 0
            try:
                self._reserve(file, len(head))
                file.append(head)
                file.sync()
                self._state.unshare()
                self._current = [path]
                self._disk.rename(temporary, path)
                self._disk.sync_folder(path.parent)
                self._bound = Bound(self._sequence, self._sequence)
                self._state.mark(self._bound, sync=True)
            except OSError:
                with suppress(OSError):  # free the room on a full disk
                    file.close()
                    self._disk.remove(temporary)
                raise
            self._journal, self._length = file, len(head)
            self._appended += len(head)
        return file

    def rotate(self) -> None:
        """Begin a checkpoint: it holds all changes up to now, and later ones go to a new journal.

        If the last checkpoint failed, the current journal continues, so that there are never more than two.
        """
        self._rotated, self._rotated_bytes = self._sequence, self._appended
        if not self._old:
            self._close_journal()
            self._old, self._current, self._bound = self._current, [], None

    def checkpoint(self, content: Content, pace: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
        """Write *content*, the records at the time of `rotate`, to the state file; then remove the older journal."""
        self._replace(pace(document.dump_stamped(content, self._epoch, self._rotated)))
        for path in self._old:
            self._disk.remove(path)
        self._old = []
        with self._state_in_use:
            self._appended -= self._rotated_bytes

    def start_anew(self, content: Content) -> None:
        """Write *content*, all records, to the state file, and remove all journals.

        A journal that can't be removed is harmless, because the file is ahead of it.
        """
        self._sequence += 1
        self._replace(document.dump_stamped(content, self._epoch, self._sequence), is_whole=True)
        self._close_journal()
        for path in (*self._old, *self._current):
            with suppress(OSError):
                self._disk.remove(path)
        self._old, self._current, self._bound = [], [], None
        self._appended, self.is_crowded, self.is_doubtful = 0, False, False

    def _replace(self, pieces: Iterable[bytes], *, is_whole: bool = False) -> None:
        """Replace the state file. Unless it *is_whole*, the current journal continues it."""
        self.check()
        temporary = temporary_path(self._path)
        try:
            self._disk.write(temporary, self._keep_last(pieces))
            stamp = find_stamp(self._stamped)
            assert stamp is not None
            with self._state_in_use:
                self._check()
                self.is_doubtful |= is_whole
                self._state.place(stamp.digest, None if is_whole else self._bound)
        except OSError:
            with suppress(OSError):  # free the room on a full disk
                self._disk.remove(temporary)
            raise
        self._disk.sync_folder(self._path.parent)

    def rescue(self, folder: Path, content: Content) -> Path:
        """Write *content*, all records, into *folder*, because the state file's own place can't be used.

        Moved there, the file is the state file, and ahead of all journals of this process. Raise OSError.
        """
        path = folder / f"{self._path.name}{RESCUED}{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self._disk.write(path, document.dump_stamped(content, self._epoch, self._sequence + 1))
        self._disk.sync_folder(folder)
        return path

    def _keep_last(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._stamped = piece
            yield piece

    def _close_journal(self) -> None:
        """Close the journal. Errors mean nothing here: each entry is either synced or reported as failed."""
        file, self._journal = self._journal, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def close(self) -> None:
        self._close_journal()
        self._state.close()


class Thread:
    """A thread that does work in order. It costs a commit less than an executor, with its locks and its two futures."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[asyncio.Future[None], Callable[[], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Do *work*; return a future of the running event loop that raises the OSError or MemoryError of *work*."""
        end = asyncio.get_running_loop().create_future()
        self._queue.put((end, work))
        return end

    def end(self) -> None:
        """Wait until all work is done."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            end, work = item
            failure: OSError | MemoryError | None = None
            try:
                work()
            except (OSError, MemoryError) as error:
                failure = error
            with suppress(RuntimeError):  # the event loop is closed, so nobody waits
                end.get_loop().call_soon_threadsafe(resolve, end, failure)
            del item, end, work, failure  # a checkpoint's content is large


def resolve(end: asyncio.Future[None], failure: Exception | None) -> None:
    """Set a future's result, or its exception, unless it is done: the task that waits may be cancelled."""
    if failure is not None and not end.done():
        end.set_exception(failure)
    elif not end.done():
        end.set_result(None)


class Pace:
    """The pace of one checkpoint, which a thread writes in pieces with pauses; at the end it waits for the disk."""

    def __init__(self) -> None:
        self._hurry = threading.Event()
        self._work = 0.0
        self._began = self._end_began = time.monotonic()

    def hurry(self) -> None:
        """Make no more pauses."""
        self._hurry.set()

    def pieces(self, records: int, work: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces of *work* on a number of *records*, and pause after each.

        The caller's own work on a piece counts too. It is measured in processor time: to wait for the
        interpreter's lock is no work.
        """
        pause = min(max(SHORTEST, records / MANY), LONGEST)
        began = time.thread_time()
        for piece in work:
            yield piece
            spent = time.thread_time() - began
            self._work += spent
            self._hurry.wait(spent * pause)
            began = time.thread_time()
        self._end_began = time.monotonic()

    def rest(self) -> float:
        """Return the seconds to rest after the checkpoint, which has just ended."""
        now = time.monotonic()
        work = self._work + now - self._end_began
        return max(0.0, work / SHARE - (now - self._began))
