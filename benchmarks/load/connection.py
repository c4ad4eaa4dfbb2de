"""A client connection that does as little work per request as Python can, so that the load is not the bottleneck."""

import asyncio
import re
from collections.abc import Callable
from typing import cast

_STATUS = b"HTTP/1.1 200 "
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
"""The end of a chunked body. It is in no JSON of these benchmarks."""
_ERROR = b'"error":'

START_BYTES = 256
"""Bytes that are kept of the start of a reply's body. An error or an ID is within them."""


class Connection(asyncio.Protocol):
    """Sends one request at a time, as bytes.

    Each reply calls *on_reply* with the start of its body. A closed connection, another status than 200, or an error in the
    reply calls *on_failure* with a message.
    """

    def __init__(self, on_reply: Callable[["Connection", bytes], None], on_failure: Callable[[str], None]) -> None:
        self._on_reply = on_reply
        self._on_failure = on_failure
        self._transport: asyncio.Transport | None = None
        self._data = b""
        """The reply's head until it is complete, then the start of its body."""
        self._missing = -1
        """Bytes of the body that have not arrived yet; -1 while the head is incomplete; 1 until a chunked body has ended."""
        self._is_chunked = False
        self._end = b""
        """The last bytes of a chunked body so far."""
        self.received = 0
        """Bytes of the bodies of all replies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is one, but not a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._on_failure(f"the server closed the connection: {exc}")

    def send(self, request: bytes) -> None:
        """Send a request. The reply to the previous one must have arrived."""
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        """Close the connection without calling *on_failure*."""
        assert self._transport is not None
        transport, self._transport = self._transport, None
        transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._missing >= 0:
            self._read_body(data)
            return
        data = self._data + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._data = data
        else:
            self._read_head(data[:end])
            self._read_body(data[end + 4 :])

    def _read_head(self, head: bytes) -> None:
        length = _LENGTH.search(head)
        self._is_chunked = length is None and _CHUNKED.search(head) is not None
        self._missing = int(length[1]) if length else int(self._is_chunked)
        if not head.startswith(_STATUS) or (length is None and not self._is_chunked):
            self._on_failure(f"the server sent an invalid reply: {head!r}")
            self._missing = 0
        self._data = self._end = b""

    def _read_body(self, data: bytes) -> None:
        if self._is_chunked:
            self._end = (self._end + data[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
            self._missing = int(self._end != _LAST_CHUNK)
        else:
            self._missing -= len(data)
        self.received += len(data)
        if len(self._data) < START_BYTES:
            self._data += data[:START_BYTES]
        if self._missing == 0:
            start, self._data, self._missing = self._data, b"", -1
            # A fast error must not count as a fast reply.
            if _ERROR in start:
                self._on_failure(f"the server returned an error: {start!r}")
            self._on_reply(self, start)
