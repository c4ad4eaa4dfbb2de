"""What a type says of itself: a JSON Schema, tables of its fields, and what of its values may be shown.

All of it is for msgspec Struct types as providers have them for their properties and options. A field says more by
``Annotated[int, Meta(description="…", examples=[…])]``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct, inspect
from msgspec.inspect import Metadata, Type, UnionType, type_info

from pyinfrakit.schema import secrets


class Row(Struct, frozen=True):
    """A field, for people: *default* is None where it is required, and JSON otherwise, or empty where it is nothing."""

    name: str
    type: str
    default: str | None
    description: str


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
    return (
        ""
        if value in (None, msgspec.UNSET, NODEFAULT)
        else msgspec.json.encode(value, enc_hook=secrets.encode_placeholder).decode()
    )


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


# ==== Examples: values that are right, thought up from nothing but their type.
Stand = Callable[[str], Any]
"""Gives what stands for the secret in a field of this name."""


def example(shape: Any, stand: Stand = lambda name: "secret") -> Any:
    """Give what is right for a type: what it requires, and whatever has an example of its own.

    A string with a pattern, and a set of several, need examples: they can't be thought up.
    """
    return _Examples(stand).of(type_info(shape), "")


_CONSTANTS: Mapping[type[Type], Any] = {
    inspect.NoneType: None,
    inspect.BoolType: True,
    inspect.DateTimeType: "2030-01-31T12:00:00Z",
    inspect.DateType: "2030-01-31",
    inspect.TimeType: "12:00:00Z",
    inspect.TimeDeltaType: "PT60S",
    inspect.UUIDType: "3f2b7c1e-8a4d-4e6f-9b0a-5c1d2e3f4a5b",
    inspect.DecimalType: "1.5",
}


def find_example(shape: Any, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Give a provider's example properties: its own, if it has *given* some, or what follows from their type."""
    if given is not None:
        return given
    made: Mapping[str, Any] = example(shape)
    return made


class _Examples:
    """Thinks up what is right for types. *stand* gives secrets; what lies in itself ends as early as it may."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._around: list[type] = []

    def of(self, node: Type, name: str) -> Any:  # noqa: PLR0911 - one for each kind of type
        match node:
            case Metadata(type=inner):
                return given[0] if (given := said(node, "examples")) else self.of(inner, name)
            case UnionType():
                return self._alternative(node, name)
            case inspect.LiteralType(values=values):
                return values[0]
            case inspect.EnumType(cls=cls):
                return next(iter(cls)).value
            case inspect.CustomType():
                return self._stand(name)
            case inspect.IntType() | inspect.FloatType():
                return _number(node)
            case inspect.StrType() | inspect.BytesType():
                return _text(node, name)
            case inspect.CollectionType(item_type=inner):
                return [self.of(inner, name) for _ in range(_how_many(node, self._inside(inner)))]
            case inspect.TupleType(item_types=types):
                return [self.of(each, name) for each in types]
            case inspect.DictType():
                return self._by_name(node, name)
        return self._record(node) if hasattr(node, "fields") else _CONSTANTS.get(type(node), {})

    def _alternative(self, node: UnionType, name: str) -> Any:
        if given := said(node, "examples"):
            return given[0]
        if node.includes_none and any(self._inside(each) for each in node.types):
            return None
        return self.of(next(each for each in node.types if not isinstance(each, inspect.NoneType)), name)

    def _by_name(self, node: inspect.DictType, name: str) -> dict[Any, Any]:
        keys = [self.of(node.key_type, "name")] if _how_many(node, self._inside(node.value_type)) else []
        return {key: self.of(node.value_type, name) for key in keys}

    def _record(self, node: Any) -> Any:
        self._around.append(node.cls)
        wanted = [field for field in node.fields if field.required or said(field.type, "examples")]
        made = {field.encode_name: self.of(field.type, field.encode_name) for field in wanted}
        self._around.pop()
        tagged = {node.tag_field: node.tag} if getattr(node, "tag_field", None) else {}
        if getattr(node, "array_like", False) or isinstance(node, inspect.NamedTupleType):
            return [*tagged.values(), *made.values()]
        return tagged | made

    def _inside(self, node: Type) -> bool:
        return any(kind.cls in self._around for kind, _ in records(node, ""))


def _how_many(node: Any, ends: bool) -> int:
    most = 1 if node.max_length is None else node.max_length
    return node.min_length or (0 if ends else min(1, most))


def _number(node: inspect.IntType | inspect.FloatType) -> Any:
    """Give a number within bounds: the lowest, but for 0, which says little; half-way where it must not be a bound."""
    step: Any = node.multiple_of or 1
    low: Any = node.ge if node.gt is None else node.gt
    high: Any = node.le if node.lt is None else node.lt
    if isinstance(node, inspect.IntType) or node.multiple_of:
        return _multiple(node, low, high, step)
    if low is None and high is None:
        return 1.0
    if low is None:
        return high - 1
    return low + 1 if high is None or low + 1 < high else (low + high) / 2


def _multiple(node: inspect.IntType | inspect.FloatType, low: Any, high: Any, step: Any) -> Any:
    if low is None:
        top = step if high is None else min(step, high // step * step)
        return top - step if node.lt is not None and top >= node.lt else top
    least = -(-low // step) * step
    least = least + step if node.gt is not None and least <= node.gt else least
    below = high is None or least + step < high
    return least + step if least == 0 and below else least


def _text(node: inspect.StrType | inspect.BytesType, name: str) -> str:
    """Give a text of the length that it must have: the field's own name, as people write."""
    if isinstance(node, inspect.BytesType):
        return "AAAA" * -(-(node.min_length or 3) // 3) if node.max_length is None or node.max_length >= 3 else ""
    text = (name or "text").ljust(node.min_length or 0, "x")
    return text if node.max_length is None else text[: node.max_length]
