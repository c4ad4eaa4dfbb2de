"""The report of a run, as frozen data, and the exceptions by which a check reaches its verdict."""

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct


class Verdict(StrEnum):
    """The outcome of a check."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_APPLICABLE = "not applicable"
    UNKNOWN = "could not tell"


class Result(Struct, frozen=True):
    """A check with its outcome: the behavior that it expects, and the plugin's actual behavior."""

    name: str
    verdict: Verdict
    expected: str
    happened: str


class Fact(Struct, frozen=True):
    """A property of the plugin that is neither right nor wrong."""

    name: str
    value: str


class Left(Struct, frozen=True):
    """An instance that the run created and could not destroy. *id* is empty if it is unknown."""

    id: str
    reason: str


class Report(Struct, frozen=True):
    """The outcome of a run. *plan* is its announcement, *left* has the instances that it left behind."""

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
        """True if no check failed and no instance was left behind."""
        return not self.failed and not self.left


# Three exceptions instead of return values, because a check often learns its verdict several calls deep.


class DoesNotHold(Exception):
    """The plugin lacks the behavior. The text is its actual behavior."""


class CannotTell(Exception):
    """Another fault prevents the check. The text names that fault."""


class NotApplicable(Exception):
    """The plugin does not claim to have the behavior. The text says why."""
