"""What was found: frozen data. And how a check says that its behaviour does not hold, or can't be told."""

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct


class Verdict(StrEnum):
    """What a check found."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_APPLICABLE = "not applicable"
    UNKNOWN = "could not tell"


class Result(Struct, frozen=True):
    """A check's name, and what came of it."""

    name: str
    verdict: Verdict
    expected: str
    happened: str


class Fact(Struct, frozen=True):
    """Something to know of a plugin, which is neither right nor wrong."""

    name: str
    value: str


class Left(Struct, frozen=True):
    """An instance that was made and could not be cleaned up, or none that is known where *id* is empty."""

    id: str
    reason: str


class Report(Struct, frozen=True):
    """What a plugin was found to do. *plan* is what was announced, *left* what could not be cleaned up."""

    socket: str
    plan: str
    facts: Sequence[Fact]
    checks: Sequence[Result]
    left: Sequence[Left]

    @property
    def failed(self) -> Sequence[Result]:
        """The checks that do not hold."""
        return [result for result in self.checks if result.verdict is Verdict.FAILS]

    @property
    def holds(self) -> bool:
        """Does nothing fail, and is nothing left behind?"""
        return not self.failed and not self.left


class Broken(Exception):
    """The behaviour does not hold; the text says what happened instead."""


class Unknown(Exception):
    """It could not be told, because of what the text says."""


class NotApplicable(Exception):
    """The plugin does not claim to have this behaviour; the text says why."""
