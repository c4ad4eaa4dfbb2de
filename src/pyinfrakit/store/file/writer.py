"""Write a state file and its journals, and the threads and the pace at which the store does so."""

import asyncio
import errno
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from pyinfrakit.disk import AppendFile, Disk
from pyinfrakit.store.file import document, journal
from pyinfrakit.store.file.document import Content

QUICK = 0.001
"""Seconds. A disk that needs no more is a local one, and faster than a round trip to a thread."""

ROOM = 256 * 1024
"""Bytes that are reserved in a journal at a time."""

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

    *base* is the digest of the state file, and *sequence* the number of its last change. A method that raises
    OSError may have done part of its work. After an `append` that failed, only `start_anew` may follow.
    """

    def __init__(self, disk: Disk, path: Path, base: str, sequence: int) -> None:
        self._disk = disk
        self._path = path
        self._epoch = secrets.token_hex(8)
        self._base = base
        self._sequence = sequence
        self._rotated = sequence
        """The last change that the next checkpoint holds."""
        self._journal: AppendFile | None = None
        self._length = 0
        self._room = 0
        self._average = 1.0
        """Recent seconds for an append: a disk counts as slow until it proves to be quick."""
        self._current: list[Path] = []
        """The journal in use, if there is one."""
        self._old: list[Path] = []
        """The journal before it, until the state file holds all its changes."""

    @property
    def has_journals(self) -> bool:
        return bool(self._current or self._old)

    @property
    def is_quick(self) -> bool:
        """Whether the next append is likely to be short enough to be done on the event loop."""
        return self._journal is not None and self._average < QUICK

    def append(self, payload: bytes) -> None:
        """Make an entry durable. It uses up a sequence number even if it fails."""
        file = self._journal or self._begin()
        began = time.perf_counter()
        self._sequence += 1
        data = journal.encode_entry(self._epoch, self._sequence, payload)
        try:
            if self._length + len(data) > self._room:
                file.reserve(ROOM)
                self._room = self._length + ROOM
            file.append(data)
            file.sync()
            # If someone removed or moved the journal, the entry would be lost with the last close of the file.
            if not file.is_at(self._current[0]):
                raise FileNotFoundError(errno.ENOENT, f"its journal {self._current[0].name} is gone")
        except OSError:
            with suppress(OSError):  # a daemon that is killed now must not leave a change that it reported as failed
                file.truncate(self._length)
                file.sync()
            raise
        self._length += len(data)
        self._average += (time.perf_counter() - began - self._average) / 8

    def _begin(self) -> AppendFile:
        """Create a journal. A rename puts it in its place complete, so a journal with a torn first entry is damaged."""
        path = journal.journal_path(self._path, self._sequence)
        temporary = journal.unfinished_journal(self._path)
        head = journal.encode_header(self._epoch, self._base, self._sequence)
        file = self._disk.create(temporary)
        try:
            file.append(head)
            file.reserve(ROOM)
            file.sync()
            self._current = [path]
            self._disk.rename(temporary, path)
            self._disk.sync_folder(path.parent)
        except OSError:
            with suppress(OSError):  # free the room on a full disk
                file.close()
                self._disk.remove(temporary)
            raise
        self._journal, self._length, self._room = file, len(head), len(head) + ROOM
        return file

    def rotate(self) -> None:
        """Begin a checkpoint: it holds all changes up to now, and later ones go to a new journal.

        If the last checkpoint failed, the current journal continues, so that there are never more than two.
        """
        self._rotated = self._sequence
        if not self._old:
            self.close()
            self._old, self._current = self._current, []

    def checkpoint(self, content: Content, pace: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
        """Write *content*, the records at the time of `rotate`, to the state file; then remove the older journal."""
        self._disk.replace(self._path, pace(document.dump_stamped(content, self._epoch, self._rotated)))
        for path in self._old:
            self._disk.remove(path)
        self._old = []

    def start_anew(self, content: Content) -> None:
        """Write *content*, all records, to the state file, and remove all journals.

        A journal that can't be removed is harmless, because the file is ahead of it.
        """
        self._sequence += 1
        self._disk.replace(self._path, document.dump_stamped(content, self._epoch, self._sequence))
        self.close()
        for path in (*self._old, *self._current):
            with suppress(OSError):
                self._disk.remove(path)
        self._old, self._current = [], []

    def close(self) -> None:
        """Close the journal. Errors mean nothing here: each entry is either synced or reported as failed."""
        file, self._journal = self._journal, None
        if file is not None:
            with suppress(OSError):
                file.close()


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
