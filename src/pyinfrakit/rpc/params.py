"""A call's parameters as Go's clients write them: names in any case, unknown ones, null for absent ones."""

import typing
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.schema.decode import WrongShape, decode

T = TypeVar("T", bound=Struct)

ONLY_OBJECT = "."
"""InfraKit's name for the default object of a plugin without sub-types."""


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """The parameter that every request has: the plugin's sub-type."""

    Type: str | None = None


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
