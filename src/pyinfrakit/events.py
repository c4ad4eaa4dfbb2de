"""The event log: every transition of instances and groups, with its time, subject, cause and reason.

One process has one log, for all its plugins and groups. The log belongs to the thread of the event loop.
It is bounded, and so is the queue of each subscription: no listener can fill the memory or delay the work.

A subject is a path: ``instance/PLUGIN/ID``, ``plugin/PLUGIN``, ``group/GROUP`` or ``group/GROUP/ID``.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated, Self

from msgspec import Meta, Struct

from pyinfrakit.logs import escape

CAPACITY = 10_000
"""Most events in memory."""

QUEUE = 1000
"""Most events that wait for one subscriber."""

MAX_TEXT = 1000
"""Longest reason, in characters. A provider or a client may send any length."""

LATEST = 253_402_000_000
"""A time in the year 9999, the last that calendars can show: a damaged file may have any number."""

LOST = "lost"
"""The type of the event that stands for those that a slow subscriber missed."""


class LoggedEvent(Struct, frozen=True, gc=False, rename="pascal"):
    """An event. *at* is in seconds since 1970. *cause* says who or what made it happen, and *reason* why."""

    number: Annotated[int, Meta(ge=0, lt=2**53)]
    at: Annotated[float, Meta(ge=0, lt=LATEST)]
    subject: str
    type: str
    cause: str = ""
    reason: str = ""


def covers(topic: str, subject: str) -> bool:
    """Return whether *topic* is *subject*, a prefix of it that ends in a slash, or empty, which covers all."""
    return not topic or subject == topic or (topic[-1] == "/" and subject.startswith(topic))


class EventLog:
    """The last events. *earlier* ones come from an earlier run, oldest first."""

    def __init__(self, earlier: Iterable[LoggedEvent] = ()) -> None:
        self.id = secrets.token_hex(8)
        """A random identity: it shows that two sockets lead to the same log."""
        self._events = deque(earlier, maxlen=CAPACITY)
        # No number is used twice. A crash loses the last events of a file with their numbers, but the clock is
        # ahead of them: no log records an event each microsecond.
        last = self._events[-1].number if self._events else 0
        self._number = max(last, time.time_ns() // 1000)
        self._followers: tuple[Callable[[LoggedEvent], None], ...] = ()

    def record(self, subject: str, type: str, cause: str = "", reason: str = "") -> LoggedEvent:
        """Add an event that happens now. Texts are escaped, and a long reason is cut."""
        self._number += 1
        text = reason if len(reason) <= MAX_TEXT else f"{reason[:MAX_TEXT]}…"
        event = LoggedEvent(self._number, time.time(), escape(subject), type, escape(cause), escape(text))
        self._events.append(event)
        for follower in self._followers:
            follower(event)
        return event

    def find(self, topic: str = "", since: float = 0.0, after: int = 0) -> list[LoggedEvent]:
        """Return the events on *topic* that are not before *since*, in seconds, and whose numbers are above *after*."""
        return [e for e in self._events if e.number > after and e.at >= since and covers(topic, e.subject)]

    def follow(self, callback: Callable[[LoggedEvent], None]) -> Callable[[], None]:
        """Call *callback*, which must be quick, with each event from now on. Return a function that ends this."""
        self._followers += (callback,)

        def end() -> None:
            self._followers = tuple(each for each in self._followers if each is not callback)

        return end

    def subscribe(self, topic: str = "") -> "Subscription":
        """Return the events on *topic* from now on, until the subscription is closed."""
        return Subscription(self, topic)


class Subscription:
    """Events for one reader: ``async for event in subscription``. It ends when it is closed.

    At most `QUEUE` events wait for a reader that is too slow. One event of the type `LOST` stands for those
    that did not fit, in their place. Its number is that of the last event before them: the log may still have them.
    """

    def __init__(self, log: EventLog, topic: str) -> None:
        self._topic = topic
        self._queue: deque[LoggedEvent] = deque()
        self._lost = 0
        self._last_kept = 0  # the number of the last event before those that are lost
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._unfollow = log.follow(self._push)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LoggedEvent:
        while not self._queue:
            if self._lost:
                self._mark_loss()
            elif self._closed:
                raise StopAsyncIteration
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        return self._queue.popleft()

    def take(self) -> list[LoggedEvent]:
        """Return the events that wait, without waiting for more."""
        taken = list(self._queue)
        self._queue.clear()
        return taken

    def close(self) -> None:
        """Get no more events. The reader gets those that wait, and then the end."""
        self._closed = True
        self._unfollow()
        self._wake()

    def _push(self, event: LoggedEvent) -> None:
        if not covers(self._topic, event.subject):
            return
        if len(self._queue) >= QUEUE:
            self._last_kept = self._last_kept if self._lost else self._queue[-1].number
            self._lost += 1
            return
        if self._lost:
            self._mark_loss()
        self._queue.append(event)
        self._wake()

    def _mark_loss(self) -> None:
        reason = f"{self._lost} events were lost: the reader is too slow"
        self._queue.append(LoggedEvent(self._last_kept, time.time(), self._topic, LOST, "events", reason))
        self._lost = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
