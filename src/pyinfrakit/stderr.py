"""stderr that never waits: a thread of its own writes, so that a reader that stands still delays no one.

What does not fit in the queue is dropped, and counted. The log goes this way, and so does what a provider prints.
"""

import contextlib
import io
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

MAX_WAITING = 1024 * 1024
"""Bytes that wait for the reader."""

MAX_TEXT = 64 * 1024
"""Bytes of one text. The rest of it is cut off: it must not take the room of all others."""

FLUSH_TIMEOUT = 1.0
"""Seconds for which the exit waits for the last messages to be read."""


class Output:
    """A descriptor that a thread writes to. It is a copy, which stays open if somebody closes the original."""

    def __init__(self, fd: int, report: Callable[[int], bytes]) -> None:
        """Write to *fd*. In the place of dropped texts, write what *report* returns for their number."""
        self._fd = os.dup(fd)
        self._report = report
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._lock = threading.RLock()  # a destructor may print in the middle of `write`
        self._has_work = threading.Event()
        self._process = os.getpid()
        threading.Thread(target=self._run, name="stderr", daemon=True).start()

    def write(self, text: bytes) -> None:
        """Have *text* written soon. Drop it if too much waits already."""
        if os.getpid() != self._process:  # a fork, which has no thread
            with contextlib.suppress(OSError):
                os.write(self._fd, text)
            return
        if len(text) > MAX_TEXT:
            text = text[:MAX_TEXT] + f"... ({len(text) - MAX_TEXT} bytes more)\n".encode()
        with self._lock:
            if self._size + len(text) > MAX_WAITING:
                self._dropped += 1
                return
            self._add_report()
            self._append(text)
        self._has_work.set()

    def _add_report(self) -> None:
        """Say how many texts were dropped, if there is room now."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._append(self._report(dropped))

    def _append(self, text: bytes) -> None:
        self._waiting.append(text)
        self._size += len(text)

    def flush(self, timeout: float) -> None:
        """Wait until everything is written, but no more than *timeout* seconds."""
        end = time.monotonic() + timeout
        while self._size and os.getpid() == self._process and time.monotonic() < end:
            time.sleep(0.002)

    def _run(self) -> None:
        while True:
            self._has_work.wait()
            self._has_work.clear()
            while self._waiting:
                self._write_all(self._waiting[0])
                with self._lock:
                    self._size -= len(self._waiting.popleft())
                    if not self._waiting:
                        self._add_report()

    def _write_all(self, text: bytes) -> None:
        rest = memoryview(text)
        with contextlib.suppress(OSError):  # the reader is gone
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    select.select([], [self._fd], [], 1.0)


class Handler(logging.Handler):
    """A handler of the log that writes its lines to an `Output`."""

    def __init__(self) -> None:
        super().__init__()
        self.output = Output(2, self._report)

    def emit(self, record: logging.LogRecord) -> None:
        self.output.write(self._encode(record))

    def flush(self) -> None:
        self.output.flush(FLUSH_TIMEOUT)

    def _encode(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode(errors="backslashreplace")

    def _report(self, dropped: int) -> bytes:
        text = "stderr was not read: %d messages were dropped here"
        return self._encode(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (dropped,), None))


class Text(io.TextIOBase):
    """`sys.stderr` on an `Output`. To close it has no effect: it is everybody's."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, text: str) -> int:
        self._output.write(text.encode(errors=self.errors))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def close(self) -> None:
        pass


def open_standard_files() -> None:
    """Open /dev/null as stdin, stdout or stderr if it is closed. Otherwise another file would get its number.

    `sys.stdin` and `sys.stdout` stay None then, so that a command does not read or write nothing instead of failing.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
