"""HTTP on the unix socket, with a limit on everything that a client could have too much of."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar, cast

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE

from pyinfrakit.rpc import jsonrpc
from pyinfrakit.rpc.jsonrpc import Pieces

log = logging.getLogger(__name__)

MAX_BODY = 4 * 1024 * 1024
MAX_HEADER = 8 * 1024
MAX_CONNECTIONS = 1000
BACKLOG = 1024
REQUEST_TIMEOUT = 10.0
"""Seconds that a client has for a request's headers, and for its body."""
IDLE_TIMEOUT = 60.0
"""Seconds that a connection may idle; Go's client counts on no less."""

E = TypeVar("E", bound=web.Response)

Answer = Callable[[jsonrpc.Call | jsonrpc.Rejected], Awaitable[jsonrpc.Pieces | None]]

_BUSY = f"too many connections: {MAX_CONNECTIONS} are open\n"
_REFUSAL = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\n"
    f"Connection: close\r\nContent-Length: {len(_BUSY)}\r\n\r\n{_BUSY}"
)


class _Connection(web.RequestHandler):
    """A connection with a limit on how long headers may take, which aiohttp has none of."""

    __slots__ = ("_deadline", "_in_request")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_request = False

    def data_received(self, data: bytes) -> None:
        """Start the deadline where the headers are not complete yet; most requests come in one piece."""
        requests = self._request_count
        super().data_received(data)
        if self._request_count == requests and self._deadline is None and not self._in_request:
            self._deadline = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT, self._late)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.headers_came()
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is not HTTP; it is the client's fault, and no reason for a traceback in our log."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        log.info("a request was refused: %s", type(exc).__name__)
        return _closing(web.Response(status=status, text=f"{(message or 'not HTTP').strip()}\n"))

    def headers_came(self) -> None:
        """A request's headers are complete, or no longer waited for."""
        self._in_request = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def request_done(self) -> None:
        """The next bytes belong to the next request."""
        self._in_request = False

    def _late(self) -> None:
        self._deadline = None
        if self.transport is not None:
            text = f"the request's headers took more than {REQUEST_TIMEOUT:g} s\n"
            head = f"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
            self.transport.write((head + text).encode())
        self.force_close()


class _Refusal(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writing = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass
        writing.write(_REFUSAL.encode())
        writing.close()


class _Connections(web.Server):
    """Makes connections, up to the limit."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(
            handler,
            request_factory=self._request,
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

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


class Server:
    """Serves JSON-RPC calls on ``/``, through *answer*, and *documents*, JSON, by their paths."""

    def __init__(self, answer: Answer, documents: Mapping[str, bytes]) -> None:
        self._answer = answer
        self._documents = documents
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
        open_ = [connection.transport for connection in self._connections.connections]
        self._connections.pre_shutdown()
        await self._connections.shutdown(timeout / 2)  # it waits for a request, cancels it, and waits again
        for transport in open_:
            if transport is not None:
                transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        connection.headers_came()
        try:
            return await self._respond(request)
        except web.HTTPException as error:
            if not request.content.is_eof():
                error.force_close()  # the rest of its body would be taken for the next request's head
            raise
        finally:
            connection.request_done()

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path != "/":
            document = self._document(request)
            if document is not None:
                return web.Response(body=document, content_type="application/json")
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"], text=f"{request.method} on /: calls are by POST\n")
        if request.headers.get("Content-Type") != "application/json" and request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text=f"content type {request.content_type}: expected application/json\n")
        answer = await self._reply(await self._body(request))
        return web.Response(status=204) if answer is None else await reply(request, answer)

    def _document(self, request: web.BaseRequest) -> bytes | None:
        """Give the document that is asked for; None where calls go to the request's path."""
        path = request.path or "/"
        document = self._documents.get(path)
        if document is None and path != "/":
            raise web.HTTPNotFound(text=f"no {path} here: calls go to /, documents are {', '.join(self._documents)}\n")
        if document is not None and request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        return document

    async def _body(self, request: web.BaseRequest) -> bytes:
        try:
            if request.content.is_eof():
                return request.content.read_nowait()  # all of it is here: a timer would cost more than the rest
            return await self._rest(request)
        except (ConnectionError, web.RequestPayloadError) as error:
            raise _closing(web.HTTPBadRequest(text=f"request body: {error}\n")) from None

    async def _rest(self, request: web.BaseRequest) -> bytes:
        length = request.content_length
        if length is not None and length > MAX_BODY:
            raise _too_large(length)
        if request.version >= HttpVersion11 and "100-continue" in request.headers.get("Expect", "").lower():
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return await request.read()
        except TimeoutError:
            raise _closing(web.HTTPRequestTimeout(text=f"the request's body took more than {REQUEST_TIMEOUT:g} s\n")) from None
        except web.HTTPRequestEntityTooLarge:
            raise _too_large(None) from None

    async def _reply(self, body: bytes) -> jsonrpc.Pieces | None:
        try:
            message = jsonrpc.parse(body)
        except jsonrpc.Fault as fault:
            return jsonrpc.failed(fault)
        if len(message.calls) == 1:
            answers = [await self._answer(message.calls[0])]  # no task for what is all that there is to do
        else:
            answers = await asyncio.gather(*(self._answer(call) for call in message.calls))
        return message.reply([answer for answer in answers if answer is not None])


def _too_large(length: int | None) -> web.HTTPRequestEntityTooLarge:
    size = f"{length} bytes" if length is not None else "larger"
    text = f"request body: at most {MAX_BODY} bytes are taken, this is {size}\n"
    return _closing(web.HTTPRequestEntityTooLarge(MAX_BODY, length or 0, text=text))


def _closing(response: E) -> E:
    """Close the connection afterwards, as the rest of its request may still come."""
    response.force_close()
    return response


# ==== JSON replies over HTTP: small ones in one write, large ones in slices.
SLICE = 64 * 1024
"""Bytes of a reply that are handed to the socket at once. More would be fresh memory from the system each time."""

_TYPE = "application/json"
_HEAD = (
    f"HTTP/1.1 200 OK\r\nContent-Type: {_TYPE}\r\nServer: {SERVER_SOFTWARE}\r\nDate: %b\r\nContent-Length: %d\r\n\r\n".encode()
)


async def reply(request: web.BaseRequest, pieces: Pieces) -> web.StreamResponse:
    """Give the response to return for *pieces*."""
    size = sum(map(len, pieces))
    if size > SLICE:
        return await _sliced(request, pieces, size)
    if request.version == HttpVersion11 and request.keep_alive:
        return _AtOnce(_HEAD % (_date(int(time.time())), size) + b"".join(pieces))
    return web.Response(body=b"".join(pieces), content_type=_TYPE)


class _AtOnce(web.StreamResponse):
    """A response that is complete, with its head: aiohttp would spend more on that than most calls take."""

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
        """All is written already."""


async def _sliced(request: web.BaseRequest, pieces: Pieces, size: int) -> web.StreamResponse:
    """Write slice by slice, as the client takes them: the whole is never in memory twice."""
    response = web.StreamResponse(headers={"Content-Length": str(size), "Content-Type": _TYPE})
    count = max(1, len(pieces) * SLICE // size)
    with contextlib.suppress(ConnectionError):  # nobody is there to be told
        await response.prepare(request)
        for start in range(0, len(pieces), count):
            await response.write(b"".join(pieces[start : start + count]))
    return response


@lru_cache(1)
def _date(now: int) -> bytes:
    return formatdate(now, usegmt=True).encode()
