"""The record of one group: what the controller must still know after a restart. Frozen data, and its form as JSON."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from pyinfrakit.errors import Damaged
from pyinfrakit.group.rollout import Rollout
from pyinfrakit.group.status import Commit, Phase
from pyinfrakit.schema.decode import NotJSON, WrongShape
from pyinfrakit.schema.decode import decode as decode_shape

FORMAT = 1
"""The version of the form. A record of a later one is not read: it may mean something else."""

HISTORY = 20
"""Entries of the history that are kept."""


class GroupRecord(Struct, frozen=True, kw_only=True):
    """The state of a group.

    *properties* is the committed spec as JSON. *history* has the newest commit last. *protected* holds IDs of
    members. *held* maps members whose loss is held back to the reason. *losses* maps members that were lost
    lately to the time, in seconds since 1970. *known* maps plugins that have no rule for mass losses of their
    own to the members there, and these to their logical IDs. *doomed* are members that an operator wants
    destroyed. *destroying*: the group ends when its members have. *unknown* holds keys of later versions.
    """

    properties: Raw
    history: tuple[Commit, ...] = ()
    protected: frozenset[str] = frozenset()
    rollout: Rollout = Rollout()
    held: Mapping[str, str] = MappingProxyType({})
    losses: Mapping[str, float] = MappingProxyType({})
    known: Mapping[str, Mapping[str, str | None]] = MappingProxyType({})
    doomed: frozenset[str] = frozenset()
    destroying: bool = False
    unknown: Mapping[str, Raw] = MappingProxyType({})

    def commit(self, id: str, properties: Raw, at: float, by: str, cause: str, details: str) -> "GroupRecord":
        """Return the record of group *id* after a commit of *properties*, with an entry in its history."""
        number = self.history[-1].number + 1 if self.history else 1
        entry = Commit(number, at, by, cause, details, properties)
        changed = replace(self, properties=properties, history=(*self.history, entry)[-HISTORY:])
        # An idle group's update begins once a member turns out to be outdated: a change of size is none.
        return changed if self.rollout.phase is Phase.IDLE else changed.enter(self.rollout.begin(id, None, at))

    def enter(self, rollout: Rollout) -> "GroupRecord":
        """Return the record after a turn of its update."""
        return replace(self, rollout=rollout)

    @property
    def previous(self) -> Raw | None:
        """The last configuration that worked, if it is not the committed one."""
        previous = self.rollout.previous
        return None if previous is None or bytes(previous) == bytes(self.properties) else previous

    def find_earlier(self, number: int | None) -> Raw | None:
        """Return the properties of commit *number*; None if there is none.

        By default, those of the last configuration that worked, or else of the commit before the last.
        """
        if number is not None:
            return next((each.properties for each in self.history if each.number == number), None)
        if self.previous is not None:
            return self.previous
        return self.history[-2].properties if len(self.history) > 1 else None

    def release(self, ids: Collection[str]) -> "GroupRecord":
        """Return the record without members whose loss was held, and is confirmed now."""
        held = {id: reason for id, reason in self.held.items() if id not in ids}
        known = {pool: {id: at for id, at in each.items() if id not in ids} for pool, each in self.known.items()}
        return replace(self, held=held, known=known)


class _Commit(Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    number: int
    at: float
    by: str
    cause: str
    details: str
    properties: Raw


class _Record(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    # The order of the fields is that of the keys in the file.
    format: int | UnsetType = UNSET
    properties: Raw
    previous: Raw | UnsetType = UNSET
    phase: Phase = Phase.IDLE
    phase_reason: str = ""
    since: float | UnsetType = UNSET
    destroying: bool = False
    protected: tuple[str, ...] = ()
    held: dict[str, str] = {}
    losses: dict[str, float] = {}
    known: dict[str, dict[str, str | None]] = {}
    doomed: tuple[str, ...] = ()
    history: tuple[_Commit, ...] = ()


def encode(record: GroupRecord) -> Raw:
    """Return a record as JSON, with the unknown keys at its end."""
    data = msgspec.json.encode(
        _Record(
            format=FORMAT,
            properties=record.properties,
            previous=UNSET if record.rollout.previous is None else record.rollout.previous,
            phase=record.rollout.phase,
            phase_reason=record.rollout.reason,
            since=record.rollout.since or UNSET,
            destroying=record.destroying,
            protected=tuple(sorted(record.protected)),
            held=dict(record.held),
            losses=dict(record.losses),
            known={pool: dict(members) for pool, members in record.known.items()},
            doomed=tuple(sorted(record.doomed)),
            history=tuple(_Commit(c.number, c.at, c.by, c.cause, c.details, c.properties) for c in record.history),
        )
    )
    return Raw(data[:-1] + b"," + msgspec.json.encode(record.unknown)[1:] if record.unknown else data)


def decode(raw: Raw, location: str) -> GroupRecord:
    """Return the record in an entry at *location*. Raise `Damaged` if it makes no sense."""
    try:
        return _to_record(raw)
    except WrongShape as error:
        where, problem = error.where, error.problem
    except NotJSON as error:
        where, problem = "Value", str(error)
    advice = "it was left untouched; restore it from a copy, or correct it with the controller stopped"
    raise Damaged(location, where, problem, advice)


def _to_record(raw: Raw) -> GroupRecord:
    keys = decode_shape(raw, dict[str, Raw], "Value")
    _check_format(keys)
    record = decode_shape(raw, _Record, "Value")
    return GroupRecord(
        properties=record.properties.copy(),
        history=tuple(_read_history(record.history)),
        protected=frozenset(record.protected),
        rollout=Rollout(
            phase=record.phase,
            reason=record.phase_reason,
            previous=None if record.previous is UNSET else record.previous.copy(),
            since=record.since or 0.0,
        ),
        held=record.held,
        losses=record.losses,
        known=record.known,
        doomed=frozenset(record.doomed),
        destroying=record.destroying,
        unknown={key: value.copy() for key, value in keys.items() if key not in _Record.__struct_encode_fields__},
    )


def _check_format(keys: Mapping[str, Raw]) -> None:
    """Raise `WrongShape` for a record of another version. It is checked first: its other keys may differ, too."""
    if "Format" not in keys:
        raise WrongShape("Value.Format", f"missing: expected {FORMAT}")
    if (number := decode_shape(keys["Format"], int, "Value.Format")) != FORMAT:
        raise WrongShape("Value.Format", f"expected {FORMAT}, got {number}, which another version of pyinfrakit wrote")


def _read_history(commits: Sequence[_Commit]) -> Sequence[Commit]:
    for index, (earlier, later) in enumerate(pairwise(commits), 1):
        if earlier.number >= later.number:
            where = f"Value.History[{index}].Number"
            raise WrongShape(where, f"expected more than {earlier.number}, got {later.number}")
    return [Commit(c.number, c.at, c.by, c.cause, c.details, c.properties.copy()) for c in commits]
