"""A connection that sends prepared bytes and reads replies as cheaply as Python can: the load must not be what is slow."""

import asyncio
import re
from collections.abc import Callable
from typing import cast

_STATUS = b"HTTP/1.1 200 "
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ERROR = b'"error":'
START = 256
"""How many of a reply's first bytes are kept: an error or an ID is within."""


class Connection(asyncio.Protocol):
    """One request at a time. *replied* is called for each reply, with the start of its body; *failed* with what went wrong."""

    def __init__(self, replied: Callable[["Connection", bytes], None], failed: Callable[[str], None]) -> None:
        self._replied = replied
        self._failed = failed
        self._transport: asyncio.Transport | None = None
        self._data = b""
        """The reply's head, as far as it came; then the start of its body."""
        self._left = -1
        """Bytes of the body that are still to come; -1 in the head."""
        self.received = 0
        """Bytes of all replies' bodies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being a subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._failed(f"the server closed the connection: {exc}")

    def send(self, request: bytes) -> None:
        """Send a request; the reply to the last one must have come."""
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        """Close it, which is no failure."""
        assert self._transport is not None
        transport, self._transport = self._transport, None
        transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._left >= 0:
            self._body(data)
            return
        data = self._data + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._data = data
        else:
            self._head(data[:end])
            self._body(data[end + 4 :])

    def _head(self, head: bytes) -> None:
        length = _LENGTH.search(head)
        if length is None or not head.startswith(_STATUS):
            self._failed(f"the server answered {head!r}")
            self._left = 0
        else:
            self._left = int(length[1])
        self._data = b""

    def _body(self, data: bytes) -> None:
        self._left -= len(data)
        self.received += len(data)
        if len(self._data) < START:
            self._data += data[:START]
        if self._left == 0:
            start, self._data, self._left = self._data, b"", -1
            if _ERROR in start:
                self._failed(f"the server answered {start!r}")
            self._replied(self, start)
