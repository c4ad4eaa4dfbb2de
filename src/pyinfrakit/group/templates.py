"""Templates: texts of checks and drain hooks, in which a name in braces stands for a value of the member.

| name              | value |
|-------------------|-------|
| `ID`, `LogicalID` | the member's |
| `Properties.NAME` | a property: a string, a number or a boolean. A dot leads into an object: `Properties.ports.http` |
| `Tags.NAME`       | a tag. Its name may contain dots |

``{{`` and ``}}`` stand for a brace. An IPv6 address gets brackets after ``//`` and before ``:``.
"""

import ipaddress
import re
from collections.abc import Sequence

from msgspec import Raw

from pyinfrakit.group.plugins import Description
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

_PART = re.compile(r"(?P<text>[^{}]+|\{\{|\}\})|\{(?P<name>[^{}]*)\}")
_NAME = re.compile(r"ID|LogicalID|Properties(\.[^.]+)+|Tags\..+", re.DOTALL)


class NoValue(ValueError):
    """The member does not have what a template names."""


def check_template(text: str) -> None:
    """Raise ValueError if *text* has an unpaired brace or an unknown name."""
    _parse(text)


def expand(text: str, member: Description) -> str:
    """Return *text* with the member's values. Raise `NoValue` if it lacks one, and ValueError as `check_template` does."""
    parts = _parse(text)
    expanded = ""
    for index, (literal, name) in enumerate(parts):
        value = literal if name is None else _find_value(name, member)
        following = parts[index + 1][0] if index + 1 < len(parts) else ""
        is_host = name is not None and (expanded.endswith("//") or following.startswith(":"))
        expanded += f"[{value}]" if is_host and _is_ipv6(value) else value
    return expanded


def _parse(text: str) -> Sequence[tuple[str, str | None]]:
    """Return the parts of a template in order: either a literal and None, or an empty text and a name."""
    parts: list[tuple[str, str | None]] = []
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            raise ValueError(f"unpaired {text[position]} at character {position + 1}: write it twice for a brace")
        name = match["name"]
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"expected ID, LogicalID, Properties.NAME or Tags.NAME in braces, got {name!r}")
        literal = {"{{": "{", "}}": "}"}.get(match[0], match[0])
        parts.append((literal, None) if name is None else ("", name))
        position = match.end()
    return parts


def _find_value(name: str, member: Description) -> str:
    kind, _, rest = name.partition(".")
    values = {"ID": member.id, "LogicalID": member.logical_id, "Tags": member.tags.get(rest)}
    value = _find_property(member.properties, rest.split(".")) if kind == "Properties" else values[kind]
    if value is None:
        raise NoValue(f"the member has no {name}")
    return value


def _find_property(properties: Raw | None, steps: Sequence[str]) -> str | None:
    """Return a property as text, or None if there is none, or if it is an object, an array or null."""
    value = properties
    try:
        for step in steps:
            value = None if value is None else decode(value, dict[str, Raw]).get(step)
        if value is None or bytes(value).lstrip()[:1] in (b"{", b"[", b"n"):
            return None
        text = bytes(value).decode().strip()
        return decode(value, str) if text.startswith('"') else text
    except (WrongShape, NotJSON):
        return None


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
