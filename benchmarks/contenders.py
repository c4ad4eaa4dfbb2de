"""Those who take part in a race: servers that keep instances, the constant reply, and the disk."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path

from benchmarks import calls, disk, fleet
from benchmarks.fleet import Fleet
from benchmarks.lane import Lane
from benchmarks.race import Work

_GROUPS = 1_000
"""How many groups are described in turn."""

_NUMBERS = count(5_000_000)
"""Of instances that are provisioned: beyond those of all fleets."""

_GONE = "0vp5l8q2k1ca-7m0t3e"
"""An ID as long as any."""


def describing(of: Fleet) -> Mapping[Work, list[bytes]]:
    """Give the requests that describe a fleet, and its groups."""
    groups = random.sample(of.groups, min(_GROUPS, len(of.groups)))
    return {
        Work.DESCRIBE_ALL: [calls.describe()],
        Work.DESCRIBE_GROUP: [calls.describe({"infrakit.group": group}) for group in groups],
    }


def changing(most: int) -> Mapping[Work, list[bytes]]:
    """Give requests that change things, for a server that does not look at them."""
    return {
        Work.PROVISION: list(provisions(most)),
        Work.LABEL: [_label(_GONE) for _ in range(most)],
        Work.DESTROY: [calls.destroy(_GONE)] * most,
    }


def provisions(most: int) -> Iterator[bytes]:
    """Give requests for so many instances, in groups. They have no logical ID: a repeat asks for one more."""
    return (calls.provision({**fleet.spec(number), "LogicalID": None}) for number in islice(_NUMBERS, most))


def _label(id: str) -> bytes:
    return calls.label(id, {fleet.HASH_TAG: fleet.new_hash()})


class Keeper:
    """A server that keeps instances. What is provisioned in a round is destroyed in it, the rest of it out of the time."""

    def __init__(self, lane: Lane, of: Fleet, batch: int, settle: Callable[[], None] | None = None) -> None:
        """*settle* waits until what was destroyed is gone; None where it is at once."""
        self._lane = lane
        self._fleet = of
        self._batch = batch
        self._settle = settle
        self._describing = describing(of)
        self._made: list[str] = []

    def __call__(self, work: Work) -> float:
        match work:
            case Work.PROVISION:
                return self._provision()
            case Work.LABEL:
                return self._label()
            case Work.DESTROY:
                return self._destroy()
        return self._lane.perform(self._describing[work]).rate

    def _provision(self) -> float:
        done = self._lane.perform(list(provisions(self._batch)), self._batch)
        self._made += done.ids
        return done.rate

    def _label(self) -> float:
        ids = random.choices(self._fleet.ids or self._made, k=self._batch)
        return self._lane.perform([_label(id) for id in ids], self._batch).rate

    def _destroy(self) -> float:
        requests = [calls.destroy(id) for id in self._made]
        done = self._lane.perform(requests, len(requests))
        self._lane.send_all(requests[done.count :])
        if self._settle is not None:
            self._settle()
        self._made.clear()
        return done.rate


class Constant:
    """Replies as long as the real ones to the same requests."""

    def __init__(self, lane: Lane, requests: Mapping[Work, Sequence[bytes]], lengths: Mapping[Work, int]) -> None:
        self._lane = lane
        self._requests = {work: calls.to_constant(lengths[work], each) for work, each in requests.items()}

    def __call__(self, work: Work) -> float:
        return self._lane.perform(self._requests[work]).rate


class Synced:
    """Constant replies, each after a durable append: what no provision over one connection can be quicker than."""

    def __init__(self, lane: Lane, requests: Mapping[Work, Sequence[bytes]], lengths: Mapping[Work, int]) -> None:
        self._constant = Constant(lane, requests, lengths)

    def __call__(self, work: Work) -> float | None:
        return self._constant(work) if work is Work.PROVISION else None


class Disk:
    """Appends to the disk, which bound provisions."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds

    def __call__(self, work: Work) -> float | None:
        return disk.rate(self._folder, self._seconds) if work is Work.PROVISION else None
