"""The stop of a daemon: at SIGTERM or SIGINT, whatever a provider does with signals, and within a bound, whatever hangs.

A thread takes the signals, because a provider may block the event loop. The bound is safe at any instant: what was
acknowledged is on disk, as for a crash.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from pyinfrakit import logs

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)

STOP_LIMIT = 9.5
"""Seconds after which a stop that has not ended is cut off."""

KILL_LIMIT = STOP_LIMIT + 0.4
"""Seconds after which the system ends this process, if it can't end itself."""

CUT_OFF = 3
"""The exit status of a stop that was cut off."""

IMPATIENCE = 1.0
"""Seconds after which a second signal ends the process at once. Some shells and wrappers send the first one twice."""

GUARD = 0.1
"""Seconds between repairs of the signals' handlers."""

_ACTION_SIZE = 512
"""Bytes. More than any system's `struct sigaction`."""

_libc = ctypes.CDLL(None)


class Stop:
    """The stop of this process, which a signal or `begin` begins. It needs the main thread."""

    def __init__(self) -> None:
        self.doing = "starting"
        """What the process does now, for the message that it was cut off."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._notify: Callable[[], Any] = bool
        self._began: float | None = None
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._others = -1  # the loop's own descriptor for signals
        self._actions = {number: ctypes.create_string_buffer(_ACTION_SIZE) for number in SIGNALS}
        self._take_handlers()
        for number, action in self._actions.items():
            _libc.sigaction(int(number), None, action)
        os.register_at_fork(after_in_child=_release_handlers)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def follow(self, loop: asyncio.AbstractEventLoop, notify: Callable[[], Any]) -> None:
        """Call *notify* in *loop*, which runs, when the stop begins. Keep the signals' handlers from now on."""
        self._loop, self._notify = loop, notify
        self._guard()
        if self._began is not None:
            notify()

    def begin(self) -> None:
        """Begin the stop, if no signal has. From now on, this process ends within `STOP_LIMIT` seconds."""
        if self._began is None:
            self._began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, KILL_LIMIT)
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._notify)

    def _guard(self) -> None:
        """Repair, again and again, what a provider may change in the main thread."""
        assert self._loop is not None
        self._take_handlers()
        self._loop.call_later(GUARD, self._guard)

    def _take_handlers(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._handle)
        self._take_descriptor()

    def _take_descriptor(self) -> bool:
        """Have Python write the numbers of signals to this object's pipe. Return False if it did so already."""
        previous = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if previous == self._writer:
            return False
        self._others = previous
        return True

    def _handle(self, number: int, frame: object) -> None:
        """Do nothing, because the thread has the signal, unless Python wrote its number elsewhere."""
        if self._take_descriptor():
            os.write(self._writer, bytes([number]))

    def _watch(self) -> None:
        """Take signals, in a thread of their own."""
        while True:
            # Also if the parent process or the main thread blocks these signals, or ignores them without Python.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for number, action in self._actions.items():
                _libc.sigaction(int(number), action, None)
            if select.select([self._reader], [], [], GUARD)[0]:
                for received in os.read(self._reader, 100):
                    self._take(received)
            if self._began is not None and time.monotonic() >= self._began + STOP_LIMIT:
                _leave(CUT_OFF, f"the stop was cut off while {self.doing}: all acknowledged changes are on disk")

    def _take(self, number: int) -> None:
        if number in SIGNALS:
            if self._began is not None and time.monotonic() >= self._began + IMPATIENCE:
                _leave(128 + number, f"a second signal cut off the stop while {self.doing}")
            self.begin()
        if self._others >= 0:
            with contextlib.suppress(OSError):
                os.write(self._others, bytes([number]))


def _release_handlers() -> None:
    """Let signals end a child of a fork as usual. Otherwise they would stop its parent, through the shared pipe."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _leave(status: int, reason: str) -> None:
    """End this process at once."""
    # In another thread: the code that hangs may hold a lock of the log.
    with contextlib.suppress(RuntimeError):  # this host has no thread left
        report = threading.Thread(target=log.critical, args=(reason,), daemon=True)
        report.start()
        report.join(0.2)
    logs.flush(0.2)
    os._exit(status)
