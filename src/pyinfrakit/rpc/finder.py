"""Find plugins by their names: in this process, built in, or behind the sockets of a folder."""

import errno
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart, GiveUp, Unreachable
from pyinfrakit.group.builtin import make_builtin
from pyinfrakit.group.flavors import Flavor
from pyinfrakit.group.plugins import InstancePlugin
from pyinfrakit.rpc.channel import Channel
from pyinfrakit.rpc.flavor.client import RemoteFlavor
from pyinfrakit.rpc.instance.remote import RemotePlugin


class _Remote(Protocol):
    async def greet(self) -> None: ...


R = TypeVar("R", bound=_Remote)


class Finder:
    """The plugins in *directory*, and those of this process: *local* ones, by ``name`` or ``name/sub-type``."""

    def __init__(self, directory: Path, local: Mapping[str, InstancePlugin]) -> None:
        self._directory = directory
        self._local = local
        self._builtin = make_builtin(self.find_flavor)
        self._channels: dict[Path, Channel] = {}
        self._plugins: dict[str, RemotePlugin] = {}
        self._flavors: dict[str, RemoteFlavor] = {}

    async def find_plugin(self, name: str) -> InstancePlugin:
        """Return the instance plugin of a name, such as ``rack1`` or ``rack1/compute``. Raise `Unreachable`."""
        if name in self._local:
            return self._local[name]
        try:
            return await self._find_remote(name, self._plugins, RemotePlugin)
        except (CannotStart, GiveUp, Unreachable) as error:
            raise Unreachable(f"Failed to find Instance plugin '{name}': {error}") from None

    async def find_flavor(self, name: str) -> Flavor:
        """Return the flavor of a name. A plugin comes before a built-in flavor of the same name. Raise `Unreachable`."""
        if name in self._builtin and not (name and _is_live(self._directory / name)):
            return self._builtin[name]
        try:
            return await self._find_remote(name, self._flavors, RemoteFlavor)
        except (CannotStart, GiveUp, Unreachable) as error:
            raise Unreachable(f"Failed to find Flavor plugin '{name}': {error}") from None

    async def close(self) -> None:
        """Close all connections."""
        for plugin in self._plugins.values():
            await plugin.close()
        for channel in self._channels.values():
            await channel.close()

    async def _find_remote(self, name: str, known: dict[str, R], make: Callable[[Channel, str], R]) -> R:
        remote = known.get(name)
        if remote is None:
            path, sub_type = self._directory / paths.check_name(name.partition("/")[0]), name.partition("/")[2]
            channel = self._channels.setdefault(path, Channel(path))
            remote = make(channel, sub_type)
        await remote.greet()
        return known.setdefault(name, remote)


def _is_live(path: Path) -> bool:
    """Return whether a program has the socket at *path*: one that hangs has it, too."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) not in (errno.ENOENT, errno.ECONNREFUSED)
