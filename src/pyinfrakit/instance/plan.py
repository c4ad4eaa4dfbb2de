"""Decide what an observation means for the records. Pure: no I/O, no clock, no state between calls.

| record         | observed            | consecutive         | then |
|----------------|---------------------|---------------------|------|
| ready          | functional          |                     | nothing |
| ready          | not functional      | `broken_after`      | set aside: BROKEN |
| ready          | missing             | `missing_after`     | dropped: MISSING |
| non-functional | functional          | `healed_after`      | HEALED, if still wanted; else it stays, and its reason says why |
| non-functional | functional          | any, set aside by hand | stays until an operator restores it |
| non-functional | not functional      | `broken_after`      | stays, with the current reason |
| non-functional | missing             | `missing_after`     | dropped: MISSING |
| non-functional | any, for `non_functional_age` |           | destroyed: AGED |
| provisioning   | not functional, for `provision_deadline` | | set aside: OVERDUE |
| provisioning   | else                |                     | nothing: its call decides |
| destroying     | missing             | `missing_after`     | dropped: MISSING, with one exception below |
| destroying     | any                 |                     | nothing: its call decides |
| none           | any                 |                     | an orphan: reported, never touched |

An observation says nothing about a record that changed, or had a call in flight, since the observation
began. OVERDUE is the exception, because a call that hangs is in flight forever.

Losses (BROKEN, OVERDUE, MISSING) are held back if there are too many of them. A held loss stays held
until the instance is seen working, or an operator releases it. Meanwhile, no record that is destroying is
dropped as missing either: its call decides.

What counts as enough, and as too much, depends on whether the provider's observations can be wrong:

| provider  | `broken_after` | `missing_after` | losses held back |
|-----------|----------------|-----------------|------------------|
| uncertain | 2              | 3               | beyond the larger of `loss_floor` and `loss_share`, within `loss_window` |
| certain   | 1              | 1               | none, and no earlier one stays held |

An operator's own `broken_after` or `missing_after` holds for either.
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record, State
from pyinfrakit.store.snapshot import Snapshot


class Thresholds(Struct, frozen=True, kw_only=True):
    """When an observation counts. The first three numbers are consecutive observations; times are in seconds.

    The observations of a *certain* provider can't be wrong. Its defaults for None are other ones.
    """

    certain: bool = False
    broken_after: int | None = None
    healed_after: int = 3
    missing_after: int | None = None
    provision_deadline: float = 30 * 60
    non_functional_age: float | None = None
    loss_window: float = 10 * 60
    loss_share: float = 0.2
    loss_floor: int = 3

    @property
    def broken_count(self) -> int:
        """How many consecutive observations make an instance broken."""
        return self.broken_after or (1 if self.certain else 2)

    @property
    def missing_count(self) -> int:
        """How many consecutive observations make an instance missing."""
        return self.missing_after or (1 if self.certain else 3)

    def max_losses(self, instances: int) -> int:
        """Return how many of *instances* may be lost within `loss_window`."""
        return instances if self.certain else max(self.loss_floor, int(instances * self.loss_share))


class Observation(Struct, frozen=True):
    """The provider's machines, by instance ID, at *now* in seconds.

    *silent* are the IDs that the observation says nothing about. *started* is when the daemon started: no
    deadline counts from before that.
    """

    machines: Mapping[str, Machine]
    now: float
    silent: Container[str] = frozenset()
    started: float = 0.0


class Condition(StrEnum):
    """The observed condition of an instance."""

    FUNCTIONAL = "functional"
    BROKEN = "broken"
    MISSING = "missing"


class Streak(Struct, frozen=True, gc=False):
    """An instance's condition in *count* consecutive observations, and its state then."""

    condition: Condition
    count: int
    state: State


class Transition(Struct, frozen=True, gc=False):
    """An event that an instance is to go through."""

    id: str
    event: Event
    reason: str


class History(Struct, frozen=True):
    """What one plan passes on to the next: streaks, the times of recent losses, and held losses."""

    streaks: Mapping[str, Streak] = {}
    losses: Mapping[str, float] = {}
    held: Mapping[str, Transition] = {}


class Plan(Struct, frozen=True):
    """The transitions to make, the losses that the mass-loss rule holds, and the history for the next plan."""

    transitions: tuple[Transition, ...]
    held: tuple[Transition, ...]
    orphans: tuple[str, ...]
    history: History


def plan(
    records: Snapshot,
    observation: Observation,
    history: History,
    thresholds: Thresholds,
    released: Collection[str] = frozenset(),
) -> Plan:
    """Return the plan that follows from *observation*.

    Losses of *released* IDs, which an operator confirmed, are neither held nor counted.
    """
    candidates = _find_candidates(records, observation, history)
    streaks = _extend_streaks(candidates, observation, history)
    transitions = _judge_all(candidates, records, observation, streaks, thresholds)
    recent = {id: at for id, at in history.losses.items() if observation.now - at < thresholds.loss_window}
    budget = _LossBudget(records, thresholds, recent)
    lost = {t.id: t for t in transitions if _is_loss(t, records) and t.id not in released}
    held = {} if thresholds.certain else _keep_held(records, observation, history, released)
    if budget.is_exceeded_by(lost.keys() | held.keys()):
        held |= lost
    # A record that is destroying and missing is gone, most likely; but not if the provider loses sight of much.
    gone = {t.id for t in transitions if records[t.id].state is State.DESTROYING}
    in_doubt = bool(held) or budget.is_exceeded_by(lost.keys() | gone)
    withheld = held.keys() | (gone if in_doubt else set())
    kept = tuple(t for t in transitions if t.id not in withheld)
    counted = {t.id: observation.now for t in kept if t.id in lost or t.id in gone}
    orphans = tuple(id for id in observation.machines if id not in records and id not in observation.silent)
    return Plan(kept, tuple(held.values()), orphans, History(streaks, recent | counted, held))


class _LossBudget(Struct, frozen=True):
    """Recent losses, by their times, and whether there is room for more."""

    records: Snapshot
    thresholds: Thresholds
    recent: dict[str, float]

    def is_exceeded_by(self, more: Collection[str]) -> bool:
        instances = len(self.records) + sum(id not in self.records for id in self.recent)
        return len(self.recent.keys() | more) > self.thresholds.max_losses(instances)


def _keep_held(
    records: Snapshot, observation: Observation, history: History, released: Collection[str]
) -> dict[str, Transition]:
    """Return the losses that stay held. Each is released only when its own instance is seen well, however few are left."""
    return {
        id: transition
        for id, transition in history.held.items()
        if id in records and records[id].state is not State.DESTROYING and id not in released
        if id in observation.silent or not _is_well(records[id], observation.machines.get(id))
    }


def _is_well(record: Record, machine: Machine | None) -> bool:
    """Return whether a machine is no worse than its record says: a non-functional one only has to exist."""
    return machine is not None and (machine.functional or record.state is State.NON_FUNCTIONAL)


def _find_candidates(records: Snapshot, observation: Observation, history: History) -> list[Record]:
    """Return the records that the observation may be news for: all but the many that are ready and seen working."""
    machines, streaks, ready = observation.machines, history.streaks, State.READY
    return [
        record
        for record in records
        if record.state is not ready
        or (machine := machines.get(record.id)) is None
        or not machine.functional
        or record.id in streaks
    ]


def _extend_streaks(candidates: Iterable[Record], observation: Observation, history: History) -> dict[str, Streak]:
    """Return the streaks including this observation. A ready instance that is seen working has none."""
    streaks: dict[str, Streak] = {}
    for record in candidates:
        if record.state is State.PROVISIONING:
            continue
        old = history.streaks.get(record.id)
        if record.id in observation.silent:
            if old is not None:
                streaks[record.id] = old
            continue
        condition = _find_condition(observation.machines.get(record.id))
        if condition is Condition.FUNCTIONAL and record.state is State.READY:
            continue
        continues = old is not None and old.condition is condition and old.state is record.state
        streaks[record.id] = Streak(condition, old.count + 1 if old and continues else 1, record.state)
    return streaks


def _find_condition(machine: Machine | None) -> Condition:
    if machine is None:
        return Condition.MISSING
    return Condition.FUNCTIONAL if machine.functional else Condition.BROKEN


def _judge_all(
    candidates: Iterable[Record],
    records: Snapshot,
    observation: Observation,
    streaks: Mapping[str, Streak],
    thresholds: Thresholds,
) -> list[Transition]:
    healed: set[tuple[str | None, str]] = set()
    found = (_judge(record, streaks.get(record.id), observation, thresholds, records, healed) for record in candidates)
    return [transition for transition in found if transition is not None]


def _judge(
    record: Record,
    streak: Streak | None,
    observation: Observation,
    thresholds: Thresholds,
    records: Snapshot,
    healed: set[tuple[str | None, str]],
) -> Transition | None:
    """Return the transition of one record, by the table above, or None."""
    if record.state is State.PROVISIONING:
        return _judge_overdue(record, observation, thresholds)
    if streak is None or record.id in observation.silent:
        return None
    if streak.condition is Condition.MISSING:
        if streak.count >= thresholds.missing_count:
            count = "1 observation" if streak.count == 1 else f"{streak.count} consecutive observations"
            return Transition(record.id, Event.MISSING, f"missing from {count}")
        return None
    if record.state is State.DESTROYING:
        return None
    if streak.condition is Condition.BROKEN:
        found = _judge_broken(record, streak, observation.machines[record.id].reason, thresholds)
    else:
        found = _judge_healed(record, streak, thresholds, records, healed)
    if (found is None or found.event is not Event.HEALED) and _has_aged(record, observation, thresholds):
        return Transition(record.id, Event.AGED, "non-functional for longer than such instances are kept")
    return found


def _judge_overdue(record: Record, observation: Observation, thresholds: Thresholds) -> Transition | None:
    machine = observation.machines.get(record.id)
    age = observation.now - max(record.since, observation.started)
    if machine is None or machine.functional or age < thresholds.provision_deadline:
        return None
    reason = f"not functional {age:.0f} s after it was asked for: {machine.reason}"
    return Transition(record.id, Event.OVERDUE, reason)


def _has_aged(record: Record, observation: Observation, thresholds: Thresholds) -> bool:
    if thresholds.non_functional_age is None or record.state is not State.NON_FUNCTIONAL or record.by_hand:
        return False
    # The C demo keeps no times. Then the age counts from the start of this run.
    return observation.now - (record.since or observation.started) >= thresholds.non_functional_age


def _judge_broken(record: Record, streak: Streak, reason: str, thresholds: Thresholds) -> Transition | None:
    reason = reason or "the provider reports that it does not work"
    if streak.count < thresholds.broken_count:
        return None
    if record.state is State.NON_FUNCTIONAL:
        # A reason that changes with each observation, as a temperature does, is not written each time.
        is_old = streak.count > thresholds.broken_count
        if record.by_hand or record.reason == reason or is_old:
            return None
    return Transition(record.id, Event.BROKEN, reason)


def _judge_healed(
    record: Record, streak: Streak, thresholds: Thresholds, records: Snapshot, healed: set[tuple[str | None, str]]
) -> Transition | None:
    if streak.count < thresholds.healed_after or record.by_hand:
        return None
    unwanted = explain_unwanted(record, records)
    identity = (record.spec.group, record.spec.logical_id or "")
    if unwanted is None and record.spec.logical_id is not None:
        if identity in healed:
            unwanted = f"another instance with logical ID {record.spec.logical_id} healed too"
        healed.add(identity)
    if unwanted is None:
        return Transition(record.id, Event.HEALED, "")
    reason = f"works again, but {unwanted}"
    return None if reason == record.reason else Transition(record.id, Event.BROKEN, reason)


class Known(Protocol):
    """Records, or a snapshot of them."""

    def find_logical(self, logical_id: str, group: str | None) -> Sequence[Record]:
        """Return the records, in any state, with a logical ID in a group (None: in no group)."""

    def find_newest(self, group: str) -> Record | None:
        """Return the newest ready member of a group."""


def explain_unwanted(record: Record, records: Known) -> str | None:
    """Return why a non-functional instance that works again must not come back; None if it should."""
    spec = record.spec
    if spec.logical_id is not None:
        for other in records.find_logical(spec.logical_id, spec.group):
            if other.state.described and other.id != record.id:
                return f"{other.id} has its logical ID {spec.logical_id} now"
    if spec.group is None:
        return None
    newest = records.find_newest(spec.group)
    if newest is not None and newest.spec.config != spec.config:
        return f"its configuration is not that of {newest.id}, the newest of its group"
    return None


def _is_loss(transition: Transition, records: Snapshot) -> bool:
    """Return whether InfraKit loses an instance by this; a new reason for a non-functional one is no loss."""
    state = records[transition.id].state
    if transition.event is Event.BROKEN:
        return state is State.READY
    return transition.event in (Event.OVERDUE, Event.MISSING) and state is not State.DESTROYING
