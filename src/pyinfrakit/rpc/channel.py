"""A client of a plugin's socket, for asyncio: many calls at once, over kept connections."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, UnixConnector
from msgspec import Raw
from yarl import URL

from pyinfrakit.errors import TryAgain, Unreachable
from pyinfrakit.rpc.client import explain, read_reply

MAX_REPLY = 64 * 1024 * 1024
"""Largest reply, in bytes: enough for the descriptions of 100,000 instances."""

MAX_LINE = 64 * 1024
"""Longest line of a stream of events, in bytes."""

MAX_QUESTIONS = 32
MAX_CHANGES = 128
"""Most calls under way at once. A plugin of ours has 1,000 connections, for all its clients."""

TURNS = 4
"""A call that waits for its turn is not sent any more after this many times the time limit of a call."""

IDLE_TIMEOUT = 30.0
"""Seconds for which a connection without a call is kept: our plugins keep it for 60."""

EVENTS = "text/event-stream"

_ROOT = URL("http://plugin/")
_HEADERS = {"Content-Type": "application/json"}


class Channel:
    """A plugin's socket. *timeout* is in seconds, for each call; InfraKit's own clients wait 15.

    Questions go over kept connections. If the plugin has closed one as idle, the question is sent again. That
    would be wrong for a change, such as a provision: the plugin may have made it before the connection broke.
    So each change has a connection of its own, and is sent once.
    """

    def __init__(self, path: Path, timeout: float = 15.0) -> None:
        self.path = path
        self._timeout = timeout
        self._id = 0
        self._fresh: ClientSession | None = None
        self._kept: ClientSession | None = None
        self._owner: tuple[int, ...] = ()
        self._retired: list[ClientSession] = []
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)
        self._changes = asyncio.Semaphore(MAX_CHANGES)

    async def close(self) -> None:
        """Close all connections. The channel can still be used, and opens others."""
        sessions = [session for session in (self._fresh, self._kept, *self._retired) if session is not None]
        self._fresh = self._kept = None
        self._retired.clear()
        for session in sessions:
            await session.close()

    def identify(self) -> tuple[int, ...]:
        """Return what tells the socket from an earlier one at the same path, or nothing if it is gone."""
        try:
            status = os.stat(self.path)
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_ctime_ns

    async def ask(self, method: str, params: Any) -> Raw:
        """Call *method*, which changes nothing, and return the JSON of its result.

        Raise `RemoteError`, `Unreachable`, or `TryAgain` if too many calls are under way.
        """
        async with self._take_turn(self._questions):
            try:
                return await self._call(method, params, is_kept=True)
            except _Disconnected:
                return await self._call(method, params, is_kept=False)

    async def change(self, method: str, params: Any) -> Raw:
        """Call *method* once, and return the JSON of its result.

        Raise `RemoteError`, `TryAgain` if too many calls are under way, so that it was not sent, or
        `Unreachable`: the plugin may have done it, or not.
        """
        async with self._take_turn(self._changes):
            return await self._call(method, params, is_kept=False)

    async def read_lines(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield an empty line once the events at *path* stream, and then their lines. Raise `Unreachable` at the end."""
        session = self._open_session(is_kept=False)
        limits = ClientTimeout(total=None, sock_connect=self._timeout)
        try:
            async with session.get(_ROOT.join(URL(path)), timeout=limits, allow_redirects=False) as response:
                if response.status != 200 or response.content_type != EVENTS:
                    raise Unreachable(f"{self.path} has no events: it answered {response.status} to {path}")
                yield b""
                while line := await response.content.readline(max_line_length=MAX_LINE):
                    yield line
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._explain(error) from None
        raise Unreachable(f"{self.path} ended {path}")

    @asynccontextmanager
    async def _take_turn(self, turns: asyncio.Semaphore) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(TURNS * self._timeout):
                await turns.acquire()
        except TimeoutError:
            raise TryAgain(f"{self.path} has too many calls under way; this one was not sent") from None
        try:
            yield
        finally:
            turns.release()

    async def _call(self, method: str, params: Any, is_kept: bool) -> Raw:
        self._id += 1
        id = self._id
        body = msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": id})
        try:
            data = await self._post(body, is_kept)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._explain(error) from None
        return read_reply(data, id, self.path)

    async def _post(self, body: bytes, is_kept: bool) -> bytes:
        session = self._open_session(is_kept)
        async with session.post(_ROOT, data=body, headers=_HEADERS, allow_redirects=False) as response:
            data = await self._read(response)
            if response.status != 200:
                text = data[:1000].decode(errors="replace")
                raise Unreachable(f"{self.path} answered {response.status}: {_shorten(text)}")
            return data

    async def _read(self, response: ClientResponse) -> bytes:
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > MAX_REPLY:
                response.close()
                raise Unreachable(f"{self.path} sent a reply of more than {MAX_REPLY >> 20} MiB")
            pieces.append(piece)
        return b"".join(pieces)

    def _open_session(self, is_kept: bool) -> ClientSession:
        if not is_kept:
            if self._fresh is None:
                self._fresh = self._make_session(UnixConnector(str(self.path), limit=0, force_close=True))
            return self._fresh
        owner = self.identify()
        if self._kept is not None and owner != self._owner:
            # Another process has the socket now. The earlier one may still answer on the connections that it has.
            self._retired.append(self._kept)
            self._kept = None
        if self._kept is None:
            self._owner = owner
            self._kept = self._make_session(UnixConnector(str(self.path), limit=0, keepalive_timeout=IDLE_TIMEOUT))
        return self._kept

    def _make_session(self, connector: UnixConnector) -> ClientSession:
        return ClientSession(
            connector=connector,
            timeout=ClientTimeout(total=self._timeout),
            cookie_jar=DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            auto_decompress=False,
        )

    def _explain(self, error: Exception) -> Unreachable:
        match error:
            case aiohttp.ClientConnectorError():
                return Unreachable(explain(self.path, error.os_error, self._timeout))
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionError():
                return _Disconnected(f"{self.path} closed the connection before it answered")
            case aiohttp.ClientPayloadError():
                return Unreachable(f"{self.path} closed the connection in the middle of its reply")
            case aiohttp.ClientResponseError():
                return Unreachable(f"{self.path} answered, but not in HTTP: {_shorten(error.message)}")
        return Unreachable(explain(self.path, error, self._timeout))


class _Disconnected(Unreachable):
    """The plugin closed the connection, before or after it had the request."""


def _shorten(text: str) -> str:
    """Return the beginning of a text in one line."""
    return " ".join(text.split())[:200]
