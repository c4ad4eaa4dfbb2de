"""Which parts make a daemon: the one place that puts providers, a store, plugins and a socket together."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from pyinfrakit.daemon.listener import Listener
from pyinfrakit.daemon.run import run
from pyinfrakit.eventfile import open_log
from pyinfrakit.events import EventLog
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Provider
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
            run(parts.plugins, parts.store, listener, log)
