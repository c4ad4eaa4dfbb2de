"""Start, run, stop: puts the parts of a plugin together, and runs them until a signal."""

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

import uvloop

from pyinfrakit.daemon.http import Server
from pyinfrakit.daemon.listener import Listener
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.logs import NOTICE
from pyinfrakit.record import State
from pyinfrakit.rpc import info
from pyinfrakit.rpc.instance.service import Methods
from pyinfrakit.schema.describe import of_properties
from pyinfrakit.store import Store

log = logging.getLogger(__name__)

STOP_TIMEOUT = 3.5
"""Seconds that requests, and then calls to the provider, have to finish at a stop."""


def run(plugins: Mapping[str, Plugin], store: Store, listener: Listener) -> None:
    """Run *plugins* on *listener*'s socket until SIGTERM or SIGINT, with garbage collection on from when they are started.

    They are by sub-type, empty for the only one of a daemon without sub-types, and all keep their records in *store*.
    Raises `CannotStart` where a provider or the socket can't be used, and `StoreFailed` where the last change could not be
    written. Threads of a provider's may be left that still run.
    """
    _allow_connections()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_serve(plugins, store, listener))
    finally:
        loop.close()
        asyncio.set_event_loop(None)


async def _serve(plugins: Mapping[str, Plugin], store: Store, listener: Listener) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(Methods(plugins).answer, _documents(plugins))
    try:
        await _unless(stop, _start(plugins.values()))
        gc.freeze()  # what was loaded stays: no need to look through it for garbage
        gc.enable()
        if not stop.is_set():
            await server.start(listener.listen())
            for type, plugin in plugins.items():
                log.log(NOTICE, "socket %s, %s, %s", listener.path, store.location, _found(type, plugin))
        await stop.wait()
        log.log(NOTICE, "stopping")
    finally:
        listener.remove()
        for plugin in plugins.values():
            plugin.stop_waiting()
        await server.stop(STOP_TIMEOUT)
        await _stop(plugins.values(), store)
        await _end_tasks()
    log.log(NOTICE, "stopped")


def _documents(plugins: Mapping[str, Plugin]) -> Mapping[str, bytes]:
    """Give what InfraKit's tools show. They know one set of examples a plugin: that of the first sub-type."""
    type, plugin = next(iter(plugins.items()))
    example = of_properties(plugin.provider.Properties, plugin.provider.example)
    return {"/info/api.json": info.api(example, type), "/info/functions.json": info.FUNCTIONS}


async def _start(plugins: Iterable[Plugin]) -> None:
    """Start all at once; where one can't, the others are not waited for."""
    starting = [asyncio.create_task(plugin.start()) for plugin in plugins]
    try:
        await asyncio.gather(*starting)
    finally:
        for each in starting:
            each.cancel()


async def _stop(plugins: Iterable[Plugin], store: Store) -> None:
    """Stop all at once, as there is no more time for several than for one; then write what they leave."""
    try:
        await asyncio.gather(*(plugin.stop(STOP_TIMEOUT) for plugin in plugins))
    finally:
        await store.flush()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do *work*, but go on at once when *stop* comes before it is done."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    doing.add_done_callback(lambda task: task.cancelled() or task.exception())  # also where it is not waited for
    await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if doing.done():
        doing.result()


async def _end_tasks() -> None:
    """Cancel whatever is left, such as a provider's calls, without relying on it to end."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=1)


def _found(type: str, plugin: Plugin) -> str:
    """Say what a plugin's provider is, and how many instances it has."""
    counts = {state: sum(record.state is state for record in plugin.records) for state in State}
    some = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    provider = f"{type}: provider" if type else "provider"
    found = f"{len(plugin.records)} instances" + (f" ({some})" if some else "")
    return f"{provider} {plugin.provider.__class__.__name__}: {found}"


def _allow_connections() -> None:
    """Let this process open as many files as it may: the usual soft limit is near the server's own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
