"""Start, run, stop: one process that serves plugins until a signal."""

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

import uvloop

from pyinfrakit.daemon.events import EventStreams
from pyinfrakit.daemon.http import Route, Server, serve_calls, serve_document
from pyinfrakit.daemon.listener import Listener
from pyinfrakit.events import EventLog
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.logs import NOTICE
from pyinfrakit.rpc import info
from pyinfrakit.rpc.instance.service import InstanceService, Targets
from pyinfrakit.rpc.jsonrpc import Dispatcher
from pyinfrakit.rpc.operator.events import EventService
from pyinfrakit.rpc.operator.service import OperatorService
from pyinfrakit.schema.describe import find_example
from pyinfrakit.store import Store

log = logging.getLogger(__name__)

STOP_TIMEOUT = 3.5
"""Seconds in which requests, and then provider calls, have to finish at a stop."""


def run(plugins: Mapping[str, Plugin], store: Store, listener: Listener, events: EventLog) -> None:
    """Run *plugins*, by sub-type, on the listener's socket until SIGTERM or SIGINT.

    All keep their records in *store*; *events* is the log of the process. Garbage collection is enabled after
    the start. Raise `CannotStart` if a provider or the socket can't be used, and `StoreFailed` if the last
    change could not be written.
    Threads of a provider that hang may be left behind.
    """
    _raise_file_limit()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_serve(plugins, store, listener, events))
    finally:
        loop.close()
        asyncio.set_event_loop(None)


async def _serve(plugins: Mapping[str, Plugin], store: Store, listener: Listener, events: EventLog) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    streams = EventStreams(events)
    server = Server(_route(plugins, events, streams))
    try:
        await _do_unless(stop, _start(plugins.values()))
        gc.freeze()  # loaded records stay: there is no need to search them for garbage
        gc.enable()
        if not stop.is_set():
            await server.start(listener.listen())
            for sub_type, plugin in plugins.items():
                log.log(NOTICE, "socket %s, %s, %s", listener.path, store.location, _summarize(sub_type, plugin))
        await stop.wait()
        log.log(NOTICE, "stopping")
    finally:
        # First nobody finds the socket, then requests in flight are answered, then the provider's calls may end.
        listener.remove()
        for plugin in plugins.values():
            plugin.stop_waiting()
        streams.close()
        await server.stop(STOP_TIMEOUT)
        await _stop(plugins.values(), store)
        await _cancel_tasks()
    log.log(NOTICE, "stopped")


def _route(plugins: Mapping[str, Plugin], events: EventLog, streams: EventStreams) -> Mapping[str, Route]:
    targets = Targets(plugins)
    services = (InstanceService(targets), OperatorService(targets), EventService(events))
    dispatcher = Dispatcher(*(service.methods for service in services))
    # InfraKit's tools know one set of examples for each plugin: that of the first sub-type.
    sub_type, plugin = next(iter(plugins.items()))
    api = info.encode_api(find_example(plugin.provider.Properties, plugin.provider.example), sub_type)
    return {
        "/": serve_calls(dispatcher.answer),
        "/events": streams.respond,
        "/info/api.json": serve_document(api),
        "/info/functions.json": serve_document(info.FUNCTIONS),
    }


async def _start(plugins: Iterable[Plugin]) -> None:
    """Start all plugins at once. If one fails, do not wait for the others."""
    starts = [asyncio.create_task(plugin.start()) for plugin in plugins]
    try:
        await asyncio.gather(*starts)
    finally:
        for each in starts:
            each.cancel()


async def _stop(plugins: Iterable[Plugin], store: Store) -> None:
    """Stop all plugins at once, because together they have no more time than one; then write their last changes."""
    try:
        await asyncio.gather(*(plugin.stop(STOP_TIMEOUT) for plugin in plugins))
    finally:
        await store.flush()


async def _do_unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do *work*, but return at once if *stop* comes before its end."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # after a stop, nobody else looks
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()


async def _cancel_tasks() -> None:
    """Cancel all remaining tasks, such as a provider's calls, without relying on them to end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1)


def _summarize(sub_type: str, plugin: Plugin) -> str:
    """Return a plugin's provider and its number of instances, for the log."""
    some = ", ".join(f"{count} {state}" for state, count in plugin.count_states().items() if count)
    provider = f"{sub_type}: provider" if sub_type else "provider"
    number = len(plugin.records)
    instances = f"{number} instance{'' if number == 1 else 's'}" + (f" ({some})" if some else "")
    return f"{provider} {type(plugin.provider).__name__}: {instances}"


def _raise_file_limit() -> None:
    """Let this process open enough files for all connections: the usual soft limit is near the server's own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
