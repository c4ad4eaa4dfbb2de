"""Names and shapes of the Group interface on the wire, for both ends. Replies serve all InfraKit generations at once."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from pyinfrakit.group.spec import MAX_SIZE
from pyinfrakit.group.status import Commit, Phase
from pyinfrakit.rpc.instance.types import Description

VERSIONS = ("0.1.1", "0.1.0")
"""Versions of the Group interface that are served, newest first. A client looks for exactly its own."""

ALL_GROUPS = "groups"
"""The last InfraKit manager's name for the object that has all groups."""


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters that every request has: the controller's address as a user typed it, and a group's ID."""

    Name: str | None = None
    ID: str | None = None


class SpecParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A group as InfraKit and people write it."""

    ID: str | None = None
    Properties: Raw | UnsetType = UNSET


class CommitParams(Params, frozen=True):
    """A commit. *By* is an addition: who asks for it."""

    Spec: SpecParams | None = None
    Pretend: bool | None = None
    By: str | None = None


class SizeParams(Params, frozen=True):
    Size: Annotated[int, Meta(ge=0, le=MAX_SIZE)] | None = None


class InstancesParams(Params, frozen=True):
    Instances: list[str] | None = None


class PlanParams(Params, frozen=True):
    Properties: Raw | UnsetType = UNSET


class UndoParams(Params, frozen=True):
    Number: Annotated[int, Meta(ge=1)] | None = None
    By: str | None = None


class PauseParams(Params, frozen=True):
    Reason: str | None = None


class ProtectParams(Params, frozen=True):
    Instance: str | None = None
    Protected: bool | None = None


class Result(Struct, frozen=True):
    """What every reply begins with since the last release: the request's own *Name* and *ID*."""

    Name: str
    ID: str


class OkResult(Result, frozen=True):
    OK: bool = True


class CommitResult(Result, frozen=True):
    Details: str


class GroupDescription(Struct, frozen=True):
    """The members that InfraKit sees. Go writes null for none."""

    Instances: list[Description] | None
    Converged: bool


class DescribeResult(Result, frozen=True):
    Description: GroupDescription


class Group(Struct, frozen=True):
    ID: str
    Properties: Raw


class InspectResult(Result, frozen=True):
    """All groups, or null if there are none, as Go writes it."""

    Groups: list[Group] | None


class SizeResult(Result, frozen=True):
    Size: int


class Summary(Struct, frozen=True):
    """A group in a list: its wanted *Size*, and the numbers of members that are healthy and outdated."""

    ID: str
    Size: int
    Healthy: int
    Outdated: int
    Phase: Phase
    Trouble: str


class ListResult(Struct, frozen=True):
    Groups: list[Summary]


class HistoryResult(Struct, frozen=True):
    Commits: list[Commit]


class InstancesResult(Struct, frozen=True):
    Instances: list[str]


_ALLOCATION = {"Size": Raw(b"0"), "LogicalIDs": Raw(b"null")}
_UPDATING = {"Duration": Raw(b'"0s"'), "Count": Raw(b"0"), "SkipBeforeInstanceDestroy": Raw(b"null")}


def complete(properties: Raw) -> Raw:
    """Return committed properties as InfraKit shows them: its own fields come first, and none of them is absent.

    Each part stays as it was committed, byte for byte.
    """
    parts = msgspec.json.decode(properties, type=dict[str, Raw])
    shown: dict[str, Raw] = {name: parts[name] for name in ("Instance", "Flavor") if name in parts}
    shown["Allocation"] = _fill(parts.get("Allocation"), _ALLOCATION)
    shown["Updating"] = _fill(parts.get("Updating"), _UPDATING)
    return Raw(msgspec.json.encode({**shown, **{name: part for name, part in parts.items() if name not in shown}}))


def _fill(part: Raw | None, defaults: dict[str, Raw]) -> Raw:
    given = {} if part is None else msgspec.json.decode(part, type=dict[str, Raw])
    return Raw(msgspec.json.encode({**defaults, **given}))
