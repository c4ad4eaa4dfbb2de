"""Calls in threads, which do not keep the process from ending."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

Outcome = Callable[[], Any]
"""Gives the result of a call, or raises its error, where it is asked for: a future takes not every error."""

_Todo = SimpleQueue[tuple[asyncio.Future[Outcome], Outcome] | None]


class Threads:
    """As many threads as there are calls at once. They stay, as it takes longer to start one than most calls take."""

    def __init__(self) -> None:
        self._todo: _Todo = SimpleQueue()
        self._waits: set[asyncio.Future[Outcome]] = set()
        self._threads = 0
        self._idle = 0

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Give what *function* gives, or raise what it raises.

        To cancel this has no effect until `abandon`: whoever waits must know when the call has really ended.
        """
        wait: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=self._run, args=(self._todo,), name="provider", daemon=True).start()
            self._threads += 1
        self._waits.add(wait)
        self._todo.put((wait, lambda: function(*arguments)))
        while not wait.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(wait)
        return wait.result()()

    def abandon(self) -> None:
        """Wait for none any more. Those that are at work end with it, or with the process; later calls have others."""
        for wait in list(self._waits):
            wait.cancel()
        for _ in range(self._threads):
            self._todo.put(None)
        self._todo = SimpleQueue()
        self._threads = self._idle = 0

    def _run(self, todo: _Todo) -> None:
        while (work := todo.get()) is not None:
            wait, call = work
            outcome = _outcome(call)
            with contextlib.suppress(RuntimeError):  # the event loop was closed meanwhile: nobody waits
                wait.get_loop().call_soon_threadsafe(self._end, todo, wait, outcome)

    def _end(self, todo: _Todo, wait: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._idle += todo is self._todo
        self._waits.discard(wait)
        if not wait.done():
            wait.set_result(outcome)


def _outcome(call: Outcome) -> Outcome:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - nobody is above it in its thread: whoever waits is to have all of them
        return _raising(error)
    return lambda: result


def _raising(error: BaseException) -> Outcome:
    def again() -> Any:
        raise error

    return again
