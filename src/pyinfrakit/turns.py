"""Share the event loop: long work is done in turns, at most one in each pass of the loop.

A pass of the loop is over when every task that can go on has gone on; only then are sockets looked at again.
So a pass must be short, also if a hundred tasks have long work at the same time. They queue here: each pass
admits one of them, for `LENGTH` seconds.

Bulk work comes in hundreds of pieces, such as the calls of a batch or the rounds of all groups. It has a queue of its
own, so that others need not wait for all of it, and only each `BULK_PASS`th pass: a reply takes some passes.
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

BULK_PASS = 3

CHUNK = 50
"""Items between two looks at the clock, unless the caller's take longer or shorter than most."""


class _Queues:
    """The tasks that wait for a turn in one event loop."""

    def __init__(self) -> None:
        self._others: deque[asyncio.Future[None]] = deque()
        self._bulk: deque[asyncio.Future[None]] = deque()
        self._passes = 0
        self._is_open = False

    def join(self, loop: asyncio.AbstractEventLoop, *, is_bulk: bool) -> asyncio.Future[None]:
        """Return a future that is done when it is its turn."""
        turn = loop.create_future()
        (self._bulk if is_bulk else self._others).append(turn)
        if not self._is_open:
            self._is_open = True
            loop.call_soon(self._admit, loop)
        return turn

    def _admit(self, loop: asyncio.AbstractEventLoop) -> None:
        """Admit the first one that still waits. It goes on in the next pass, and so does this."""
        self._passes += 1
        if self._passes % BULK_PASS or not _begin_first(self._bulk):
            _begin_first(self._others)
        self._is_open = bool(self._bulk or self._others)
        if self._is_open:
            loop.call_soon(self._admit, loop)


def _begin_first(queue: deque[asyncio.Future[None]]) -> bool:
    """Begin the turn of the first task in a queue that still waits. Return False if there is none."""
    while queue:
        turn = queue.popleft()
        if not turn.done():  # its task may be cancelled
            turn.set_result(None)
            return True
    return False


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queues] = WeakKeyDictionary()


async def wait_turn(*, is_bulk: bool = False) -> None:
    """Wait for a turn: no other task that waits for one goes on in the same pass of the event loop."""
    loop = asyncio.get_running_loop()
    queues = _queues.get(loop)
    if queues is None:
        queues = _queues[loop] = _Queues()
    await queues.join(loop, is_bulk=is_bulk)


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
