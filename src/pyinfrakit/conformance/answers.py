"""Read answers as InfraKit's Go clients do: names in any case, unknown ones ignored, null the same as absent. No I/O."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.instance import types
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, decode

T = TypeVar("T", bound=Struct)


class _Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    error: Raw = Raw(b"null")
    result: Raw = Raw(b"null")
    id: Raw = Raw(b"")


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """What every result may have."""

    Type: str | None = None


class Provisioned(Answer, frozen=True):
    ID: str | None = None


class Description(Struct, frozen=True, forbid_unknown_fields=True):
    """An instance as a plugin describes it; what it leaves out is UNSET."""

    ID: str | None = None
    LogicalID: str | None | UnsetType = UNSET
    Tags: dict[str, str | None] | None = None
    Properties: Raw | UnsetType = UNSET

    @property
    def tags(self) -> Mapping[str, str]:
        return {key: value or "" for key, value in (self.Tags or {}).items()}


class Described(Answer, frozen=True):
    Descriptions: list[Description] | None = None


class _Interface(Struct, frozen=True, forbid_unknown_fields=True):
    Name: str | None = None
    Version: str | None = None


class Implemented(Struct, frozen=True, forbid_unknown_fields=True):
    APIs: list[_Interface] | None = None


class Types(Struct, frozen=True, forbid_unknown_fields=True):
    Types: dict[str, list[str] | None] | None = None


class _Object(Struct, frozen=True):
    Name: str = ""


class Hello(Struct, frozen=True, forbid_unknown_fields=True):
    Objects: dict[str, list[_Object] | None] | None = None


def result(body: bytes, where: str) -> Raw:
    """Give the result in a reply; raise `RemoteError` for an error or no result, `Unreachable` for what is no reply."""
    reply = _envelope(body, where)
    if bytes(reply.error) != b"null":
        raise RemoteError(*_error(reply.error))
    if bytes(reply.result) == b"null":
        raise RemoteError(0, "neither a result nor an error")
    return reply.result


def echoed(body: bytes, where: str) -> bytes:
    """Give a reply's ID as it stands there, byte for byte."""
    return bytes(_envelope(body, where).id)


def shaped(data: Raw, shape: type[T], where: str) -> T:
    """Decode a result; raise `Unreachable` where Go's clients would fail to."""
    try:
        return types.read(data, shape)
    except (NotJSON, WrongShape, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreachable(f"{where} was answered with what no client can read: {error}") from None


def value(data: Raw | UnsetType) -> Any:
    """Decode whatever it is, to be compared; None where there is nothing."""
    return None if data is UNSET else decode(bytes(data), object)


def _envelope(body: bytes, where: str) -> _Envelope:
    try:
        check(body)
        decode(body, Raw)
        return types.read(Raw(body), _Envelope)
    except (NotJSON, WrongShape, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unreachable(f"{where} was answered, but not as a plugin does: {body[:60]!r}") from None


def _error(data: Raw) -> tuple[int, str]:
    try:
        error = value(data)
    except NotJSON:
        return 0, repr(bytes(data)[:100])
    if not isinstance(error, dict):
        return 0, str(error)
    code = error.get("code")
    return code if isinstance(code, int) else 0, str(error.get("message") or error)
