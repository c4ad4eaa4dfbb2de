"""The redactor: it hides secrets in any text, however they are written there.

A secret is found as it is, quoted by a shell, escaped, percent-encoded, as base64 or hexadecimal digits, over several
lines, in other case, and cut at an end of the text. White space, quotes and backslashes are left out on both
sides before they are compared.

A script such as `Init` has no marks that tell a password from a command. Therefore each of its lines, and each of
its words that is long enough, counts as a secret, except a few well-known ones.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any
from weakref import WeakMethod

import msgspec
from msgspec import Raw

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.schema.encodings import View, decode_all, fold, strip
from pyinfrakit.schema.values import SECRET_NAME, decode_any

PLACEHOLDER = "***"

SHORTEST_WORD = 6
"""Shortest word of a script, in characters, that counts as a secret. Shorter ones are parts of too many other words."""

SHORTEST_CREDENTIAL = 3
"""The same for a word that a name such as `password` is in front of."""

PART = 12
"""Characters of a longer word that are hidden also by themselves."""

LINE_PART = 40
"""The same for a line, which may have harmless words in it."""

MAX_TEXT = 8192
"""Longest text of an error, in characters. The rest is cut, before anything is looked for in it."""

MOST_SOURCE = 4096
"""Characters of secrets and scripts in which a piece of a text is found faster than an index is built."""

MAX_SOURCE = 32 * 1024
"""Longest secret or script that is looked for, in characters. A text that may have a part of a longer one is all hidden."""

_CUT_MARKS = ("…", "...")
_GRAM = 6
_GRAMS = 512
_PLACES = 4

_MOST_SHARED = 16
"""Places at which a piece is looked for. A piece with more, such as a word of each line, is hidden by itself: since the
pieces of a secret cover all of it, it is hidden even if it has no other ones."""

_CREDENTIALS = (
    re.compile(
        rf"(?:{SECRET_NAME}|pass|\bpw|pwd|key|\bpin)\w{{0,40}}[\"']?\s{{0,20}}[\s=:]\s{{0,20}}[\"']?([^\s\"']+)",
        re.IGNORECASE,
    ),
    re.compile(r"\s-[pP]\s*[\"']?([^\s\"']+)"),
    re.compile(r"\s-u\s*[\"']?[^\s\"':]{0,100}:([^\s\"']+)"),
    re.compile(r"//[^\s/@:]{0,100}:(\S{1,300})@"),
)
_QUOTED = re.compile(r"'([^']*)'|\"((?:[^\"\\]|\\.){0,100})\"", re.DOTALL)
_SPACES, _DELIMITERS = re.compile(r"\s+"), re.compile(r"[\s'\"=;,|&(){}$<>`]+")
_URL_DELIMITERS = re.compile(r"[:/@?#\[\]]+")
_HARMLESS = re.compile(
    r"(\d{1,3}\.){3}\d{1,3}(:\d+)?(/\d+)?|/(bin|boot|dev|etc|home|lib|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var)(/[\w.+-]*)*"
)
_COMMON = re.compile(
    r"and|are|for|has|not|the|was|with|"
    r"apt-get|before|cannot|command|config|configure|connection|container|daemon|default|docker|"
    r"environment|error|exited|export|failed|function|hostname|import|instance|install|invalid|kubeadm|"
    r"kubectl|kubelet|localhost|machine|master|mkdir|network|number|object|package|password|printf|"
    r"provider|provision|python|python3|running|script|secret|server|service|signal|sleep|source|started|"
    r"status|stopped|string|swarm|systemctl|timeout|token|unknown|update|urllib|username|version|worker",
    re.IGNORECASE,
)


def find_words(script: str) -> set[str]:
    """Return the words of a script, each of which may be a secret: split by white space, by quotes, and in other ways."""
    words: set[str] = set()
    for text in decode_all(script):
        parts = [part for part in _DELIMITERS.split(text) if not _is_harmless(part)]
        words.update(_SPACES.split(text), parts, *map(_URL_DELIMITERS.split, parts))
        words.update(each for pair in _QUOTED.findall(text) for each in pair)
        words.update(word.partition("=")[2] for word in text.split() if "=" in word)
    return {word for word in words if len(word) >= SHORTEST_WORD and not _is_harmless(word)}


def _find_named(script: str) -> set[str]:
    """Return the words of a script that stand where passwords do, however short."""
    found = {match for pattern in _CREDENTIALS for match in pattern.findall(script)}
    return {word for word in found if len(word) >= SHORTEST_CREDENTIAL and not _is_harmless(word)}


def _is_harmless(word: str) -> bool:
    return (_COMMON.fullmatch(word) or _HARMLESS.fullmatch(word)) is not None


class Redactor:
    """Hide in texts *secrets*, whatever their length, and the lines and words of *scripts*.

    Words of scripts that are *known* to be public, such as tags, are not hidden.
    """

    def __init__(
        self, secrets: Iterable[str] = (), scripts: Iterable[str] = (), known: Collection[str] = frozenset()
    ) -> None:
        self.secrets = frozenset(filter(None, secrets))
        self.scripts = frozenset(filter(None, scripts))
        self.known = known

    def __bool__(self) -> bool:
        """Whether there is anything to hide."""
        return bool(self.secrets or self.scripts)

    def redact(self, text: str) -> str:
        """Return *text* with the placeholder for each secret."""
        return replace(text, self.find(text))

    def find(self, text: str) -> list[tuple[int, int]]:
        """Return the ranges of *text* that have secrets."""
        if not self or not text:
            return []
        if any(len(source) > MAX_SOURCE for source in (*self.secrets, *self.scripts)):
            return [(0, len(text))]
        return [] if self._is_clean(text) else self._index.find(text)

    def redact_json(self, data: Raw) -> Raw:
        """Return JSON with the placeholder for each secret in strings and keys, and for each number that is one."""
        if not self.find(bytes(data).decode(errors="replace")):
            return data
        return Raw(msgspec.json.encode(self._redact_value(decode_any(data))))

    def _redact_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.redact(key): self._redact_value(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._redact_value(each) for each in value]
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Raw):
            return PLACEHOLDER if self.redact(bytes(value).decode()) == PLACEHOLDER else value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return PLACEHOLDER if is_number and self.redact(str(value)) == PLACEHOLDER else value

    def _is_clean(self, text: str) -> bool:
        """Return whether nothing in *text* can be a secret; False if that is not known.

        Most texts are clean, and most redactors see one text. For these, an index would take longer than all else.
        """
        if "_index" in vars(self) or len(self._source) > MOST_SOURCE:
            return False
        source, short = self._source, self._short
        for view in View.of(text).decode():
            stripped = view.strip()
            for each in (fold(stripped.text), fold(stripped.join_bytes())):
                if any(each[i : i + _GRAM] in source for i in range(len(each) - _GRAM + 1)):
                    return False
                if any(word in each for word in short):
                    return False
        return True

    @cached_property
    def _source(self) -> str:
        """All that has a secret as a part, as the index has it."""
        texts = (*self.secrets, *self.scripts)
        return "\n".join(fold(strip(each)) for text in texts for each in decode_all(text))

    @cached_property
    def _short(self) -> frozenset[str]:
        """The secrets that are shorter than the pieces of the index."""
        words = [*self.secrets, *(word for script in self.scripts for word in _find_named(script))]
        return frozenset(word for word in (fold(strip(each)) for each in words) if 0 < len(word) < _GRAM)

    @cached_property
    def _index(self) -> "_Index":
        needles: dict[str, int] = {}
        for text in (*self.secrets, *self.scripts):
            for line in (line for each in decode_all(text) for line in each.splitlines()):
                if len(line.strip()) >= SHORTEST_WORD and not self._is_public(line.strip()):
                    needles[fold(strip(line))] = LINE_PART
        words = {word for text in (*self.secrets, *self.scripts) for word in find_words(text)}
        words.update(word for text in self.scripts for word in _find_named(text))
        needles.update((fold(strip(word)), PART) for word in words if word not in self.known)
        needles.update((fold(strip(secret)), PART) for secret in self.secrets)
        needles.pop("", None)
        return _Index(needles)

    def _is_public(self, line: str) -> bool:
        return line in self.known or _is_harmless(line)


def cut(text: str, size: int) -> str:
    """Return the first *size* characters of a text, with a mark if there are more."""
    return text if len(text) <= size else f"{text[:size]}…"


def replace(text: str, ranges: Iterable[tuple[int, int]]) -> str:
    """Return *text* with the placeholder for each of the ranges, and one for those that touch each other."""
    pieces: list[str] = []
    done = -1
    for begin, end in sorted(ranges):
        if begin > done:
            pieces += [text[max(done, 0) : begin], PLACEHOLDER]
        done = max(done, end)
    return "".join([*pieces, text[max(done, 0) :]])


Redact = Callable[[str], str]
"""Return a text without secrets."""

_current: ContextVar[Redact | None] = ContextVar("redact", default=None)


@contextmanager
def hiding_in_log(redact: Redact) -> Iterator[None]:
    """Apply *redact* to all that is logged within."""
    token = _current.set(redact)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def hiding(redact: Redact) -> Iterator[None]:
    """Apply *redact* to each `PyInfrakitError` that is raised within, and to all that is logged there."""
    try:
        with hiding_in_log(redact):
            yield
    except PyInfrakitError as error:
        hidden = redact_error(error, redact)
        if hidden is error:
            raise
        raise hidden from None


_everywhere: list[WeakMethod[Redact]] = []


def hide_everywhere(redact: Redact) -> None:
    """Apply the method *redact* to foreign text outside of every `hiding` too, for as long as its object exists."""
    _everywhere[:] = [*(each for each in _everywhere if each() is not None), WeakMethod(redact)]


def redact_current(text: str, *, is_foreign: bool = False) -> str:
    """Return *text* without the secrets that the innermost `hiding` hides.

    Outside, hide in *foreign* text, such as that of a provider's thread, what `hide_everywhere` names.
    """
    current = _current.get()
    if current is not None:
        return current(text)
    for redact in filter(None, (each() for each in _everywhere if is_foreign)):
        text = redact(text)
    return text


def redact_error(error: PyInfrakitError, redact: Redact) -> PyInfrakitError:
    """Return the error without secrets in its text and its attributes; the same one if it has none."""

    def hide(value: Any) -> Any:
        return redact(cut(value, MAX_TEXT)) if isinstance(value, str) else value

    arguments = tuple(map(hide, error.args))
    attributes = {name: hide(value) for name, value in vars(error).items()}
    if arguments == error.args and attributes == vars(error):
        return error
    hidden: PyInfrakitError = type(error).__new__(type(error), *arguments)
    vars(hidden).update(attributes)
    return hidden


def join(redactors: Sequence[Redactor]) -> Redactor:
    """Return a redactor for the secrets of all *redactors*."""
    secrets = {secret for each in redactors for secret in each.secrets}
    scripts = {script for each in redactors for script in each.scripts}
    return Redactor(secrets, scripts, {word for each in redactors for word in each.known})


def find_pieces(text: str) -> frozenset[str]:
    """Return all pieces of *text*, in all forms, by which the index finds secrets."""
    stripped = [view.strip() for view in View.of(text).decode()]
    forms = {fold(form) for view in stripped for form in (view.text, view.join_bytes())}
    return frozenset(form[i : i + _GRAM] for form in forms for i in range(len(form) - _GRAM + 1))


def has_piece(source: str, pieces: frozenset[str]) -> bool:
    """Return whether a script has one of the *pieces*: else nothing in their text is a word of it."""
    folded = fold(strip(source))
    return not pieces.isdisjoint([folded[i : i + _GRAM] for i in range(len(folded) - _GRAM + 1)])


class _Index:
    """Strings to find, each with the least length of a part that counts too."""

    def __init__(self, needles: dict[str, int]) -> None:
        self._needles = needles
        self._short = [needle for needle in needles if len(needle) < _GRAM]
        self._grams: dict[str, list[tuple[str, int]]] = {}
        for needle in needles:
            if len(needle) >= _GRAM:
                self._add(needle)

    def _add(self, needle: str) -> None:
        # If two texts have so many characters in common, one of these pieces is among them.
        step = max(_GRAM, len(needle) // _GRAMS)
        last = len(needle) - _GRAM
        for place in (*range(0, last, step), last):
            places = self._grams.setdefault(needle[place : place + _GRAM], [])
            if len(places) <= _MOST_SHARED and sum(other is needle for other, _ in places[-_PLACES:]) < _PLACES:
                places.append((needle, place))

    def find(self, text: str) -> list[tuple[int, int]]:
        """Return the ranges of *text* with one of the strings, in any form."""
        return [span for view in View.of(text).decode() for span in self._find_in(view.strip())]

    def _find_in(self, view: View) -> Iterator[tuple[int, int]]:
        yield from (view.locate(*span) for span in self._search(fold(view.text)))
        if not any(True for _ in self._search(fold(view.join_bytes()), at_edges=False)):
            return  # as usual: each view by itself would take much longer
        for inner in view.find_bytes():
            stripped = inner.strip()
            yield from (stripped.locate(*span) for span in self._search(fold(stripped.text), at_edges=False))

    def _search(self, text: str, *, at_edges: bool = True) -> Iterator[tuple[int, int]]:
        for needle in self._short:
            place = text.find(needle)
            while place >= 0:
                yield place, place + len(needle)
                place = text.find(needle, place + len(needle))
        done = 0
        for place in self._find_grams(text):
            if place + _GRAM <= done:
                continue
            places = self._grams[text[place : place + _GRAM]]
            if len(places) > _MOST_SHARED:
                yield place, place + _GRAM
                continue
            for needle, offset in places:
                begin, end = _extend(text, place, needle, offset)
                part = self._needles[needle]
                first = offset - (place - begin)
                is_cut_off = first == 0 and (end == len(text) or text.startswith(_CUT_MARKS, end))
                is_rest = text.endswith(_CUT_MARKS, 0, begin) and first + end - begin == len(needle)
                if end - begin >= min(len(needle), part) or (at_edges and (is_cut_off or is_rest)):
                    yield begin, end
                    done = max(done, end)

    def _find_grams(self, text: str) -> Iterable[int]:
        """Return the places of all known pieces in a text, in order."""
        if len(self._grams) * 8 > len(text):
            return [i for i in range(len(text) - _GRAM + 1) if text[i : i + _GRAM] in self._grams]
        found = set()
        for gram in self._grams:
            place = text.find(gram)
            while place >= 0:
                found.add(place)
                place = text.find(gram, place + 1)
        return sorted(found)


def _extend(text: str, place: int, needle: str, offset: int) -> tuple[int, int]:
    """Return the range around *place* in which *text* is the same as *needle* around *offset*."""
    begin, end = place, place + _GRAM
    before = min(place, offset)
    back = 0
    while back < before and text[place - back - 1] == needle[offset - back - 1]:
        back += 1
    ahead, after = 0, min(len(text) - end, len(needle) - offset - _GRAM)
    while ahead < after and text[end + ahead] == needle[offset + _GRAM + ahead]:
        ahead += 1
    return begin - back, end + ahead
