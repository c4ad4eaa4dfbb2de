"""HTTP on the unix socket: a table of routes, and a limit on every resource that a client could exhaust."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar, cast

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE

from pyinfrakit.rpc import jsonrpc
from pyinfrakit.turns import wait_turn

log = logging.getLogger(__name__)

MAX_BODY = 4 * 1024 * 1024
MAX_HEADER = 8 * 1024
MAX_CONNECTIONS = 1000
BACKLOG = 1024

REQUEST_TIMEOUT = 10.0
"""Seconds in which a client has to send a request's headers, and then its body."""

IDLE_TIMEOUT = 60.0
"""Seconds for which a connection may idle; Go's client counts on no less."""

SLICE = 64 * 1024
"""Bytes of a reply that are written at once. A larger write would need fresh memory from the system each time."""

JSON = "application/json"

E = TypeVar("E", bound=web.Response)

Answer = Callable[[jsonrpc.Call | jsonrpc.Rejected], Awaitable[jsonrpc.Reply | None]]
"""Return the reply to a call, or None for a notification."""

Route = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
"""Respond to the requests for one path. Raise an `HTTPException` for the wrong method or content type."""

_BUSY = f"too many connections: {MAX_CONNECTIONS} are open\n"
_REFUSAL = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\n"
    f"Connection: close\r\nContent-Length: {len(_BUSY)}\r\n\r\n{_BUSY}"
)
_HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nServer: {SERVER_SOFTWARE}\r\nDate: %b\r\nContent-Length: %d\r\n\r\n".encode()


class Server:
    """Serve *routes*, by their paths, on a unix socket. Calls go to the path ``/``."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._connections = _Connections(self._handle)
        self._accepting: asyncio.AbstractServer | None = None

    async def start(self, listening: socket.socket) -> None:
        """Accept connections on a socket that listens."""
        loop = asyncio.get_running_loop()
        self._accepting = await loop.create_unix_server(self._connections, sock=listening, backlog=BACKLOG)

    async def stop(self, timeout: float) -> None:
        """Accept no more, close idle connections, and let requests in flight finish within *timeout* seconds."""
        if self._accepting is not None:
            self._accepting.close()
        transports = [connection.transport for connection in self._connections.connections]
        self._connections.pre_shutdown()
        await self._connections.shutdown(timeout / 2)  # it waits for a request, cancels it, and waits again
        for transport in transports:
            if transport is not None:
                transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        connection.end_headers()
        try:
            return await self._find_route(request)(request)
        except web.HTTPException as error:
            if not request.content.is_eof():
                error.force_close()  # the rest of its body would be taken for the next request's head
            raise
        finally:
            connection.end_request()

    def _find_route(self, request: web.BaseRequest) -> Route:
        # Nearly all requests are for "/": the parsed path costs more than this comparison.
        path = "/" if request.raw_path == "/" else request.path or "/"
        route = self._routes.get(path)
        if route is None:
            documents = ", ".join(path for path in self._routes if path != "/")
            raise web.HTTPNotFound(text=f"no {path} here: calls go to /, documents are {documents}\n")
        return route


def serve_document(document: bytes) -> Route:
    """Return a route that serves a JSON document."""

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        return web.Response(body=document, content_type=JSON)

    return respond


def serve_calls(answer: Answer) -> Route:
    """Return a route that serves JSON-RPC calls."""

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"], text=f"{request.method} on /: calls are by POST\n")
        if request.headers.get("Content-Type") != JSON and request.content_type != JSON:
            raise web.HTTPUnsupportedMediaType(text=f"content type {request.content_type}: expected {JSON}\n")
        reply = await _answer_all(answer, await _read_body(request))
        return web.Response(status=204) if reply is None else await _reply(request, reply)

    return respond


async def _answer_all(answer: Answer, body: bytes) -> jsonrpc.Reply | None:
    """Return the reply to a body with one call or a batch, or None if it has only notifications."""
    try:
        message = jsonrpc.parse(body)
    except jsonrpc.Fault as fault:
        return jsonrpc.encode_rejection(fault)
    if len(message.calls) == 1:
        answers = [await answer(message.calls[0])]  # a single call needs no task of its own
    else:
        answers = await asyncio.gather(*(_answer_in_turn(answer, call) for call in message.calls))
    return message.join([each for each in answers if each is not None])


async def _answer_in_turn(answer: Answer, call: jsonrpc.Call | jsonrpc.Rejected) -> jsonrpc.Reply | None:
    """Answer a call of a batch. A hundred calls may be a hundred times the work of the longest one."""
    await wait_turn()
    return await answer(call)


async def _read_body(request: web.BaseRequest) -> bytes:
    try:
        if request.content.is_eof():
            return request.content.read_nowait()  # all of it is here: a timer would cost more than the rest
        return await _read_rest(request)
    except (ConnectionError, web.RequestPayloadError) as error:
        raise _close_after(web.HTTPBadRequest(text=f"request body: {error}\n")) from None


async def _read_rest(request: web.BaseRequest) -> bytes:
    length = request.content_length
    if length is not None and length > MAX_BODY:
        raise _too_large(length)
    if request.version >= HttpVersion11 and "100-continue" in request.headers.get("Expect", "").lower():
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            return await request.read()
    except TimeoutError:
        text = f"the request's body took more than {REQUEST_TIMEOUT:g} s\n"
        raise _close_after(web.HTTPRequestTimeout(text=text)) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(None) from None


def _too_large(length: int | None) -> web.HTTPRequestEntityTooLarge:
    size = f"{length} bytes" if length is not None else "larger"
    text = f"request body: at most {MAX_BODY} bytes are accepted, this is {size}\n"
    return _close_after(web.HTTPRequestEntityTooLarge(MAX_BODY, length or 0, text=text))


def _close_after(response: E) -> E:
    """Close the connection after the response, because the rest of its request may still come."""
    response.force_close()
    return response


async def _reply(request: web.BaseRequest, pieces: jsonrpc.Reply) -> web.StreamResponse:
    """Send JSON: small replies in one write, large ones in slices."""
    if isinstance(pieces, AsyncIterator):
        return await _send_stream(request, pieces)
    size = sum(map(len, pieces))
    if size > SLICE:
        return await _send_slices(request, pieces, size)
    if request.version == HttpVersion11 and request.keep_alive:
        return _CompleteResponse(_HEAD % (_format_date(int(time.time())), size) + b"".join(pieces))
    return web.Response(body=b"".join(pieces), content_type=JSON)


class _CompleteResponse(web.StreamResponse):
    """A response whose bytes include its head: aiohttp would spend more on building the head than most calls take."""

    def __init__(self, message: bytes) -> None:
        super().__init__()
        self._message = message

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(self._message)
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` wrote everything."""


async def _send_slices(request: web.BaseRequest, pieces: jsonrpc.Pieces, size: int) -> web.StreamResponse:
    """Write slice by slice, at the client's pace: the whole reply is never in memory twice."""
    response = web.StreamResponse(headers={"Content-Length": str(size), "Content-Type": JSON})
    count = max(1, len(pieces) * SLICE // size)
    with contextlib.suppress(ConnectionError):  # the client is gone
        await response.prepare(request)
        for start in range(0, len(pieces), count):
            await response.write(b"".join(pieces[start : start + count]))
    return response


async def _send_stream(request: web.BaseRequest, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """Write the pieces as they come, and have them come no faster than the client takes them."""
    response = web.StreamResponse(headers={"Content-Type": JSON})
    if request.version < HttpVersion11:
        response.force_close()  # it has no chunks: the end of the connection is that of the reply
    waiting = bytearray()
    with contextlib.suppress(ConnectionError):  # the client is gone
        await response.prepare(request)
        async for piece in pieces:
            waiting += piece
            if len(waiting) >= SLICE:
                await response.write(bytes(waiting))
                waiting.clear()
        await response.write(bytes(waiting))
    return response


@lru_cache(1)
def _format_date(now: int) -> bytes:
    return formatdate(now, usegmt=True).encode()


class _Connection(web.RequestHandler):
    """A connection with a time limit on headers, which aiohttp does not have."""

    __slots__ = ("_deadline", "_in_request")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_request = False

    def data_received(self, data: bytes) -> None:
        """Start the deadline if the headers are incomplete. Most requests come in one piece, and need none."""
        requests = self._request_count
        super().data_received(data)
        if self._request_count == requests and self._deadline is None and not self._in_request:
            self._deadline = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT, self._expire)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.end_headers()
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Respond to bytes that are not HTTP. That is the client's fault, and no reason for a traceback in our log."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        log.info("a request was refused: %s", type(exc).__name__)
        return _close_after(web.Response(status=status, text=f"{(message or 'not HTTP').strip()}\n"))

    def end_headers(self) -> None:
        """Stop the deadline: a request's headers are complete, or the connection is lost."""
        self._in_request = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def end_request(self) -> None:
        """Take the next bytes for the next request."""
        self._in_request = False

    def _expire(self) -> None:
        self._deadline = None
        if self.transport is not None:
            text = f"the request's headers took more than {REQUEST_TIMEOUT:g} s\n"
            head = f"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
            self.transport.write((head + text).encode())
        self.force_close()


class _Refusal(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writing = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        writing.write(_REFUSAL.encode())
        writing.close()


class _Connections(web.Server):
    """All connections, up to the limit."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(
            handler,
            request_factory=self._make_request,
            access_log=None,
            logger=log,
            keepalive_timeout=IDLE_TIMEOUT,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            auto_decompress=False,
        )
        self._open = 0

    def __call__(self) -> Any:
        if self._open >= MAX_CONNECTIONS:
            return _Refusal()
        self._open += 1
        return _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        self._open -= 1
        super().connection_lost(handler, exc)

    def _make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)
