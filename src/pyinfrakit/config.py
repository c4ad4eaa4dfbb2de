"""Which providers a plugin has, by sub-type: from the command line's flags, or from the file that ``--config`` names.

The file is TOML: ``provider`` and a table ``options``; or several, each a sub-type of the plugin, as ``[types.NAME]``.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from pyinfrakit import loading, options, ownership, paths
from pyinfrakit.errors import CannotStart
from pyinfrakit.provider import Provider
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode
from pyinfrakit.schema.describe import NOTHING

EXAMPLE = 'provider = "simulator"'


class Chosen(Struct, frozen=True):
    """A provider that is to be made, with its options."""

    provider: type[Provider]
    options: Any


class _Part(Struct, forbid_unknown_fields=True):
    """One provider."""

    provider: str
    options: Raw = NOTHING


class _File(Struct, forbid_unknown_fields=True):
    """The whole file."""

    provider: str = ""
    options: Raw = Raw()
    types: dict[str, Raw] | None = None


def from_flags(provider: str, given: Sequence[tuple[str, str]]) -> Mapping[str, Chosen]:
    """Find the provider that the command line names, which has no sub-type; raise `CannotStart`."""
    found = loading.provider_class(provider)
    return {"": Chosen(found, options.from_flags(found, dict(given)))}


def from_file(path: Path) -> Mapping[str, Chosen]:
    """Find the providers of a file, by sub-type, which is empty where there is but one; raise `CannotStart`."""
    try:
        parts = _parts(decode(_read(path), _File))
        return {kind: _chosen(part, kind, path.absolute().parent) for kind, part in parts.items()}
    except (CannotStart, WrongShape, NotJSON) as error:
        raise CannotStart(f"config file {path}: {error}") from None


def made(chosen: Mapping[str, Chosen], name: str, folder: Path) -> Mapping[str, Provider]:
    """Make the providers of plugin *name*, by sub-type; one with a sub-type is called ``name.type``. Raise `CannotStart`."""
    return {
        kind: loading.made(each.provider, f"{name}.{kind}" if kind else name, folder, each.options)
        for kind, each in chosen.items()
    }


def _read(path: Path) -> bytes:
    """Give the file's content as JSON, once it is found that nobody else can change it."""
    try:
        ownership.check(path)
        with path.open("rb") as file:
            return msgspec.json.encode(tomllib.load(file))
    except OSError as error:
        raise CannotStart(error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise CannotStart("not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise CannotStart(f"not TOML: {error}") from None
    except (OverflowError, RecursionError) as error:
        raise CannotStart(f"not TOML that can be read: {error}") from None


def _parts(file: _File) -> Mapping[str, _Part]:
    if file.types is None:
        if not file.provider:
            raise CannotStart(f"expected a provider, as in {EXAMPLE}, or tables [types.NAME] that have one each")
        return {"": _Part(file.provider, file.options or NOTHING)}
    if file.provider or file.options:
        raise CannotStart("expected either provider and options, or types, which have theirs")
    if not file.types:
        raise CannotStart("types: expected one table [types.NAME] or several")
    return {_kind(name): decode(part, _Part, f"types.{name}") for name, part in file.types.items()}


def _kind(name: str) -> str:
    """Refuse what can't be told apart in ``plugin/type``, or in the names of a plugin's files."""
    try:
        paths.check_name(name)
    except CannotStart as error:
        raise CannotStart(f"types: {error}") from None
    if "." in name:
        raise CannotStart(f"types: name {name!r}: expected one without a dot")
    return name


def _chosen(part: _Part, kind: str, folder: Path) -> Chosen:
    where = f"types.{kind}." if kind else ""
    try:
        found = loading.provider_class(part.provider, folder)
    except CannotStart as error:
        raise CannotStart(f"{where}provider: {error}") from None
    return Chosen(found, options.from_table(found, part.options, f"{where}options", folder))
