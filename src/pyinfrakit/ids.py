"""Mint instance IDs that sort newest first.

InfraKit shrinks a group by destroying the members with the smallest IDs, compared as strings. So each new ID is smaller
than all that were minted before: the newest member goes first and the longest-serving ones stay.

An ID is ``0``, eleven base-32 digits that count down as time goes on, ``-``, and six random ones, so that two
plugins which share a provider never mint the same. It is a DNS label. The digits are in ASCII order, so that strings
compare as the numbers do; the count is in microseconds, good until the year 3111. An adopted machine's ID starts with
``9`` and sorts after all of these.
"""

import re
from random import Random

_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = tuple(one + two for one in _DIGITS for two in _DIGITS)
_LENGTH = 11
_TOP = 32**_LENGTH - 1
_MINTED = re.compile(rf"0([{_DIGITS}]{{{_LENGTH}}})-[{_DIGITS}]{{6}}")
_RANDOM = Random()
"""Our own: a provider that seeds the common one must not have two plugins mint the same."""

NEVER = "1"
"""Stands for the last ID where none was minted yet; sorts after all that will be."""


def is_minted(id: str) -> bool:
    """Does *id* have the form of those that `mint` gives?"""
    return _MINTED.fullmatch(id) is not None


def mint(last: str, now: float) -> str:
    """Give an ID that sorts before *last*, the one minted last (or `NEVER`), whatever the clock *now* (seconds) says."""
    minted = 0 if last == NEVER else _TOP - int(last[1 : 1 + _LENGTH], 32)
    count = _TOP - max(int(now * 1_000_000), minted + 1)
    return f"{_written(count, 50)}-{_written(_RANDOM.getrandbits(30), 20)}"


def mint_adopted(now: float) -> str:
    """Give an ID for a machine that existed before: it sorts after all that `mint` gives, as if it were older."""
    return "9" + mint(NEVER, now)[1:]


def _written(number: int, top: int) -> str:
    """Write a number in base 32, from the bits above *top* on: two digits at a time, as this is done for every provision."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(top, -1, -10)])
