"""What JSON may hold, and how to decode it: with errors that name the place and say what would be right.

msgspec validates; this module turns its messages into the project's form,
``Properties.count: expected an integer >= 1, got "two"``.
"""

import re
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from pyinfrakit.schema import secrets

T = TypeVar("T")

MAX_DEPTH = 128
"""How deep arrays and objects in input may nest: far below what any decoder here takes."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")

_MESSAGE = re.compile(r"Expected (?P<want>.+?)(?:, got `(?P<got>[^`]+)`)?(?: - at `\$(?P<at>.*)`)?$")
_OTHER = re.compile(r"(?P<problem>.+?)(?: - at `\$(?P<at>.*)`)?$")
_PATH_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
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
    check_text(data)
    check_depth(data)


def check_text(data: bytes) -> None:
    """Make sure that *data* is UTF-8, and that there is some; raise `NotJSON`."""
    if not data or data.isspace():
        raise NotJSON("empty")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise NotJSON(f"not UTF-8 at byte {error.start}") from None


def check_depth(data: bytes) -> None:
    """Make sure that *data* nests at most `MAX_DEPTH` deep; raise `NotJSON`."""
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _deeper_than(data, MAX_DEPTH):
        raise NotJSON(f"nested more than {MAX_DEPTH} levels deep")


def make_encodable(text: str) -> str:
    """Give text that JSON can hold, also where file names have brought bytes into it that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _deeper_than(data: bytes, depth: int) -> bool:
    """Add up brackets outside of strings, at C speed: 4 MiB of them take a fifth of a second."""
    steps = array("b", _STRING.sub(b"", data).translate(_STEPS, _NOT_BRACKETS))
    return max(accumulate(steps), default=0) > depth


def decode(
    data: bytes | Raw,
    shape: type[T],
    root: str = "",
    hook: Callable[[type, Any], Any] | None = None,
    *,
    strict: bool = True,
) -> T:
    """Decode *data* as *shape*; *root* names it in errors, *hook* makes what msgspec does not know.

    Unless *strict*, strings may stand for numbers and the like. Raise `NotJSON` or `WrongShape`, which shows no secret.
    """
    try:
        return msgspec.json.decode(data, type=shape, dec_hook=hook, strict=strict)
    except msgspec.ValidationError as error:
        _well_formed(data)
        raise _explained(error, Raw(bytes(data)), shape, root) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error, data) from None


def _well_formed(data: bytes | Raw) -> None:
    """Raise `NotJSON` for what is wrong further on: msgspec stops at the first thing that it does not expect."""
    try:
        msgspec.json.decode(data, type=Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error, data) from None


def _not_json(error: Exception, data: bytes | Raw) -> NotJSON:
    match error:
        case RecursionError():
            return NotJSON("nested too deeply")
        case UnicodeDecodeError():
            return NotJSON("not UTF-8")
    text = str(error)
    if "truncated" in text:
        half = ", or has half of a surrogate pair, as \\ud800 is" if b"\\ud" in bytes(data).lower() else ""
        return NotJSON(f"not JSON: it ends too early{half}")
    return NotJSON("not JSON: " + text.removeprefix("JSON is malformed: "))


def _explained(error: msgspec.ValidationError, data: Raw, shape: Any, root: str) -> WrongShape:
    """Put a msgspec error about *data* in this project's words."""
    text = str(error)
    if match := _MESSAGE.match(text):
        path, value = _find(data, match["at"] or "", match["got"])
        shown = (
            _shown(value) if _may_be_shown(shape, match["at"]) else "something else, not shown as a secret may be in it"
        )
        return WrongShape(_joined(root, path), f"expected {_wanted(match['want'])}, got {shown}")
    match = _OTHER.match(text)
    assert match is not None
    path, value = _find(data, match["at"] or "", None)
    problem = (
        match["problem"].replace("Object missing", "missing").replace("Object contains", "has an").replace("`", "")
    )
    if "unknown field" in problem and not path and isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        problem += f"; known: {', '.join(field.encode_name for field in msgspec.structs.fields(shape))}"
    if problem == "Number out of range":
        shown = f", {_shown(value)}" if _may_be_shown(shape, match["at"]) else ""
        problem = f"got a number that 64 bits can't hold{shown}"
    return WrongShape(_joined(root, path), problem.removesuffix("."))


def _may_be_shown(shape: Any, at: str | None) -> bool:
    return not secrets.contains_secret(shape, _steps(at))


def _steps(at: str | None) -> list[str]:
    return [name or index for name, index in _PATH_STEP.findall(at or "")]


def _wanted(want: str) -> str:
    for word, meaning in _WORDS.items():
        want = re.sub(rf"`?\b{word}\b`?", meaning, want)
    return want.replace("`", "").replace(" | ", " or ")


def _joined(root: str, path: str) -> str:
    return root + path if root else path.lstrip(".")


def _shown(value: Raw) -> str:
    kind = _kind(value)
    if kind in ("object", "array"):
        return _WORDS[kind]
    text = bytes(value).decode(errors="replace")
    return text if len(text) <= 60 else text[:57] + "..."


def _find(data: Raw, at: str, got: str | None) -> tuple[str, Raw]:
    """Resolve msgspec's path *at*, in which ``[...]`` is some key of an object, to a full path and its value.

    It is the first value of the kind that msgspec *got*; where it does not say, a number, as those alone may be out of range.
    """
    found = list(_walk(data, _steps(at), ""))
    for path, value in found:
        if _kind(value) in ((got,) if got else ("int", "float")):
            return path, value
    return found[0] if found else (at, data)


def _walk(value: Raw, steps: list[str], path: str) -> Iterator[tuple[str, Raw]]:
    if not steps:
        yield path, value
        return
    step, rest = steps[0], steps[1:]
    if _kind(value) == "object":
        members = msgspec.json.decode(value, type=dict[str, Raw])
        for key in members if step == "..." else [step] if step in members else []:
            yield from _walk(members[key], rest, f"{path}.{key}")
    elif _kind(value) == "array" and step.isdigit():
        yield from _walk(msgspec.json.decode(value, type=list[Raw])[int(step)], rest, f"{path}[{step}]")


def _kind(value: Raw) -> str:
    """Give msgspec's word for a value's type."""
    text = bytes(value).lstrip()
    kinds = {b'"': "str", b"{": "object", b"[": "array", b"t": "bool", b"f": "bool", b"n": "null"}
    return kinds.get(text[:1]) or ("float" if re.search(rb"[.eE]", text) else "int")
