"""Keep what is secret out of what an executable says: a shell's ``set -x`` shows all that it reads."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import msgspec

from pyinfrakit.schema.secrets import PLACEHOLDER

SHORTEST = 6
"""Characters from which a string may be a secret: shorter ones are parts of too many words."""

LONGEST_SHOWN = 500
"""Characters of a line, or an error, that are shown."""


class Hiding:
    """Shows text without *secrets*, and without any line of one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = secrets

    def shown(self, text: str) -> str:
        """Give text for a log or an error: in one line that is not too long, with nothing that moves a cursor."""
        text = self._pattern.sub(PLACEHOLDER, text).strip()
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
        return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        lines = {line.strip() for text in self._secrets for line in text.splitlines()}
        forms = {
            form for line in lines for form in (line, json.dumps(line)[1:-1], _encoded(line)) if len(form) >= SHORTEST
        }
        return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))) or r"(?!)")


def _encoded(line: str) -> str:
    return msgspec.json.encode(line).decode()[1:-1]


def within(members: Mapping[str, Any], *, properties: bool) -> Iterator[str]:
    """Give what is secret in the members of a request: init, and the strings in *properties*, if these are asked for."""
    for name, value in members.items():
        if name == "init":
            yield value
        elif name == "properties" and properties and value is not None:
            yield from _strings(msgspec.json.decode(value))
        elif name in ("spec", "instance", "instances"):
            for each in value if name == "instances" else [value]:
                yield from within(each, properties=properties)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
