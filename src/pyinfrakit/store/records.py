"""The instances in memory: in order, and found by ID, tag or logical ID at a cost that does not grow with their number."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.errors import UnknownInstance
from pyinfrakit.record import GROUP_TAG, Record


class Put(Struct, frozen=True, gc=False):
    """Add or replace a record; *front*: and make it the first of all."""

    record: Record
    front: bool = False


class Drop(Struct, frozen=True, gc=False):
    """Forget a record."""

    id: str


class Note(Struct, frozen=True, gc=False):
    """Keep a value, JSON, beside the records."""

    key: str
    value: Raw


Change = Put | Drop | Note


class Undo(Struct, frozen=True, gc=False):
    """What a change replaced: the record and its place in the order, or None and None."""

    id: str
    record: Record | None
    rank: int | None


class UndoNote(Struct, frozen=True, gc=False):
    """What a note replaced, or None."""

    key: str
    value: Raw | None


Follower = Callable[[Record | None, Record | None], None]
"""Is told of a record before and after a change, None for none; the same twice where only its live properties changed."""


class Records:
    """Records in order: as loaded, then as added; a healed one comes to the front."""

    def __init__(self, records: Iterable[Record] = (), last_id: str = ids.NEVER, notes: Mapping[str, Raw] | None = None) -> None:
        self._records = {record.id: record for record in records}
        self._ranks = {id: rank for rank, id in enumerate(self._records)}
        self._first = 0
        self._next = len(self._records)
        self._sorted = 0
        self._tagged = Tags(self._in_order, self._ranks.__getitem__)
        self._logical = Index()
        self._live: dict[str, Raw] = {}
        self._followers: list[Follower] = []
        self.notes = dict(notes or {})
        """Values, JSON, that are kept beside the records, also those that somebody else put there."""
        self.last_id = last_id
        """The last ID that was minted: all later ones sort before it."""
        self.moves = 0
        """How often the order changed, other than by a record that came last."""
        self.touched: set[str] = set()
        """IDs whose record changed, or that had a call in flight, since the current observation began."""
        for id in filter(last_id.__gt__, self._records):
            self._use_up(id)
        for record in self._records.values():
            if record.spec.logical_id is not None:
                self._logical.add(record.spec.logical_id, record.id)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._in_order().values())

    def __contains__(self, id: str) -> bool:
        return id in self._records

    def get(self, id: str) -> Record | None:
        return self._records.get(id)

    def __getitem__(self, id: str) -> Record:
        """Give a record; raise `UnknownInstance`."""
        try:
            return self._records[id]
        except KeyError:
            raise UnknownInstance(id) from None

    def in_group(self, group: str) -> Iterable[Record]:
        """Give the members of one of InfraKit's groups, in any state."""
        return self.tagged({GROUP_TAG: group})

    def tagged(self, tags: Mapping[str, str]) -> Iterable[Record]:
        """Give the records that have all of *tags*, in order; all of them where *tags* is empty."""
        return [self._records[id] for id in self.tagged_ids(tags)] if tags else self._in_order().values()

    def tagged_ids(self, tags: Mapping[str, str]) -> Collection[str]:
        """Give the IDs of the records that have all of *tags*, in order; all of them where *tags* is empty."""
        return self._tagged.get(tags) if tags else self._in_order().keys()

    def of_logical_id(self, logical_id: str, group: str | None) -> list[Record]:
        """Give the records, in any state, that have this logical ID in this group (None: in no group)."""
        found = (self._records[id] for id in self._logical.get(logical_id, self._ranks.__getitem__))
        return [record for record in found if record.spec.group == group]

    def live(self, id: str) -> Raw | None:
        """Give the properties that an instance has now, if its provider says so."""
        return self._live.get(id)

    def follow(self, follower: Follower) -> None:
        """Tell *follower* of every change from now on."""
        self._followers.append(follower)

    def show(self, id: str, properties: Raw) -> None:
        """Keep, in memory alone, what a provider says of an instance in a call."""
        record = self._records.get(id)
        if record is not None and self._live.get(id) != properties:
            self._live[id] = properties
            self._tell(record, record)

    def show_all(self, properties: Mapping[str, Raw]) -> None:
        """Keep what a provider says in an observation, of all instances; what it said in a call since then is newer."""
        newer = {id: self._live[id] for id in self.touched if id in self._live}
        before, self._live = self._live, {**{id: seen for id, seen in properties.items() if id in self._records}, **newer}
        for id in self._live.keys() | before.keys():
            if self._live.get(id) != before.get(id):
                self._tell(self._records[id], self._records[id])

    def apply(self, change: Change) -> Undo | UndoNote:
        """Make a change; give what takes it back."""
        match change:
            case Put(record, front):
                return self._put(record, front)
            case Drop(id):
                return self._set(id, None, None)
            case Note(key, value):
                old = self.notes.get(key)
                self.notes[key] = value
                return UndoNote(key, old)

    def undo(self, undos: Iterable[Undo | UndoNote]) -> None:
        """Take changes back, the last one first. IDs that they used up stay used up."""
        for undo in undos:
            match undo:
                case Undo(id, record, rank):
                    self._set(id, record, rank)
                case UndoNote(key, value):
                    if value is None:
                        del self.notes[key]
                    else:
                        self.notes[key] = value

    def _put(self, record: Record, front: bool) -> Undo:
        if front:
            self._first -= 1
            self._use_up(record.id)
            return self._set(record.id, record, self._first)
        rank = self._ranks.get(record.id)
        if rank is not None:
            return self._set(record.id, record, rank)
        self._append(record)
        self.touched.add(record.id)
        self._tell(None, record)
        return Undo(record.id, None, None)

    def _append(self, record: Record) -> None:
        self._records[record.id] = record
        self._ranks[record.id] = self._next
        self._next += 1
        self._use_up(record.id)
        self._tagged.change(record.id, {}, record.spec.tags, in_order=True)
        self._name(record, in_order=True)

    def _use_up(self, id: str) -> None:
        if id < self.last_id and ids.is_minted(id):
            self.last_id = id

    def _set(self, id: str, record: Record | None, rank: int | None) -> Undo:
        old, undo = self._records.get(id), Undo(id, self._records.get(id), self._ranks.get(id))
        self.touched.add(id)
        if record is not None and rank is not None:
            if old is None or rank != undo.rank:
                self._place(old, record, rank)
            else:
                self._replace(old, record)
            self._tell(old, record)
        elif old is not None:
            self._remove(old)
            self._live.pop(id, None)
            self._tell(old, None)
        return undo

    def _remove(self, record: Record) -> None:
        del self._records[record.id], self._ranks[record.id]
        self._tagged.change(record.id, record.spec.tags, {})
        self._unname(record)

    def _replace(self, old: Record, new: Record) -> None:
        self._records[new.id] = new
        if old.spec is not new.spec:
            self._tagged.change(new.id, old.spec.tags, new.spec.tags)
            if old.spec.logical_id != new.spec.logical_id:
                self._unname(old)
                self._name(new)

    def _place(self, old: Record | None, record: Record, rank: int) -> None:
        """Put a record somewhere that is not the end; the order is made anew when it is next asked for."""
        if old is not None:
            self._remove(old)
        self._records[record.id] = record
        self._ranks[record.id] = rank
        self._tagged.change(record.id, {}, record.spec.tags)
        self._name(record)
        self.moves += 1

    def _name(self, record: Record, in_order: bool = False) -> None:
        if record.spec.logical_id is not None:
            self._logical.add(record.spec.logical_id, record.id, in_order)

    def _unname(self, record: Record) -> None:
        if record.spec.logical_id is not None:
            self._logical.remove(record.spec.logical_id, record.id)

    def _in_order(self) -> dict[str, Record]:
        if self._sorted != self.moves:
            self._records = dict(sorted(self._records.items(), key=lambda item: self._ranks[item[0]]))
            self._sorted = self.moves
        return self._records

    def _tell(self, old: Record | None, new: Record | None) -> None:
        for follower in self._followers:
            follower(old, new)


# ==== IDs by a key, and by tags.
MOST_TAGS = 50
"""How many tags are indexed at most: whoever asks for ever new ones must not fill the memory."""

Rank = Callable[[str], int]
"""Gives an ID's place in the order of all."""


class Index:
    """IDs by a key, in the order in which they were added, unless they are sorted.

    A key of one ID, as most are where a tag tells instances apart, holds the ID itself: a dict for each would be several
    times as large.
    """

    __slots__ = ("_disordered", "_ids")

    def __init__(self) -> None:
        self._ids: dict[str, str | dict[str, None]] = {}
        self._disordered: set[str] = set()

    def add(self, key: str, id: str, in_order: bool = True) -> None:
        """Add an ID; *in_order*: it comes after all others."""
        ids = self._ids.get(key)
        if ids is None:
            self._ids[key] = id
            return
        if isinstance(ids, str):
            ids = self._ids[key] = {ids: None}
        ids[id] = None
        if not in_order:
            self._disordered.add(key)

    def remove(self, key: str, id: str) -> None:
        """Remove an ID that is there."""
        ids = self._ids[key]
        if not isinstance(ids, str):
            del ids[id]
            if ids:
                return
        del self._ids[key]
        self._disordered.discard(key)

    def get(self, key: str, rank: Rank) -> Collection[str]:
        """Give the IDs of a key, in order: they are sorted only where one was added that was not the last."""
        ids = self._ids.get(key)
        if ids is None or isinstance(ids, str):
            return () if ids is None else (ids,)
        if key in self._disordered:
            ids = self._ids[key] = dict.fromkeys(sorted(ids, key=rank))
            self._disordered.discard(key)
        return ids


class Tags:
    """IDs by tags. A tag is indexed once it is asked for: of those that instances have, few ever are.

    *records* gives all records, in order, and *rank* an ID's place among them.
    """

    def __init__(self, records: Callable[[], Mapping[str, Record]], rank: Rank) -> None:
        self._records = records
        self._rank = rank
        self._indexes: dict[str, Index] = {}

    def get(self, tags: Mapping[str, str]) -> Collection[str]:
        """Give the IDs that have all of *tags*, of which there is one at least, in order."""
        found = [self._index(tag).get(value, self._rank) for tag, value in tags.items()]
        if len(found) == 1:
            return found[0]
        return [id for id in min(found, key=len) if all(id in ids for ids in found)]

    def change(self, id: str, old: Mapping[str, str], new: Mapping[str, str], in_order: bool = False) -> None:
        """Have an ID found by *new* tags instead of *old* ones; *in_order*: it comes after all others."""
        for tag, index in self._indexes.items():
            before, after = old.get(tag), new.get(tag)
            if before == after:
                continue
            if before is not None:
                index.remove(before, id)
            if after is not None:
                index.add(after, id, in_order)

    def _index(self, tag: str) -> Index:
        index = self._indexes.get(tag)
        if index is None:
            if len(self._indexes) >= MOST_TAGS:
                del self._indexes[next(iter(self._indexes))]
            index = self._indexes[tag] = Index()
            for id, record in self._records().items():
                if (value := record.spec.tags.get(tag)) is not None:
                    index.add(value, id)
        return index
