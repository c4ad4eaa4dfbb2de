"""Calls that are due at times of their own, with a limit on how many run at once."""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any

Call = Callable[[], Coroutine[Any, Any, None]]


class Schedule:
    """Starts each call when it is due. At most *at_once* run at once; each takes a place in *room*, which is shared."""

    def __init__(self, at_once: int, room: asyncio.Semaphore) -> None:
        self._rooms = (asyncio.Semaphore(at_once), room)
        self._calls: list[tuple[float, int, Call]] = []
        """A heap of the times, on the monotonic clock, and the calls. A number tells equal times apart."""
        self._numbers = itertools.count()
        self._is_earlier = asyncio.Event()
        self._starter: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def add(self, delay: float, call: Call) -> None:
        """Make a call in *delay* seconds, or never after `close`."""
        if self._is_closed:
            return
        entry = (time.monotonic() + delay, next(self._numbers), call)
        heapq.heappush(self._calls, entry)
        if self._calls[0] is entry:
            self._is_earlier.set()
        if self._starter is None or self._starter.done():
            self._starter = asyncio.create_task(self._start_calls())

    def close(self) -> Collection[asyncio.Task[None]]:
        """Cancel everything, and return the tasks that end now."""
        self._is_closed = True
        tasks = [*self._running] if self._starter is None else [*self._running, self._starter]
        for task in tasks:
            task.cancel()
        return tasks

    async def _start_calls(self) -> None:
        """Start the calls as they fall due, until none is left."""
        while self._calls:
            delay = self._calls[0][0] - time.monotonic()
            if delay > 0:
                self._is_earlier.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._is_earlier.wait(), delay)
                continue
            for room in self._rooms:
                await room.acquire()
            _, _, call = heapq.heappop(self._calls)
            task = asyncio.create_task(call())
            self._running.add(task)
            # Not by `finally`: a task that is cancelled before its first step has none.
            task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        for room in self._rooms:
            room.release()
