"""The configuration hash of a group's members, and the tags that hold it, in the forms of all InfraKit generations.

Two members have the same configuration if their specs have the same `Instance` and `Flavor`. The hash is a
SHA-1 over these as Go writes them: keys sorted, numbers as doubles. So the order of keys and the white space
in a spec make no difference. Pure.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from msgspec import Struct

from pyinfrakit.errors import InvalidSpec
from pyinfrakit.group.spec import PluginSpec
from pyinfrakit.record import CONFIG_TAGS, GROUP_TAG

LOGICAL_ID_TAG = "infrakit.logical_id"
"""The tag in which InfraKit's last release repeats a member's logical ID."""

BOOTSTRAP = "bootstrap"
"""Stands for the hash of a member that its group shall adopt as it is."""

_ESCAPED = re.compile(r'["\\<>&\x00-\x1f\u2028\u2029]')
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_BASE64 = re.compile(r"[-\w]{27}=")


class ConfigHash(Struct, frozen=True):
    """A configuration hash: *base64* as InfraKit up to 0.4 writes it, *base32* as later releases do."""

    base64: str
    base32: str

    @property
    def forms(self) -> tuple[str, str]:
        return self.base64, self.base32

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Return whether *tags* are those of a member with this configuration, whichever release wrote them."""
        return any(tags.get(tag) in self.forms for tag in CONFIG_TAGS)


def hash_configuration(instance: PluginSpec, flavor: PluginSpec) -> ConfigHash:
    """Return the hash of a configuration. Raise `InvalidSpec` if a number is too large for a double."""
    text = _encode_plugin(instance, "Instance") + _encode_plugin(flavor, "Flavor")
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return ConfigHash(base64.urlsafe_b64encode(digest).decode(), base64.b32encode(digest).decode().rstrip("=").lower())


def is_to_adopt(tags: Mapping[str, str]) -> bool:
    """Return whether *tags* are those of a member that its group shall adopt as it is."""
    return any(tags.get(tag) == BOOTSTRAP for tag in CONFIG_TAGS)


def tag_configuration(hash: ConfigHash, present: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the tags that hold a member's hash: those of a new member, and of one that its group adopts.

    If one of the *present* members, whose tags these are, has the form of releases up to 0.4, the tag of these
    releases gets that form too. So the controller of such a release can take the group back.
    """
    config_sha, config_hash = CONFIG_TAGS
    is_old = any(_BASE64.fullmatch(tags.get(config_sha, "")) for tags in present)
    return {config_sha: hash.base64 if is_old else hash.base32, config_hash: hash.base32}


def tag_member(
    hash: ConfigHash, group: str, logical_id: str | None, present: Iterable[Mapping[str, str]]
) -> dict[str, str]:
    """Return the tags of a new member, apart from its flavor's. *present* are the tags of the group's members."""
    tags = {GROUP_TAG: group, **tag_configuration(hash, present)}
    return tags if logical_id is None else {**tags, LOGICAL_ID_TAG: logical_id}


def _encode_plugin(spec: PluginSpec, where: str) -> str:
    properties = None if spec.properties is None else json.loads(bytes(spec.properties), parse_int=float)
    try:
        return _encode({"Plugin": spec.plugin, "Properties": properties}, "\n  ")
    except OverflowError:
        raise InvalidSpec(f"Properties.{where}.Properties", "has a number that is too large for a double") from None


def _encode(value: Any, line: str) -> str:
    """Return JSON as Go indents it. *line* is a line break and the indentation of the line that the value begins on."""
    match value:
        case str():
            return _encode_text(value)
        case float():
            return _encode_number(value)
        case dict() if value:
            inner = line + "  "
            # Python compares strings by code points, which is the order of their UTF-8 bytes.
            fields = (f"{inner}{_encode_text(key)}: {_encode(value[key], inner)}" for key in sorted(value))
            return f"{{{','.join(fields)}{line}}}"
        case list() if value:
            inner = line + "  "
            return f"[{','.join(inner + _encode(each, inner) for each in value)}{line}]"
    return json.dumps(value)


def _encode_text(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    return _SHORT_ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"


def _encode_number(number: float) -> str:
    """Return a number as Go writes a double: the shortest digits, with an exponent if it is very large or small."""
    if not math.isfinite(number):
        raise OverflowError
    if number and not 1e-6 <= abs(number) < 1e21:
        return repr(number).replace("e-0", "e-")
    text = f"{Decimal(repr(number)):f}"
    return text.removesuffix(".0")
