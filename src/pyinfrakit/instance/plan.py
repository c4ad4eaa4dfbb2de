"""Decide what an observation means for the records. Pure: no I/O, no clock, nothing kept between calls.

| record         | observed            | in a row            | then |
|----------------|---------------------|---------------------|------|
| ready          | functional          |                     | as it should be |
| ready          | not functional      | `broken_after`      | set aside: BROKEN |
| ready          | missing             | `missing_after`     | dropped: MISSING |
| non-functional | functional          | `healed_after`      | HEALED, if still wanted; else it stays, and its reason says why |
| non-functional | functional          | any, set aside by hand | stays until an operator restores it |
| non-functional | not functional      | `broken_after`      | stays, with the reason of now |
| non-functional | missing             | `missing_after`     | dropped: MISSING |
| non-functional | there, for `non_functional_age` |         | destroyed: AGED |
| provisioning   | not functional, for `provision_deadline` | | set aside: OVERDUE |
| provisioning   | else                |                     | nothing: its call tells |
| destroying     | missing             | `missing_after`     | dropped: MISSING; but see below |
| destroying     | there               |                     | nothing: its call tells |
| none           | there               |                     | an orphan: told, never touched |

Nothing is said of a record that changed, or had a call in flight, since the observation began; but for OVERDUE,
as a call that hangs is in flight for ever. Losses (BROKEN, OVERDUE, MISSING) are held back where they come to too many,
and what was held once stays so until it is seen well or released. Meanwhile, and where they are too many, nothing that is
destroying is dropped either: its call tells.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum

from msgspec import Struct

from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record, State
from pyinfrakit.store.records import Records


class Limits(Struct, frozen=True, kw_only=True):
    """When an observation is believed: counts are observations in a row, times are in seconds."""

    broken_after: int = 2
    healed_after: int = 3
    missing_after: int = 3
    provision_deadline: float = 30 * 60
    non_functional_age: float | None = None
    loss_window: float = 10 * 60
    loss_share: float = 0.2
    loss_floor: int = 3

    def allowed_losses(self, instances: int) -> int:
        """How many of so many instances may be lost within `loss_window`."""
        return max(self.loss_floor, int(instances * self.loss_share))


class Observation(Struct, frozen=True):
    """What the provider was seen to have, by instance ID, at *now* in seconds.

    *silent* are the IDs that it says nothing about. *started* is when the daemon did: no deadline counts from before.
    """

    machines: Mapping[str, Machine]
    now: float
    silent: frozenset[str] = frozenset()
    started: float = 0.0


class Seen(StrEnum):
    """How an instance was seen."""

    FUNCTIONAL = "functional"
    BROKEN = "broken"
    MISSING = "missing"


class Streak(Struct, frozen=True):
    """How an instance was seen, in how many observations in a row, and in which state it was then."""

    seen: Seen
    count: int
    state: State


class Transition(Struct, frozen=True):
    """An event that an instance is to go through."""

    id: str
    event: Event
    reason: str


class History(Struct, frozen=True):
    """What one plan leaves to the next: streaks, when which instance was lost, and which losses are held."""

    streaks: Mapping[str, Streak] = {}
    losses: Mapping[str, float] = {}
    held: Mapping[str, Transition] = {}


class Plan(Struct, frozen=True):
    """What to do. *held* is what would be lost if it were not for the mass-loss rule; *history* is for the next plan."""

    transitions: tuple[Transition, ...]
    held: tuple[Transition, ...]
    orphans: tuple[str, ...]
    history: History


def plan(
    records: Records,
    observation: Observation,
    history: History,
    limits: Limits,
    released: Collection[str] = frozenset(),
) -> Plan:
    """Say what *observation* means. Losses of the *released* IDs, which an operator confirmed, are neither held
    nor counted."""
    judged = _not_well(records, observation, history)
    streaks = _streaks(judged, observation, history)
    transitions = _transitions(judged, records, observation, streaks, limits)
    losses = _Losses(records, limits, {id: at for id, at in history.losses.items() if observation.now - at < limits.loss_window})
    lost = {t.id: t for t in transitions if _is_loss(t, records) and t.id not in released}
    held = _still_held(records, observation, history, released)
    if losses.are_too_many(lost.keys() | held.keys()):
        held |= lost
    gone = {t.id for t in transitions if records[t.id].state is State.DESTROYING}
    is_doubtful = bool(held) or losses.are_too_many(lost.keys() | gone)
    back = held.keys() | (gone if is_doubtful else set())
    kept = tuple(t for t in transitions if t.id not in back)
    counted = {t.id: observation.now for t in kept if t.id in lost or t.id in gone}
    known = records.tagged_ids({})
    orphans = tuple(id for id in observation.machines if id not in known and id not in observation.silent)
    return Plan(kept, tuple(held.values()), orphans, History(streaks, losses.recent | counted, held))


class _Losses(Struct, frozen=True):
    """The losses of late, by when they were, and whether there is room for more."""

    records: Records
    limits: Limits
    recent: dict[str, float]

    def are_too_many(self, more: Collection[str]) -> bool:
        instances = len(self.records) + sum(id not in self.records for id in self.recent)
        return len(self.recent.keys() | more) > self.limits.allowed_losses(instances)


def _still_held(records: Records, observation: Observation, history: History, released: Collection[str]) -> dict[str, Transition]:
    """Give what stays held: a held loss is not forgotten because fewer seem lost now, but only as this one is seen well."""
    return {
        id: transition
        for id, transition in history.held.items()
        if id in records and records[id].state is not State.DESTROYING and id not in released
        if id in observation.silent or not _is_well(records[id], observation.machines.get(id))
    }


def _is_well(record: Record, machine: Machine | None) -> bool:
    """Is this not worse than what the record says? Of a non-functional one no more is expected than that it is there."""
    return machine is not None and (machine.functional or record.state is State.NON_FUNCTIONAL)


def _not_well(records: Records, observation: Observation, history: History) -> list[Record]:
    """Give the records that something may be said of: all but those that are ready and seen to work, as most are."""
    machines, streaks, ready = observation.machines, history.streaks, State.READY
    return [
        record
        for record in records
        if record.state is not ready
        or (machine := machines.get(record.id)) is None
        or not machine.functional
        or record.id in streaks
    ]


def _streaks(judged: Iterable[Record], observation: Observation, history: History) -> dict[str, Streak]:
    """Count on. A ready instance that is seen to work has no streak."""
    streaks: dict[str, Streak] = {}
    for record in judged:
        if record.state is State.PROVISIONING:
            continue
        old = history.streaks.get(record.id)
        if record.id in observation.silent:
            if old is not None:
                streaks[record.id] = old
            continue
        machine = observation.machines.get(record.id)
        seen = Seen.MISSING if machine is None else Seen.FUNCTIONAL if machine.functional else Seen.BROKEN
        if seen is Seen.FUNCTIONAL and record.state is State.READY:
            continue
        goes_on = old is not None and old.seen is seen and old.state is record.state
        streaks[record.id] = Streak(seen, old.count + 1 if old and goes_on else 1, record.state)
    return streaks


def _transitions(
    judged: Iterable[Record], records: Records, observation: Observation, streaks: Mapping[str, Streak], limits: Limits
) -> list[Transition]:
    healed: set[tuple[str | None, str]] = set()
    found = (_judge(record, streaks.get(record.id), observation, limits, records, healed) for record in judged)
    return [transition for transition in found if transition is not None]


def _judge(
    record: Record,
    streak: Streak | None,
    observation: Observation,
    limits: Limits,
    records: Records,
    healed: set[tuple[str | None, str]],
) -> Transition | None:
    if record.state is State.PROVISIONING:
        return _overdue(record, observation, limits)
    if streak is None or record.id in observation.silent:
        return None
    if streak.seen is Seen.MISSING:
        if streak.count >= limits.missing_after:
            return Transition(record.id, Event.MISSING, f"missing from {streak.count} observations in a row")
        return None
    if record.state is State.DESTROYING:
        return None
    if streak.seen is Seen.BROKEN:
        found = _broken(record, streak, observation.machines[record.id].reason, limits)
    else:
        found = _healed(record, streak, limits, records, healed)
    if (found is None or found.event is not Event.HEALED) and _aged(record, observation, limits):
        return Transition(record.id, Event.AGED, "non-functional for as long as such instances are kept")
    return found


def _overdue(record: Record, observation: Observation, limits: Limits) -> Transition | None:
    machine = observation.machines.get(record.id)
    age = observation.now - max(record.since, observation.started)
    if machine is None or machine.functional or age < limits.provision_deadline:
        return None
    return Transition(record.id, Event.OVERDUE, f"not functional {age:.0f} s after it was asked for: {machine.reason}")


def _aged(record: Record, observation: Observation, limits: Limits) -> bool:
    """Is it time to destroy a non-functional instance? Where it is not known since when it is that, this run's start counts."""
    if limits.non_functional_age is None or record.state is not State.NON_FUNCTIONAL or record.by_hand:
        return False
    return observation.now - (record.since or observation.started) >= limits.non_functional_age


def _broken(record: Record, streak: Streak, reason: str, limits: Limits) -> Transition | None:
    reason = reason or "the provider says that it does not work"
    if streak.count < limits.broken_after:
        return None
    if record.state is State.NON_FUNCTIONAL and (record.by_hand or record.reason == reason or streak.count > limits.broken_after):
        return None  # a reason that changes with each look, as a temperature does, is not written each time
    return Transition(record.id, Event.BROKEN, reason)


def _healed(
    record: Record, streak: Streak, limits: Limits, records: Records, healed: set[tuple[str | None, str]]
) -> Transition | None:
    if streak.count < limits.healed_after or record.by_hand:
        return None
    unwanted = why_unwanted(record, records)
    identity = (record.spec.group, record.spec.logical_id or "")
    if unwanted is None and record.spec.logical_id is not None:
        if identity in healed:
            unwanted = f"another instance with logical ID {record.spec.logical_id} healed too"
        healed.add(identity)
    if unwanted is None:
        return Transition(record.id, Event.HEALED, "")
    reason = f"works again, but {unwanted}"
    return None if reason == record.reason else Transition(record.id, Event.BROKEN, reason)


def why_unwanted(record: Record, records: Records) -> str | None:
    """Say why a non-functional instance that works again must not come back; None where it should."""
    spec = record.spec
    if spec.logical_id is not None:
        for other in records.of_logical_id(spec.logical_id, spec.group):
            if other.state.described and other.id != record.id:
                return f"{other.id} has its logical ID {spec.logical_id} now"
    if spec.group is None:
        return None
    newest = min((m.id for m in records.in_group(spec.group) if m.state is State.READY), default=None)
    if newest is not None and records[newest].spec.config != spec.config:
        return f"its configuration is not that of {newest}, the newest of its group"
    return None


def _is_loss(transition: Transition, records: Records) -> bool:
    """Is this an instance less? One that is non-functional already is none the worse for a new reason."""
    state = records[transition.id].state
    if transition.event is Event.BROKEN:
        return state is State.READY
    return transition.event in (Event.OVERDUE, Event.MISSING) and state is not State.DESTROYING
