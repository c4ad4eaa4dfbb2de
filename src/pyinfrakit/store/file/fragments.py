"""Find the whole values in JSON text that may be damaged, and where they stand, at a cost that grows with its length alone.

Pure: text in, which stands for bytes as Latin-1 does. It is read in stretches that follow JSON's grammar, from wherever one
can begin: what began before a stretch is known by the brackets that close in it without having been opened.
"""

import re
from collections.abc import Container, Iterator

from msgspec import Struct

_BLANKS = " \t\n\r"
_SPACE = r"[ \t\n\r]*+"
_ESCAPE = r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_STRING = rf'"[^"\\\x00-\x1f]*+(?:{_ESCAPE}[^"\\\x00-\x1f]*+)*+"'
_NUMBER = r"-?[0-9]++(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_TOKEN = re.compile(rf"{_SPACE}(?:({_STRING})({_SPACE}:)?+|({_NUMBER}|true|false|null)|([][{{}},]))")
_BEGIN = re.compile(rf'\{{(?={_SPACE}["}}])|"(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f]){{0,100}}+"{_SPACE}:')
_KINDS = ("", "v", "k", "v")

_VALUE = "v{["
_ALLOWED = {
    **{("k", container): _VALUE for container in ("{", "[", "")},
    ("{", "{"): "k}",
    ("[", "["): _VALUE + "]",
    (",", "{"): "k",
    (",", "["): _VALUE,
    (",", ""): "k" + _VALUE,
    **{(ended, "{"): ",}" for ended in "v}]"},
    **{(ended, "["): ",]" for ended in "v}]"},
    **{(ended, ""): ",}]" for ended in "v}]"},
}
"""What may come after a token in a container: ``k`` is a key with its colon, ``v`` a string, a number or a word; the empty
container is one that began before."""


class Value(Struct):
    """A value from *start* up to *end* (None: broken off), *level* deeper than where its stretch began.

    *key* is its own, or None; *inside* that of the array or object it stands in; and *objects* counts those around it. What began
    before the stretch is not known.
    """

    start: int
    end: int | None
    level: int
    key: str | None
    inside: str | None
    objects: int


class Stretch(Struct):
    """Text from *start* up to *end* that follows the grammar, with its *values* in order.

    *level* is where it ends, in relation to where it began. *first* and *last*: nothing is before, or after it.
    """

    start: int
    end: int
    level: int
    values: list[Value]
    first: bool
    last: bool


def stretches(text: str, headings: Container[str]) -> Iterator[Stretch]:
    """Give all stretches of *text*. One begins at the first object or key that is not in the one before.

    Given are objects without a key, values whose key is one of *headings*, and members of the outermost containers.
    """
    ahead = _BEGIN.search(text)
    position = ahead.start() if ahead else -1
    first, last = len(text) - len(text.lstrip(_BLANKS)), len(text.rstrip(_BLANKS))
    while position >= 0:
        reader = _Reader(text, position, headings)
        yield Stretch(position, reader.end, reader.level, reader.values, position == first, reader.end == last)
        # What follows the quote of the last token may be no string: another one may end there.
        if ahead is not None and ahead.start() <= reader.token:
            ahead = _BEGIN.search(text, reader.token + 1)
        position = min(reader.refused + ([ahead.start()] if ahead else []), default=-1)


class _Reader:
    """Reads one stretch. *token* is where its last token begins; *refused* where one stands that the grammar does not allow."""

    def __init__(self, text: str, start: int, headings: Container[str]) -> None:
        self._text = text
        self._headings = headings
        self._containers: list[str] = []
        self._open: list[Value] = []
        self._left = 0
        self._objects = 0
        self._key: str | None = None
        self._closed: Value | None = None
        """The object that ends where what is read does, but for a comma."""
        self.token = self.end = start
        self.refused: list[int] = []
        self.values: list[Value] = []
        self._read(start)
        self.level = len(self._containers) - self._left

    def _read(self, position: int) -> None:
        allowed = "k" + _VALUE + "]},"
        while (token := _TOKEN.match(self._text, position)) is not None:
            index = token.lastindex or 0
            kind = token[4] if index == 4 else _KINDS[index]
            begin = token.start(1 if index == 2 else index)
            if kind not in allowed:
                self._refuse(kind, begin)
                return
            self.token, position = begin, token.end()
            self._take(kind, token)
            allowed = _ALLOWED[kind, self._containers[-1] if self._containers else ""]
            self.end = position

    def _refuse(self, kind: str, begin: int) -> None:
        """Remember where to begin anew: not at objects, which are found anyway, but at one that only seemed to have a key."""
        if kind in "{]" and self._closed is not None and self._closed.key is not None:
            self.refused.append(self._closed.start)
        if kind != "{":
            self.refused.append(begin)

    def _take(self, kind: str, token: re.Match[str]) -> None:
        if kind == "k":
            self._key, self._closed = token[1][1:-1], None
            return
        if kind != ",":
            self._closed = None
        if kind in "{[":
            self._begin(kind)
        elif kind in "}]":
            self._end(kind, token.end())
        elif kind == "v" and self._key is not None and self._is_given("v"):
            self.values.append(self._value(token.end()))
        self._key = None

    def _begin(self, kind: str) -> None:
        self._open.append(self._value(None))
        if self._is_given(kind):
            self.values.append(self._open[-1])
        self._containers.append(kind)
        self._objects += kind == "{"

    def _end(self, kind: str, end: int) -> None:
        if not self._containers:
            self._left += 1
            return
        self._containers.pop()
        self._objects -= kind == "}"
        closed = self._open.pop()
        closed.end = end
        self._closed = closed if kind == "}" else None

    def _is_given(self, kind: str) -> bool:
        if self._key is None:
            return kind == "{"
        return len(self._containers) < 2 or self._key in self._headings

    def _value(self, end: int | None) -> Value:
        inside = self._open[-1].key if self._open else None
        return Value(self.token, end, len(self._containers) - self._left, self._key, inside, self._objects)
