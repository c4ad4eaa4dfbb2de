"""JSON with positions. The content stays byte for byte as it is."""

import json
import re
from collections.abc import Iterator
from functools import partial

from msgspec import Raw

from pyinfrakit.schema.decode import NotJSON, WrongShape, check, check_keys, decode
from pyinfrakit.source.syntax import BadSyntax, Parsed, Positions, join

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_BYTE = re.compile(r" \(byte (\d+)\)$")


def parse(text: str) -> Parsed:
    """Return the content of a JSON text. Raise `BadSyntax`, also for a duplicate key."""
    data = text.encode()
    try:
        check(data)
        decode(data, Raw)
        check_keys(data)
    except NotJSON as error:
        raise _locate(str(error), data) from None
    except WrongShape as error:
        raise BadSyntax(str(error), _find_duplicate(text)) from None
    return Parsed(data, partial(_find_positions, text))


def _locate(problem: str, data: bytes) -> BadSyntax:
    """Return an error with the offset for the byte that msgspec names."""
    match = _BYTE.search(problem)
    if match is None:
        return BadSyntax(problem, len(data.decode().rstrip()) if "ends too early" in problem else None)
    return BadSyntax(problem[: match.start()], len(data[: int(match[1])].decode(errors="ignore")))


def _find_duplicate(text: str) -> int | None:
    seen: set[str] = set()
    for path, offset in _find_positions(text):
        if path in seen:
            return offset
        seen.add(path)
    return None


def _find_positions(text: str) -> Positions:
    tokens = _TOKEN.finditer(text)
    return _walk(tokens, next(tokens), "")


def _walk(tokens: Iterator[re.Match[str]], first: re.Match[str], path: str) -> Positions:
    """Yield the positions in the value that begins with the token *first*. The text is valid JSON."""
    if first[0] not in ("{", "["):
        return
    index = 0
    while (token := next(tokens))[0] not in ("}", "]"):
        if token[0] == ",":
            token = next(tokens)
        child = join(path, json.loads(token[0]) if first[0] == "{" else index)
        yield child, token.start()
        if first[0] == "{":
            next(tokens)  # the colon
            token = next(tokens)
        yield from _walk(tokens, token, child)
        index += 1
