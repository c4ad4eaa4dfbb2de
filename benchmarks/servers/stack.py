"""The ceilings: the daemon's HTTP stack alone, and the disk alone.

`python -m benchmarks.servers.stack SOCKET [FILE]` answers a POST to ``/BYTES`` with a constant reply of that length.
With FILE, each reply follows one durable append to it: over one connection, no server on this stack that syncs before it
replies can be faster.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import uvloop
from aiohttp import web

from pyinfrakit.daemon.connections import BACKLOG

ENTRY = b"." * 299 + b"\n"
"""The bytes of one append. The sync takes nearly all of its time, so the length matters little."""

Answer = Callable[[str, bytes], bytes]
"""Takes a request's path and body, and returns the reply's body."""


def serve(socket: str, answer: Answer) -> None:
    """Answer requests on aiohttp's server, on uvloop, on a unix socket, until the process is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the parent, too, which kills this process
    uvloop.run(_serve(socket, answer))


async def _serve(socket: str, answer: Answer) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = answer(request.path, await request.read())
        return web.Response(body=body, content_type="application/json")

    # The low-level server: routes and middleware would lower the ceiling.
    server = web.Server(handle, access_log=None)
    await asyncio.get_running_loop().create_unix_server(server, socket, backlog=BACKLOG)
    await asyncio.Event().wait()


@cache
def build_reply(path: str) -> bytes:
    """Return a JSON array of the length that *path* names: ``/512`` for 512 bytes."""
    return b"[" + b" " * (int(path[1:]) - 2) + b"]"


def measure_append_rate(folder: Path, seconds: float) -> float:
    """Return the durable appends per second to a file in *folder*, one after the other."""
    path = folder / "appends"
    file = _open_for_append(path)
    try:
        began = time.perf_counter()
        count = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            _append(file)
            count += 1
        return count / elapsed
    finally:
        os.close(file)
        path.unlink()


def _open_for_append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _append(file: int) -> None:
    os.write(file, ENTRY)
    os.fdatasync(file)


def _serve_constant(socket: str) -> None:
    serve(socket, lambda path, body: build_reply(path))


def _serve_synced(socket: str, path: Path) -> None:
    file = _open_for_append(path)

    def answer(path: str, body: bytes) -> bytes:
        _append(file)
        return build_reply(path)

    serve(socket, answer)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _serve_synced(sys.argv[1], Path(sys.argv[2]))
    else:
        _serve_constant(sys.argv[1])
