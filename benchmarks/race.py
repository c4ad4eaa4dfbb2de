"""Compare by turns: short rounds of one contender after the other, so that a noisy machine is noisy for all of them."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from statistics import median

from msgspec import Struct

from benchmarks.report import Beside, Row


class Work(StrEnum):
    """What is asked for."""

    DESCRIBE_ALL = "describe all"
    DESCRIBE_GROUP = "describe a group of 10"
    PROVISION = "provision"
    LABEL = "label"
    DESTROY = "destroy"


class Name(Struct, frozen=True):
    """A contender: what it is, and its number of instances."""

    kind: str
    instances: int = 0


Contender = Callable[[Work], float | None]
"""Does a round of some work, and gives the rate; None where it has no part in that work."""


class Rates:
    """What each contender reached, round for round."""

    def __init__(self) -> None:
        self._rates: dict[tuple[Name, Work], list[float]] = {}

    def add(self, name: Name, work: Work, rate: float) -> None:
        self._rates.setdefault((name, work), []).append(rate)

    def row(self, work: Work, name: Name, others: Mapping[str, Name], connections: int) -> Row:
        """Report a contender's rate, beside those of others, as far as these took part."""
        beside = {
            label: Beside(self._median(work, other), self.ratio(work, name, other))
            for label, other in others.items()
            if (other, work) in self._rates
        }
        return Row(work, self._median(work, name), "/s", name.instances, connections, beside)

    def _median(self, work: Work, name: Name) -> float:
        return median(self._rates[name, work])

    def ratio(self, work: Work, name: Name, other: Name) -> float:
        """Give the median of the rounds' ratios."""
        return self.ratio_to_least(work, name, {other: 1.0})

    def ratio_to_least(self, work: Work, name: Name, bounds: Mapping[Name, float]) -> float:
        """Give the median of the ratios to the lowest of several, each times its factor."""
        own = self._rates[name, work]
        others = [[rate * factor for rate in self._rates[bound, work]] for bound, factor in bounds.items()]
        least: list[float] = [min(rates) for rates in zip(*others, strict=False)]
        return median(mine / bound for mine, bound in zip(own, least, strict=False))


def race(contenders: Mapping[Name, Contender], works: Sequence[Work], rounds: int, patience: float) -> Rates:
    """Have all contenders do each work in turn, in an order that changes: what one leaves to be done hits any of the others.

    One that took longer than *patience* seconds has no more rounds.
    """
    rates = Rates()
    spent = dict.fromkeys(contenders, 0.0)
    for _ in range(rounds):
        going = [name for name in contenders if spent[name] < patience]
        for work in works:
            for name in random.sample(going, len(going)):
                began = time.monotonic()
                rate = contenders[name](work)
                spent[name] += time.monotonic() - began
                if rate is not None:
                    rates.add(name, work, rate)
    return rates
