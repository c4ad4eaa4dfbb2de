"""One run of an executable, from start to exit, with limits on its time and output.

A run blocks a thread. asyncio's child processes would not do: their `wait` may also wait for other processes
that hold the pipes open, and uvloop's pipes are sockets, which a shell can't open as /dev/stdout.
"""

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pyinfrakit.errors import TryAgain

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

POLL = 0.05
"""Seconds between checks for an exit, on systems without pidfds: macOS, and Linux before 5.3."""


class Child:
    """A process in a session of its own, without a terminal.

    *stdin* is a descriptor, or `subprocess.DEVNULL`; *pass_fds* are further descriptors that the child inherits.
    *take_output* and *take_error* receive the bytes of stdout and stderr, in chunks, in the thread of `finish`.
    Each stream is limited to *limit* bytes. Without them, both streams go to the descriptor *output*: if that is a
    file, a child that outlives this process can go on writing. Raise `TryAgain` if the command can't be run.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path | None = None,
        *,
        take_output: Callable[[bytes], None] | None = None,
        take_error: Callable[[bytes], None] | None = None,
        output: int = subprocess.PIPE,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        limit: int | None = None,
    ) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=folder,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise TryAgain(f"can't be run: {getattr(error, 'strerror', None) or error}") from None
        self._lock = threading.Lock()
        self._is_over = False
        self._limit = limit
        self._sizes: Counter[int] = Counter()
        self._selector = selectors.PollSelector()
        for pipe, take in ((self._process.stdout, take_output), (self._process.stderr, take_error)):
            if pipe is not None:
                self._selector.register(pipe, selectors.EVENT_READ, take)
        self._pidfd: int | None = None
        with contextlib.suppress(AttributeError, OSError):
            self._pidfd = os.pidfd_open(self._process.pid)
            self._selector.register(self._pidfd, selectors.EVENT_READ)

    def finish(self, timeout: float, *, kill_group: bool = False) -> int:
        """Return the exit status, as subprocess does: the negative number if it was a signal.

        Raise `TryAgain` if the child runs for longer than *timeout* seconds or writes too much. Its process group
        then gets SIGTERM, and SIGKILL after `GRACE`. Only the child's own exit counts: other processes of its group
        may live on and hold its pipes open.

        With *kill_group* nothing lives on: the group gets SIGKILL at a time-out at once, and also after an exit.
        """
        try:
            problem = self._run(timeout)
            if problem and not kill_group:
                self._terminate()
            if problem or kill_group:
                self.signal(signal.SIGKILL)
        finally:
            self._close()
        if problem:
            raise problem
        return self._process.returncode

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group, from any thread. Do nothing after `finish`."""
        # The lock keeps `finish` from reaping the child meanwhile: its number could then belong to another process.
        with self._lock:
            if not self._is_over:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)

    def _run(self, timeout: float) -> TryAgain | None:
        """Read until the child has exited. Return an error if it exceeds a limit."""
        deadline = time.monotonic() + timeout
        while not self._has_exited() and not self._exceeds_limit:
            left = deadline - time.monotonic()
            if left <= 0:
                return TryAgain(f"timed out after {timeout:g} s")
            self._read(left)
        self._drain()
        return TryAgain(f"wrote more than {self._limit} bytes") if self._exceeds_limit else None

    def _drain(self) -> None:
        """Read the bytes that are in the pipes now, and no more: the remaining processes may write forever."""
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                size = int.from_bytes(fcntl.ioctl(key.fd, termios.FIONREAD, bytes(4)), sys.byteorder)
                if size:  # else a read would block
                    self._take(key, size)

    def _terminate(self) -> None:
        """Send SIGTERM, and wait for the exit. Go on reading: a child that writes to a full pipe can't exit."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while not self._has_exited() and time.monotonic() < deadline:
            self._read(POLL)

    def _read(self, timeout: float) -> None:
        """Wait up to *timeout* seconds for output or the exit, and take the output."""
        for key, _ in self._selector.select(timeout if self._pidfd is not None else min(timeout, POLL)):
            if key.data is not None:
                self._take(key, 65536)  # the capacity of a pipe

    def _take(self, key: selectors.SelectorKey, size: int) -> None:
        data = os.read(key.fd, size)
        if not data:
            self._selector.unregister(key.fileobj)
        self._sizes[key.fd] += len(data)
        if data and not self._exceeds_limit:
            key.data(data)

    @property
    def _exceeds_limit(self) -> bool:
        return self._limit is not None and any(size > self._limit for size in self._sizes.values())

    def _has_exited(self) -> bool:
        if sys.platform == "darwin":  # its waitid is missing before Python 3.13
            return self._process.poll() is not None
        # Without reaping it, so that its process group's number stays reserved until `_close`.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _close(self) -> None:
        with self._lock:
            self._is_over = True
        with self._process:  # closes its pipes, and waits for it
            self._selector.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
