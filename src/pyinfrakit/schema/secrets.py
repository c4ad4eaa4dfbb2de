"""Secrets in typed data. A type marks a secret with the field type `Secret`.

A spec's properties are redacted by their type. All other data and texts go through a `Redactor`, which knows
the secrets themselves.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.inspect import CustomType, Metadata, Type

from pyinfrakit.schema.paths import find_types, list_parts
from pyinfrakit.schema.redactor import PLACEHOLDER
from pyinfrakit.schema.values import decode_any, find_strings

EMPTY_OBJECT = Raw(b"{}")

_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


HIDDEN = Meta(extra={"hidden": True})
"""Marks a field that messages do not quote, such as `Init`, without its being a `Secret`."""

Script = Annotated[str, HIDDEN]


class Secret:
    """A string that no log, message or description shows; `reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({PLACEHOLDER})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def decode_secret(type_: type, value: Any) -> Any:
    """Return a `Secret`, as msgspec's ``dec_hook``. Errors do not show the value."""
    if type_ is not Secret:
        raise NotImplementedError(f"{type_!r} is no type that JSON can hold")
    if not isinstance(value, str):
        raise ValueError("expected a string, which is a secret")
    return Secret(value)


def encode_placeholder(value: Any) -> Any:
    """Return the placeholder for a secret, as msgspec's ``enc_hook``."""
    if isinstance(value, Secret):
        return PLACEHOLDER
    raise NotImplementedError(f"JSON can't hold {value!r}")


def find_secrets(value: Struct) -> set[str]:
    """Return all secrets in a value of a type, such as a provider's options."""
    found: set[str] = set()
    msgspec.json.encode(value, enc_hook=lambda secret: found.add(secret.reveal()))
    return found


def split_strings(properties: Raw, shape: Any) -> tuple[set[str], set[str]]:
    """Return the secrets in properties of type *shape*, and the strings that are none.

    In properties of another shape, every string may be a secret.
    """
    strings = set(find_strings(decode_any(properties)))
    if not contains_secret(shape):
        return set(), strings
    try:
        decoded = msgspec.json.decode(properties, type=shape, dec_hook=decode_secret)
    except _UNDECODABLE:
        return strings, set()
    found = find_secrets(decoded)
    return found, strings - found


def redact_properties(properties: Raw, shape: Any) -> Raw:
    """Return properties of type *shape* with the placeholder for each secret.

    Properties of another shape may hold secrets anywhere, so an empty object is returned for them.
    """
    if not contains_secret(shape):
        return properties
    try:
        decoded = msgspec.json.decode(properties, type=shape, dec_hook=decode_secret)
    except _UNDECODABLE:
        return EMPTY_OBJECT
    return Raw(msgspec.json.encode(decoded, enc_hook=encode_placeholder))


@lru_cache  # types are few, and each description asks
def contains_secret(shape: Any, steps: tuple[str, ...] = ()) -> bool:
    """Return whether a type contains a secret at *steps*, which are names and indexes.

    If a step can't be followed, everything below the last known step counts.
    """
    return any(isinstance(node, CustomType) and node.cls is Secret for node in _walk(shape, steps))


@lru_cache
def is_hidden(shape: Any, steps: tuple[str, ...]) -> bool:
    """Return whether a value at *steps* must not be quoted, because a secret or a `HIDDEN` field is in it."""
    return contains_secret(shape, steps) or any(
        isinstance(node, Metadata) and (node.extra or {}).get("hidden") for node in _walk(shape, steps)
    )


def _walk(shape: Any, steps: tuple[str, ...]) -> Iterator[Type]:
    """Yield all types at *steps* and below."""
    yield from _find_types(find_types(shape, steps))


def find_unknown_types(shape: Any) -> set[type]:
    """Return the types within a type that neither msgspec nor this module can decode."""
    return {node.cls for node in _walk(shape, ()) if isinstance(node, CustomType)} - {Secret}


def _find_types(nodes: Sequence[Type]) -> Iterator[Type]:
    """Yield *nodes* and all types below them, each once, because a type may contain itself."""
    seen: set[int] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        left.extend(list_parts(node))
