"""Mint instance IDs that sort newest first.

InfraKit shrinks a group by destroying the members with the smallest IDs, compared as strings. So each new ID
is smaller than all earlier ones: the newest member goes first, and the longest-serving ones stay.

An ID is ``0``, eleven base-32 digits that count down over time, ``-``, and six random digits, so that two
plugins with a common provider never mint the same ID. It is a DNS label. The digits are in ASCII order, so
that strings compare as the numbers do. The count is in microseconds, and lasts until the year 3111. The ID
of an adopted machine starts with ``9`` and sorts after all minted ones.
"""

import re
from random import Random

_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = tuple(one + two for one in _DIGITS for two in _DIGITS)
_LENGTH = 11
_TOP = 32**_LENGTH - 1
_MINTED = re.compile(rf"0([{_DIGITS}]{{{_LENGTH}}})-[{_DIGITS}]{{6}}")
_RANDOM = Random()
"""Our own: a provider may seed the shared generator, and two plugins must not mint the same IDs then."""

NEVER = "1"
"""Stands for the last ID before the first one is minted; it sorts after all of them."""


def is_minted(id: str) -> bool:
    """Return whether *id* has the form of those that `mint` returns."""
    return _MINTED.fullmatch(id) is not None


def mint(last: str, now: float) -> str:
    """Return an ID that sorts before *last*, the last minted one (or `NEVER`), even if the clock went back.

    *now* is in seconds since 1970.
    """
    count = 0 if last == NEVER else _TOP - int(last[1 : 1 + _LENGTH], 32)
    number = _TOP - max(int(now * 1_000_000), count + 1)
    return f"{_encode_base32(number, 50)}-{_encode_base32(_RANDOM.getrandbits(30), 20)}"


def mint_adopted(now: float) -> str:
    """Return an ID for a machine that existed before. It sorts after all minted ones, as if it were older."""
    return "9" + mint(NEVER, now)[1:]


def _encode_base32(number: int, top: int) -> str:
    """Return a number in base 32, two digits at a time: this is on the path of every provision. *top*: its highest bits."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(top, -1, -10)])
