"""Names and shapes of the Flavor interface on the wire, for both ends."""

from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.group.flavors import Index
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Allocation
from pyinfrakit.rpc.instance.types import Params, SpecParams, ValidateParams, own

VERSIONS = ("0.1.1", "0.1.0")
"""Versions of the Flavor interface that are served, newest first. A client looks for exactly its own."""


class AllocationParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A group's size or logical IDs. InfraKit sends both, one of them empty."""

    Size: int | None = None
    LogicalIDs: list[str] | None = None

    def to_allocation(self) -> Allocation:
        return Allocation(size=None if self.LogicalIDs else self.Size or 0, logical_ids=self.LogicalIDs or None)


class IndexParams(Struct, frozen=True, forbid_unknown_fields=True):
    Group: str | None = None
    Sequence: int | None = None

    def to_index(self) -> Index:
        return Index(self.Group or "", self.Sequence or 0)


class InstanceParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A member, as its plugin describes it."""

    ID: str | None = None
    LogicalID: str | None = None
    Tags: dict[str, str] | None = None
    Properties: Raw | UnsetType = UNSET

    def to_description(self) -> Description:
        return Description(self.ID or "", self.LogicalID or None, self.Tags or {}, own(self.Properties))


class CheckParams(ValidateParams, frozen=True):
    Allocation: AllocationParams | None = None


class PrepareParams(CheckParams, frozen=True):
    Spec: SpecParams | None = None
    Index: IndexParams | None = None


class MemberParams(ValidateParams, frozen=True):
    Instance: InstanceParams | None = None


class PrepareResult(Params, frozen=True):
    Spec: SpecParams | None = None


class HealthyResult(Params, frozen=True):
    Health: int | None = None
