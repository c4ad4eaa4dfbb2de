"""Write a state file and its journals: what the store has done in threads, where a disk may keep it waiting."""

import asyncio
import contextlib
import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue

from pyinfrakit.disk import Disk, File
from pyinfrakit.store.file import document, journal
from pyinfrakit.store.file.document import Content

QUICK = 0.001
"""Seconds. A disk that takes no longer is a local one, and quicker than a thread can be asked and answer."""

ROOM = 256 * 1024
"""Bytes that are reserved in a journal at a time."""


class Writer:
    """The files of one store: the state file at *path*, the journal that is appended to, and those before it.

    *epoch* and *base* are those of the journals; *sequence* is the number of the last change in the file. What raises OSError
    may have been done in part; after an `append` that did, only `start_anew` may follow.
    """

    def __init__(self, disk: Disk, path: Path, epoch: str, base: str, sequence: int) -> None:
        self._disk = disk
        self._path = path
        self._epoch = epoch
        self._base = base
        self._sequence = sequence
        self._complete = sequence
        """What the next checkpoint holds."""
        self._journal: File | None = None
        self._length = 0
        self._room = 0
        self._usual = 1.0
        """Seconds that an append takes, of late: a disk is slow until it has proven to be quick."""
        self._current: list[Path] = []
        """The journal that is appended to, if there is one."""
        self._old: list[Path] = []
        """The one before it, while the state file does not hold all of it."""

    @property
    def has_journals(self) -> bool:
        return bool(self._current or self._old)

    @property
    def is_quick(self) -> bool:
        """Will the next append likely not be noticed by whoever has to wait for it?"""
        return self._journal is not None and self._usual < QUICK

    def append(self, payload: bytes) -> None:
        """Make an entry durable. Its number is used up even where that fails."""
        file = self._journal or self._begin()
        began = time.perf_counter()
        self._sequence += 1
        data = journal.entry(self._epoch, self._sequence, payload)
        try:
            self._make_room(file, self._length + len(data))
            file.append(data)
            file.sync()
            if not file.is_at(self._current[0]):
                raise FileNotFoundError(errno.ENOENT, f"its journal {self._current[0].name} is gone")
        except OSError:
            with contextlib.suppress(OSError):  # a daemon that is killed now leaves nothing that it said had failed
                file.truncate(self._length)
                file.sync()
            raise
        self._length += len(data)
        self._usual += (time.perf_counter() - began - self._usual) / 8

    def _make_room(self, file: File, length: int) -> None:
        if length > self._room:
            file.reserve(ROOM)
            self._room = self._length + ROOM

    def _begin(self) -> File:
        """Begin a journal; it comes into its place whole, so that one with a torn head is damage."""
        path = journal.journal_path(self._path, self._sequence)
        made = journal.unfinished_journal(self._path)
        head = journal.begin(self._epoch, self._base, self._sequence)
        file = self._disk.create(made)
        try:
            file.append(head)
            file.reserve(ROOM)
            file.sync()
            self._current = [path]
            self._disk.rename(made, path)
            self._disk.sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):  # a full disk gets its room back
                file.close()
                self._disk.remove(made)
            raise
        self._journal, self._length, self._room = file, len(head), len(head) + ROOM
        return file

    def rotate(self) -> None:
        """Begin what `checkpoint` ends: all up to now is to go to the file, and what comes now to a new journal.

        Where the last checkpoint failed the journal stays the same, so that they don't grow in number.
        """
        self._complete = self._sequence
        if not self._old:
            self.close()
            self._old, self._current = self._current, []

    def checkpoint(self, content: Content, paced: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
        """Write the state file as it was at `rotate`, and remove the journals that it holds all of."""
        self._disk.replace(self._path, paced(document.stamped(content, self._epoch, self._complete)))
        for path in self._old:
            self._disk.remove(path)
        self._old = []

    def start_anew(self, content: Content) -> None:
        """Write the state file with all there is, and let go of all journals.

        They stay harmless where they can't be removed, as the file is ahead of them.
        """
        self._sequence += 1
        self._disk.replace(self._path, document.stamped(content, self._epoch, self._sequence))
        self.close()
        for path in (*self._old, *self._current):
            with contextlib.suppress(OSError):
                self._disk.remove(path)
        self._old, self._current = [], []

    def close(self) -> None:
        """Close the journal. All in it is synced, or not counted on: an error would say nothing."""
        file, self._journal = self._journal, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


# ==== A thread for what a disk may keep waiting. It costs a commit less than an executor's would, with its locks and futures.
Failure = OSError | MemoryError
Work = Callable[[], None]
Told = Callable[[Failure | None], None]


def attempted(work: Work) -> Failure | None:
    """Do *work*; give what it raised."""
    try:
        work()
    except (OSError, MemoryError) as error:
        return error
    return None


class Thread:
    """A thread that does one thing after another."""

    def __init__(self, name: str) -> None:
        self._todo: SimpleQueue[tuple[asyncio.AbstractEventLoop, Work, Told] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Work, told: Told) -> None:
        """Have *work* done, and then *told*, on the running event loop, what it raised."""
        self._todo.put((asyncio.get_running_loop(), work, told))

    def end(self) -> None:
        """Wait until all is done."""
        self._todo.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (todo := self._todo.get()) is not None:
            loop, work, told = todo
            error = attempted(work)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(told, error)


# ==== Keep long work, done in a thread, to a share of the time.
SHORTEST, LONGEST = 1.0, 9.0
"""How many times as long as a piece of work the pause after it takes: the longer, the more work there is. The pause lets others
at the interpreter's lock: without it they would wait for five milliseconds each time."""

MUCH = 10_000
"""Above so many records there is much work."""

SHARE = 0.1
"""The share of the time that work may take, with rests between one work and the next."""


class Pace:
    """The pace of one thread's work: in pieces, and then an end, in which it mostly waits for the disk."""

    def __init__(self) -> None:
        self._hurry = threading.Event()
        self._worked = 0.0
        self._end_began = 0.0

    def hurry(self) -> None:
        """Make no more pauses."""
        self._hurry.set()

    def pieces(self, records: int, work: Iterable[bytes]) -> Iterator[bytes]:
        """Give *work* on so many records, with a pause after each piece; what the taker does with it counts as work.

        The processor's time counts: to wait for the interpreter's lock is no work.
        """
        self._worked = 0.0
        pause = min(max(SHORTEST, records / MUCH), LONGEST)
        began = time.thread_time()
        for piece in work:
            yield piece
            spent = time.thread_time() - began
            self._worked += spent
            self._hurry.wait(spent * pause)
            began = time.thread_time()
        self._end_began = time.monotonic()

    def rest(self, took: float) -> float:
        """Give how many seconds to rest after work that has just ended, and took so many with its pauses."""
        worked = self._worked + time.monotonic() - self._end_began
        return max(0.0, worked / SHARE - took)
