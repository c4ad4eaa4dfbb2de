"""A plugin's handshakes: the versions that they list, and so the InfraKit releases that can use the plugin."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from pyinfrakit.conformance.report import DoesNotHold, Fact
from pyinfrakit.conformance.session import Session
from pyinfrakit.errors import Unreachable, WrongCall
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.instance.types import ONLY_OBJECT

METHODS = ("Plugin.Implements", "Handshake.Implements", "Handshake.Types", "Handshake.Hello")
"""Every handshake of every InfraKit release, oldest first."""

RELEASES = (
    ("0.1-0.2", "Plugin.Implements", "0.1.0"),
    ("0.3-0.4", "Handshake.Implements", "0.3.0"),
    ("0.5", "Handshake.Implements", "0.5.0"),
    ("2018", "Handshake.Hello", "0.6.1"),
)
"""InfraKit's releases, the handshake that each begins with, and the version that it requires there, exactly."""


class _Interface(Struct, frozen=True, forbid_unknown_fields=True):
    Name: str | None = None
    Version: str | None = None


class ImplementsReply(Struct, frozen=True, forbid_unknown_fields=True):
    APIs: list[_Interface] | None = None


class TypesReply(Struct, frozen=True, forbid_unknown_fields=True):
    Types: dict[str, list[str] | None] | None = None


class _Object(Struct, frozen=True):
    # Unknown fields are allowed here, because `rpc.params.read` can't fold names inside a map.
    Name: str = ""


class HelloReply(Struct, frozen=True, forbid_unknown_fields=True):
    Objects: dict[str, list[_Object] | None] | None = None


class Handshakes(Struct, frozen=True):
    """The Instance versions that each handshake lists, or its problem, and the names of all sub-types."""

    versions: Mapping[str, Sequence[str]]
    problems: Mapping[str, str]
    sub_types: Sequence[str]

    @property
    def newest(self) -> tuple[int, ...]:
        """The newest version of all, as numbers. Empty if there is none."""
        return max((parse_version(each) for listed in self.versions.values() for each in listed), default=())

    @property
    def releases(self) -> Sequence[str]:
        """The InfraKit releases that can use the plugin."""
        return [release for release, method, version in RELEASES if version in self.versions.get(method, ())]

    def list_facts(self) -> list[Fact]:
        """Return the handshakes as facts for the report."""
        texts = {method: f"Instance {', '.join(listed)}" for method, listed in self.versions.items()}
        return [
            *(Fact(method, texts.get(method) or self.problems[method]) for method in METHODS),
            Fact("usable by InfraKit", ", ".join(self.releases) or "no release"),
            Fact("sub-types", ", ".join(self.sub_types) or "none"),
        ]

    def check_releases(self) -> str:
        """Return the releases that can use the plugin, as text. Raise `DoesNotHold` if there is none."""
        if not self.releases:
            problems = "; ".join(self.problems.values()) or "the plugin lists only other versions"
            raise DoesNotHold(f"no release can use the plugin: {problems}")
        return f"usable by InfraKit {', '.join(self.releases)}"

    def check_sub_type(self, sub_type: str) -> None:
        """Raise `WrongCall` if *sub_type* is none of the plugin's. A plugin that names no sub-types may have any."""
        if not self.sub_types or sub_type in self.sub_types or (not sub_type and ONLY_OBJECT in self.sub_types):
            return
        names = " or ".join("NAME" if each == ONLY_OBJECT else f"NAME/{each}" for each in self.sub_types)
        problem = f"no sub-type {sub_type!r}" if sub_type else "sub-types"
        raise WrongCall(f"the plugin has {problem}: use {names}")


def parse_version(version: str) -> tuple[int, ...]:
    """Return a version as numbers that can be compared. Empty if it is not one."""
    # isdigit is true for digits that int refuses, such as superscripts, and int refuses very long numbers.
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts) else ()


def read_handshakes(session: Session) -> Handshakes:
    """Call every handshake. None of them has to succeed: no release calls them all."""
    versions: dict[str, Sequence[str]] = {}
    problems: dict[str, str] = {}
    sub_types: dict[str, None] = {}
    for method in METHODS:
        try:
            names = _read_versions(session, method)
        except (RemoteError, Unreachable) as error:
            problems[method] = f"not supported: {error}"
            continue
        if names:
            versions[method] = list(names)
            sub_types |= dict.fromkeys(name for each in names.values() for name in each)
        else:
            problems[method] = "does not list Instance"
    return Handshakes(versions, problems, list(sub_types))


def _read_versions(session: Session, method: str) -> Mapping[str, Sequence[str]]:
    """Return the versions of Instance that a handshake lists, each with its sub-types."""
    objects: Mapping[str, Sequence[str] | None]
    match method:
        case "Handshake.Types":
            objects = session.call(method, {}, TypesReply).Types or {}
        case "Handshake.Hello":
            hello = session.call(method, {}, HelloReply).Objects or {}
            objects = {interface: [each.Name for each in named or ()] for interface, named in hello.items()}
        case _:
            apis = session.call(method, {}, ImplementsReply).APIs or ()
            return {api.Version: () for api in apis if api.Name == "Instance" and api.Version}
    prefix = "Instance/"
    return {key.removeprefix(prefix): names or () for key, names in objects.items() if key.startswith(prefix)}
