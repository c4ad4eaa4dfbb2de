"""Values that are shown to nobody: a field type for a provider's properties and options."""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.inspect import CustomType, Field, Metadata, Type, UnionType, type_info

HIDDEN = "***"


class Secret:
    """A string that no log, message or description shows; whoever needs it asks for it by `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the string itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def made(type_: type, value: Any) -> Any:
    """Make a secret, for msgspec's ``dec_hook``. The error does not show what was given."""
    if type_ is not Secret:
        raise NotImplementedError(f"{type_!r} is no type that JSON can hold")
    if not isinstance(value, str):
        raise ValueError("expected a string, which is a secret")
    return Secret(value)


def hidden(value: Any) -> Any:
    """Give what stands for a secret, for msgspec's ``enc_hook``."""
    if isinstance(value, Secret):
        return HIDDEN
    raise NotImplementedError(f"{value!r} is nothing that JSON can hold")


def within(shape: Any, steps: Sequence[str] = ()) -> bool:
    """Is there a secret in what a type has at *steps*, names and indexes? Where these can't be followed: in it at all."""
    nodes = [type_info(shape)]
    for step in steps:
        nodes = [part for node in nodes for part in _at(node, step)]
    return Secret in _customs(nodes)


def strange(shape: Any) -> set[type]:
    """Give the types within a type that neither msgspec nor this module knows."""
    return _customs([type_info(shape)]) - {Secret}


def _customs(nodes: Sequence[Type]) -> set[type]:
    return {node.cls for node in _below(nodes) if isinstance(node, CustomType)}


def _at(node: Type, step: str) -> Iterator[Type]:
    if isinstance(node, Metadata | UnionType):
        for part in _parts(node):
            yield from _at(part, step)
        return
    named = [field.type for field in getattr(node, "fields", ()) if field.encode_name == step]
    yield from named or _parts(node)


def _below(nodes: Sequence[Type]) -> Iterator[Type]:
    """Give all parts of types, each once, as a type may be a part of itself."""
    seen: set[int] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            left.extend(_parts(node))


def _parts(node: Type) -> Iterator[Type]:
    for value in (getattr(node, name) for name in node.__struct_fields__):
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Type):
                yield part
            elif isinstance(part, Field):
                yield part.type
