"""Which handshakes a plugin speaks, and so which InfraKit generations can use it."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from pyinfrakit.conformance import answers
from pyinfrakit.conformance.report import Fact
from pyinfrakit.conformance.session import Session
from pyinfrakit.errors import Unreachable, WrongCall
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.instance.types import ONLY_OBJECT

INTERFACE = "Instance"

GENERATIONS = (
    ("0.1-0.2", "Plugin.Implements", "0.1.0"),
    ("0.3-0.4", "Handshake.Implements", "0.3.0"),
    ("0.5", "Handshake.Implements", "0.5.0"),
    ("2018", "Handshake.Hello", "0.6.1"),
)
"""InfraKit's releases, the handshake that each begins with, and the version that it must find there."""


class Speaks(Struct, frozen=True):
    """What a plugin's handshakes say: each one's versions, or why there are none; and the names of its sub-types."""

    versions: Mapping[str, Sequence[str]]
    problems: Mapping[str, str]
    types: Sequence[str]

    @property
    def newest(self) -> tuple[int, ...]:
        """The newest version of all, or nothing."""
        found = [number(each) for versions in self.versions.values() for each in versions]
        return max(found, default=())

    @property
    def generations(self) -> Sequence[str]:
        """The InfraKit releases that can use the plugin."""
        return [release for release, method, version in GENERATIONS if version in self.versions.get(method, ())]

    def facts(self) -> Sequence[Fact]:
        """Say it to people."""
        spoken = [
            Fact(
                method,
                f"Instance {', '.join(self.versions[method])}" if method in self.versions else self.problems[method],
            )
            for method in READERS
        ]
        usable = Fact("usable by InfraKit", ", ".join(self.generations) or "no release")
        return [*spoken, usable, Fact("sub-types", ", ".join(self.types) or "none named")]


def number(version: str) -> tuple[int, ...]:
    """Give a version to be compared; nothing for what is none."""
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts) else ()


def speak(session: Session) -> Speaks:
    """Try every handshake."""
    versions: dict[str, Sequence[str]] = {}
    problems: dict[str, str] = {}
    types: list[str] = []
    for method, read in READERS.items():
        try:
            said = read(session)
        except (RemoteError, Unreachable) as error:
            problems[method] = f"not spoken: {error}"
            continue
        if said:
            versions[method] = list(said)
            types += [name for names in said.values() for name in names if name not in types]
        else:
            problems[method] = f"does not list {INTERFACE}"
    return Speaks(versions, problems, list(dict.fromkeys(types)))


def check_kind(kind: str, types: Sequence[str]) -> None:
    """Make sure that *kind* is one of a plugin's sub-types; raise `WrongCall`."""
    if not types or (not kind and ONLY_OBJECT in types) or kind in types:
        return
    named = " or ".join("NAME" if each == ONLY_OBJECT else f"NAME/{each}" for each in types)
    raise WrongCall(f"the plugin has {f'no sub-type {kind!r}' if kind else 'sub-types'}: say {named}")


def _implements(method: str) -> Callable[[Session], Mapping[str, Sequence[str]]]:
    def read(session: Session) -> Mapping[str, Sequence[str]]:
        said = session.ask(method, {}, answers.Implemented)
        return {api.Version: () for api in said.APIs or () if api.Name == INTERFACE and api.Version}

    return read


def _types(session: Session) -> Mapping[str, Sequence[str]]:
    return _versions(session.ask("Handshake.Types", {}, answers.Types).Types or {})


def _hello(session: Session) -> Mapping[str, Sequence[str]]:
    objects = session.ask("Handshake.Hello", {}, answers.Hello).Objects or {}
    return _versions({spec: [each.Name for each in found or ()] for spec, found in objects.items()})


def _versions(objects: Mapping[str, Sequence[str] | None]) -> Mapping[str, Sequence[str]]:
    split = {tuple(spec.split("/", 1)): names or () for spec, names in objects.items() if "/" in spec}
    return {version: names for (name, version), names in split.items() if name == INTERFACE}


READERS: Mapping[str, Callable[[Session], Mapping[str, Sequence[str]]]] = {
    "Plugin.Implements": _implements("Plugin.Implements"),
    "Handshake.Implements": _implements("Handshake.Implements"),
    "Handshake.Types": _types,
    "Handshake.Hello": _hello,
}
"""Every handshake, oldest first, with how its answer is read: the versions of Instance, each with its sub-types."""
