"""Keep long work, done in a thread, to a share of the time."""

import threading
import time
from collections.abc import Iterable, Iterator

SHORTEST, LONGEST = 1.0, 9.0
"""How many times as long as a piece of work the pause after it takes: the longer, the more work there is. The pause lets others
at the interpreter's lock: without it they would wait for five milliseconds each time."""

MUCH = 10_000
"""Above so many records there is much work."""

SHARE = 0.1
"""The share of the time that work may take, with rests between one work and the next."""


class Pace:
    """The pace of one thread's work: in pieces, and then an end, in which it mostly waits for the disk."""

    def __init__(self) -> None:
        self._hurry = threading.Event()
        self._worked = 0.0
        self._end_began = 0.0

    def hurry(self) -> None:
        """Make no more pauses."""
        self._hurry.set()

    def pieces(self, records: int, work: Iterable[bytes]) -> Iterator[bytes]:
        """Give *work* on so many records, with a pause after each piece; what the taker does with it counts as work.

        The processor's time counts: to wait for the interpreter's lock is no work.
        """
        self._worked = 0.0
        pause = min(max(SHORTEST, records / MUCH), LONGEST)
        began = time.thread_time()
        for piece in work:
            yield piece
            spent = time.thread_time() - began
            self._worked += spent
            self._hurry.wait(spent * pause)
            began = time.thread_time()
        self._end_began = time.monotonic()

    def rest(self, took: float) -> float:
        """Give how many seconds to rest after work that has just ended, and took so many with its pauses."""
        worked = self._worked + time.monotonic() - self._end_began
        return max(0.0, worked / SHARE - took)
