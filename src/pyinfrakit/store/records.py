"""The records in memory: in order, and found by ID, tag or logical ID at a cost that does not grow with their number."""

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence

from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.errors import UnknownInstance
from pyinfrakit.record import GROUP_TAG, Record, Spec, State
from pyinfrakit.store.index import Index, Newest, TagIndex
from pyinfrakit.store.snapshot import Snapshot
from pyinfrakit.turns import share

MOST_DISPLACED = 1000
"""Records that may be out of their place in the order before it is built again."""


class Put(Struct, frozen=True, gc=False):
    """Add or replace a record; *front*: and make it the first of all."""

    record: Record
    front: bool = False


class Drop(Struct, frozen=True, gc=False):
    """Forget a record. *reason* is for the event log."""

    id: str
    reason: str = ""


class Note(Struct, frozen=True, gc=False):
    """Keep a value, JSON, beside the records. None removes it; only what undoes a change has None."""

    key: str
    value: Raw | None


Change = Put | Drop | Note


class Undo(Struct, frozen=True, gc=False):
    """A record before a change, and its place in the order; None and None if it did not exist."""

    id: str
    record: Record | None
    rank: int | None


Subscriber = Callable[[Record | None, Record | None], None]
"""Is called with a record before and after a change; None stands for no record.

If only the live properties changed, it is called with the same record twice.
"""


_Identity = tuple[str, str | None]
"""A logical ID, and the group in which it is unique."""


class Records:
    """Records in order: as loaded, then as added. A healed one comes to the front."""

    def __init__(
        self, records: Iterable[Record] = (), last_id: str = ids.NEVER, notes: Mapping[str, Raw] | None = None
    ) -> None:
        self._records = {record.id: record for record in records}
        self._ranks = {id: rank for rank, id in enumerate(self._records)}
        self._first = 0
        self._next = len(self._records)
        self._by_tags = TagIndex(self._in_order, self._ranks.__getitem__)
        self._by_logical_id: Index[_Identity] = Index()
        self._newest = Newest(self.find_members)
        self._live: dict[str, Raw] = {}
        self._subscribers: list[Subscriber] = []
        self.notes = dict(notes or {})
        """Values, JSON, that are kept beside the records, also those of other programs."""
        self.last_id = last_id
        """The last minted ID: all later ones sort before it."""
        self.unfinished = {record.id: None for record in self._records.values() if record.is_unfinished}
        """The IDs of the records that the provider has to be called for."""
        self._provisioning: dict[str | None, set[str]] = {}
        self._counts = Counter(record.state for record in self._records.values())
        self._displaced: set[str] = set()  # the IDs of records that are not in their place in the order
        for id in filter(last_id.__gt__, self._records):
            self._reserve(id)
        for record in self._records.values():
            self._by_logical_id.change(record.id, None, _find_identity(record.spec), is_last=True)
        for id in self.unfinished:
            self._follow_provisioning(None, self._records[id])

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._in_order().values())

    def __contains__(self, id: object) -> bool:
        return id in self._records

    def get(self, id: str) -> Record | None:
        return self._records.get(id)

    def __getitem__(self, id: str) -> Record:
        """Return a record; raise `UnknownInstance`."""
        try:
            return self._records[id]
        except KeyError:
            raise UnknownInstance(id) from None

    def peek(self) -> list[Record]:
        """Return the records in no particular order. Any thread may call this."""
        return list(self._records.values())

    def copy(self) -> Snapshot:
        """Return the records as they are now."""
        return Snapshot(self._in_order().copy())

    def find_members(self, group: str) -> Iterable[Record]:
        """Return the members of an InfraKit group, in any state."""
        return self.find_tagged({GROUP_TAG: group})

    def find_tagged(self, tags: Mapping[str, str]) -> Iterable[Record]:
        """Return the records that have all of *tags*, in order; without tags, all records."""
        return [record for record in self.narrow(tags) if tags.items() <= record.spec.tags.items()]

    def narrow(self, tags: Mapping[str, str]) -> Sequence[Record]:
        """Return records, in order, among which are all that have *tags*, at a cost that *tags* can't drive up.

        One tag is exact, and so is none; several are not.
        """
        if not tags:
            return list(self._in_order().values())
        return [self._records[id] for id in self._by_tags.narrow(tags)]

    def find_logical(self, logical_id: str, group: str | None) -> list[Record]:
        """Return the records, in any state, with a logical ID in a group (None: in no group)."""
        ids = self._by_logical_id.get((logical_id, group), self._ranks.__getitem__)
        return [self._records[id] for id in ids]

    def find_newest(self, group: str) -> Record | None:
        """Return the newest ready member of a group."""
        id = self._newest.get(group)
        return None if id is None else self._records[id]

    def find_provisioning(self, group: str) -> Collection[str]:
        """Return the IDs of a group's members that are being provisioned."""
        return self._provisioning.get(group, ())

    def count(self, state: State) -> int:
        """Return how many records have a state."""
        return self._counts[state]

    def live(self, id: str) -> Raw | None:
        """Return an instance's live properties, or None if its provider reports none."""
        return self._live.get(id)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call *subscriber* after every change from now on."""
        self._subscribers.append(subscriber)

    def show(self, id: str, properties: Raw) -> None:
        """Keep an instance's live properties, in memory only, as a provider call returned them."""
        record = self._records.get(id)
        if record is not None and self._live.get(id) != properties:
            self._live[id] = properties
            self._notify(record, record)

    async def show_all(self, properties: Mapping[str, Raw], newer: Container[str]) -> None:
        """Keep the live properties of all instances, as observed. Those of *newer* ones came from a later call."""
        async for some in share(properties.items()):
            for id, seen in some:
                live = self._live.get(id)
                if live != seen and (live is None or id not in newer):
                    self.show(id, seen)
        async for others in share(self._live.keys() - properties.keys()):
            for id in others:
                if id not in newer and self._live.pop(id, None) is not None:
                    self._notify(self._records[id], self._records[id])

    def apply(self, change: Change) -> Undo | Note:
        """Make a change; return what undoes it."""
        match change:
            case Put(record, front):
                return self._put(record, front)
            case Drop(id):
                return self._set(id, None, None)
            case Note(key, value):
                old = self.notes.get(key)
                if value is None:
                    del self.notes[key]
                else:
                    self.notes[key] = value
                return Note(key, old)

    def undo(self, undos: Iterable[Undo | Note]) -> None:
        """Undo changes, the last one first. IDs that they used stay used."""
        for undo in undos:
            if isinstance(undo, Note):
                self.apply(undo)
            else:
                self._set(undo.id, undo.record, undo.rank)

    def _put(self, record: Record, front: bool) -> Undo:
        if front:
            self._first -= 1
            self._reserve(record.id)
            return self._set(record.id, record, self._first)
        rank = self._ranks.get(record.id)
        if rank is not None:
            return self._set(record.id, record, rank)
        self._add(record, self._next, is_last=True)
        self._next += 1
        self._reserve(record.id)
        self._follow(None, record)
        return Undo(record.id, None, None)

    def _reserve(self, id: str) -> None:
        """Make sure that no later ID sorts after this one."""
        if id < self.last_id and ids.is_minted(id):
            self.last_id = id

    def _set(self, id: str, record: Record | None, rank: int | None) -> Undo:
        old = self._records.get(id)
        undo = Undo(id, old, self._ranks.get(id))
        if record is not None and rank is not None:
            if old is not None and rank == undo.rank:
                self._replace(old, record)
            else:
                if old is not None:
                    self._remove(old)
                self._add(record, rank)
                self._displaced.add(record.id)
            if len(self._displaced) >= MOST_DISPLACED:
                self._in_order()  # little by little: with all of many healed records, it would take long
            self._follow(old, record)
        elif old is not None:
            self._remove(old)
            self._live.pop(id, None)
            self._follow(old, None)
        return undo

    def _add(self, record: Record, rank: int, is_last: bool = False) -> None:
        """Add a record. Unless it *is_last*, it is displaced, until the order is needed."""
        self._records[record.id] = record
        self._ranks[record.id] = rank
        self._by_tags.change(record.id, {}, record.spec.tags, is_last)
        self._by_logical_id.change(record.id, None, _find_identity(record.spec), is_last)

    def _remove(self, record: Record) -> None:
        del self._records[record.id], self._ranks[record.id]
        self._by_tags.change(record.id, record.spec.tags, {})
        self._by_logical_id.change(record.id, _find_identity(record.spec), None)

    def _replace(self, old: Record, new: Record) -> None:
        self._records[new.id] = new
        if old.spec is not new.spec:
            self._by_tags.change(new.id, old.spec.tags, new.spec.tags)
            self._by_logical_id.change(new.id, _find_identity(old.spec), _find_identity(new.spec))

    def _in_order(self) -> dict[str, Record]:
        if self._displaced:
            displaced = [id for id in self._displaced if id in self._records]
            self._displaced = set()
            moved = {id: self._records.pop(id) for id in sorted(displaced, key=self._ranks.__getitem__)}
            first = next(iter(self._records), None)
            self._records = {**moved, **self._records}
            if moved and first is not None and self._ranks[next(reversed(moved))] > self._ranks[first]:
                # A change was undone, and a record returned to its place among the others.
                order = sorted(self._records, key=self._ranks.__getitem__)
                self._records = dict(zip(order, map(self._records.__getitem__, order), strict=True))
        return self._records

    def _follow(self, old: Record | None, new: Record | None) -> None:
        """Follow a change of a record in all that is counted or found by its state; then notify the subscribers."""
        if old is not None:
            self._counts[old.state] -= 1
            self.unfinished.pop(old.id, None)
        if new is not None:
            self._counts[new.state] += 1
            if new.is_unfinished:
                self.unfinished[new.id] = None
        self._follow_provisioning(old, new)
        self._newest.change(old, new)
        self._notify(old, new)

    def _follow_provisioning(self, old: Record | None, new: Record | None) -> None:
        if old is not None and old.state is State.PROVISIONING:
            ids = self._provisioning[old.spec.group]
            ids.discard(old.id)
            if not ids:
                del self._provisioning[old.spec.group]
        if new is not None and new.state is State.PROVISIONING:
            self._provisioning.setdefault(new.spec.group, set()).add(new.id)

    def _notify(self, old: Record | None, new: Record | None) -> None:
        for subscriber in self._subscribers:
            subscriber(old, new)


def _find_identity(spec: Spec) -> _Identity | None:
    return None if spec.logical_id is None else (spec.logical_id, spec.group)
