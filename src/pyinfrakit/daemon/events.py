"""Event streams: ``GET /events?topic=TOPIC`` as server-sent events, at each reader's pace."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from pyinfrakit.events import EventLog, LoggedEvent, Subscription
from pyinfrakit.rpc.events import HEARTBEAT, encode_frame

MAX_STREAMS = 100
"""Most streams at once: each costs a little for every event."""

HEARTBEAT_INTERVAL = 15.0
"""Seconds without an event until a comment shows that the stream lives."""

WRITE_TIMEOUT = 60.0
"""Seconds for which a reader may accept nothing."""

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
        if len(self._open) >= MAX_STREAMS:
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


class _Stream:
    """One response, which lasts until the reader leaves or the daemon stops."""

    def __init__(self, request: web.BaseRequest, subscription: Subscription) -> None:
        self._request = request
        self._subscription = subscription
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        self._response = web.StreamResponse(headers=headers)
        self._is_writing = False

    async def write_all(self, missed: Sequence[LoggedEvent]) -> web.StreamResponse:
        """Write *missed* events, and then all others as they come."""
        self._response.force_close()
        try:
            await self._response.prepare(self._request)
            await self._write_events(missed)  # or a heartbeat: the reader knows at once that the stream has begun
            async for events in self._read():
                await self._write_events(events)
        except (ConnectionError, TimeoutError):  # the reader is gone, or accepts nothing
            self._abort()
        return self._response

    def close(self) -> None:
        """End the stream. If its reader accepts nothing, it does not get the end either."""
        self._subscription.close()
        if self._is_writing:
            self._abort()

    async def _read(self) -> AsyncIterator[Sequence[LoggedEvent]]:
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
        self._is_writing = True
        async with asyncio.timeout(WRITE_TIMEOUT):
            await self._response.write(data)
        self._is_writing = False

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
