"""The types within a type, by the paths of values in JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.inspect import DictType, EnumType, Field, LiteralType, Metadata, NoneType, Type, UnionType, type_info


def find_types(shape: Any, steps: Sequence[str]) -> list[Type]:
    """Return the types that a value at *steps*, which are names and indexes, may have.

    If a step can't be followed, the result is everything below the last known step.
    """
    nodes = [type_info(shape)]
    for step in steps:
        nodes = [part for node in nodes for part in _follow(node, step)]
    return nodes


def find_choices(shape: Any, steps: Sequence[str], *, is_key: bool = False) -> tuple[list[Any], bool]:
    """Return the values at *steps* that types list one by one, and whether no others are valid.

    *is_key*: those of the keys of the object there.
    """
    nodes = [part for node in find_types(shape, steps) for part in _alternatives(node)]
    if is_key:
        nodes = [part for node in nodes if isinstance(node, DictType) for part in _alternatives(node.key_type)]
    choices: list[Any] = []
    for node in nodes:
        choices.extend(_list_values(node))
    is_all = all(isinstance(node, LiteralType | EnumType | NoneType) for node in nodes)
    return ([], False) if choices == [None] else (choices, is_all)


def _list_values(node: Type) -> Sequence[Any]:
    if isinstance(node, LiteralType):
        return node.values
    if isinstance(node, EnumType):
        return [each.value for each in node.cls]
    return [None] if isinstance(node, NoneType) else []


def list_parts(node: Type) -> Iterator[Type]:
    """Yield the types that a type consists of."""
    for value in (getattr(node, name) for name in node.__struct_fields__):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Type):
                yield part
            elif isinstance(part, Field):
                yield part.type


def _follow(node: Type, step: str) -> Iterator[Type]:
    if isinstance(node, DictType):
        yield node.value_type
        return
    if isinstance(node, Metadata | UnionType):
        for part in list_parts(node):
            yield from _follow(part, step)
        return
    fields = [field.type for field in getattr(node, "fields", ()) if field.encode_name == step]
    yield from fields or list_parts(node)


def _alternatives(node: Type) -> Iterator[Type]:
    if isinstance(node, Metadata | UnionType):
        for part in list_parts(node):
            yield from _alternatives(part)
    else:
        yield node
