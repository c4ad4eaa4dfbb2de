"""Share the event loop: long work is done in turns, at most one in each pass of the loop.

A pass of the loop is over when every task that can go on has gone on; only then are sockets looked at again.
So a pass must be short, also if a hundred tasks have long work at the same time. They queue here: each pass
admits one of them, for `LENGTH` seconds.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import islice
from time import perf_counter
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

LENGTH = 0.005
"""Seconds of a turn."""

CHUNK = 50
"""Items between two looks at the clock, unless the caller's take longer or shorter than most."""


class _Queue:
    """The tasks that wait for a turn in one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_open = False

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future that is done when it is its turn."""
        turn = loop.create_future()
        self._waiting.append(turn)
        if not self._is_open:
            self._is_open = True
            loop.call_soon(self._admit, loop)
        return turn

    def _admit(self, loop: asyncio.AbstractEventLoop) -> None:
        """Admit the first one that still waits. It goes on in the next pass, and so does this."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # its task may be cancelled
                turn.set_result(None)
                loop.call_soon(self._admit, loop)
                return
        self._is_open = False


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = WeakKeyDictionary()


async def wait_turn() -> None:
    """Wait for a turn: no other task that waits for one goes on in the same pass of the event loop."""
    loop = asyncio.get_running_loop()
    queue = _queues.get(loop)
    if queue is None:
        queue = _queues[loop] = _Queue()
    await queue.join(loop)


async def share(items: Iterable[T], size: int = CHUNK) -> AsyncIterator[Sequence[T]]:
    """Yield *items* in chunks of *size*: the first at once, the others in turns.

    Anything may change between two chunks: *items* must not be a view of a mapping that does.
    """
    rest = iter(items)
    end = 0.0
    while chunk := list(islice(rest, size)):
        yield chunk
        if perf_counter() >= end:
            await wait_turn()
            end = perf_counter() + LENGTH
