"""Changes that are written together, and the futures of those who wait for them."""

import asyncio

from pyinfrakit.errors import StoreFailed
from pyinfrakit.store.file.writer import resolve
from pyinfrakit.store.records import Note, Records, Undo

NEVER = float("inf")


class Batch:
    """Changes that are written together, with their undos and the futures of their commits."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.undos: list[tuple[Records, list[Undo | Note]]] = []
        self._waits: list[asyncio.Future[None]] = []
        self.urgent = 0  # the number of urgent commits
        self.due = NEVER  # the time on the monotonic clock at which to write the batch

    def wait(self) -> asyncio.Future[None]:
        """Return a new future for the batch's end. Each commit has its own, because a caller may cancel it."""
        wait = asyncio.get_running_loop().create_future()
        self._waits.append(wait)
        return wait

    def settle(self, error: StoreFailed | None = None) -> None:
        for wait in self._waits:
            resolve(wait, error)


def finish(error: StoreFailed | None = None) -> asyncio.Future[None]:
    """Return a future that is done: with an error, or with success."""
    wait = asyncio.get_running_loop().create_future()
    resolve(wait, error)
    return wait
