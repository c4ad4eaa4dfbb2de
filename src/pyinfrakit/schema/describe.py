"""Describe types to people: JSON Schema, tables of fields, and examples that are valid.

The types are msgspec Structs, as providers have them for their properties and options. Fields carry more
information as ``Annotated[int, Meta(description="…", examples=[…])]``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct, inspect
from msgspec.inspect import Metadata, Type, UnionType, type_info

from pyinfrakit.schema import secrets


class FieldRow(Struct, frozen=True):
    """A row in a table of fields. *default* is JSON, empty if it is nothing, or None if the field is required."""

    name: str
    type: str
    default: str | None
    description: str


def describe_schema(shape: Any) -> dict[str, Any]:
    """Return a type's JSON Schema."""
    return msgspec.json.schema(shape, schema_hook=_describe_secret)


def _describe_secret(type_: type) -> dict[str, Any]:
    if type_ is secrets.Secret:
        return {"type": "string", "writeOnly": True}
    raise NotImplementedError


def list_fields(shape: Any) -> list[FieldRow]:
    """Return a type's fields in order; those of nested types by their paths, such as ``disks[].size``."""
    return list(_walk_fields(type_info(shape), "", ()))


def _walk_fields(node: Type, path: str, around: Sequence[type]) -> Iterator[FieldRow]:
    for record, below in find_records(node, path):
        if record.cls in around:
            continue
        for field in record.fields:
            name = f"{below}.{field.encode_name}".lstrip(".")
            description = find_meta(field.type, "description") or ""
            yield FieldRow(name, describe_type(field.type), _encode_default(field), description)
            yield from _walk_fields(field.type, name, [*around, record.cls])


def find_records(node: Type, path: str) -> Iterator[tuple[Any, str]]:
    """Yield the types with fields in a type, with the paths to them."""
    match node:
        case Metadata(type=inner):
            yield from find_records(inner, path)
        case UnionType(types=types):
            for each in types:
                yield from find_records(each, path)
        case inspect.CollectionType(item_type=inner):
            yield from find_records(inner, f"{path}[]")
        case inspect.DictType(value_type=inner):
            yield from find_records(inner, f"{path}.*")
        case inspect.StructType() | inspect.TypedDictType() | inspect.DataclassType():
            yield node, path


def _encode_default(field: inspect.Field) -> str | None:
    if field.required:
        return None
    value = field.default if field.default_factory is NODEFAULT else field.default_factory()
    if value in (None, msgspec.UNSET, NODEFAULT):
        return ""
    return msgspec.json.encode(value, enc_hook=secrets.encode_placeholder).decode()


def find_meta(node: Type, key: str) -> Any:
    """Return the value of *key* in a type's ``Meta``, or in that of one of its alternatives; None if there is none."""
    match node:
        case Metadata(type=inner, extra_json_schema=more):
            return (more or {}).get(key) or find_meta(inner, key)
        case UnionType(types=types):
            return next(filter(None, (find_meta(each, key) for each in types)), None)
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


def describe_type(node: Type) -> str:
    """Return a type in words."""
    match node:
        case Metadata(type=inner):
            return describe_type(inner)
        case UnionType(types=types):
            return " or ".join(describe_type(each) for each in types if not isinstance(each, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(msgspec.json.encode(value).decode() for value in values)
        case inspect.EnumType(cls=cls):
            return "one of " + ", ".join(msgspec.json.encode(member.value).decode() for member in cls)
        case inspect.CollectionType(item_type=inner):
            return f"list of: {describe_type(inner)}" + _describe_bounds(node)
        case inspect.DictType(value_type=inner):
            return f"object with, by name: {describe_type(inner)}" + _describe_bounds(node)
    return _WORDS.get(type(node), "object") + _describe_bounds(node)


def _describe_bounds(node: Type) -> str:
    bounds = [text.format(value) for name, text in _BOUNDS.items() if (value := getattr(node, name, None)) is not None]
    return " " + ", ".join(bounds) if bounds else ""


def make_example(shape: Any, secret: Callable[[str], Any] = lambda name: "secret") -> Any:
    """Return a valid value of a type: its required fields, and those with an example of their own.

    *secret* returns an example of the secret in a field of a name.
    A string with a pattern, and a set of several values, need examples of their own: none can be made up.
    """
    return _ExampleMaker(secret).make(type_info(shape), "")


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


def find_example(shape: Any, own: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a provider's example properties: its *own*, or some that follow from their type."""
    example: Mapping[str, Any] = make_example(shape) if own is None else own
    return example


class _ExampleMaker:
    """Makes valid values. A type that contains itself ends as early as it can."""

    def __init__(self, secret: Callable[[str], Any]) -> None:
        self._secret = secret
        self._around: list[type] = []

    def make(self, node: Type, name: str) -> Any:  # noqa: PLR0911 - one for each kind of type
        if examples := find_meta(node, "examples"):
            return examples[0]
        match node:
            case Metadata(type=inner):
                return self.make(inner, name)
            case UnionType():
                return self._make_alternative(node, name)
            case inspect.LiteralType(values=values):
                return values[0]
            case inspect.EnumType(cls=cls):
                return next(iter(cls)).value
            case inspect.CustomType():
                return self._secret(name)
            case inspect.IntType() | inspect.FloatType():
                return _make_number(node)
            case inspect.StrType() | inspect.BytesType():
                return _make_text(node, name)
            case inspect.CollectionType(item_type=inner):
                return [self.make(inner, name) for _ in range(_choose_length(node, self._is_recursive(inner)))]
            case inspect.TupleType(item_types=types):
                return [self.make(each, name) for each in types]
            case inspect.DictType():
                return self._make_dict(node, name)
        return self._make_record(node) if hasattr(node, "fields") else _CONSTANTS.get(type(node), {})

    def _make_alternative(self, node: UnionType, name: str) -> Any:
        if node.includes_none and any(self._is_recursive(each) for each in node.types):
            return None
        return self.make(next(each for each in node.types if not isinstance(each, inspect.NoneType)), name)

    def _make_dict(self, node: inspect.DictType, name: str) -> dict[Any, Any]:
        keys = [self.make(node.key_type, "name")] if _choose_length(node, self._is_recursive(node.value_type)) else []
        return {key: self.make(node.value_type, name) for key in keys}

    def _make_record(self, node: Any) -> Any:
        self._around.append(node.cls)
        wanted = [field for field in node.fields if field.required or find_meta(field.type, "examples")]
        values = {field.encode_name: self.make(field.type, field.encode_name) for field in wanted}
        self._around.pop()
        tag = {node.tag_field: node.tag} if getattr(node, "tag_field", None) else {}
        if getattr(node, "array_like", False) or isinstance(node, inspect.NamedTupleType):
            return [*tag.values(), *values.values()]
        return tag | values

    def _is_recursive(self, node: Type) -> bool:
        return any(record.cls in self._around for record, _ in find_records(node, ""))


def _choose_length(node: Any, is_recursive: bool) -> int:
    most = 1 if node.max_length is None else node.max_length
    return node.min_length or (0 if is_recursive else min(1, most))


def _make_number(node: inspect.IntType | inspect.FloatType) -> Any:
    """Return a number within bounds: the lowest one, except 0, which says little; or one halfway if bounds are excluded."""
    low: Any = node.ge if node.gt is None else node.gt
    high: Any = node.le if node.lt is None else node.lt
    if isinstance(node, inspect.IntType) or node.multiple_of:
        return _make_multiple(node, low, high)
    if low is None and high is None:
        return 1.0
    if low is None:
        return high - 1
    return low + 1 if high is None or low + 1 < high else (low + high) / 2


def _make_multiple(node: inspect.IntType | inspect.FloatType, low: Any, high: Any) -> Any:
    step: Any = node.multiple_of or 1
    if low is None:
        top = step if high is None else min(step, high // step * step)
        return top - step if node.lt is not None and top >= node.lt else top
    least = -(-low // step) * step
    least = least + step if node.gt is not None and least <= node.gt else least
    below = high is None or least + step < high
    return least + step if least == 0 and below else least


def _make_text(node: inspect.StrType | inspect.BytesType, name: str) -> str:
    """Return the field's own name, brought to a valid length."""
    if isinstance(node, inspect.BytesType):
        return "AAAA" * -(-(node.min_length or 3) // 3) if node.max_length is None or node.max_length >= 3 else ""
    text = (name or "text").ljust(node.min_length or 0, "x")
    return text if node.max_length is None else text[: node.max_length]
