"""JSON of any shape as plain values, and the strings in it that may be secrets by their names."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

SECRET_NAME = r"passw|passphrase|secret|token|credential|private|api.?key|access.?key|auth"
"""Parts of the names of secrets, as a regular expression."""

_SECRET_KEY = re.compile(SECRET_NAME, re.IGNORECASE)


def decode_any(data: bytes | Raw) -> Any:
    """Return JSON as plain values. Beside a number that 64 bits can't hold, all numbers stay as they are, as `Raw`."""
    try:
        return msgspec.json.decode(data)
    except msgspec.ValidationError:
        return json.loads(bytes(data), parse_int=_keep_number, parse_float=_keep_number)


def _keep_number(text: str) -> Raw:
    return Raw(text.encode())


def find_strings(value: Any) -> Iterator[str]:
    """Yield all strings in decoded JSON, except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from find_strings(each)


def find_credentials(value: Any) -> Iterator[str]:
    """Yield the strings in decoded JSON that have a secret's name."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from find_strings(each) if _SECRET_KEY.search(key) else find_credentials(each)
    elif isinstance(value, list):
        for each in value:
            yield from find_credentials(each)


def find_scripts(value: Any) -> Iterator[str]:
    """Yield the strings in decoded JSON that are scripts by their name, `Init` or one that begins so."""
    if isinstance(value, dict):
        for key, each in value.items():
            is_script = key.lower().startswith("init") or key.lower() in ("userdata", "user_data", "cloudinit")
            yield from find_strings(each) if is_script else find_scripts(each)
    elif isinstance(value, list):
        for each in value:
            yield from find_scripts(each)
