"""HTTP on the unix socket: a table of routes, and a limit on every resource that a client could exhaust."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from functools import lru_cache

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE

from pyinfrakit.daemon.bodies import Body
from pyinfrakit.daemon.connections import BACKLOG, MAX_CONNECTIONS, Connection, Connections
from pyinfrakit.daemon.memory import Memory, Share
from pyinfrakit.rpc import jsonrpc
from pyinfrakit.turns import wait_turn

SLICE = 64 * 1024
"""Bytes of a reply that are written at once. A larger write would need fresh memory from the system each time."""

JSON = "application/json"

MAX_REPLIES = 256 * 1024 * 1024
"""Bytes of all replies that clients have yet to take. Beyond, the oldest one is broken off."""

CACHED = 1024
"""Bytes of a piece of a reply that is probably in a cache, so that the reply has only a pointer to it."""

POINTER = 8

COPIES = 4
"""The memory of a streamed reply, as a multiple of the piece that waits: its parts are in memory, too."""

_replies = Memory(MAX_REPLIES)

Answer = Callable[[jsonrpc.Call | jsonrpc.Rejected], Awaitable[jsonrpc.Reply | None]]
"""Return the reply to a call, or None for a notification."""

Route = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
"""Respond to the requests for one path. Raise an `HTTPException` for the wrong method or content type."""

_HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nServer: {SERVER_SOFTWARE}\r\nDate: %b\r\nContent-Length: %d\r\n\r\n".encode()


class Server:
    """Serve *routes*, by their paths, on a unix socket. Calls go to the path ``/``."""

    def __init__(self, routes: Mapping[str, Route], limit: int = MAX_CONNECTIONS) -> None:
        self._routes = routes
        self._connections = Connections(self._handle, limit)
        self._accepting: asyncio.AbstractServer | None = None

    @property
    def open_connections(self) -> int:
        return self._connections.count

    async def start(self, listening: socket.socket) -> None:
        """Accept connections on a socket that listens."""
        loop = asyncio.get_running_loop()
        self._accepting = await loop.create_unix_server(self._connections, sock=listening, backlog=BACKLOG)
        self._connections.sweep()

    async def stop(self, timeout: float) -> None:
        """Accept no more, close idle connections, and let requests in flight finish within *timeout* seconds."""
        if self._accepting is not None:
            self._accepting.close()
        self._connections.pre_shutdown()
        await self._connections.shutdown(timeout / 2)  # it waits for a request, cancels it, and waits again
        self._connections.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.begin_request(request)
        try:
            return await self._find_route(request)(request)
        except web.HTTPException as error:
            # The rest of a body would be taken for the next request's head.
            return _copy_response(error, close=error.keep_alive is False or not request.content.is_eof())
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


def _copy_response(error: web.HTTPException, *, close: bool) -> web.Response:
    """Return the response that *error* is. The exception itself would hold the request until a garbage collection."""
    response = web.Response(status=error.status, reason=error.reason, body=error.body, headers=error.headers)
    if close:
        response.force_close()
    return response


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
        with Body() as body:
            reply = await _answer_all(answer, await body.read(request))
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
    await wait_turn(is_bulk=True)
    return await answer(call)


async def _reply(request: web.BaseRequest, pieces: jsonrpc.Reply) -> web.StreamResponse:
    """Send JSON: small replies in one write, large ones in slices."""
    if isinstance(pieces, AsyncIterator):
        try:
            return await _send_stream(request, pieces)
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()  # a client that left it unfinished would leave its memory to a garbage collection
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
        request.writer.output_size += len(self._message)
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` wrote everything."""


async def _send_slices(request: web.BaseRequest, pieces: jsonrpc.Pieces, size: int) -> web.StreamResponse:
    """Write slice by slice, at the client's pace: the whole reply is never in memory twice."""
    response = web.StreamResponse(headers={"Content-Length": str(size), "Content-Type": JSON})
    count = max(1, len(pieces) * SLICE // size)
    connection = request.protocol
    assert isinstance(connection, Connection)
    with contextlib.suppress(ConnectionError), Share(_replies) as share:  # the client may be gone
        _replies.expose(share, connection.abort)
        _replies.take(share, size if size > len(pieces) * CACHED else len(pieces) * POINTER)
        await response.prepare(request)
        for start in range(0, len(pieces), count):
            await response.write(b"".join(pieces[start : start + count]))
    return response


async def _send_stream(request: web.BaseRequest, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """Write the pieces as they come, and have them come no faster than the client takes them."""
    response = web.StreamResponse(headers={"Content-Type": JSON})
    if request.version < HttpVersion11:
        response.force_close()  # it has no chunks: the end of the connection is that of the reply
    connection = request.protocol
    assert isinstance(connection, Connection)
    waiting = bytearray()
    with contextlib.suppress(ConnectionError), Share(_replies) as share:  # the client may be gone
        _replies.expose(share, connection.abort)
        await response.prepare(request)
        await wait_turn()  # so that a thousand streams do not encode their first pieces in one pass of the event loop
        async for piece in pieces:
            if not waiting and len(piece) >= SLICE:
                await _write_slices(response, share, piece)  # a copy would double its memory
                continue
            waiting += piece
            if len(waiting) >= SLICE:
                await _write_slices(response, share, bytes(waiting))
                waiting.clear()
        await _write_slices(response, share, bytes(waiting))
    return response


async def _write_slices(response: web.StreamResponse, share: Share, data: bytes) -> None:
    _replies.take(share, COPIES * len(data))
    for start in range(0, len(data), SLICE):
        await response.write(data[start : start + SLICE])
    _replies.take(share, -COPIES * len(data))


@lru_cache(1)
def _format_date(now: int) -> bytes:
    return formatdate(now, usegmt=True).encode()
