"""Wait for other instances: one wait for many, which a change of a record ends, and not the clock."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable

from pyinfrakit.record import Record, State
from pyinfrakit.store.records import Records


class Waits:
    """The waits of a plugin for the states of *records*."""

    def __init__(self, records: Records) -> None:
        self._waiting: dict[Hashable, set[asyncio.Future[None]]] = {}
        records.subscribe(self._follow)

    async def until_provisioned(self, group: str, is_over: Callable[[], bool], timeout: float) -> None:
        """Wait until *is_over*, which only provisions in *group* can change, but at most *timeout* seconds."""
        await self._wait(group, is_over, timeout)

    async def until_free(self, logical_id: str, group: str | None, is_over: Callable[[], bool]) -> None:
        """Wait until *is_over*, which only the instances with a logical ID in a group can change."""
        await self._wait((logical_id, group), is_over, None)

    def end(self) -> None:
        """Look at all conditions again."""
        for key in list(self._waiting):
            self._wake(key)

    async def _wait(self, key: Hashable, is_over: Callable[[], bool], timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        while not is_over():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            await self._wait_for_change(key, left)

    async def _wait_for_change(self, key: Hashable, timeout: float | None) -> None:
        change = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(change)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(change, timeout)
        finally:
            waiting.discard(change)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    def _follow(self, old: Record | None, new: Record | None) -> None:
        if not self._waiting or old is None or (new is not None and new.state is old.state and new.spec is old.spec):
            return
        if old.state is State.PROVISIONING:
            self._wake(old.spec.group)
        if old.spec.logical_id is not None:
            self._wake((old.spec.logical_id, old.spec.group))

    def _wake(self, key: Hashable) -> None:
        for change in self._waiting.pop(key, ()):
            if not change.done():
                change.set_result(None)
