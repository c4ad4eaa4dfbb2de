"""Indexes of records: by tag, by logical ID, and the newest of a group. Each follows the changes of the records."""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Generic, Self, TypeVar

from pyinfrakit.record import GROUP_TAG, Record, State

K = TypeVar("K", bound=Hashable)

MAX_INDEXED_TAGS = 50
"""Most tags that are indexed: a client that asks for ever new ones must not fill the memory."""

MAX_GROUPS = 1000
"""Most groups whose newest member is followed."""


class Index(Generic[K]):
    """IDs by a key, in the order of the records.

    If a key has one ID, as most do for a tag that tells instances apart, the ID itself is kept: a dict for
    each would be several times as large.
    """

    __slots__ = ("_ids", "_unsorted")

    def __init__(self) -> None:
        self._ids: dict[K, str | dict[str, None]] = {}
        self._unsorted: set[K] = set()

    @classmethod
    def build(cls, keys: Iterable[tuple[str, K | None]]) -> Self:
        """Return the index of IDs and their keys, in order. This is quicker than changes one by one."""
        index = cls()
        ids = index._ids
        for id, key in keys:
            if key is not None:
                others = ids.setdefault(key, id)
                if others is not id:
                    if isinstance(others, str):
                        others = ids[key] = {others: None}
                    others[id] = None
        return index

    def change(self, id: str, old: K | None, new: K | None, is_last: bool = False) -> None:
        """Index an ID by *new* instead of *old*; None stands for no key. *is_last*: its record is the last of all."""
        if old == new:
            return
        if old is not None:
            self._remove(old, id)
        if new is not None:
            self._add(new, id, is_last)

    def _add(self, key: K, id: str, is_last: bool) -> None:
        ids = self._ids.get(key)
        if ids is None:
            self._ids[key] = id
            return
        if isinstance(ids, str):
            ids = self._ids[key] = {ids: None}
        ids[id] = None
        if not is_last:
            self._unsorted.add(key)

    def _remove(self, key: K, id: str) -> None:
        ids = self._ids[key]
        if not isinstance(ids, str):
            del ids[id]
            if ids:
                return
        del self._ids[key]
        self._unsorted.discard(key)

    def get(self, key: K, rank: Callable[[str], int]) -> Collection[str]:
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
        self._indexes: dict[str, Index[str]] = {}

    def narrow(self, tags: Mapping[str, str]) -> Collection[str]:
        """Return IDs, in order, among which are all that have *tags*, at least one. One tag is exact, several are not.

        The fewest IDs of any indexed tag, that is. At most one index is built, whatever the number of tags.
        """
        indexed = [tag for tag in tags if tag in self._indexes] or [
            GROUP_TAG if GROUP_TAG in tags else next(iter(tags))
        ]
        found = [self._index(tag).get(tags[tag], self._rank) for tag in indexed]
        return min(found, key=len)

    def change(self, id: str, old: Mapping[str, str], new: Mapping[str, str], is_last: bool = False) -> None:
        """Index an ID by *new* tags instead of *old* ones. *is_last*: its record is the last of all."""
        for tag, index in self._indexes.items():
            index.change(id, old.get(tag), new.get(tag), is_last)

    def _index(self, tag: str) -> Index[str]:
        index = self._indexes.pop(tag, None)
        if index is not None:
            self._indexes[tag] = index  # the one that was used last comes last
        else:
            if len(self._indexes) >= MAX_INDEXED_TAGS:
                del self._indexes[next(iter(self._indexes))]
            records = self._records()
            index = Index.build(zip(records, [record.spec.tags.get(tag) for record in records.values()], strict=True))
            self._indexes[tag] = index
        return index


class Newest:
    """The newest ready member of each group that was asked for: the one with the smallest ID."""

    def __init__(self, find_members: Callable[[str], Iterable[Record]]) -> None:
        self._find_members = find_members
        self._ready: dict[str, set[str]] = {}
        self._newest: dict[str, str | None] = {}

    def get(self, group: str) -> str | None:
        """Return the ID, or None if no member is ready."""
        ready = self._ready.get(group)
        if ready is None:
            if len(self._ready) >= MAX_GROUPS:
                self._ready.clear()
                self._newest.clear()
            ready = self._ready[group] = {m.id for m in self._find_members(group) if m.state is State.READY}
        if group not in self._newest:
            self._newest[group] = min(ready, default=None)
        return self._newest[group]

    def change(self, old: Record | None, new: Record | None) -> None:
        """Follow a change of a record; None stands for no record."""
        if not self._ready:
            return
        before, after = _find_ready_group(old), _find_ready_group(new)
        if before == after:
            return
        if old is not None and before in self._ready:
            self._ready[before].discard(old.id)
            self._newest.pop(before, None)
        if new is not None and after in self._ready:
            self._ready[after].add(new.id)
            if after in self._newest:
                self._newest[after] = min(self._newest[after] or new.id, new.id)


def _find_ready_group(record: Record | None) -> str | None:
    return record.spec.group if record is not None and record.state is State.READY else None
