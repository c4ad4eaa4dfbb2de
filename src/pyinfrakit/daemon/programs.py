"""What a daemon serves on a socket: instance plugins, or groups."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from pyinfrakit.daemon.events import EventStreams
from pyinfrakit.daemon.http import Route, serve_calls, serve_document
from pyinfrakit.daemon.listener import Listener
from pyinfrakit.events import EventLog
from pyinfrakit.group.groups import Groups
from pyinfrakit.group.state import GroupStore
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.rpc import info
from pyinfrakit.rpc.finder import Finder
from pyinfrakit.rpc.group.service import GroupService
from pyinfrakit.rpc.instance.service import InstanceService, Targets
from pyinfrakit.rpc.jsonrpc import Dispatcher
from pyinfrakit.rpc.operator.events import EventService
from pyinfrakit.rpc.operator.service import OperatorService
from pyinfrakit.schema.describe import find_example
from pyinfrakit.store import Store

log = logging.getLogger(__name__)

STOP_TIMEOUT = 3.5
"""Seconds in which provider calls have to finish at a stop."""


class Program(ABC):
    """What a daemon serves on the socket of *listener*."""

    listener: Listener

    @abstractmethod
    def route(self, streams: EventStreams) -> Mapping[str, Route]:
        """Return the routes, by their paths."""

    @abstractmethod
    async def start(self) -> None:
        """Begin to work. Raise `CannotStart`."""

    @abstractmethod
    def summarize(self) -> Iterable[str]:
        """Yield the lines that say in the log what has started."""

    @abstractmethod
    def stop_waiting(self) -> None:
        """Answer the calls that wait for something now."""

    @abstractmethod
    async def stop(self) -> None:
        """End the work within `STOP_TIMEOUT` seconds, and write the last changes. Raise `StoreFailed`."""


class PluginProgram(Program):
    """Instance plugins, by sub-type, which keep their records in *store*."""

    def __init__(self, plugins: Mapping[str, Plugin], store: Store, listener: Listener, events: EventLog) -> None:
        self.listener = listener
        self._plugins = plugins
        self._store = store
        self._events = events

    def route(self, streams: EventStreams) -> Mapping[str, Route]:
        targets = Targets(self._plugins)
        services = (InstanceService(targets), OperatorService(targets), EventService(self._events))
        dispatcher = Dispatcher(*(service.methods for service in services))
        # InfraKit's tools know one set of examples for each plugin: that of the first sub-type.
        sub_type, plugin = next(iter(self._plugins.items()))
        api = info.encode_api(find_example(plugin.provider.Properties, plugin.provider.example), sub_type)
        return {
            "/": serve_calls(dispatcher.answer),
            "/events": streams.respond,
            "/info/api.json": serve_document(api),
            "/info/functions.json": serve_document(info.FUNCTIONS),
        }

    async def start(self) -> None:
        """Start all plugins at once. If one fails, do not wait for the others."""
        starts = [asyncio.create_task(plugin.start()) for plugin in self._plugins.values()]
        try:
            await asyncio.gather(*starts)
        finally:
            for each in starts:
                each.cancel()

    def summarize(self) -> Iterable[str]:
        for sub_type, plugin in self._plugins.items():
            yield f"socket {self.listener.path}, {self._store.location}, {_summarize(sub_type, plugin)}"

    def stop_waiting(self) -> None:
        for plugin in self._plugins.values():
            plugin.stop_waiting()

    async def stop(self) -> None:
        # All at once, because together they have no more time than one.
        try:
            await asyncio.gather(*(plugin.stop(STOP_TIMEOUT) for plugin in self._plugins.values()))
        finally:
            await self._store.flush()


def _summarize(sub_type: str, plugin: Plugin) -> str:
    """Return a plugin's provider and its number of instances, for the log."""
    some = ", ".join(f"{count} {state}" for state, count in plugin.count_states().items() if count)
    provider = f"{sub_type}: provider" if sub_type else "provider"
    number = len(plugin.records)
    instances = f"{number} instance{'' if number == 1 else 's'}" + (f" ({some})" if some else "")
    return f"{provider} {type(plugin.provider).__name__}: {instances}"


class GroupProgram(Program):
    """The groups in *store*, whose plugins *finder* finds. Those of the IDs *ending* are destroyed from the start on."""

    def __init__(
        self,
        groups: Groups,
        store: GroupStore,
        finder: Finder,
        listener: Listener,
        events: EventLog,
        ending: Collection[str] = (),
    ) -> None:
        self.listener = listener
        self._groups = groups
        self._store = store
        self._finder = finder
        self._events = events
        self._ending = ending
        self._open = AsyncExitStack()

    def route(self, streams: EventStreams) -> Mapping[str, Route]:
        dispatcher = Dispatcher(GroupService(self._groups).methods, EventService(self._events).methods)
        return {
            "/": serve_calls(dispatcher.answer),
            "/events": streams.respond,
            "/info/api.json": serve_document(info.encode_group_api(self.listener.path.name)),
            "/info/functions.json": serve_document(info.FUNCTIONS),
        }

    async def start(self) -> None:
        await self._open.enter_async_context(self._store.lead())
        await self._open.enter_async_context(self._run())

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        try:
            await self._groups.start(self._ending)
            yield
        finally:
            await self._groups.stop()
            await self._finder.close()

    def summarize(self) -> Iterable[str]:
        number = len(self._groups.inspect())
        yield f"socket {self.listener.path}, {self._store.location}, {number} group{'' if number == 1 else 's'}"

    def stop_waiting(self) -> None:
        self._groups.stop_waiting()

    async def stop(self) -> None:
        await self._open.aclose()
