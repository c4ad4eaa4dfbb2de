"""Room for so many calls of a kind at once, each of which may take so long."""

import asyncio
import logging
from typing import Any

from msgspec import Struct

from pyinfrakit.errors import TryAgain

log = logging.getLogger(__name__)


class Bounds(Struct, frozen=True):
    """How many calls of a kind may run at once (a restart must not make thousands), and for how many seconds each may."""

    at_once: int = 50
    timeout: float = 1800.0


class Slots:
    """Room for calls of one kind. *late* has what they are called that take longer than they may."""

    def __init__(self, bounds: Bounds, late: set[str]) -> None:
        self.timeout = bounds.timeout
        self.room = asyncio.Semaphore(bounds.at_once)
        self.late = late

    def one(self, what: str) -> "_Slot":
        """Give what is to be entered for one call: it waits for room."""
        return _Slot(self, what)


class _Slot:
    """Room for one call. When that takes too long it counts no more, and is cancelled, as far as it can be."""

    def __init__(self, slots: Slots, what: str) -> None:
        self._slots = slots
        self._what = what
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False

    async def __aenter__(self) -> None:
        await self._slots.room.acquire()
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._slots.timeout, self._late)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        assert self._timer is not None
        assert self._task is not None
        if not self._is_late:
            self._timer.cancel()
            self._slots.room.release()
            return
        self._slots.late.discard(self._what)
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TryAgain(f"no answer for {self._slots.timeout:g} s")

    def _late(self) -> None:
        log.error("%s: no answer for %g s", self._what, self._slots.timeout)
        self._is_late = True
        self._slots.late.add(self._what)
        self._slots.room.release()
        assert self._task is not None
        self._task.cancel()
