"""One run of an executable, from its start to its end, whatever it does.

Plain threads and pipes: asyncio's wait for a child may also wait for whoever else holds its pipes open, and uvloop's are
sockets, which a shell can't open as /dev/stdout.
"""

import contextlib
import fcntl
import os
import selectors
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from pyinfrakit.errors import TryAgain

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

POLL = 0.05
"""Seconds between looks whether a child has exited, where the system does not tell."""

PIECE = 65536
"""Bytes that are read at once: what a pipe holds."""


class Ended(Struct, frozen=True):
    """How a run ended: *status* as subprocess gives it, and its *output*."""

    status: int
    output: bytes


class Child:
    """An executable that runs, in a session of its own, with the descriptor *stdin*. What it says on stderr goes to *say*.

    It may write *limit* bytes, to either. Raises OSError, or ValueError, where it can't be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        stdin: int,
        environment: Mapping[str, str],
        folder: Path,
        say: Callable[[bytes], None],
        limit: int,
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._is_over = False
        self._output = bytearray()
        self._said = 0
        self._say = say
        self._limit = limit
        self._selector = selectors.PollSelector()
        self._pidfd = self._watch()

    def finish(self, timeout: float) -> Ended:
        """Wait for its end. It is ended after *timeout* seconds, or too much output: then raise `TryAgain`.

        Its own exit is what counts: what it left behind may live on, and hold its pipes open.
        """
        try:
            problem = self._run(timeout)
            if problem:
                self._end()
        finally:
            self._close()
        if problem:
            raise TryAgain(f"{problem}; it was ended")
        return Ended(self._process.returncode, bytes(self._output))

    def signal(self, number: int) -> None:
        """Send a signal to it and to all in its process group."""
        with self._lock:
            if not self._is_over:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)

    def _watch(self) -> int | None:
        """Have the pipes watched, and its end, where the system can do that."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for pipe, take in ((self._process.stdout, self._take_output), (self._process.stderr, self._take_said)):
            self._selector.register(pipe, selectors.EVENT_READ, take)
        try:
            pidfd = os.pidfd_open(self._process.pid)
        except (AttributeError, OSError):
            return None
        self._selector.register(pidfd, selectors.EVENT_READ)
        return pidfd

    def _take_output(self, data: bytes) -> None:
        if not self._is_too_much():
            self._output += data

    def _take_said(self, data: bytes) -> None:
        self._said += len(data)
        if not self._is_too_much():
            self._say(data)

    def _is_too_much(self) -> bool:
        return max(len(self._output), self._said) > self._limit

    def _run(self, timeout: float) -> str:
        """Read until it has exited, and all that it has written; give what is wrong where it must not go on."""
        deadline = time.monotonic() + timeout
        while not self._has_exited() and not self._is_too_much():
            left = deadline - time.monotonic()
            if left <= 0:
                return f"no answer for {timeout:g} s"
            self._read(left)
        self._drain()
        return f"more than {self._limit} bytes of output" if self._is_too_much() else ""

    def _drain(self) -> None:
        """Read what is in the pipes now that it has exited, and no more: from what it left behind, more may come for ever."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                (left,) = struct.unpack("i", fcntl.ioctl(key.fd, termios.FIONREAD, bytes(4)))
                while left > 0:
                    left -= self._take(key, left)

    def _end(self) -> None:
        """Have it exit, and all in its group; what it still says is read, as that may be what it waits for."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while not self._has_exited() and time.monotonic() < deadline:
            self._read(POLL)
        self.signal(signal.SIGKILL)

    def _read(self, timeout: float) -> None:
        """Take what comes within *timeout* seconds."""
        for key, _ in self._selector.select(timeout if self._pidfd is not None else min(timeout, POLL)):
            if key.data is not None:
                self._take(key)

    def _take(self, key: selectors.SelectorKey, most: int = PIECE) -> int:
        """Take what there is, where there is something; give how many bytes."""
        data = os.read(key.fd, min(most, PIECE))
        if data:
            key.data(data)
        else:
            self._selector.unregister(key.fileobj)
        return len(data)

    def _has_exited(self) -> bool:
        """Has it? It is not reaped yet, if possible, so that its group's number is nobody else's."""
        if sys.platform == "darwin":
            return self._process.poll() is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _close(self) -> None:
        with self._lock:
            self._is_over = True
        self._process.wait()
        self._selector.close()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
