"""The fleet file: plugins and groups, in YAML, JSON or TOML.

    plugins: {local: {provider: process}}
    groups: [{ID: web, Properties: {…}}]
    limits: {Max: 100}

A file with one group alone is a fleet, too, in both forms of InfraKit's command line: ``{ID, Properties}``, and
``{kind: group, metadata: {name: group/web}, properties: {…}}``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Raw, Struct

from pyinfrakit import config, paths
from pyinfrakit.config import ProviderChoice
from pyinfrakit.errors import CannotStart
from pyinfrakit.schema.decode import WrongShape, decode
from pyinfrakit.schema.secrets import EMPTY_OBJECT
from pyinfrakit.source import Source, join, parse, read, read_trusted


class GroupEntry(Struct, frozen=True):
    """A group in a file. *properties* is JSON, as in the file, and *where* its path in *source*."""

    id: str
    properties: Raw
    source: Source
    where: str

    def locate(self, field: str) -> str:
        """Return the place of a field of the spec, such as ``Properties.Allocation.Size``: line, column and path."""
        path = self.where + field.removeprefix("Properties") if field.startswith("Properties") else self.where
        return f"{self.source.locate(path)}: {path}"


class Fleet(Struct, frozen=True):
    """Plugins by name, each with its providers by sub-type, and groups.

    All groups together may have *max_members* members, or any number if it is None.
    """

    plugins: Mapping[str, Mapping[str, ProviderChoice]]
    groups: Sequence[GroupEntry]
    max_members: int | None


class _Limits(Struct, forbid_unknown_fields=True, rename="pascal"):
    max: Annotated[int, Meta(ge=0)] | None = None


class _File(Struct, forbid_unknown_fields=True):
    plugins: dict[str, Raw] = {}
    groups: list[Raw] | dict[str, Raw] = []
    limits: _Limits | None = None


class _Group(Struct, forbid_unknown_fields=True):
    ID: str
    Properties: Raw


class _Metadata(Struct):
    name: str


class _KindGroup(Struct, forbid_unknown_fields=True):
    """InfraKit's last form. Its other keys mean nothing for a group."""

    kind: str
    metadata: _Metadata
    properties: Raw
    version: Raw = EMPTY_OBJECT
    options: Raw = EMPTY_OBJECT


class _Content(Struct, frozen=True):
    """What one file has."""

    source: Source
    plugins: Mapping[str, Raw] = {}
    groups: Sequence[GroupEntry] = ()
    limits: _Limits | None = None


def read_fleet(files: Sequence[Path]) -> Fleet:
    """Return the plugins and groups of several files together. Raise `CannotStart`.

    As root, nobody else may be able to change the files: they say which programs run.
    """
    contents = [_decode(read_trusted(path, str(path))) for path in files]
    return Fleet(_choose_plugins(contents), _gather_groups(contents), _find_limit(contents))


def read_groups(path: Path) -> Sequence[GroupEntry]:
    """Return the groups of a file, at least one. Its plugins are left alone. Raise `CannotStart`."""
    return _find_groups(read(path, str(path)))


def parse_groups(data: bytes, name: str) -> Sequence[GroupEntry]:
    """Return the groups in *data*, JSON or YAML, like `read_groups`. *name* is its name in messages."""
    return _find_groups(parse(data, name))


def _find_groups(source: Source) -> Sequence[GroupEntry]:
    groups = _gather_groups([_decode(source)])
    if not groups:
        raise CannotStart(f"{source.name}: expected a group, as in {{ID: web, Properties: {{…}}}}, got none")
    return groups


def _decode(source: Source) -> _Content:
    try:
        keys = decode(source.json, dict[str, Raw])
        if "kind" in keys:
            return _Content(source, groups=[_read_kind_group(source)])
        if "ID" in keys or "Properties" in keys:
            return _Content(source, groups=[_read_group(source, source.json, "")])
        file = decode(source.json, _File)
        content = _Content(source, file.plugins, _read_section(source, file.groups), file.limits)
    except WrongShape as error:
        raise source.explain(error) from None
    if not content.plugins and not content.groups:
        raise CannotStart(f"{source.name}: expected plugins, groups, or both, got neither")
    return content


def _read_section(source: Source, groups: list[Raw] | dict[str, Raw]) -> Sequence[GroupEntry]:
    if isinstance(groups, dict):
        return [GroupEntry(id, raw, source, join("groups", id)) for id, raw in groups.items()]
    return [_read_group(source, raw, join("groups", index)) for index, raw in enumerate(groups)]


def _read_group(source: Source, raw: Raw, where: str) -> GroupEntry:
    group = decode(raw, _Group, where)
    return GroupEntry(group.ID, group.Properties, source, join(where, "Properties"))


def _read_kind_group(source: Source) -> GroupEntry:
    group = decode(source.json, _KindGroup)
    if group.kind != "group":
        raise WrongShape("kind", f'expected "group", got "{group.kind}"')
    # The name is an address: the group controller's socket, and the group's ID.
    return GroupEntry(group.metadata.name.rpartition("/")[2], group.properties, source, "properties")


def _choose_plugins(contents: Sequence[_Content]) -> Mapping[str, Mapping[str, ProviderChoice]]:
    owners: dict[str, Source] = {}
    choices: dict[str, Mapping[str, ProviderChoice]] = {}
    for source, name, plugin in ((each.source, *item) for each in contents for item in each.plugins.items()):
        where = join("plugins", name)
        if name in owners:
            raise _refuse(source, where, f"is in {owners[name].locate(where)}, too: expected a name of its own")
        try:
            paths.check_name(name)
        except CannotStart as error:
            raise _refuse(source, where, str(error)) from None
        owners[name] = source
        choices[name] = config.choose(source, plugin, where)
    return choices


def _gather_groups(contents: Sequence[_Content]) -> Sequence[GroupEntry]:
    groups: dict[str, GroupEntry] = {}
    for group in (group for each in contents for group in each.groups):
        other = groups.setdefault(group.id, group)
        if other is not group:
            problem = f"group {group.id!r} is at {other.locate('Properties')}, too: expected an ID of its own"
            raise CannotStart(f"{group.locate('Properties')}: {problem}")
    return list(groups.values())


def _find_limit(contents: Sequence[_Content]) -> int | None:
    found = [(each.source, each.limits.max) for each in contents if each.limits is not None]
    if len(found) > 1:
        raise _refuse(found[1][0], "limits", f"is in {found[0][0].locate('limits')}, too: expected it once")
    return found[0][1] if found else None


def _refuse(source: Source, where: str, problem: str) -> CannotStart:
    return source.explain(WrongShape(where, problem))
