"""Room for a limited number of calls to a provider, each with a time limit."""

import asyncio
import logging
from typing import Any

from msgspec import Struct

from pyinfrakit.errors import TryAgain
from pyinfrakit.logs import Quota

log = logging.getLogger(__name__)
log.addFilter(Quota())  # machines and callers cause its lines


class CallLimits(Struct, frozen=True):
    """How many calls of a kind may run at once, and the seconds after which each is late.

    The limit on the number matters after a restart, when thousands of calls may be due at once.
    """

    at_once: int = 50
    timeout: float = 1800.0


class Slots:
    """Room for calls of one kind; *late* collects the names of calls beyond their time limit."""

    def __init__(self, limits: CallLimits, late: set[str]) -> None:
        self.timeout = limits.timeout
        self.room = asyncio.Semaphore(limits.at_once)
        self.late = late


class Slot:
    """Room for one call, released at the end of the call or when the call is late. Entering it waits for room."""

    def __init__(self, slots: Slots, name: str) -> None:
        self._slots = slots
        self._name = name
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False

    async def __aenter__(self) -> None:
        await self._slots.room.acquire()
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._slots.timeout, self._expire)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        assert self._timer is not None
        assert self._task is not None
        if not self._is_late:
            self._timer.cancel()
            self._slots.room.release()
            return
        self._slots.late.discard(self._name)
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TryAgain(f"no answer for {self._slots.timeout:g} s")

    def _expire(self) -> None:
        log.error("%s: no answer for %g s", self._name, self._slots.timeout)
        self._is_late = True
        self._slots.late.add(self._name)
        self._slots.room.release()
        assert self._task is not None
        self._task.cancel()
