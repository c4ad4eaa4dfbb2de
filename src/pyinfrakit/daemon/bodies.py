"""The bodies of requests: a limit on each, on the time that it takes to arrive, and on all of a process together."""

import asyncio
import ctypes
import threading
from typing import TypeVar

from aiohttp import HttpVersion11, web

MAX_BODY = 4 * 1024 * 1024

MAX_BODIES = 64 * 1024 * 1024
"""Bytes of all bodies together, those of calls in progress included. Small ones that arrive at once do not count."""

SMALL = 64 * 1024

REQUEST_TIMEOUT = 10.0
"""Seconds in which a client has to send a request's headers, and then its body."""

_libc = ctypes.CDLL(None)

E = TypeVar("E", bound=web.HTTPException)

MANY = 8 * 1024 * 1024
"""Bytes of bodies after which this process gives memory back to the system."""

REST = 2.0
"""Seconds until then: it is not worthwhile for each body."""

_BUSY = f"the bodies of all requests together exceed {MAX_BODIES} bytes\n"


class Bodies:
    """All bodies in memory. If there is no room for more, the one that began to arrive first is refused."""

    def __init__(self) -> None:
        self._size = 0
        self._arriving: dict[Body, None] = {}
        self._peak = 0

    def begin(self, body: "Body") -> None:
        """Have *body* count as one that arrives."""
        self._arriving[body] = None

    def end(self, body: "Body") -> None:
        """Have *body* count as complete."""
        self._arriving.pop(body, None)

    def forget(self, body: "Body") -> None:
        """Give the room of *body* to others."""
        self.end(body)
        self._size -= body.size
        if self._peak >= MANY and self._size < self._peak // 4:
            self._peak = 0
            asyncio.get_running_loop().call_later(REST, _give_back)

    def grow(self, body: "Body", count: int) -> None:
        """Count more bytes of *body*. Make room for them, or raise `HTTPServiceUnavailable`."""
        body.size += count
        self._size += count
        self._peak = max(self._peak, self._size)
        while self._size > MAX_BODIES and self._arriving:
            oldest = next(iter(self._arriving))
            self.forget(oldest)
            oldest.refuse()
        if self._size > MAX_BODIES or body.is_refused:
            raise _busy()


class Body:
    """One request's body. Its room among *bodies* is free again after its context."""

    def __init__(self, bodies: Bodies) -> None:
        self.size = 0
        self.is_refused = False
        self._bodies = bodies
        self._pieces: list[bytes] = []
        self._limit: asyncio.Timeout | None = None

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bodies.forget(self)
        self._pieces.clear()  # an exception may hold this object for longer

    async def read(self, request: web.BaseRequest) -> bytes:
        """Return the whole body. Raise an `HTTPException` if it is too large, too slow, or broken off."""
        try:
            if request.content.is_eof():  # all of it is here: a timer would cost more than the rest
                data = request.content.read_nowait()
                if len(data) > SMALL:
                    self._bodies.grow(self, len(data))
                return data
            return await self._receive(request)
        except (ConnectionError, web.RequestPayloadError) as error:
            raise _refuse(web.HTTPBadRequest(text=f"request body: {error}\n")) from None

    async def _receive(self, request: web.BaseRequest) -> bytes:
        length = request.content_length
        if length is not None and length > MAX_BODY:
            raise _too_large(length)
        if request.version >= HttpVersion11 and "100-continue" in request.headers.get("Expect", "").lower():
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._bodies.begin(self)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT) as self._limit:
                while piece := await request.content.readany():
                    self._take(piece)
        except TimeoutError:
            if self.is_refused:
                raise _busy() from None
            text = f"the request's body took more than {REQUEST_TIMEOUT:g} s\n"
            raise _refuse(web.HTTPRequestTimeout(text=text)) from None
        self._bodies.end(self)
        whole = b"".join(self._pieces)
        self._pieces.clear()
        return whole

    def _take(self, piece: bytes) -> None:
        self._bodies.grow(self, len(piece))
        if self.size > MAX_BODY:
            raise _too_large(None)
        self._pieces.append(piece)

    def refuse(self) -> None:
        """Forget what has arrived, and end `read`."""
        self.is_refused = True
        self.size = 0
        self._pieces.clear()
        assert self._limit is not None
        self._limit.reschedule(asyncio.get_running_loop().time())


def _give_back() -> None:
    """Give free memory back to the system. Without this, glibc keeps what lies between blocks in use."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        threading.Thread(target=trim, args=(0,), name="memory", daemon=True).start()


def _busy() -> web.HTTPServiceUnavailable:
    return _refuse(web.HTTPServiceUnavailable(text=_BUSY, headers={"Retry-After": "1"}))


def _too_large(length: int | None) -> web.HTTPRequestEntityTooLarge:
    size = f"{length} bytes" if length is not None else "larger"
    text = f"request body: at most {MAX_BODY} bytes are accepted, this is {size}\n"
    return _refuse(web.HTTPRequestEntityTooLarge(MAX_BODY, length or 0, text=text))


def _refuse(error: E) -> E:
    """Close the connection after the response, because the rest of the body may still come."""
    error.force_close()
    return error
