"""Texts as their readers decode them: escapes, percent-encoding, entities, base64 and hexadecimal digits. No secrets here.

A `View` is a text that was decoded from another one, and knows the place of each of its characters there. A view is
cheap: places are computed only for what is found in it.
"""

import binascii
import html
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from urllib.parse import unquote

_TOKENS = {
    # As C, Python, JSON and `$'…'` of shells write a character, or the bytes of one.
    "escape": re.compile(
        r"(?:\\x[0-9a-fA-F]{2}|\\[0-3][0-7]{2})+|(?:\\u[0-9a-fA-F]{4})+|\\U[0-9a-fA-F]{8}|\\.", re.DOTALL
    ),
    "dollar": re.compile(r"\$(?=['\"])"),
    "percent": re.compile(r"(?:%[0-9a-fA-F]{2})+|\+"),
    "entity": re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[a-zA-Z]+[0-9]*);"),
}

_SIGNS = {"escape": "\\", "dollar": "$", "percent": "%+", "entity": "&"}
"""Characters without which a text has no tokens of a kind."""

_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_IGNORED = re.compile(r"[\s'\"`\\]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{6,}")
_HEX = re.compile(r"[0-9a-fA-F]{8,}")
_STANDARD = str.maketrans("-_", "+/")
_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def fold(text: str) -> str:
    """Return *text* with small ASCII letters, at the same places."""
    return text.translate(_FOLD)


def strip(text: str) -> str:
    """Return *text* without white space, quotes and backslashes: no matter how it is quoted, this stays the same."""
    return _IGNORED.sub("", text)


class View:
    """A text, and the place of its characters in the text that it comes from."""

    def __init__(self, text: str, locate: Callable[[int, int], tuple[int, int]]) -> None:
        self.text = text
        self.locate = locate
        """Return the range in the first text of all that a range of this text comes from."""

    @classmethod
    def of(cls, text: str) -> "View":
        return cls(text, lambda begin, end: (begin, end))

    def strip(self) -> "View":
        """Return the view without white space, quotes and backslashes."""
        return _Replaced(self, _IGNORED, lambda token: "")

    def decode(self) -> Iterator["View"]:
        """Yield this view, and those of it with each kind of token decoded, or twice, one after the other."""
        yield self
        for kind in _TOKENS:
            if (once := self._decode(kind)) is not None:
                yield once
                yield from filter(None, map(once._decode, _TOKENS))

    def _decode(self, kind: str) -> "View | None":
        if not any(sign in self.text for sign in _SIGNS[kind]):
            return None
        view = _Replaced(self, _TOKENS[kind], _DECODERS[kind])
        return None if view.text == self.text else view

    def find_bytes(self) -> Iterator["View"]:
        """Yield views of what base64 and hexadecimal digits in the text stand for, from wherever they may begin."""
        for data, start, digits, size in _decode_digits(self.text):
            yield self._view_bytes(data, start, digits, size)

    def join_bytes(self) -> str:
        """Return the texts of all that `find_bytes` yields, apart from each other, and stripped."""
        data = b"\0".join(data for data, *_ in _decode_digits(self.text))
        return strip(data.decode(errors="surrogateescape"))

    def _view_bytes(self, data: bytes, start: int, digits: int, size: int) -> "View":
        """Return the view of bytes, *size* of which are written with so many *digits*, from *start* on."""
        text = data.decode(errors="surrogateescape")

        def locate(begin: int, end: int) -> tuple[int, int]:
            first, last = (len(text[:place].encode(errors="surrogateescape")) for place in (begin, end))
            range_end = min(start - (-last * digits // size), len(self.text))
            return self.locate(start + first * digits // size, range_end)

        return View(text, locate)


def _decode_digits(text: str) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield bytes that digits stand for, where the digits begin, and how many of them stand for how many bytes."""
    for match in _BASE64.finditer(text):
        run, start = match[0].translate(_STANDARD), match.start()
        for shift in range(4):
            # A single digit at the end holds no byte.
            digits = run[shift : len(run) - ((len(run) - shift) % 4 == 1)]
            yield binascii.a2b_base64(digits + "=" * (-len(digits) % 4)), start + shift, 4, 3
    for match in _HEX.finditer(text):
        for shift in range(2):
            digits = match[0][shift:]
            yield binascii.unhexlify(digits[: len(digits) & ~1]), match.start() + shift, 2, 1


class _Replaced(View):
    """A view with each match of *pattern* replaced."""

    def __init__(self, parent: View, pattern: re.Pattern[str], replace: Callable[[str], str]) -> None:
        self._parent = parent
        self._pattern = pattern
        self._replace = replace
        super().__init__(pattern.sub(lambda match: replace(match[0]), parent.text), self._locate)

    @cached_property
    def _pieces(self) -> list[tuple[int, int, int, int]]:
        """Begin and end of each replaced piece, in this text and in the parent's."""
        pieces, shift = [], 0
        for match in self._pattern.finditer(self._parent.text):
            begin, size = match.start() + shift, len(self._replace(match[0]))
            pieces.append((begin, begin + size, match.start(), match.end()))
            shift += size - (match.end() - match.start())
        return pieces

    def _locate(self, begin: int, end: int) -> tuple[int, int]:
        return self._parent.locate(self._find(begin)[0], self._find(end - 1)[1])

    def _find(self, place: int) -> tuple[int, int]:
        """Return the range of one character in the parent's text."""
        low, high = 0, len(self._pieces)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._pieces[middle][0] <= place else (low, middle)
        # Pieces that vanished may share their place with a later one.
        for begin, end, first, last in reversed(self._pieces[max(0, low - 1) : low]):
            if begin <= place < end:
                return first, last
            return last + place - end, last + place - end + 1
        return place, place + 1


def _decode_escape(token: str) -> str:
    kind = token[1:2]
    if len(token) >= 4 and kind in "x0123":
        numbers = re.findall(r"\\x(..)|\\([0-3]..)", token)
        data = bytes(int(digits, 16) if digits else int(octal, 8) for digits, octal in numbers)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.decode("latin-1")
    if len(token) >= 6 and kind == "u":
        units = b"".join(int(each, 16).to_bytes(2, "little") for each in token.split("\\u")[1:])
        return units.decode("utf-16-le", "surrogatepass" if _is_paired(units) else "replace")
    if len(token) == 10 and kind == "U":
        number = int(token[2:], 16)
        return chr(number) if number < 0x110000 else token
    return _LETTERS.get(kind, kind)


def _is_paired(units: bytes) -> bool:
    try:
        units.decode("utf-16-le", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _decode_percent(token: str) -> str:
    return " " if token == "+" else unquote(token, errors="surrogateescape")


_DECODERS: dict[str, Callable[[str], str]] = {
    "escape": _decode_escape,
    "dollar": lambda token: "",
    "percent": _decode_percent,
    "entity": html.unescape,
}


def decode_all(text: str) -> Iterator[str]:
    """Yield *text*, and what it is with tokens decoded, and the printable texts that base64 in it stands for."""
    view = View.of(text)
    for each in view.decode():
        yield each.text
    for match in _BASE64.finditer(text):
        if len(match[0]) % 4 != 1:
            try:
                decoded = binascii.a2b_base64(match[0].translate(_STANDARD) + "=" * (-len(match[0]) % 4)).decode()
            except UnicodeDecodeError:
                continue
            if strip(decoded).isprintable():
                yield decoded
