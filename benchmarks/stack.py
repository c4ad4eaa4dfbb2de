"""The HTTP stack that the daemon stands on, with nothing of the daemon on it: aiohttp's server, on uvloop, on a unix socket."""

import asyncio
import signal
from collections.abc import Callable

import uvloop
from aiohttp import web

from pyinfrakit.daemon.http import BACKLOG

Answer = Callable[[str, bytes], bytes]
"""Takes a request's path and body, and gives the reply's body."""


def serve(socket: str, answer: Answer) -> None:
    """Answer requests until killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for whoever started this, and ends it
    uvloop.run(_serve(socket, answer))


async def _serve(socket: str, answer: Answer) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = answer(request.path, await request.read())
        return web.Response(body=body, content_type="application/json")

    server = web.Server(handle, access_log=None)
    await asyncio.get_running_loop().create_unix_server(server, socket, backlog=BACKLOG)
    await asyncio.Event().wait()
