"""What was measured, and what it was to reach."""

from collections.abc import Mapping

from msgspec import Struct


class Beside(Struct, frozen=True):
    """What else was measured in the same rounds, and the ratio to it."""

    value: float
    ratio: float


class Row(Struct, frozen=True, omit_defaults=True):
    """A measurement."""

    what: str
    value: float
    unit: str
    instances: int | None = None
    connections: int | None = None
    beside: Mapping[str, Beside] = {}


class Target(Struct, frozen=True):
    """A ratio that is to be reached: at least, or else at most, the bound."""

    what: str
    instances: int
    connections: int | None
    at_least: bool
    bound: float
    measured: float
    met: bool


def at_least(bound: float, measured: float, what: str, instances: int, connections: int | None = None) -> Target:
    """Judge what should be large."""
    return Target(what, instances, connections, True, bound, measured, measured >= bound)


def at_most(bound: float, measured: float, what: str, instances: int, connections: int | None = None) -> Target:
    """Judge what should be small."""
    return Target(what, instances, connections, False, bound, measured, measured <= bound)


class Report(Struct, frozen=True):
    """What came of one part of the benchmarks."""

    rows: list[Row]
    targets: list[Target]
