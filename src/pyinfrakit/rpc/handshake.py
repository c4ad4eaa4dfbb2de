"""The handshakes, by which a client finds out which version of an interface a plugin has; for both ends. No I/O.

Each InfraKit generation has a handshake of its own, and InfraKit's plugins answer those of their generation. The
newest one that a plugin answers decides. Ours answer all.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Raw, Struct

from pyinfrakit.errors import GiveUp, Unreachable
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.instance.types import ONLY_OBJECT, read
from pyinfrakit.rpc.jsonrpc import Handler
from pyinfrakit.schema.decode import NotJSON, WrongShape

Ask = Callable[[str, Any], Awaitable[Raw]]
"""Call a method with parameters; return the JSON of its result. Raise `RemoteError` or `Unreachable`."""

HELLO = "Handshake.Hello"
TYPES = "Handshake.Types"
IMPLEMENTS = "Handshake.Implements"
FIRST = "Plugin.Implements"


class _Interface(Struct, frozen=True, forbid_unknown_fields=True):
    Name: str | None = None
    Version: str | None = None


class _ImplementsReply(Struct, frozen=True, forbid_unknown_fields=True):
    APIs: list[_Interface] | None = None


class _TypesReply(Struct, frozen=True, forbid_unknown_fields=True):
    Types: dict[str, list[str] | None] | None = None


class _Object(Struct, frozen=True):
    Name: str = ""


class _HelloReply(Struct, frozen=True, forbid_unknown_fields=True):
    Objects: dict[str, list[_Object] | None] | None = None


class Handshake(Struct, frozen=True):
    """The newest handshake that a plugin answers, and the newest version of an interface that it lists there.

    *sub_types* is None if the handshake lists none: those before InfraKit 0.5 do not.
    """

    method: str
    version: tuple[int, ...]
    sub_types: Sequence[str] | None

    def check_sub_type(self, name: str, sub_type: str) -> None:
        """Raise `GiveUp` if plugin *name* does not have the sub-type, or has only sub-types and this is empty."""
        listed = [ONLY_OBJECT] if self.sub_types is None else self.sub_types
        known = ["" if each == ONLY_OBJECT else each for each in listed]
        if sub_type not in known:
            names = " or ".join(f"{name}/{each}" if each else name for each in known)
            raise GiveUp(f"plugin {name} has {f'no sub-type {sub_type!r}' if sub_type else 'sub-types'}: use {names}")


async def negotiate(ask: Ask, interface: str, versions: Sequence[str]) -> Handshake:
    """Return the newest handshake of a plugin that lists one of *versions*. Raise `Unreachable` if none does."""
    seen: list[str] = []
    for method, find in ((HELLO, _find_objects), (TYPES, _find_types), (IMPLEMENTS, _find_apis), (FIRST, _find_apis)):
        try:
            listed = find(await ask(method, {}))
        except RemoteError:
            continue  # it is of another generation
        except (NotJSON, WrongShape) as error:
            raise Unreachable(f"the reply to {method} is invalid: {error}") from None
        known = [version for version in versions if f"{interface}/{version}" in listed]
        if known:
            newest = max(known, key=parse_version)
            return Handshake(method, parse_version(newest), listed[f"{interface}/{newest}"])
        seen.extend(each for each in listed if each not in seen)
    raise Unreachable(f"it has {', '.join(seen) or 'no interface'}, but not {interface}/{' or '.join(versions)}")


def parse_version(version: str) -> tuple[int, ...]:
    """Return one of our versions as numbers, which can be compared."""
    return tuple(map(int, version.split(".")))


def _find_objects(result: Raw) -> Mapping[str, Sequence[str] | None]:
    listed = read(result, _HelloReply).Objects or {}
    return {key: [each.Name for each in objects or ()] for key, objects in listed.items()}


def _find_types(result: Raw) -> Mapping[str, Sequence[str] | None]:
    return {key: types or () for key, types in (read(result, _TypesReply).Types or {}).items()}


def _find_apis(result: Raw) -> Mapping[str, Sequence[str] | None]:
    return {f"{each.Name}/{each.Version}": None for each in read(result, _ImplementsReply).APIs or ()}


def answer_handshakes(
    interface: str,
    versions: Sequence[str],
    types_versions: Sequence[str],
    hello_versions: Sequence[str],
    list_objects: Callable[[], Sequence[str]],
) -> Mapping[str, Handler]:
    """Return the handlers of all handshakes of a plugin with an *interface*.

    Each kind of handshake lists its own versions. *list_objects* returns the names of the plugin's objects.
    """

    async def implements(params: Raw) -> Any:
        return {"APIs": [{"Name": interface, "Version": version} for version in versions]}

    async def types(params: Raw) -> Any:
        return {"Types": {f"{interface}/{version}": list_objects() for version in types_versions}}

    async def hello(params: Raw) -> Any:
        objects = [{"Name": name, "ProxyFor": ""} for name in list_objects()]
        return {"Objects": {f"{interface}/{version}": objects for version in hello_versions}}

    return {FIRST: implements, IMPLEMENTS: implements, TYPES: types, HELLO: hello}
