"""The records in memory: in order, and found by ID, tag or logical ID at a cost that does not grow with their number."""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping

from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.errors import UnknownInstance
from pyinfrakit.record import GROUP_TAG, Record

MAX_INDEXED_TAGS = 50
"""Most tags that are indexed: a client that asks for ever new ones must not fill the memory."""


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


class Index:
    """IDs by a key, in the order of the records.

    If a key has one ID, as most do for a tag that tells instances apart, the ID itself is kept: a dict for
    each would be several times as large.
    """

    __slots__ = ("_ids", "_unsorted")

    def __init__(self) -> None:
        self._ids: dict[str, str | dict[str, None]] = {}
        self._unsorted: set[str] = set()

    def change(self, id: str, old: str | None, new: str | None, is_last: bool = False) -> None:
        """Index an ID by *new* instead of *old*; None stands for no key. *is_last*: its record is the last of all."""
        if old == new:
            return
        if old is not None:
            self._remove(old, id)
        if new is not None:
            self._add(new, id, is_last)

    def _add(self, key: str, id: str, is_last: bool) -> None:
        ids = self._ids.get(key)
        if ids is None:
            self._ids[key] = id
            return
        if isinstance(ids, str):
            ids = self._ids[key] = {ids: None}
        ids[id] = None
        if not is_last:
            self._unsorted.add(key)

    def _remove(self, key: str, id: str) -> None:
        ids = self._ids[key]
        if not isinstance(ids, str):
            del ids[id]
            if ids:
                return
        del self._ids[key]
        self._unsorted.discard(key)

    def get(self, key: str, rank: Callable[[str], int]) -> Collection[str]:
        """Return a key's IDs in the order of their *rank*. They are sorted only after one was added that was not the last."""
        ids = self._ids.get(key)
        if ids is None or isinstance(ids, str):
            return () if ids is None else (ids,)
        if key in self._unsorted:
            ids = self._ids[key] = dict.fromkeys(sorted(ids, key=rank))
            self._unsorted.discard(key)
        return ids


class TagIndex:
    """IDs by tags. A tag is indexed once it is asked for: of all the tags that instances have, few ever are.

    An index of every tag would not fit into the memory that the project allows itself per instance.
    """

    def __init__(self, records: Callable[[], Mapping[str, Record]], rank: Callable[[str], int]) -> None:
        """*records* returns all records, in order, and *rank* an ID's place in this order."""
        self._records = records
        self._rank = rank
        self._indexes: dict[str, Index] = {}

    def get(self, tags: Mapping[str, str]) -> Collection[str]:
        """Return the IDs that have all of *tags*, at least one, in order."""
        found = [self._index(tag).get(value, self._rank) for tag, value in tags.items()]
        if len(found) == 1:
            return found[0]
        return [id for id in min(found, key=len) if all(id in ids for ids in found)]

    def change(self, id: str, old: Mapping[str, str], new: Mapping[str, str], is_last: bool = False) -> None:
        """Index an ID by *new* tags instead of *old* ones. *is_last*: its record is the last of all."""
        for tag, index in self._indexes.items():
            index.change(id, old.get(tag), new.get(tag), is_last)

    def _index(self, tag: str) -> Index:
        index = self._indexes.get(tag)
        if index is None:
            if len(self._indexes) >= MAX_INDEXED_TAGS:
                del self._indexes[next(iter(self._indexes))]
            index = self._indexes[tag] = Index()
            for id, record in self._records().items():
                index.change(id, None, record.spec.tags.get(tag), is_last=True)
        return index


class Records:
    """Records in order: as loaded, then as added. A healed one comes to the front."""

    def __init__(
        self, records: Iterable[Record] = (), last_id: str = ids.NEVER, notes: Mapping[str, Raw] | None = None
    ) -> None:
        self._records = {record.id: record for record in records}
        self._ranks = {id: rank for rank, id in enumerate(self._records)}
        self._first = 0
        self._next = len(self._records)
        self._sorted = 0
        self._by_tags = TagIndex(self._in_order, self._ranks.__getitem__)
        self._by_logical_id = Index()
        self._live: dict[str, Raw] = {}
        self._subscribers: list[Subscriber] = []
        self.notes = dict(notes or {})
        """Values, JSON, that are kept beside the records, also those of other programs."""
        self.last_id = last_id
        """The last minted ID: all later ones sort before it."""
        self.moves = 0
        """How often the order changed, other than by a record that came last."""
        for id in filter(last_id.__gt__, self._records):
            self._reserve(id)
        for record in self._records.values():
            self._by_logical_id.change(record.id, None, record.spec.logical_id, is_last=True)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._in_order().values())

    def __contains__(self, id: str) -> bool:
        return id in self._records

    def get(self, id: str) -> Record | None:
        return self._records.get(id)

    def __getitem__(self, id: str) -> Record:
        """Return a record; raise `UnknownInstance`."""
        try:
            return self._records[id]
        except KeyError:
            raise UnknownInstance(id) from None

    def copy(self) -> Mapping[str, Record]:
        """Return the records by ID as they are now, in no particular order."""
        return self._records.copy()

    def find_members(self, group: str) -> Iterable[Record]:
        """Return the members of an InfraKit group, in any state."""
        return self.find_tagged({GROUP_TAG: group})

    def find_tagged(self, tags: Mapping[str, str]) -> Iterable[Record]:
        """Return the records that have all of *tags*, in order; without tags, all records."""
        return [self._records[id] for id in self.find_ids(tags)] if tags else self._in_order().values()

    def find_ids(self, tags: Mapping[str, str]) -> Collection[str]:
        """Return the IDs of the records that have all of *tags*, in order; without tags, all IDs."""
        return self._by_tags.get(tags) if tags else self._in_order().keys()

    def find_logical(self, logical_id: str, group: str | None) -> list[Record]:
        """Return the records, in any state, with a logical ID in a group (None: in no group)."""
        found = (self._records[id] for id in self._by_logical_id.get(logical_id, self._ranks.__getitem__))
        return [record for record in found if record.spec.group == group]

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

    def show_all(self, properties: Mapping[str, Raw], newer: Container[str]) -> None:
        """Keep the live properties of all instances, as observed. Those of *newer* ones came from a later call."""
        for id, seen in properties.items():
            live = self._live.get(id)
            if live == seen or id not in self._records or (live is not None and id in newer):
                continue
            self._live[id] = seen
            self._notify(self._records[id], self._records[id])
        for id in self._live.keys() - properties.keys():
            if id not in newer:
                del self._live[id]
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
        self._notify(None, record)
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
                self.moves += 1
            self._notify(old, record)
        elif old is not None:
            self._remove(old)
            self._live.pop(id, None)
            self._notify(old, None)
        return undo

    def _add(self, record: Record, rank: int, is_last: bool = False) -> None:
        """Add a record. Unless it *is_last*, the caller counts a move, and the order is built again when it is needed."""
        self._records[record.id] = record
        self._ranks[record.id] = rank
        self._by_tags.change(record.id, {}, record.spec.tags, is_last)
        self._by_logical_id.change(record.id, None, record.spec.logical_id, is_last)

    def _remove(self, record: Record) -> None:
        del self._records[record.id], self._ranks[record.id]
        self._by_tags.change(record.id, record.spec.tags, {})
        self._by_logical_id.change(record.id, record.spec.logical_id, None)

    def _replace(self, old: Record, new: Record) -> None:
        self._records[new.id] = new
        if old.spec is not new.spec:
            self._by_tags.change(new.id, old.spec.tags, new.spec.tags)
            self._by_logical_id.change(new.id, old.spec.logical_id, new.spec.logical_id)

    def _in_order(self) -> dict[str, Record]:
        if self._sorted != self.moves:
            self._records = dict(sorted(self._records.items(), key=lambda item: self._ranks[item[0]]))
            self._sorted = self.moves
        return self._records

    def _notify(self, old: Record | None, new: Record | None) -> None:
        for subscriber in self._subscribers:
            subscriber(old, new)
