"""Names and shapes of the Instance interface on the wire, for both ends."""

from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.record import Attachment, Spec
from pyinfrakit.rpc.params import Params, own
from pyinfrakit.schema.decode import decode

VERSIONS = ("0.6.1", "0.6.0", "0.5.0", "0.3.0", "0.1.0")
"""Versions of the Instance interface that are served, newest first. A client looks for exactly its own."""

TYPES_VERSIONS = VERSIONS[:3]
"""Versions that clients may look for with `Handshake.Types`."""

HELLO_VERSIONS = VERSIONS[:2]
"""Versions that clients may look for with `Handshake.Hello`."""


class ValidateParams(Params, frozen=True):
    Properties: Raw | UnsetType = UNSET


class AttachmentParams(Struct, frozen=True, forbid_unknown_fields=True):
    ID: str | None = None
    Type: str | None = None


class SpecParams(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A spec as InfraKit and people write it. Null and absent are the same."""

    Properties: Raw | UnsetType = UNSET
    Tags: dict[str, str] | None = None
    Init: str | None = None
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


def read_spec(data: Raw) -> SpecParams:
    """Decode a spec that a person wrote. Raise `WrongShape`, also for names that no spec has."""
    return decode(bytes(data), SpecParams)
