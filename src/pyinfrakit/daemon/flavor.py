"""A daemon that serves a flavor on a socket, for InfraKit's own controllers as for ours."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pyinfrakit.daemon.events import EventStreams
from pyinfrakit.daemon.http import Route, serve_calls, serve_document
from pyinfrakit.daemon.listener import Listener
from pyinfrakit.daemon.programs import Program
from pyinfrakit.daemon.run import run
from pyinfrakit.events import EventLog
from pyinfrakit.group.builtin import make_builtin
from pyinfrakit.group.flavors import FindFlavor, Flavor
from pyinfrakit.rpc import info
from pyinfrakit.rpc.finder import Finder
from pyinfrakit.rpc.flavor.service import FlavorService
from pyinfrakit.rpc.jsonrpc import Dispatcher

MakeFlavor = Callable[[FindFlavor], Flavor]
"""Return a flavor, which may find others."""

_PROPERTIES = {"Init": ["echo hello"], "Tags": {"tier": "web"}}

EXAMPLES: Mapping[str, Any] = {"vanilla": _PROPERTIES, "combo": [{"Plugin": "vanilla", "Properties": _PROPERTIES}]}
"""Properties of the built-in flavors, by their names."""


class FlavorProgram(Program):
    """A *flavor*, which takes properties such as *example*. *finder* finds the other flavors that it needs."""

    def __init__(self, flavor: Flavor, example: Any, finder: Finder, listener: Listener) -> None:
        self.listener = listener
        self._flavor = flavor
        self._example = example
        self._finder = finder

    def route(self, streams: EventStreams) -> Mapping[str, Route]:
        return {
            "/": serve_calls(Dispatcher(FlavorService(self._flavor).methods).answer),
            "/info/api.json": serve_document(info.encode_flavor_api(self._example)),
            "/info/functions.json": serve_document(info.FUNCTIONS),
        }

    async def start(self) -> None:
        pass

    def summarize(self) -> Iterable[str]:
        yield f"socket {self.listener.path}, flavor {type(self._flavor).__name__}"

    def stop_waiting(self) -> None:
        pass

    async def stop(self) -> None:
        await self._finder.close()


def run_builtin_flavor(name: str, kind: str, directory: Path) -> None:
    """Serve the built-in flavor *kind*, one of `EXAMPLES`, as `run_flavor` does."""
    run_flavor(name, lambda find: make_builtin(find)[kind], directory, EXAMPLES[kind])


def run_flavor(name: str, make: MakeFlavor, directory: Path, example: Any) -> None:
    """Serve a flavor on the socket *name* in *directory*, until SIGTERM or SIGINT. Raise `CannotStart`.

    *example* is valid properties for it, which InfraKit's tools show. It finds other flavors in *directory* too.
    """
    with Listener(directory, name) as listener:
        finder = Finder(directory, {})
        run([FlavorProgram(make(finder.find_flavor), example, finder, listener)], EventLog())
