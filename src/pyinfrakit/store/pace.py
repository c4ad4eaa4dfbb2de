"""Keep long work, done in a thread, to a share of the time."""

import threading
import time
from collections.abc import Iterable, Iterator

PAUSE = 2.0
"""How many times as long as a piece of work the pause after it takes. The piece is short, and the pause lets others at the
interpreter's lock: without it they would wait for five milliseconds each time."""

SHARE = 0.1
"""The share of the time that work may take, with rests between one work and the next."""


class Pace:
    """The pace of one thread's work."""

    def __init__(self) -> None:
        self._hurry = threading.Event()
        self._paused = 0.0

    def hurry(self) -> None:
        """Make no more pauses."""
        self._hurry.set()

    def pieces(self, work: Iterable[bytes]) -> Iterator[bytes]:
        """Give *work*, with a pause after each piece; what the taker does with it counts as work."""
        began = time.monotonic()
        for piece in work:
            yield piece
            pause = (time.monotonic() - began) * PAUSE
            self._hurry.wait(pause)
            self._paused += pause
            began = time.monotonic()

    def rest(self, took: float) -> float:
        """Give how many seconds to rest after work that took so many, with its pauses; count anew."""
        worked = max(0.0, took - self._paused)
        rest = max(0.0, worked / SHARE - took)
        self._paused = 0.0
        return rest
