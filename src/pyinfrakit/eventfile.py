"""The file of an event log: one JSON object a line, so that history survives restarts.

It is for people, and nothing depends on it: it is not synced, a damaged line is skipped, and whatever goes
wrong with it is a warning. One thread of its own writes it, so that a slow disk delays no one.
"""

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import msgspec

from pyinfrakit import paths
from pyinfrakit.disk import open_regular
from pyinfrakit.errors import CannotStart
from pyinfrakit.events import CAPACITY, EventLog, LoggedEvent
from pyinfrakit.locks import Lock
from pyinfrakit.logs import NOTICE

log = logging.getLogger(__name__)

MAX_SIZE = 8 * 1024 * 1024
"""Bytes after which the file becomes the older one, and a new one begins."""

LINGER = 0.2
"""Seconds that events wait for others, to be written together."""

RETRY = 5.0
"""Seconds after a failed write until the next one."""

BATCH = 1000
"""Most events that are written at once."""

END_TIMEOUT = 1.0
"""Seconds for which a stop waits for the last events to be written."""

_READ = os.O_RDONLY | os.O_NOFOLLOW
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW


@contextmanager
def open_log(name: str) -> Iterator[EventLog]:
    """Open the event log of the process that has the plugin name *name*, with its file in InfraKit's home.

    If the file can't be used, warn, and keep events in memory only.
    """
    path = paths.home() / "events" / f"{name}.jsonl"
    try:
        paths.make_folder(path.parent)
        # The plugin's name is locked, but in its folder of sockets only, and the home may have several of these.
        lock = Lock(path.with_name(f"{path.name}.lock"), f"event file {path}", name)
    except CannotStart as error:
        log.warning("%s; events are kept in memory only", error)
        yield EventLog()
        return
    with lock:
        file = EventFile(path)
        events = EventLog(file.read())
        events.follow(file.append)
        try:
            yield events
        finally:
            file.close()


class EventFile:
    """The last events at *path*, and older ones beside it. Its caller holds a lock on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.older = path.with_name(f"{path.name}.1")
        self._waiting: deque[LoggedEvent] = deque(maxlen=CAPACITY)
        self._unwritten: deque[LoggedEvent] = deque(maxlen=CAPACITY)  # only the thread uses it
        self._has_work = threading.Event()
        self._end = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def read(self) -> list[LoggedEvent]:
        """Return the last `CAPACITY` events, oldest first. Warn of what can't be read."""
        lines = [*_read_lines(self.older), *_read_lines(self.path)][-CAPACITY:]
        events = []
        damaged = 0
        for line in lines:
            try:
                events.append(msgspec.json.decode(line, type=LoggedEvent))
            except (msgspec.DecodeError, UnicodeDecodeError):
                damaged += 1
        if damaged:
            log.warning("event file %s: skipped %d damaged lines of %d", self.path, damaged, len(lines))
        return sorted(events, key=lambda event: event.number)

    def append(self, event: LoggedEvent) -> None:
        """Have *event* written soon."""
        self._waiting.append(event)
        if not self._has_work.is_set():
            self._has_work.set()

    def close(self) -> None:
        """Write what waits, unless that takes too long."""
        self._end.set()
        self._has_work.set()
        self._thread.join(END_TIMEOUT)

    def _run(self) -> None:
        while not self._end.is_set():
            self._has_work.wait()
            self._end.wait(RETRY if self._trouble else LINGER)
            self._has_work.clear()
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        """Write batch by batch. If that fails, keep the rest for later, up to the bound."""
        while self._waiting:
            self._unwritten.append(self._waiting.popleft())
        while self._unwritten:
            batch = list(islice(self._unwritten, BATCH))
            try:
                self._write(b"".join(msgspec.json.encode(event) + b"\n" for event in batch))
            except OSError as error:
                self._report(error.strerror or str(error))
                self._has_work.set()
                return
            self._report("")
            for _ in batch:
                self._unwritten.popleft()

    def _write(self, data: bytes) -> None:
        """Append *data*, all or nothing. The file is opened each time: somebody may have removed or moved it."""
        self._rotate()
        fd = open_regular(self.path, _APPEND)
        try:
            os.fchmod(fd, 0o600)
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data  # a crash cut the last line
            if os.write(fd, data) < len(data):
                os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)

    def _rotate(self) -> None:
        with suppress(FileNotFoundError):
            if self.path.lstat().st_size >= MAX_SIZE:
                os.rename(self.path, self.older)

    def _report(self, trouble: str) -> None:
        if trouble and not self._trouble:
            log.warning("event file %s can't be written: %s; events stay in memory", self.path, trouble)
        elif self._trouble and not trouble:
            log.log(NOTICE, "event file %s can be written again", self.path)
        self._trouble = trouble


def _read_lines(path: Path) -> list[bytes]:
    try:
        with os.fdopen(open_regular(path, _READ), "rb") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("event file %s can't be read: %s; earlier events are not shown", path, error.strerror)
        return []
