"""Threads for a provider's plain methods. asyncio's own executor can't leave a hanging call behind and go on."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

_Outcome = tuple[Any, BaseException | None]
"""The result of a call, or its error. A future refuses some exceptions, such as StopIteration, so that it holds both."""

_Todo = SimpleQueue[tuple[asyncio.Future[_Outcome], Callable[[], Any]] | None]


class Threads:
    """As many threads as there are calls at once. They are kept: to start one takes longer than most calls."""

    def __init__(self) -> None:
        self._todo: _Todo = SimpleQueue()
        self._waits: set[asyncio.Future[_Outcome]] = set()
        self._threads = 0
        self._idle = 0

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the function's result, or raise its error.

        Cancelling has no effect before `abandon`: the caller must know when the call has really ended.
        """
        wait: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=self._run, args=(self._todo,), name="provider", daemon=True).start()
            self._threads += 1
        self._waits.add(wait)
        context = contextvars.copy_context()
        self._todo.put((wait, lambda: context.run(function, *arguments)))
        while not wait.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(wait)
        result, error = wait.result()
        if error is not None:
            raise error
        return result

    def abandon(self) -> None:
        """Stop waiting for all calls. Busy threads end with their call, or with the process; later calls get new ones."""
        for wait in list(self._waits):
            wait.cancel()
        for _ in range(self._threads):
            self._todo.put(None)
        self._todo = SimpleQueue()
        self._threads = self._idle = 0

    def _run(self, todo: _Todo) -> None:
        while (work := todo.get()) is not None:
            wait, call = work
            outcome: _Outcome
            try:
                outcome = call(), None
            except BaseException as error:  # noqa: BLE001 - a thread has nobody above it: the caller gets all of them
                outcome = None, error
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
                wait.get_loop().call_soon_threadsafe(self._end, todo, wait, outcome)

    def _end(self, todo: _Todo, wait: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
        self._idle += todo is self._todo
        self._waits.discard(wait)
        if not wait.done():
            wait.set_result(outcome)
