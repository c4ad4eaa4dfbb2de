"""A thread for what a disk may keep waiting. It costs a commit less than an executor's would, with its locks and futures."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

Failure = OSError | MemoryError
Work = Callable[[], None]
Told = Callable[[Failure | None], None]


def attempted(work: Work) -> Failure | None:
    """Do *work*; give what it raised."""
    try:
        work()
    except (OSError, MemoryError) as error:
        return error
    return None


class Thread:
    """A thread that does one thing after another."""

    def __init__(self, name: str) -> None:
        self._todo: SimpleQueue[tuple[asyncio.AbstractEventLoop, Work, Told] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, work: Work, told: Told) -> None:
        """Have *work* done, and then *told*, on the running event loop, what it raised."""
        self._todo.put((asyncio.get_running_loop(), work, told))

    def end(self) -> None:
        """Wait until all is done."""
        self._todo.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (todo := self._todo.get()) is not None:
            loop, work, told = todo
            error = attempted(work)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(told, error)
