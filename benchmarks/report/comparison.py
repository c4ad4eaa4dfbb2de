"""Comparison of subjects in short rounds that alternate, so that noise on the machine affects all of them alike."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from msgspec import Struct

from benchmarks.load.calls import Operation
from benchmarks.report.tables import Baseline, Row


class Subject(Struct, frozen=True):
    """A subject of a comparison: a kind of server, or the disk, and its number of instances."""

    kind: str
    instances: int = 0


Trial = Callable[[Operation], float | None]
"""Runs one round of an operation and returns its rate per second, or None if the subject does not have the operation."""


class Rates:
    """The rates of all subjects, round by round."""

    def __init__(self) -> None:
        self._rates: dict[tuple[Subject, Operation], list[float]] = {}

    def add(self, subject: Subject, operation: Operation, rate: float) -> None:
        """Add the rate of a subject's next round."""
        self._rates.setdefault((subject, operation), []).append(rate)

    def build_row(
        self, operation: Operation, subject: Subject, baselines: Mapping[str, Subject], connections: int
    ) -> Row:
        """Return a row with a subject's median rate, beside each baseline that has the operation."""
        columns = {
            name: Baseline(self._median(operation, baseline), self.ratio(operation, subject, baseline))
            for name, baseline in baselines.items()
            if (baseline, operation) in self._rates
        }
        return Row(operation, self._median(operation, subject), "/s", subject.instances, connections, columns)

    def _median(self, operation: Operation, subject: Subject) -> float:
        return median(self._rates[subject, operation])

    def ratio(self, operation: Operation, subject: Subject, baseline: Subject) -> float:
        """Return the median of the rounds' ratios to a baseline."""
        return self.ratio_to_lowest(operation, subject, {baseline: 1.0})

    def ratio_to_lowest(self, operation: Operation, subject: Subject, baselines: Mapping[Subject, float]) -> float:
        """Return the median of the rounds' ratios to the lowest baseline, after each is multiplied by its factor."""
        # The ratio comes before the median: both rates of a round saw the same noise, so it cancels out. The ratio of two
        # medians would compare different moments.
        rates = self._rates[subject, operation]
        scaled = [
            [rate * factor for rate in self._rates[baseline, operation]] for baseline, factor in baselines.items()
        ]
        # Subjects that ran out of time have fewer rounds. Only the first rounds, which all of them have, count.
        lowest: list[float] = [min(each) for each in zip(*scaled, strict=False)]
        return median(rate / bound for rate, bound in zip(rates, lowest, strict=False))


def compare(trials: Mapping[Subject, Trial], operations: Sequence[Operation], rounds: int, max_seconds: float) -> Rates:
    """Run all subjects' trials of each operation, round by round, and return the rates.

    A subject that has spent *max_seconds* has no further rounds.
    """
    rates = Rates()
    spent = dict.fromkeys(trials, 0.0)
    for _ in range(rounds):
        active = [subject for subject in trials if spent[subject] < max_seconds]
        for operation in operations:
            # A new order each time: work that one subject leaves behind, such as writeback, hits a different one.
            for subject in random.sample(active, len(active)):
                began = time.monotonic()
                rate = trials[subject](operation)
                spent[subject] += time.monotonic() - began
                if rate is not None:
                    rates.add(subject, operation, rate)
    return rates
