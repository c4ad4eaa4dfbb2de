"""A call in a thread of its own. Unlike asyncio's executor, nothing waits for it: neither other calls nor the exit."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pyinfrakit.errors import TryAgain
from pyinfrakit.instance.threads import Threads

T = TypeVar("T")


async def call_apart(function: Callable[[], T]) -> T:
    """Return the function's result. If this is cancelled, leave the thread behind.

    Raise `TryAgain` if this host has no thread left.
    """
    threads = Threads()
    try:
        # The shield is for the cancellation: a call in `Threads` takes none.
        result: T = await asyncio.shield(asyncio.ensure_future(threads.call(function)))
    except RuntimeError as error:
        raise TryAgain(str(error)) from None
    finally:
        threads.abandon()
    return result
