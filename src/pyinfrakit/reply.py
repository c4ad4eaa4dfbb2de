"""JSON replies over HTTP: small ones in one write, large ones in slices."""

import contextlib
import time
from email.utils import formatdate
from functools import lru_cache

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE

from pyinfrakit.rpc.jsonrpc import Pieces

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
