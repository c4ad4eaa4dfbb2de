"""Event streams: ``GET /events?topic=TOPIC`` as server-sent events, at each reader's pace."""

import asyncio
import contextlib
import fcntl
import sys
import termios
import time
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from pyinfrakit.events import EventLog, LoggedEvent, Subscription
from pyinfrakit.rpc.events import HEARTBEAT, encode_frame

MAX_STREAMS = 100
"""Most streams at once: each costs a little for every event."""

HEARTBEAT_INTERVAL = 15.0
"""Seconds without an event until a comment shows that the stream lives."""

READ_TIMEOUT = 60.0
"""Seconds for which a reader may leave events unread."""

PATIENCE = 5.0
"""The same if there are too many streams."""

BATCH = 100
"""Events that are written at once."""


class EventStreams:
    """All open streams of the events in a log. `respond` is the route."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._open: set[_Stream] = set()

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Stream the events on the request's topic. A header Last-Event-ID asks for those after it first."""
        if request.method != "GET":
            raise web.HTTPMethodNotAllowed(request.method, ["GET"])
        if len(self._open) >= MAX_STREAMS and not self._make_room():
            raise web.HTTPServiceUnavailable(text=f"too many event streams: {MAX_STREAMS} are open\n")
        topic = request.query.get("topic", "").removeprefix("/")
        last = request.headers.get("Last-Event-ID", "")
        with self._log.subscribe(topic) as subscription:
            missed = self._log.find(topic, after=int(last)) if last.isdecimal() else []
            stream = _Stream(request, subscription)
            self._open.add(stream)
            try:
                return await stream.write_all(missed)
            finally:
                self._open.discard(stream)

    def close(self) -> None:
        """End all streams at once."""
        for stream in self._open:
            stream.close()

    def _make_room(self) -> bool:
        """End the stream whose reader has read nothing for the longest time. Return False if all of them read."""
        slowest = max(self._open, key=_Stream.measure_delay)
        if slowest.measure_delay() < PATIENCE:
            return False
        self._open.discard(slowest)
        slowest.close()
        slowest.abort()
        return True


class _Stream:
    """One response, which lasts until the reader leaves or the daemon stops."""

    def __init__(self, request: web.BaseRequest, subscription: Subscription) -> None:
        self._request = request
        self._subscription = subscription
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        self._response = web.StreamResponse(headers=headers)
        self._is_writing = False
        self._read = time.monotonic()

    async def write_all(self, missed: Sequence[LoggedEvent]) -> web.StreamResponse:
        """Write *missed* events, and then all others as they come."""
        self._response.force_close()
        try:
            await self._response.prepare(self._request)
            await self._write_events(missed)  # or a heartbeat: the reader knows at once that the stream has begun
            async for events in self._take():
                await self._write_events(events)
        except ConnectionError:  # the reader is gone, or reads nothing
            self.abort()
        return self._response

    def close(self) -> None:
        """End the stream. If its reader accepts nothing, it does not get the end either."""
        self._subscription.close()
        if self._is_writing:
            self.abort()

    def measure_delay(self) -> float:
        """Return the seconds since the reader last had nothing more to read."""
        now = time.monotonic()
        if not _count_unread(self._request):
            self._read = now
        return now - self._read

    async def _take(self) -> AsyncIterator[Sequence[LoggedEvent]]:
        """Yield the events that came, together, and none at each heartbeat."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_INTERVAL):
                    first = await anext(self._subscription)
            except TimeoutError:
                yield []
            except StopAsyncIteration:
                return
            else:
                yield [first, *self._subscription.take()]

    async def _write_events(self, events: Sequence[LoggedEvent]) -> None:
        for start in range(0, len(events), BATCH):
            await self._write(b"".join(map(encode_frame, events[start : start + BATCH])))
        if not events:
            await self._write(HEARTBEAT)

    async def _write(self, data: bytes) -> None:
        if self.measure_delay() >= READ_TIMEOUT:
            raise ConnectionAbortedError
        self._is_writing = True
        await self._response.write(data)
        self._is_writing = False

    def abort(self) -> None:
        """Close the connection at once."""
        if self._request.transport is not None:
            self._request.transport.abort()


def _count_unread(request: web.BaseRequest) -> int:
    """Return the number of sent bytes that the reader has not read yet, those in the system's buffers included."""
    if request.transport is None:
        return 0
    with contextlib.suppress(OSError, ValueError):  # the connection is closed, or the system does not say
        size = fcntl.ioctl(request.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(size, sys.byteorder)
    return 0
