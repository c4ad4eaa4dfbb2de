"""The instances in memory: in order, and found by ID, tag or logical ID at a cost that does not grow with their number."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.errors import UnknownInstance
from pyinfrakit.instance import GROUP_TAG, Record

K = TypeVar("K")


class Put(Struct, frozen=True):
    """Add or replace a record; *front*: and make it the first of all."""

    record: Record
    front: bool = False


class Drop(Struct, frozen=True):
    """Forget a record."""

    id: str


class Note(Struct, frozen=True):
    """Keep a value, JSON, beside the records."""

    key: str
    value: Raw


Change = Put | Drop | Note


class Undo(Struct, frozen=True):
    """What a change replaced: the record and its place in the order, or None and None."""

    id: str
    record: Record | None
    rank: int | None


class UndoNote(Struct, frozen=True):
    """What a note replaced, or None."""

    key: str
    value: Raw | None


class Records:
    """Records in order: as loaded, then as added; a healed one comes to the front."""

    def __init__(self, records: Iterable[Record] = (), last_id: str = ids.NEVER, notes: Mapping[str, Raw] | None = None) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._ranks: dict[str, int] = {}
        self._first = 0
        self._next = 0
        self._tagged: dict[tuple[str, str], dict[str, None]] = {}
        self._logical: dict[str, dict[str, None]] = {}
        self.notes = dict(notes or {})
        """Values, JSON, that are kept beside the records, also those that somebody else put there."""
        self.last_id = last_id
        """The last ID that was minted: all later ones sort before it."""
        self.touched: set[str] = set()
        """IDs whose record changed, or that had a call in flight, since the current observation began."""
        self.live: dict[str, Raw] = {}
        """What providers last said of their machines: properties that are not kept."""
        for record in records:
            self.apply(Put(record))

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

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
        if not tags:
            return self._records.values()
        indexes = [self._tagged.get(tag, {}) for tag in tags.items()]
        smallest = min(indexes, key=len)
        found = [id for id in smallest if all(id in index for index in indexes)]
        return [self._records[id] for id in sorted(found, key=self._ranks.__getitem__)]

    def of_logical_id(self, logical_id: str, group: str | None) -> list[Record]:
        """Give the records, in any state, that have this logical ID in this group (None: in no group)."""
        found = (self._records[id] for id in self._logical.get(logical_id, ()))
        return [record for record in found if record.spec.group == group]

    def apply(self, change: Change) -> Undo | UndoNote:
        """Make a change; give what takes it back."""
        match change:
            case Note(key, value):
                old = self.notes.get(key)
                self.notes[key] = value
                return UndoNote(key, old)
            case Drop(id):
                return self._set(id, None, None)
            case Put(record, front):
                rank = self._ranks.get(record.id)
                if front:
                    self._first -= 1
                    rank = self._first
                elif rank is None:
                    rank = self._next
                    self._next += 1
                if record.id < self.last_id and ids.is_minted(record.id):
                    self.last_id = record.id
                undo = self._set(record.id, record, rank)
                if front:
                    self._records.move_to_end(record.id, last=False)
                return undo

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
        self._records = OrderedDict(sorted(self._records.items(), key=lambda item: self._ranks[item[0]]))

    def _set(self, id: str, record: Record | None, rank: int | None) -> Undo:
        old = self._records.get(id)
        undo = Undo(id, old, self._ranks.get(id))
        self.touched.add(id)
        if old is not None:
            self._unindex(old)
        if record is None or rank is None:
            self._records.pop(id, None)
            self._ranks.pop(id, None)
            self.live.pop(id, None)
        else:
            self._records[id] = record
            self._ranks[id] = rank
            self._index(record)
        return undo

    def _index(self, record: Record) -> None:
        for tag in record.spec.tags.items():
            self._tagged.setdefault(tag, {})[record.id] = None
        if record.spec.logical_id is not None:
            self._logical.setdefault(record.spec.logical_id, {})[record.id] = None

    def _unindex(self, record: Record) -> None:
        for tag in record.spec.tags.items():
            _discard(self._tagged, tag, record.id)
        if record.spec.logical_id is not None:
            _discard(self._logical, record.spec.logical_id, record.id)


def _discard(index: dict[K, dict[str, None]], key: K, id: str) -> None:
    found = index[key]
    del found[id]
    if not found:
        del index[key]
