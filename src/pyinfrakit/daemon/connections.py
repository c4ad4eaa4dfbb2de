"""Connections, and the patience with each: how long it may wait for its client, and which one makes room for others."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web

from pyinfrakit.daemon.bodies import REQUEST_TIMEOUT
from pyinfrakit.logs import Quota

log = logging.getLogger(__name__)
log.addFilter(Quota())  # callers cause its lines

MAX_HEADER = 8 * 1024
MAX_CONNECTIONS = 1000
BACKLOG = 1024

IDLE_TIMEOUT = 60.0
"""Seconds for which a connection may idle; Go's client counts on no less."""

REPLY_TIMEOUT = 30.0
"""Seconds in which a client has to take all replies that wait for it, or at least `REPLY_PACE` bytes."""

REPLY_PACE = 512 * 1024

READ_AHEAD = 64 * 1024
"""Bytes of a body that are read before somebody asks for them, twice over."""

SWEEP = 1.0
"""Seconds between looks at all connections."""

REPORT = 60.0
"""Seconds between two warnings that connections were closed for lack of room."""


class Wait(IntEnum):
    """What a connection waits for. If there is no room for another one, the first of these goes first."""

    TAKE = 0
    """Its client takes no reply."""
    SEND = 1
    """The rest of a request."""
    BEGIN = 2
    """The first byte of all."""
    IDLE = 3
    """The next request."""
    WORK = 4
    """The daemon: never closed for others."""


PATIENCE = {Wait.TAKE: 1.0, Wait.SEND: 2.0, Wait.BEGIN: 2.0, Wait.IDLE: 5.0}
"""Seconds after which a connection that waits for its client may have to make room for another."""


class Connection(web.RequestHandler):
    """A connection with time limits on headers and replies, which aiohttp does not have."""

    __slots__ = ("_in_head", "_mark", "_request", "_seen", "_sent", "_since", "_writer", "link")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._request: web.BaseRequest | None = None
        self._seen = (Wait.BEGIN, 0)
        self._since = self._loop.time()
        self._mark = (self._since, 0)
        self._sent = 0
        self._writer: Any = None
        self.link: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.link = cast(asyncio.Transport, transport)  # aiohttp forgets it before it is really closed
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Notice a head that is incomplete. Most requests come in one piece."""
        requests = self._request_count
        super().data_received(data)
        if data:
            self._in_head = self._request_count == requests and self._request is None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Respond to bytes that are not HTTP. That is the client's fault, and no reason for a traceback in our log."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        log.info("a request was refused: %s", type(exc).__name__)
        response = web.Response(status=status, text=f"{(message or 'not HTTP').strip()}\n")
        response.force_close()
        return response

    def begin_request(self, request: web.BaseRequest) -> None:
        """Notice that a request's headers are complete."""
        self._in_head = False
        self._request = request
        if self._writer is not None:
            self._sent += self._writer.output_size
        self._writer = request.writer

    def end_request(self) -> None:
        """Take the next bytes for the next request."""
        self._request = None

    def find_wait(self) -> Wait:
        """Return what this connection waits for now."""
        if self._count_buffered():
            return Wait.TAKE
        if self._request is not None:
            return Wait.WORK if self._request.content.is_eof() else Wait.SEND
        if self._in_head:
            return Wait.SEND
        return Wait.IDLE if self._request_count else Wait.BEGIN

    def check(self, now: float) -> tuple[Wait, float]:
        """Return what this connection waits for, and since when. Close it if that takes too long."""
        wait = self.find_wait()
        taken = self._count_taken()
        seen = (wait, 0 if wait is Wait.TAKE else self._request_count)
        if seen != self._seen:
            self._seen, self._since, self._mark = seen, now, (now, taken)
        elif wait is Wait.TAKE and now - self._mark[0] >= REPLY_TIMEOUT:
            if taken - self._mark[1] < REPLY_PACE:
                self.abort()
            self._mark = (now, taken)
        elif self._in_head and wait is Wait.SEND and now - self._since >= REQUEST_TIMEOUT:
            self._expire()
        return wait, self._since

    def is_still(self, wait: Wait, since: float) -> bool:
        """Return whether this connection is open, and waits as `check` said."""
        return self._manager is not None and self.find_wait() is wait and self._since == since

    def _count_taken(self) -> int:
        """Return the bytes of all replies that left this process."""
        current = 0 if self._writer is None else self._writer.output_size
        return int(self._sent + current - self._count_buffered())

    def _count_buffered(self) -> int:
        return 0 if self.link is None else self.link.get_write_buffer_size()

    def abort(self) -> None:
        """Close this connection at once, even if its client takes nothing."""
        if self.link is not None:
            self.link.abort()

    def _expire(self) -> None:
        if self.transport is not None:
            text = f"the request's headers took more than {REQUEST_TIMEOUT:g} s\n"
            head = f"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
            self.transport.write((head + text).encode())
        self.force_close()


class _Refusal(asyncio.Protocol):
    """One connection too many."""

    def __init__(self, limit: int) -> None:
        text = f"too many connections: {limit} are open\n"
        self._response = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\n"
            f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}"
        ).encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writing = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        writing.write(self._response)
        writing.close()


class Connections(web.Server):
    """All connections to a socket, *limit* at most. Beyond, the one that waits longest for its client makes room."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], limit: int) -> None:
        super().__init__(
            handler,
            request_factory=self._make_request,
            access_log=None,
            logger=log,
            keepalive_timeout=IDLE_TIMEOUT,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            read_bufsize=READ_AHEAD,
            auto_decompress=False,
        )
        self._limit = limit
        self._open: set[Connection] = set()
        self._patient: deque[tuple[Wait, float, Connection]] = deque()
        self._removed = 0
        self._reported = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def __call__(self) -> Any:
        if len(self._open) >= self._limit and not self._make_room():
            return _Refusal(self._limit)
        connection = Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)
        self._open.add(connection)
        return connection

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        self._open.discard(handler)
        super().connection_lost(handler, exc)

    def abort(self) -> None:
        """Close all connections at once, also those whose clients take nothing."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._open):
            connection.abort()

    def sweep(self) -> None:
        """Close the connections that wait too long, list those that could make room, and do so again soon."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = loop.call_later(SWEEP, self.sweep)
        waits = [(*connection.check(now), connection) for connection in list(self._open)]
        patient = [each for each in waits if each[0] in PATIENCE and now - each[1] >= PATIENCE[each[0]]]
        self._patient = deque(sorted(patient, key=lambda each: each[:2]))
        if self._removed and now - self._reported >= REPORT:
            log.warning("all %d connections were in use: %d that waited were closed", self._limit, self._removed)
            self._removed, self._reported = 0, now

    def _make_room(self) -> bool:
        """Close the connection that waits longest for its client. Return False if none waits long enough."""
        while self._patient:
            wait, since, connection = self._patient.popleft()
            if connection.is_still(wait, since):
                self._open.discard(connection)
                self._removed += 1
                connection.abort()
                return True
        return False

    def _make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())
