"""Decode JSON into typed data, with errors that name the place and say what would be right.

msgspec validates. This module turns its messages into the project's form,
``Properties.count: expected an integer >= 1, got "two"``.
"""

import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from pyinfrakit.schema.paths import find_choices
from pyinfrakit.schema.secrets import is_hidden

T = TypeVar("T")

MAX_DEPTH = 128
"""Deepest nesting of arrays and objects in input: far below the limit of any decoder used here."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")

_MESSAGE = re.compile(r"Expected (?P<want>.+?)(?:, got `(?P<got>[^`]+)`)?(?: - at (?P<key>`key` in )?`\$(?P<at>.*)`)?$")
_OTHER = re.compile(r"(?P<problem>.+?)(?: - at (?P<key>`key` in )?`\$(?P<at>.*)`)?$")
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
    """Well-formed JSON that is not what was expected at the path *where*."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)
        self.where = where
        self.problem = problem


class NotJSON(ValueError):
    """Bytes that are not JSON in UTF-8, or nest too deeply."""


def check(data: bytes) -> None:
    """Raise `NotJSON` unless *data* is UTF-8 and nests at most `MAX_DEPTH` deep.

    msgspec's ``Raw`` checks neither, and raw data that is kept must stay readable forever.
    """
    check_text(data)
    check_depth(data)


def check_text(data: bytes) -> None:
    """Raise `NotJSON` unless *data* is UTF-8 and more than white space."""
    if not data or data.isspace():
        raise NotJSON("empty")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise NotJSON(f"not UTF-8 at byte {error.start}") from None


def check_depth(data: bytes) -> None:
    """Raise `NotJSON` unless *data* nests at most `MAX_DEPTH` deep."""
    # Counting brackets is cheap, and settles nearly all cases.
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    # Add up the brackets outside of strings, at C speed: 4 MiB take a fifth of a second.
    steps = array("b", _STRING.sub(b"", data).translate(_STEPS, _NOT_BRACKETS))
    if max(accumulate(steps), default=0) > MAX_DEPTH:
        raise NotJSON(f"nested more than {MAX_DEPTH} levels deep")


def check_keys(data: bytes) -> None:
    """Raise `WrongShape` if an object in *data*, which is JSON, has a key twice. msgspec keeps the last one."""
    json.loads(data, object_pairs_hook=_check_pairs, parse_int=str, parse_float=str)


def _check_pairs(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        names = [key for key, _ in pairs]
        raise WrongShape("", f"duplicate key {next(key for key in names if names.count(key) > 1)!r}")


def make_encodable(text: str) -> str:
    """Return text that JSON can hold. File names may bring bytes into it that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def decode(
    data: bytes | Raw,
    shape: type[T],
    root: str = "",
    hook: Callable[[type, Any], Any] | None = None,
    *,
    strict: bool = True,
) -> T:
    """Decode *data* as *shape*. *root* is its name in errors; *hook* decodes types that msgspec does not know.

    If not *strict*, strings may stand for numbers and the like. Raise `NotJSON`, or `WrongShape`; neither
    shows a secret.
    """
    try:
        return msgspec.json.decode(data, type=shape, dec_hook=hook, strict=strict)
    except msgspec.ValidationError as error:
        decode(data, Raw)  # msgspec stops at the first value of the wrong type: raise `NotJSON` if an error follows
        raise _explain_shape(error, Raw(bytes(data)), shape, root) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain_syntax(error, data) from None


def _explain_syntax(error: Exception, data: bytes | Raw) -> NotJSON:
    if isinstance(error, RecursionError):
        return NotJSON("nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return NotJSON("not UTF-8")
    text = str(error)
    if "truncated" in text:
        # msgspec takes half of a surrogate pair for the end of the input.
        half = ", or has half of a surrogate pair, as \\ud800 is" if b"\\ud" in bytes(data).lower() else ""
        return NotJSON(f"not JSON: it ends too early{half}")
    return NotJSON("not JSON: " + text.removeprefix("JSON is malformed: "))


def _explain_shape(error: msgspec.ValidationError, data: Raw, shape: Any, root: str) -> WrongShape:
    """Return a msgspec error about *data* in this project's words."""
    text = str(error)
    match = _MESSAGE.match(text) or _OTHER.match(text)
    assert match is not None
    at, expected = match["at"] or "", match.groupdict().get("want")
    steps = _split_path(at)
    is_secret = is_hidden(shape, tuple(steps))
    choices, is_all = find_choices(shape, steps, is_key=match["key"] is not None)
    if choices and (is_all if expected else text.startswith("Invalid enum value")):
        path, value = _find_invalid(data, at, choices, is_key=match["key"] is not None)
        expected = _enumerate(choices, is_all) + (" as a key" if match["key"] else "")
    else:
        path, value = _find(data, at, match["got"] if expected else None)
        expected = _translate(expected) if expected else None
    where = root + path if root else path.lstrip(".")
    if expected:
        got = _WORDS[_find_type(value)] if is_secret else _quote(value)
        return WrongShape(where, f"expected {expected}, got {got}")
    return WrongShape(where, _word_problem(match["problem"], shape, path, "" if is_secret else _quote(value)))


def _word_problem(text: str, shape: Any, path: str, got: str) -> str:
    """Return msgspec's text for a problem that is not a wrong type, in this project's words. *got* may be empty."""
    problem = text.replace("`", "").replace("Object missing", "missing").replace("Object contains", "has an")
    if "unknown field" in problem and not path and isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        problem += f"; known: {', '.join(field.encode_name for field in msgspec.structs.fields(shape))}"
    if problem == "Number out of range":
        problem = ", ".join(filter(None, ["got a number that 64 bits can't hold", got]))
    return problem.removesuffix(".")


def _enumerate(choices: Sequence[Any], is_all: bool) -> str:
    words = [msgspec.json.encode(each).decode() for each in choices] + ([] if is_all else ["another type"])
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _split_path(at: str) -> list[str]:
    return [name or index for name, index in _PATH_STEP.findall(at)]


def _translate(expected: str) -> str:
    for word, meaning in _WORDS.items():
        expected = re.sub(rf"`?\b{word}\b`?", meaning, expected)
    return expected.replace("`", "").replace(" | ", " or ")


def _quote(value: Raw) -> str:
    type_ = _find_type(value)
    if type_ in ("object", "array"):
        return _WORDS[type_]
    text = bytes(value).decode(errors="replace")
    return text if len(text) <= 60 else text[:57] + "..."


def _find(data: Raw, at: str, got: str | None) -> tuple[str, Raw]:
    """Return the full path and the value at msgspec's path *at*, in which ``[...]`` stands for any key of an object.

    That is the first value of the type that msgspec *got*. If msgspec does not say, it is a number: only
    numbers may be out of range.
    """
    found = list(_walk(data, _split_path(at), ""))
    for path, value in found:
        if _find_type(value) in ((got,) if got else ("int", "float")):
            return path, value
    return found[0] if found else (at, data)


def _find_invalid(data: Raw, at: str, choices: Sequence[Any], is_key: bool) -> tuple[str, Raw]:
    """Return the full path and the value, or the key there, at msgspec's path *at*: the first that is no choice."""
    valid = [msgspec.json.encode(each) for each in choices]  # in Python, True is equal to 1
    for path, value in _walk(data, _split_path(at), ""):
        for each in map(_encode, msgspec.json.decode(value, type=dict[str, Raw])) if is_key else [_normalize(value)]:
            if each not in valid:
                return path, Raw(each)
    return at, data


def _encode(text: str) -> bytes:
    return msgspec.json.encode(text)


def _normalize(value: Raw) -> bytes:
    """Return a string in msgspec's form, and anything else as it is: it may be a number that nothing can hold."""
    return _encode(msgspec.json.decode(value, type=str)) if _find_type(value) == "str" else bytes(value).strip()


def _walk(value: Raw, steps: list[str], path: str) -> Iterator[tuple[str, Raw]]:
    if not steps:
        yield path, value
        return
    step, rest = steps[0], steps[1:]
    if _find_type(value) == "object":
        members = msgspec.json.decode(value, type=dict[str, Raw])
        for key in members if step == "..." else [step] if step in members else []:
            yield from _walk(members[key], rest, f"{path}.{key}")
    elif _find_type(value) == "array" and step.isdigit():
        yield from _walk(msgspec.json.decode(value, type=list[Raw])[int(step)], rest, f"{path}[{step}]")


def _find_type(value: Raw) -> str:
    """Return msgspec's word for a value's type."""
    text = bytes(value).lstrip()
    types = {b'"': "str", b"{": "object", b"[": "array", b"t": "bool", b"f": "bool", b"n": "null"}
    return types.get(text[:1]) or ("float" if re.search(rb"[.eE]", text) else "int")
