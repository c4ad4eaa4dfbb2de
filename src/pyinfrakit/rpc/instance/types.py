"""Names and shapes of what goes over the wire, as InfraKit's programs speak it."""

import typing
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.record import Attachment, Spec
from pyinfrakit.schema.decode import WrongShape, decode

T = TypeVar("T", bound=Struct)

VERSIONS = ("0.6.1", "0.6.0", "0.5.0", "0.3.0", "0.1.0")
"""Versions of the Instance interface that are served, newest first. A client looks for exactly its own."""

TYPES_VERSIONS = VERSIONS[:3]
"""Those that clients which ask by `Handshake.Types` may want."""

HELLO_VERSIONS = VERSIONS[:2]
"""Those that clients which ask by `Handshake.Hello` may want."""

ONLY_TYPE = "."
"""The name of a plugin's default object, where it has no sub-types."""

UNKNOWN_TYPE = "no-plugin:{}"
"""InfraKit's words for a sub-type that there is not."""


class Typed(Struct, frozen=True, forbid_unknown_fields=True):
    """What every request has."""

    Type: str | None = None


class ValidateParams(Typed, frozen=True):
    Properties: Raw | UnsetType = UNSET


class AttachmentParams(Struct, frozen=True, forbid_unknown_fields=True):
    ID: str | None = None
    Type: str | None = None


class SpecParams(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    Properties: Raw | UnsetType = UNSET
    Tags: dict[str, str] | None = None
    Init: str | None = None
    LogicalID: str | None = None
    Attachments: list[AttachmentParams] | None = None

    def spec(self) -> Spec:
        """Give what was asked for; null and absent are the same."""
        return Spec(
            properties=given(self.Properties),
            tags=self.Tags or {},
            init=self.Init or "",
            logical_id=self.LogicalID or None,
            attachments=tuple(Attachment(a.ID or "", a.Type or "") for a in self.Attachments or ()),
        )


class ProvisionParams(Typed, frozen=True):
    Spec: SpecParams | None = None


class LabelParams(Typed, frozen=True):
    Instance: str | None = None
    Labels: dict[str, str] | None = None


class ContextParams(Struct, frozen=True, forbid_unknown_fields=True):
    Reason: str | None = None


class DestroyParams(Typed, frozen=True):
    Instance: str | None = None
    Context: ContextParams | None = None


class DescribeParams(Typed, frozen=True):
    Tags: dict[str, str] | None = None
    Properties: bool | None = None


class Ok(Struct, frozen=True):
    Type: str
    OK: bool = True


class Provisioned(Struct, frozen=True):
    Type: str
    ID: str


class Described(Struct, frozen=True, omit_defaults=True):
    """An instance as InfraKit sees it."""

    ID: str
    LogicalID: str | None | UnsetType = UNSET
    Tags: dict[str, str] | None | UnsetType = UNSET
    Properties: Raw | UnsetType = UNSET


class Descriptions(Struct, frozen=True):
    Type: str
    Descriptions: list[Described]


class SetAsideParams(Typed, frozen=True):
    Instance: str | None = None
    Reason: str | None = None


class RestoreParams(Typed, frozen=True):
    Instance: str | None = None
    Force: bool | None = None


class KeptParams(Typed, frozen=True):
    """Which records: those with all of *Tags*; *Instances* narrows it down to these IDs."""

    Tags: dict[str, str] | None = None
    Instances: list[str] | None = None


class Kept(Described, frozen=True):
    """A record as an operator sees it, whatever its state. *Since* is in seconds since 1970; *Held*: why it seems lost."""

    State: str = ""
    Reason: str = ""
    Since: float = 0.0
    ByHand: bool = False
    Handle: str | None = None
    Held: str = ""


class KeptRecords(Struct, frozen=True):
    Records: list[Kept]


class Released(Struct, frozen=True):
    """IDs whose loss was confirmed."""

    Instances: list[str]


class Status(Struct, frozen=True):
    """How a plugin is.

    *Observed* is when its provider last was, in seconds since 1970; *Late* are calls to it that take longer than they may.
    """

    Provider: str
    States: dict[str, int]
    Observed: float | None
    Trouble: str
    Held: list[str]
    Orphans: list[str]
    Late: list[str]


class AdoptParams(Typed, frozen=True):
    Handle: str | None = None
    LogicalID: str | None = None
    Tags: dict[str, str] | None = None


class OrphansParams(Typed, frozen=True):
    """Which orphans: *Instances*, or all; and tags to be added."""

    Instances: list[str] | None = None
    Tags: dict[str, str] | None = None


class Orphan(Struct, frozen=True):
    """A machine with the plugin's mark that no record is of, as it was last observed."""

    ID: str
    Handle: str | None
    LogicalID: str | None
    Functional: bool
    Reason: str
    Tags: dict[str, str]


class Orphans(Struct, frozen=True):
    Orphans: list[Orphan]


class PoolMachine(Struct, frozen=True):
    """A machine of the provider's pool. *Instance*, *State* and *Reason* are of the instance that has it, if one does."""

    Name: str
    At: str
    Power: str
    Health: str
    Free: bool
    Instance: str | None
    State: str
    Reason: str


class Pool(Struct, frozen=True):
    Machines: list[PoolMachine]


class Adopted(Struct, frozen=True):
    Instances: list[str]


class Vendor(Struct, frozen=True):
    Name: str = ""
    Version: str = ""


class Interface(Struct, frozen=True):
    Name: str
    Version: str


class API(Struct, frozen=True):
    """The part of ``/info/api.json`` that our command line shows."""

    Vendor: Vendor
    Implements: list[Interface]


def given(properties: Raw | UnsetType) -> Raw | None:
    """Give properties, with their own memory instead of the whole request's; None for null or where there are none."""
    return None if properties is UNSET or bytes(properties) == b"null" else properties.copy()


def read(params: Raw, shape: type[T]) -> T:
    """Decode a call's parameters; raise `WrongShape`.

    Names match case-insensitively, as in Go, and unknown ones are ignored. Real clients write them as they are: only
    where the strict way fails, which refuses unknown names, are they folded.
    """
    try:
        return msgspec.json.decode(params, type=shape)
    except msgspec.ValidationError:
        return decode(_folded(bytes(params), shape), shape)


def read_spec(data: Raw) -> SpecParams:
    """Decode a spec that a person wrote; raise `WrongShape`, also for names that no spec has."""
    return decode(bytes(data), SpecParams)


def _folded(data: bytes, shape: type[Struct]) -> bytes:
    """Write *data* again with the names of *shape*, and of the shapes within it, as they are spelt there."""
    if data[:1] != b"{":
        return data
    fields = {f.encode_name.lower(): f for f in msgspec.structs.fields(shape)}
    folded: dict[str, Any] = {}
    for key, value in msgspec.json.decode(data, type=dict[str, Raw]).items():
        known = fields.get(key.lower())
        if known is not None:
            folded[known.encode_name] = _folded_value(value, known.type)
    return msgspec.json.encode(folded)


def _folded_value(value: Raw, type_: Any) -> Raw:
    for part in (type_, *typing.get_args(type_)):
        if isinstance(part, type) and issubclass(part, Struct):
            return Raw(_folded(bytes(value), part))
        if typing.get_origin(part) is list and bytes(value)[:1] == b"[":
            elements = msgspec.json.decode(value, type=list[Raw])
            return Raw(msgspec.json.encode([_folded_value(e, typing.get_args(part)[0]) for e in elements]))
    return value


def required(value: str | None, name: str, what: str = "an instance's ID") -> str:
    """Give a parameter that must not be empty, and is *what*; raise `WrongShape`."""
    if not value:
        raise WrongShape(name, f"expected {what}, got nothing")
    return value
