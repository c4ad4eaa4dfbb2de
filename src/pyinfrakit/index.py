"""IDs by a key, and by tags."""

from collections.abc import Callable, Collection, Iterable, Mapping

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

    def __len__(self) -> int:
        return len(self._ids)

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
        """Give the IDs of a key, lowest rank first: they are sorted only where one was added that was not the last."""
        ids = self._ids.get(key)
        if ids is None or isinstance(ids, str):
            return () if ids is None else (ids,)
        if key in self._disordered:
            ids = self._ids[key] = dict.fromkeys(sorted(ids, key=rank))
            self._disordered.discard(key)
        return ids


class Tags:
    """IDs by tags and their values."""

    def __init__(self) -> None:
        self._values: dict[str, Index] = {}

    def add(self, id: str, tags: Iterable[tuple[str, str]], in_order: bool) -> None:
        """Add an ID; *in_order*: it comes after all others."""
        for tag, value in tags:
            values = self._values.get(tag)
            if values is None:
                values = self._values[tag] = Index()
            values.add(value, id, in_order)

    def remove(self, id: str, tags: Iterable[tuple[str, str]]) -> None:
        """Remove an ID that has these tags."""
        for tag, value in tags:
            values = self._values[tag]
            values.remove(value, id)
            if not values:
                del self._values[tag]

    def get(self, tags: Mapping[str, str], rank: Rank) -> Collection[str]:
        """Give the IDs that have all of *tags*, lowest rank first."""
        if len(tags) == 1:
            return self._having(*next(iter(tags.items())), rank)
        found = [self._having(tag, value, rank) for tag, value in tags.items()]
        return [id for id in min(found, key=len) if all(id in ids for ids in found)]

    def _having(self, tag: str, value: str, rank: Rank) -> Collection[str]:
        values = self._values.get(tag)
        return () if values is None else values.get(value, rank)
