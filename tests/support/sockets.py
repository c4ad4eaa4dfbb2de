"""Plugins that answer with any bytes at all, in the event loop of a test."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Respond = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Answer a request, whose body this is. The connection closes if the writer does."""


@asynccontextmanager
async def serve_bytes(path: Path, respond: Respond) -> AsyncIterator[None]:
    """Serve *respond* on a socket, for as long as the context lasts."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(sizes[0].split(b":")[1])) if sizes else head
                await respond(body, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, path, backlog=1024)
    try:
        yield
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        path.unlink(missing_ok=True)


def encode_http(body: bytes, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """Return an HTTP response."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def encode_reply(request: bytes, result: Any) -> bytes:
    """Return the response to a call, with *result*."""
    return encode_http(json.dumps({"jsonrpc": "2.0", "result": result, "id": json.loads(request)["id"]}).encode())
