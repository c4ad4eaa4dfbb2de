"""JSON of any shape as plain values."""

import json
from typing import Any

import msgspec
from msgspec import Raw


def decode_any(data: bytes | Raw) -> Any:
    """Return JSON as plain values. Beside a number that 64 bits can't hold, all numbers stay as they are, as `Raw`."""
    try:
        return msgspec.json.decode(data)
    except msgspec.ValidationError:
        return json.loads(bytes(data), parse_int=_keep_number, parse_float=_keep_number)


def _keep_number(text: str) -> Raw:
    return Raw(text.encode())
