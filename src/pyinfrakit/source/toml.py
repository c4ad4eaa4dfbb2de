"""TOML with positions. Only statements have one, because the parser in Python's library tells no more."""

import math
import re
import tomllib
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from pyinfrakit.source.syntax import BadSyntax, Parsed, Positions, join

_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")


def parse(text: str) -> Parsed:
    """Return the content of a TOML text; dates and times become strings. Raise `BadSyntax`."""
    try:
        content = tomllib.loads(text, parse_float=_parse_float)
        return Parsed(msgspec.json.encode(content), partial(_find_positions, text))
    except tomllib.TOMLDecodeError as error:
        raise _locate(str(error), text) from None
    except (OverflowError, RecursionError) as error:
        raise BadSyntax(f"not TOML that can be read: {error}") from None


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadSyntax(f"not TOML that can be read: JSON has no number {text}")
    return number


def _locate(problem: str, text: str) -> BadSyntax:
    match = _PLACE.search(problem)
    if match is None:
        return BadSyntax(f"not TOML: {problem}")
    before = text.split("\n")[: int(match[1]) - 1]
    return BadSyntax(f"not TOML: {problem[: match.start()]}", sum(len(line) + 1 for line in before) + int(match[2]) - 1)


def _find_positions(text: str) -> Positions:
    table = ""
    lengths: dict[str, int] = {}
    for statement, offset in _split(text):
        is_header = statement.lstrip().startswith("[")
        path = "" if is_header else table
        for step, is_item in _find_steps(tomllib.loads(statement), is_header):
            path = join(path, step)
            yield path, offset
            if is_item:
                lengths[path] = lengths.get(path, 0) + 1
            if is_header and path in lengths:
                path = join(path, lengths[path] - 1)
                yield path, offset
        if is_header:
            table = path


def _split(text: str) -> Iterator[tuple[str, int]]:
    """Yield each statement, which may have several lines, and the offset of its first character."""
    statement, end, begin = "", 0, 0
    for line in text.split("\n"):
        if not statement:
            begin = end + len(line) - len(line.lstrip())
        statement += line + "\n"
        end += len(line) + 1
        try:
            if tomllib.loads(statement):
                yield statement, begin
        except tomllib.TOMLDecodeError:
            continue  # it goes on in the next line
        statement = ""


def _find_steps(content: Any, is_header: bool) -> Iterator[tuple[str, bool]]:
    """Yield the keys that a statement's only value has on its way, and whether each is an array of tables."""
    while isinstance(content, dict) and len(content) == 1:
        step, content = next(iter(content.items()))
        yield step, is_header and content == [{}]
