"""IDs by a key, and by tags."""

from collections.abc import Callable, Collection, Mapping

from pyinfrakit.record import Record

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
