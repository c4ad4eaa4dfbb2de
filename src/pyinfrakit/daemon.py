"""Start, run, stop: puts the parts of a plugin together, and runs them until a signal."""

import asyncio
import logging
import resource
import signal
from importlib.metadata import entry_points
from typing import cast

import uvloop

from pyinfrakit.errors import CannotStart
from pyinfrakit.instance import State
from pyinfrakit.listener import Listener
from pyinfrakit.logs import NOTICE
from pyinfrakit.plugin import Plugin
from pyinfrakit.provider import Provider
from pyinfrakit.server import Server
from pyinfrakit.spi import info
from pyinfrakit.spi.methods import Methods

log = logging.getLogger(__name__)

STOP_TIMEOUT = 5.0
"""Seconds that requests, and then calls to the provider, have to finish at a stop."""


def run(plugin: Plugin, listener: Listener) -> None:
    """Run *plugin* on *listener*'s socket until SIGTERM or SIGINT.

    Raises `CannotStart` where the provider or the socket can't be used, and `StoreFailed` where the last change could not be
    written.
    """
    _allow_connections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(plugin, listener))


async def _serve(plugin: Plugin, listener: Listener) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    documents = {"/info/api.json": info.api(plugin.provider.example), "/info/functions.json": info.FUNCTIONS}
    server = Server(Methods(plugin).answer, documents)
    try:
        await plugin.start()
        await server.start(listener.listen())
        provider = type(plugin.provider).__name__
        log.log(NOTICE, "socket %s, %s, provider %s: %s", listener.path, plugin.location, provider, _found(plugin))
        await stop.wait()
        log.log(NOTICE, "stopping")
    finally:
        listener.remove()
        plugin.stop_waiting()
        await server.stop(STOP_TIMEOUT)
        await plugin.stop(STOP_TIMEOUT)
    log.log(NOTICE, "stopped")


def provider_class(name: str) -> type[Provider]:
    """Give the installed provider of this name; raise `CannotStart`."""
    found = {point.name: point for point in entry_points(group="pyinfrakit.providers")}
    try:
        return cast(type[Provider], found[name].load())
    except KeyError:
        raise CannotStart(f"provider {name!r} is not installed; installed: {', '.join(sorted(found))}") from None


def _found(plugin: Plugin) -> str:
    """Say how many instances a plugin has."""
    counts = {state: sum(record.state is state for record in plugin.records) for state in State}
    some = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(plugin.records)} instances" + (f" ({some})" if some else "")


def _allow_connections() -> None:
    """Let this process open as many files as it may: the usual soft limit is near the server's own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
