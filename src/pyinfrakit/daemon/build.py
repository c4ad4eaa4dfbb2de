"""Which parts make a daemon: the one place that puts providers, stores, plugins, groups and sockets together."""

import gc
import os
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from pyinfrakit.daemon.listener import Listener
from pyinfrakit.daemon.programs import GroupProgram, PluginProgram, Program
from pyinfrakit.daemon.run import run
from pyinfrakit.eventfile import open_log
from pyinfrakit.events import EventLog
from pyinfrakit.group.builtin import VANILLA
from pyinfrakit.group.groups import Groups
from pyinfrakit.group.local import LocalPlugin
from pyinfrakit.group.plugins import InstancePlugin
from pyinfrakit.group.state import open_group_store
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Provider
from pyinfrakit.rpc.finder import Finder
from pyinfrakit.store import OpenStore, Store, open_store

MakeProvider = Callable[[str, Path], Provider]
"""Return the provider of a plugin's name, which may keep files in a folder. Raise `CannotStart`."""

MakePlugin = Callable[[Store, Provider, str, EventLog], Plugin]
"""Return a plugin with a name, ``NAME`` or ``NAME/SUB-TYPE``, whose events the log gets."""


class Parts(Struct, frozen=True):
    """The plugins of one daemon by sub-type, and the store of all their records.

    A daemon without sub-types has one plugin, under the empty name.
    """

    plugins: Mapping[str, Plugin]
    store: Store


@contextmanager
def build(
    name: str,
    providers: Mapping[str, MakeProvider],
    log: EventLog,
    state: str | None = None,
    mark: str | None = None,
    make_plugin: MakePlugin = Plugin,
    open_store: OpenStore = open_store,
) -> Iterator[Parts]:
    """Build the plugins of daemon *name*, one for each sub-type in *providers*, on the store at the URL *state*.

    A provider with a sub-type has the name ``name.sub-type``. *log* gets the events of all. The store closes at the end.
    Raise `CannotStart`, and leave the state untouched then.
    """
    with open_store(state, name, mark, tuple(providers)) as store:
        plugins = {
            sub_type: make_plugin(
                store.part(sub_type),
                make(f"{name}.{sub_type}" if sub_type else name, store.folder),
                f"{name}/{sub_type}" if sub_type else name,
                log,
            )
            for sub_type, make in providers.items()
        }
        yield Parts(plugins, store)


def run_daemon(
    name: str,
    providers: Mapping[str, MakeProvider],
    directory: Path,
    state: str | None = None,
    mark: str | None = None,
    make_plugin: MakePlugin = Plugin,
    open_store: OpenStore = open_store,
) -> None:
    """Build daemon *name*, and run it on a socket in *directory* until SIGTERM or SIGINT. Raise `CannotStart`."""
    with Listener(directory, name) as listener:
        # `run` enables garbage collection again: it would double the time to load many instances.
        gc.disable()
        with (
            open_log(name) as log,
            build(name, providers, log, state, mark, make_plugin, open_store) as parts,
        ):
            run([PluginProgram(parts.plugins, parts.store, listener, log)], log)


OWN_VARIABLES = ("INFRAKIT_GROUP_SELF_LOGICAL_ID", "INFRAKIT_INSTANCE")
"""Variables with a logical or an instance ID of the host: InfraKit's, and the one that our provider of processes sets."""

Errand = Callable[[Groups, EventLog], Awaitable[None]]
"""Work to do with the groups of a fleet, once it has started."""


def run_controller(name: str, directory: Path, state: str | None, poll: float) -> None:
    """Run the group controller *name* on a socket in *directory* until SIGTERM or SIGINT. Raise `CannotStart`.

    It finds its plugins in *directory* too, and asks those without events every *poll* seconds.
    """
    with Listener(directory, name) as listener, open_log(name) as log:
        run([_build_groups(name, listener, state, {}, log, poll)[0]], log)


def run_fleet(
    name: str,
    plugins: Mapping[str, Mapping[str, MakeProvider]],
    directory: Path,
    poll: float,
    errand: Errand,
    *,
    max_members: int | None = None,
    ending: Collection[str] = (),
) -> None:
    """Run plugins, by their sockets' names and sub-types, and the controller *name* in one process.

    It ends with *errand*, or at SIGTERM or SIGINT. The groups *ending* are destroyed from the start on. Specs
    may name a plugin without the prefix ``name-`` of its socket. Raise `CannotStart`.
    """
    with ExitStack() as stack:
        listeners = {each: stack.enter_context(Listener(directory, each)) for each in (*plugins, name)}
        log = stack.enter_context(open_log(name))
        gc.disable()  # `run` enables it again
        programs: list[Program] = []
        local: dict[str, InstancePlugin] = {}
        for each, providers in plugins.items():
            parts = stack.enter_context(build(each, providers, log))
            programs.append(PluginProgram(parts.plugins, parts.store, listeners[each], log))
            for sub_type, plugin in parts.plugins.items():
                full = f"{each}/{sub_type}" if sub_type else each
                local[full] = local[full.removeprefix(f"{name}-")] = LocalPlugin(plugin)
        program, groups = _build_groups(name, listeners[name], None, local, log, poll, max_members, ending)
        run([*programs, program], log, lambda: errand(groups, log))


def _build_groups(
    name: str,
    listener: Listener,
    state: str | None,
    local: Mapping[str, InstancePlugin],
    log: EventLog,
    poll: float,
    max_members: int | None = None,
    ending: Collection[str] = (),
) -> tuple[GroupProgram, Groups]:
    store = open_group_store(state, name)
    finder = Finder(listener.path.parent, local)
    groups = Groups(
        store,
        finder.find_plugin,
        finder.find_flavor,
        log,
        poll=poll,
        max_members=max_members,
        own=frozenset(filter(None, map(os.environ.get, OWN_VARIABLES))),
        always_healthy=VANILLA,
    )
    return GroupProgram(groups, store, finder, listener, log, ending), groups
