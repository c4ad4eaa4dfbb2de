"""Names and shapes of the Instance interface on the wire, for both ends; and how parameters are read.

Go's clients write names in any case, add unknown ones, and write null for absent values.
"""

import typing
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.record import Attachment, Spec
from pyinfrakit.schema.decode import WrongShape, decode
from pyinfrakit.schema.secrets import Script

T = TypeVar("T", bound=Struct)

ONLY_OBJECT = "."
"""InfraKit's name for the default object of a plugin without sub-types."""

VERSIONS = ("0.6.1", "0.6.0", "0.5.0", "0.3.0", "0.1.0")
"""Versions of the Instance interface that are served, newest first. A client looks for exactly its own."""

TYPES_VERSIONS = VERSIONS[:3]
"""Versions that clients may look for with `Handshake.Types`."""

HELLO_VERSIONS = VERSIONS[:2]
"""Versions that clients may look for with `Handshake.Hello`."""


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameter that every request has: the plugin's sub-type."""

    Type: str | None = None


class ValidateParams(Params, frozen=True):
    Properties: Raw | UnsetType = UNSET


class AttachmentParams(Struct, frozen=True, forbid_unknown_fields=True):
    ID: str | None = None
    Type: str | None = None


class SpecParams(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A spec as InfraKit and people write it. Null and absent are the same."""

    Properties: Raw | UnsetType = UNSET
    Tags: dict[str, str] | None = None
    Init: Script | None = None
    LogicalID: str | None = None
    Attachments: list[AttachmentParams] | None = None

    def to_spec(self) -> Spec:
        """Return the spec, with memory of its own."""
        return Spec(
            properties=own(self.Properties),
            tags=self.Tags or {},
            init=self.Init or "",
            logical_id=self.LogicalID or None,
            attachments=tuple(Attachment(a.ID or "", a.Type or "") for a in self.Attachments or ()),
        )


class ProvisionParams(Params, frozen=True):
    Spec: SpecParams | None = None


class LabelParams(Params, frozen=True):
    Instance: str | None = None
    Labels: dict[str, str] | None = None


class ContextParams(Struct, frozen=True, forbid_unknown_fields=True):
    Reason: str | None = None


class DestroyParams(Params, frozen=True):
    Instance: str | None = None
    Context: ContextParams | None = None


class DescribeParams(Params, frozen=True):
    Tags: dict[str, str] | None = None
    Properties: bool | None = None


class OkResult(Struct, frozen=True):
    Type: str
    OK: bool = True


class ProvisionResult(Struct, frozen=True):
    Type: str
    ID: str


class Description(Struct, frozen=True, omit_defaults=True):
    """An instance as InfraKit sees it."""

    ID: str
    LogicalID: str | None | UnsetType = UNSET
    Tags: dict[str, str] | None | UnsetType = UNSET
    Properties: Raw | UnsetType = UNSET


class DescribeResult(Struct, frozen=True):
    Type: str
    Descriptions: list[Description]


class Vendor(Struct, frozen=True):
    Name: str = ""
    Version: str = ""


class Interface(Struct, frozen=True):
    Name: str
    Version: str


class API(Struct, frozen=True):
    """The part of ``/info/api.json`` that the command line shows."""

    Vendor: Vendor
    Implements: list[Interface]


def read(params: Raw, shape: type[T]) -> T:
    """Decode parameters; raise `WrongShape`.

    Names match in any case, as in Go, and unknown ones are ignored. Real clients write the exact names, so
    these are tried first. Only if that fails (because it refuses unknown names) are names folded.
    """
    try:
        return msgspec.json.decode(params, type=shape)
    except msgspec.ValidationError:
        return decode(_fold(bytes(params), shape), shape)


def require(value: str | None, name: str, meaning: str = "an instance's ID") -> str:
    """Return a parameter that must not be empty; raise `WrongShape`, which says that *meaning* was expected."""
    if not value:
        raise WrongShape(name, f"expected {meaning}, got nothing")
    return value


def own(properties: Raw | UnsetType) -> Raw | None:
    """Return properties with memory of their own instead of the request's; None if they are null or absent."""
    return None if properties is UNSET or bytes(properties) == b"null" else properties.copy()


def encode_spec(spec: Spec) -> dict[str, Any]:
    """Return a spec as Go's clients write it."""
    return {
        "Properties": spec.properties,
        "Tags": dict(spec.tags),
        "Init": spec.init,
        "LogicalID": spec.logical_id,
        "Attachments": [{"ID": each.id, "Type": each.type} for each in spec.attachments] or None,
    }


def _fold(data: bytes, shape: type[Struct]) -> bytes:
    """Encode *data* again, with names spelled as in *shape* and in the shapes within it."""
    if data[:1] != b"{":
        return data
    fields = {f.encode_name.lower(): f for f in msgspec.structs.fields(shape)}
    folded: dict[str, Any] = {}
    for key, value in msgspec.json.decode(data, type=dict[str, Raw]).items():
        if (field := fields.get(key.lower())) is not None:
            folded[field.encode_name] = _fold_value(value, field.type)
    return msgspec.json.encode(folded)


def _fold_value(value: Raw, type_: Any) -> Raw:
    for part in (type_, *typing.get_args(type_)):
        if isinstance(part, type) and issubclass(part, Struct):
            return Raw(_fold(bytes(value), part))
        if typing.get_origin(part) is list and bytes(value)[:1] == b"[":
            elements = msgspec.json.decode(value, type=list[Raw])
            return Raw(msgspec.json.encode([_fold_value(each, typing.get_args(part)[0]) for each in elements]))
    return value


def read_spec(data: Raw) -> SpecParams:
    """Decode a spec that a person wrote. Raise `WrongShape`, also for names that no spec has."""
    return decode(bytes(data), SpecParams)
