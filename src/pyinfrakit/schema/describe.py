"""What a type says of itself: a JSON Schema, tables of its fields, and what of its values may be shown.

All of it is for msgspec Struct types as providers have them for their properties and options. A field says more by
``Annotated[int, Meta(description="…", examples=[…])]``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import NODEFAULT, Raw, Struct, inspect
from msgspec.inspect import Metadata, Type, UnionType, type_info

from pyinfrakit.schema import secrets
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

NOTHING = Raw(b"{}")


class Row(Struct, frozen=True):
    """A field, for people: *default* is None where it is required, and JSON otherwise, or empty where it is nothing."""

    name: str
    type: str
    default: str | None
    description: str


def redacted(properties: Raw, shape: Any) -> Raw:
    """Give properties of type *shape* with a placeholder for each secret; those of another shape may hold some anywhere: none."""
    if not _has_secrets(shape):
        return properties
    try:
        decoded = decode(properties, shape, hook=secrets.made)
    except (NotJSON, WrongShape):
        return NOTHING
    return Raw(msgspec.json.encode(decoded, enc_hook=secrets.hidden))


def without_secrets_of(properties: Raw, shape: Any, shown: Raw) -> Raw:
    """Give *shown* with a placeholder for each string that is a secret in *properties*, which are of type *shape*."""
    if not _has_secrets(shape):
        return shown
    try:
        decoded = decode(properties, shape, hook=secrets.made)
    except (NotJSON, WrongShape):
        return NOTHING
    values: set[str] = set()
    msgspec.json.encode(decoded, enc_hook=lambda value: values.add(value.reveal()))
    return Raw(msgspec.json.encode(_replaced(msgspec.json.decode(shown), values)))


def _replaced(value: Any, values: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, values) for each in value]
    return secrets.HIDDEN if isinstance(value, str) and value in values else value


_has_secrets = cache(secrets.within)


def schema(shape: Any) -> dict[str, Any]:
    """Give a type's JSON Schema."""
    return msgspec.json.schema(shape, schema_hook=_secret_schema)


def _secret_schema(type_: type) -> dict[str, Any]:
    if type_ is secrets.Secret:
        return {"type": "string", "writeOnly": True}
    raise NotImplementedError


def fields(shape: Any) -> list[Row]:
    """Give a type's fields in order, with those of nested types by their paths: ``disks[].size``."""
    return list(_rows(type_info(shape), "", ()))


def _rows(node: Type, path: str, around: Sequence[type]) -> Iterator[Row]:
    for kind, below in records(node, path):
        if kind.cls in around:
            continue
        for field in kind.fields:
            name = f"{below}.{field.encode_name}".lstrip(".")
            yield Row(name, words(field.type), _default(field), said(field.type, "description") or "")
            yield from _rows(field.type, name, [*around, kind.cls])


def records(node: Type, path: str) -> Iterator[tuple[Any, str]]:
    """Give the types with fields in a type, with the paths that lead to them."""
    match node:
        case Metadata(type=inner):
            yield from records(inner, path)
        case UnionType(types=types):
            for each in types:
                yield from records(each, path)
        case inspect.CollectionType(item_type=inner):
            yield from records(inner, f"{path}[]")
        case inspect.DictType(value_type=inner):
            yield from records(inner, f"{path}.*")
        case inspect.StructType() | inspect.TypedDictType() | inspect.DataclassType():
            yield node, path


def _default(field: inspect.Field) -> str | None:
    if field.required:
        return None
    value = field.default if field.default_factory is NODEFAULT else field.default_factory()
    return "" if value in (None, msgspec.UNSET, NODEFAULT) else msgspec.json.encode(value, enc_hook=secrets.hidden).decode()


def said(node: Type, what: str) -> Any:
    """Give a type's ``Meta`` *what*, also where it is one alternative's."""
    match node:
        case Metadata(type=inner, extra_json_schema=more):
            return (more or {}).get(what) or said(inner, what)
        case UnionType(types=types):
            return next(filter(None, (said(each, what) for each in types)), None)
    return None


_WORDS: Mapping[type[Type], str] = {
    inspect.NoneType: "nothing",
    inspect.BoolType: "true or false",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.StrType: "string",
    inspect.CustomType: "secret",
    inspect.DateTimeType: "date and time",
    inspect.DateType: "date",
    inspect.TimeType: "time",
    inspect.TimeDeltaType: "duration",
    inspect.UUIDType: "UUID",
    inspect.DecimalType: "decimal number",
    inspect.BytesType: "base64",
    inspect.AnyType: "anything",
    inspect.RawType: "anything",
}
_BOUNDS = {"ge": ">= {}", "gt": "> {}", "le": "<= {}", "lt": "< {}", "multiple_of": "multiple of {}"}
_BOUNDS |= {"min_length": "at least {} long", "max_length": "at most {} long", "pattern": "matching {}"}


def words(node: Type) -> str:
    """Say what a type is."""
    match node:
        case Metadata(type=inner):
            return words(inner)
        case UnionType(types=types):
            return " or ".join(words(each) for each in types if not isinstance(each, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(msgspec.json.encode(value).decode() for value in values)
        case inspect.EnumType(cls=cls):
            return "one of " + ", ".join(msgspec.json.encode(member.value).decode() for member in cls)
        case inspect.CollectionType(item_type=inner):
            return f"list of: {words(inner)}" + _bounds(node)
        case inspect.DictType(value_type=inner):
            return f"object with, by name: {words(inner)}" + _bounds(node)
    return _WORDS.get(type(node), "object") + _bounds(node)


def _bounds(node: Type) -> str:
    bounds = [text.format(value) for name, text in _BOUNDS.items() if (value := getattr(node, name, None)) is not None]
    return " " + ", ".join(bounds) if bounds else ""
