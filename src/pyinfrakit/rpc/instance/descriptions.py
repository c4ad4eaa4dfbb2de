"""Encoded descriptions, kept until they change: a describe costs no more than joining bytes."""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import UNSET, Raw

from pyinfrakit.record import Record
from pyinfrakit.rpc.instance.types import Description
from pyinfrakit.store.records import Records

LARGEST = 1024
"""Largest description that is kept, in bytes. To keep a larger one would double the memory of its spec."""

MANY = 256
"""Number of descriptions from which a reply is kept whole, until another such reply or a change replaces it."""

Redact = Callable[[Record], Raw]
"""Return the properties to show of an instance."""

_MISSING = b""


class Descriptions:
    """The descriptions of a plugin's instances.

    Those with and without properties are kept apart, and each kind only once it is asked for.
    """

    def __init__(self, records: Records, redact: Redact) -> None:
        self._records = records
        self._redact = redact
        self._caches: dict[bool, _Cache] = {}

    def reply(self, name: str, tags: Mapping[str, str], with_properties: bool) -> list[bytes]:
        """Return the reply, in pieces, about the instances that have all of *tags*; *name* is its ``Type``."""
        cache = self._caches.get(with_properties)
        if cache is None:
            cache = self._caches[with_properties] = _Cache(self._records, self._redact if with_properties else None)
        head = b'{"Type":' + (msgspec.json.encode(name) if name else b'""') + b',"Descriptions":['
        return [head, *cache.find(tags), b"]}"]


class _Cache:
    """One kind of descriptions, each encoded with a comma in front, or `_MISSING` until it is asked for."""

    def __init__(self, records: Records, redact: Redact | None) -> None:
        self._records = records
        self._redact = redact
        self._encoded: dict[str, bytes] = {}
        self._missing = 0
        self._last: tuple[Mapping[str, str], list[bytes]] | None = None
        self._sort()
        records.subscribe(self._follow)

    def find(self, tags: Mapping[str, str]) -> list[bytes]:
        """Return the descriptions of the instances that have all of *tags*, as the inside of a JSON array."""
        if self._last is not None and self._last[0] == tags:
            return self._join(*self._last)
        found = self._find_tagged(tags) if tags else self._find_all()
        if found:
            found[0] = found[0][1:]
        if len(found) >= MANY and sum(map(len, found)) <= LARGEST * len(found):
            self._last = (tags, found)
        return found

    def _join(self, tags: Mapping[str, str], found: list[bytes]) -> list[bytes]:
        """Join a reply that is asked for again. The first time is too early: it may change before a second one."""
        if len(found) > 1:
            found = [b"".join(found)]
            self._last = (tags, found)
        return found

    def _find_all(self) -> list[bytes]:
        if self._moves != self._records.moves:
            self._sort()
        if not self._missing:
            return list(self._encoded.values())
        return [encoded or self._encode(id) for id, encoded in self._encoded.items()]

    def _find_tagged(self, tags: Mapping[str, str]) -> list[bytes]:
        ids = self._records.find_ids(tags)
        if not self._missing:
            return list(filter(None, map(self._encoded.get, ids)))
        return [self._encoded[id] or self._encode(id) for id in ids if id in self._encoded]

    def _encode(self, id: str) -> bytes:
        record = self._records[id]
        properties = UNSET if self._redact is None else self._redact(record)
        description = Description(id, record.spec.logical_id, dict(record.spec.tags), properties)
        encoded = b"," + msgspec.json.encode(description)
        if len(encoded) <= LARGEST:
            self._encoded[id] = encoded
            self._missing -= 1
        return encoded

    def _follow(self, old: Record | None, new: Record | None) -> None:
        """Forget the encoded pieces that a change made stale."""
        self._last = None
        if new is None or not new.state.described:
            if old is not None and self._encoded.pop(old.id, None) == _MISSING:
                self._missing -= 1
        elif new.id not in self._encoded:
            self._encoded[new.id] = _MISSING
            self._missing += 1
            if old is not None:
                self._moves = -1  # it returns to its old place, which is not the end
        elif (old is new or old is None or old.spec is not new.spec) and self._encoded[new.id]:
            self._encoded[new.id] = _MISSING
            self._missing += 1

    def _sort(self) -> None:
        """Take over the records' order."""
        described = (record.id for record in self._records if record.state.described)
        self._encoded = {id: self._encoded.get(id, _MISSING) for id in described}
        self._missing = sum(not encoded for encoded in self._encoded.values())
        self._moves = self._records.moves
