"""The bodies of requests: a limit on each, on the time that it takes to arrive, and on all of a process together."""

import asyncio
from typing import TypeVar

from aiohttp import HttpVersion11, web

from pyinfrakit.daemon.memory import Memory, Share

MAX_BODY = 4 * 1024 * 1024

MAX_BODIES = 64 * 1024 * 1024
"""Bytes of all bodies together, those of calls in progress included. Small ones that arrive at once do not count."""

SMALL = 64 * 1024

REQUEST_TIMEOUT = 10.0
"""Seconds in which a client has to send a request's headers, and then its body."""

E = TypeVar("E", bound=web.HTTPException)

_BUSY = f"the bodies of all requests together exceed {MAX_BODIES} bytes\n"


_bodies = Memory(MAX_BODIES)


class Body:
    """One request's body. Its room is free again after its context."""

    def __init__(self) -> None:
        self._share = Share(_bodies)
        self._is_refused = False
        self._data = bytearray()
        self._limit: asyncio.Timeout | None = None

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *exception: object) -> None:
        _bodies.release(self._share)
        self._data.clear()  # an exception may hold this object for longer

    async def read(self, request: web.BaseRequest) -> bytes:
        """Return the whole body. Raise an `HTTPException` if it is too large, too slow, or broken off."""
        try:
            if request.content.is_eof():  # all of it is here: a timer would cost more than the rest
                data = request.content.read_nowait()
                if len(data) > SMALL and not _bodies.take(self._share, len(data)):
                    raise _busy()
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
        _bodies.expose(self._share, self._refuse)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT) as self._limit:
                while piece := await request.content.readany():
                    self._take(piece)
        except TimeoutError:
            if self._is_refused:
                raise _busy() from None
            text = f"the request's body took more than {REQUEST_TIMEOUT:g} s\n"
            raise _refuse(web.HTTPRequestTimeout(text=text)) from None
        _bodies.protect(self._share)
        whole = bytes(self._data)
        self._data.clear()
        return whole

    def _take(self, piece: bytes) -> None:
        if not _bodies.take(self._share, len(piece)) or self._is_refused:
            raise _busy()
        if self._share.size > MAX_BODY:
            raise _too_large(None)
        self._data += piece

    def _refuse(self) -> None:
        """Forget what has arrived, and end `read`."""
        self._is_refused = True
        self._data.clear()
        assert self._limit is not None
        self._limit.reschedule(asyncio.get_running_loop().time())


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
