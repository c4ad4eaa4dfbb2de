"""Secrets, and everything that keeps them out of logs, messages and descriptions.

A type marks a secret with the field type `Secret`. Two kinds of redaction follow from it: typed data (a spec's
properties, a machine's live properties) is redacted by value; free text (a child's output, a BMC's
answer) goes through a `Redactor`.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.inspect import CustomType, Type, type_info

from pyinfrakit.schema.paths import find_types, list_parts

PLACEHOLDER = "***"

EMPTY_OBJECT = Raw(b"{}")

SHORTEST_WORD = 6
"""Shortest string, in characters, that a `Redactor` hides. Shorter ones are parts of too many other words."""

SHORTEST_CREDENTIAL = 3
"""The same for user names and passwords. They are known to be secret, so that a few wrong hits cost less than a leak."""

_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


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


class Redactor:
    """Hide *secrets* in free text: each of their lines, as it is and as JSON writes it."""

    def __init__(self, secrets: Iterable[str], shortest: int = SHORTEST_WORD) -> None:
        lines = {line.strip() for secret in secrets for line in secret.splitlines()}
        escaped = {json.dumps(line)[1:-1] for line in lines}  # ASCII only, unlike msgspec's form
        encoded = {msgspec.json.encode(line).decode()[1:-1] for line in lines}
        forms = [form for form in lines | escaped | encoded if len(form) >= shortest]
        # The longest first: a secret may be a part of another one.
        self._pattern = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))) or r"(?!)")

    def redact(self, text: str) -> str:
        """Return *text* with the placeholder for each secret."""
        return self._pattern.sub(PLACEHOLDER, text)


def find_words(script: str) -> set[str]:
    """Return the words of a shell script. Each may be a secret: a shell shows them in its errors."""
    return set(re.split(r"""[\s'"=;:,|&(){}$<>]+""", script))


def find_strings(value: Any) -> Iterator[str]:
    """Yield all strings in decoded JSON, except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from find_strings(each)


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


def redact_live(live: Raw, properties: Raw, shape: Any) -> Raw:
    """Return live properties with the placeholder for each string that is a secret in *properties*, of type *shape*."""
    if not contains_secret(shape):
        return live
    values: set[str] = set()
    try:
        decoded = msgspec.json.decode(properties, type=shape, dec_hook=decode_secret)
    except _UNDECODABLE:
        return EMPTY_OBJECT
    msgspec.json.encode(decoded, enc_hook=lambda secret: values.add(secret.reveal()))
    return Raw(msgspec.json.encode(_replace_strings(msgspec.json.decode(live), values)))


def _replace_strings(value: Any, secrets: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace_strings(each, secrets) for key, each in value.items()}
    if isinstance(value, list):
        return [_replace_strings(each, secrets) for each in value]
    return PLACEHOLDER if isinstance(value, str) and value in secrets else value


@lru_cache  # types are few, and each description asks
def contains_secret(shape: Any, steps: tuple[str, ...] = ()) -> bool:
    """Return whether a type contains a secret at *steps*, which are names and indexes.

    If a step can't be followed, everything below the last known step counts.
    """
    return Secret in _custom_types(find_types(shape, steps))


def find_unknown_types(shape: Any) -> set[type]:
    """Return the types within a type that neither msgspec nor this module can decode."""
    return _custom_types([type_info(shape)]) - {Secret}


def _custom_types(nodes: Sequence[Type]) -> set[type]:
    """Return the custom types below *nodes*; each node is visited once, because a type may contain itself."""
    found: set[type] = set()
    seen: set[int] = set()
    left = list(nodes)
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, CustomType):
            found.add(node.cls)
        left.extend(list_parts(node))
    return found
