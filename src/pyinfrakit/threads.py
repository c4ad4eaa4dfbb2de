"""Calls in threads, one each, which do not keep the process from ending."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any


class Threads:
    """What is called in threads, and waited for."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Future[Callable[[], Any]]] = set()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Give what *function* gives, or raise what it raises.

        To cancel this has no effect until `abandon`: whoever waits must know when the thread has really ended.
        """
        wait: asyncio.Future[Callable[[], Any]] = asyncio.get_running_loop().create_future()
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)
        name = getattr(function, "__qualname__", "call")
        threading.Thread(target=_run, args=(wait, function, arguments), name=name, daemon=True).start()
        while not wait.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(wait)
        return wait.result()()

    def abandon(self) -> None:
        """Wait for none any more: they end with the process."""
        for wait in list(self._waits):
            wait.cancel()


def _run(wait: asyncio.Future[Callable[[], Any]], function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Call a function, and tell the event loop of *wait*, if that still runs."""
    outcome = _outcome(function, arguments)
    with contextlib.suppress(RuntimeError):
        wait.get_loop().call_soon_threadsafe(_settle, wait, outcome)


def _settle(wait: asyncio.Future[Callable[[], Any]], outcome: Callable[[], Any]) -> None:
    if not wait.done():
        wait.set_result(outcome)


def _outcome(function: Callable[..., Any], arguments: Sequence[Any]) -> Callable[[], Any]:
    """Give what gives the result, or raises the error, where it is asked for; a future takes not every error."""
    try:
        result = function(*arguments)
    except BaseException as error:  # noqa: BLE001 - a thread has nobody above it: whoever waits is to have all of them
        return _raising(error)
    return lambda: result


def _raising(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again
