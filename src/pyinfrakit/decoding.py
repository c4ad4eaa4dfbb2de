"""Decode JSON into typed data, with errors that name the place and say what would be right.

msgspec validates; this module turns its messages into the project's form,
``Properties.count: expected an integer >= 1, got "two"``.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

MAX_DEPTH = 128
"""How deep arrays and objects in input may nest: far below what any decoder here takes."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")

_MESSAGE = re.compile(r"Expected (?P<want>.+?)(?:, got `(?P<got>[^`]+)`)?(?: - at `\$(?P<at>.*)`)?$")
_OTHER = re.compile(r"(?P<problem>.+?)(?: - at `\$(?P<at>.*)`)?$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}


class WrongShape(ValueError):
    """JSON that is well-formed but not what was asked for, at the path *where*."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where = where
        self.problem = problem


class NotJSON(ValueError):
    """Bytes that are not JSON in UTF-8, or nest too deeply; the text says where."""


def check(data: bytes) -> None:
    """Make sure that *data* is UTF-8 and nests at most `MAX_DEPTH` deep; raise `NotJSON`.

    msgspec's ``Raw`` checks neither, and what is kept raw must stay readable for ever.
    """
    if not data.strip():
        raise NotJSON("empty")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise NotJSON(f"not UTF-8 at byte {error.start}") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _deeper_than(data, MAX_DEPTH):
        raise NotJSON(f"nested more than {MAX_DEPTH} levels deep")


def _deeper_than(data: bytes, depth: int) -> bool:
    """Peel innermost pairs off *depth* times, at C speed whatever the input; say whether any are left."""
    left = _STRING.sub(b"", data).translate(_AS_SQUARE, _NOT_BRACKETS)
    for _ in range(depth):
        peeled = left.replace(b"[]", b"")
        if len(peeled) == len(left):
            return False
        left = peeled
    return bool(left)


def decode(data: bytes | msgspec.Raw, shape: type[T], root: str = "") -> T:
    """Decode *data* as *shape*; *root* names it in errors. Raise `NotJSON` or `WrongShape`."""
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError as error:
        raise explained(error, bytes(data), root) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJSON(_plain(str(error))) from None
    except RecursionError:
        raise NotJSON("nested too deeply") from None


def explained(error: msgspec.ValidationError, data: bytes, root: str) -> WrongShape:
    """Put a msgspec error about *data* in this project's words."""
    text = str(error)
    if match := _MESSAGE.match(text):
        path, value = _find(data, match["at"] or "", match["got"])
        return WrongShape(_joined(root, path), f"expected {_wanted(match['want'])}, got {_shown(value)}")
    match = _OTHER.match(text)
    assert match is not None
    problem = match["problem"].replace("Object missing", "missing").replace("Object contains", "has an")
    return WrongShape(_joined(root, _find(data, match["at"] or "", None)[0]), _plain(problem))


def _plain(text: str) -> str:
    text = text.replace("JSON is malformed: ", "not JSON: ").replace("Input data was truncated", "not JSON: it ends too early")
    return text.replace("`", "").removesuffix(".")


def _wanted(want: str) -> str:
    for word, meaning in _WORDS.items():
        want = re.sub(rf"`?\b{word}\b`?", meaning, want)
    return want.replace("`", "").replace(" | ", " or ")


def _joined(root: str, path: str) -> str:
    return root + path if root else path.lstrip(".")


def _shown(value: Any) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "an array"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + '..."'


def _find(data: bytes, at: str, got: str | None) -> tuple[str, Any]:
    """Resolve msgspec's path *at*, in which ``[...]`` is some key of an object, to a full path and its value."""
    steps = [name or index for name, index in _STEP.findall(at)]
    found = list(_walk(json.loads(data), steps, ""))
    for path, value in found:
        if got is None or _kind(value) == got:
            return path, value
    return found[0] if found else (at, None)


def _walk(value: Any, steps: list[str], path: str) -> Iterator[tuple[str, Any]]:
    if not steps:
        yield path, value
        return
    step, rest = steps[0], steps[1:]
    if isinstance(value, dict):
        for key in value if step == "..." else [step]:
            yield from _walk(value.get(key), rest, f"{path}.{key}")
    elif isinstance(value, list) and step.isdigit():
        yield from _walk(value[int(step)], rest, f"{path}[{step}]")


def _kind(value: Any) -> str:
    kinds = {str: "str", bool: "bool", int: "int", float: "float", dict: "object", list: "array", type(None): "null"}
    return kinds[type(value)]
