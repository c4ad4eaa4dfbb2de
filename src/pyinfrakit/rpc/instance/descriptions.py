"""Encoded descriptions, kept until they change: describing costs no more than putting bytes together."""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import UNSET, Raw

from pyinfrakit.record import Record
from pyinfrakit.rpc.instance import types
from pyinfrakit.store.records import Records

LARGEST = 1024
"""Bytes of a description that is kept. A larger one is encoded each time: kept, it would double what its spec takes."""

MANY = 256
"""From so many descriptions on, a reply is kept whole, for as long as it is the last such one and nothing changes."""

Shown = Callable[[Record], Raw]
"""Gives the properties that are shown of an instance."""

_MISSING = b""


class Descriptions:
    """The descriptions of a plugin's instances. With and without properties are kept apart, each once it is asked for."""

    def __init__(self, records: Records, shown: Shown) -> None:
        self._records = records
        self._shown = shown
        self._kept: dict[bool, _Kept] = {}

    def reply(self, type: str, tags: Mapping[str, str], with_properties: bool) -> list[bytes]:
        """Give, in pieces, the reply that describes the instances which have all of *tags*, in order."""
        kept = self._kept.get(with_properties)
        if kept is None:
            kept = self._kept[with_properties] = _Kept(self._records, self._shown if with_properties else None)
        head = b'{"Type":' + (msgspec.json.encode(type) if type else b'""') + b',"Descriptions":['
        return [head, *kept.having(tags), b"]}"]


class _Kept:
    """One kind of descriptions, each with a comma in front; or `_MISSING`, until it is asked for."""

    def __init__(self, records: Records, shown: Shown | None) -> None:
        self._records = records
        self._shown = shown
        self._encoded: dict[str, bytes] = {}
        self._missing = 0
        self._last: tuple[Mapping[str, str], list[bytes]] | None = None
        self._order()
        records.follow(self._follow)

    def having(self, tags: Mapping[str, str]) -> list[bytes]:
        """Give the descriptions of instances that have all of *tags*, as what stands between an array's brackets."""
        if self._last is not None and self._last[0] == tags:
            return self._whole(*self._last)
        found = self._tagged(tags) if tags else self._all()
        if found:
            found[0] = found[0][1:]
        if len(found) >= MANY and sum(map(len, found)) <= LARGEST * len(found):
            self._last = (tags, found)
        return found

    def _whole(self, tags: Mapping[str, str], found: list[bytes]) -> list[bytes]:
        """Put together what is asked for again: not the first time, as it may change before there is another."""
        if len(found) > 1:
            found = [b"".join(found)]
            self._last = (tags, found)
        return found

    def _all(self) -> list[bytes]:
        if self._moves != self._records.moves:
            self._order()
        if not self._missing:
            return list(self._encoded.values())
        return [encoded or self._encode(id) for id, encoded in self._encoded.items()]

    def _tagged(self, tags: Mapping[str, str]) -> list[bytes]:
        ids = self._records.tagged_ids(tags)
        if not self._missing:
            return list(filter(None, map(self._encoded.get, ids)))
        return [self._encoded[id] or self._encode(id) for id in ids if id in self._encoded]

    def _encode(self, id: str) -> bytes:
        record = self._records[id]
        properties = UNSET if self._shown is None else self._shown(record)
        described = types.Described(id, record.spec.logical_id, dict(record.spec.tags), properties)
        encoded = b"," + msgspec.json.encode(described)
        if len(encoded) <= LARGEST:
            self._encoded[id] = encoded
            self._missing -= 1
        return encoded

    def _follow(self, old: Record | None, new: Record | None) -> None:
        self._last = None
        if new is None or not new.state.described:
            if old is not None and self._encoded.pop(old.id, None) == _MISSING:
                self._missing -= 1
        elif new.id not in self._encoded:
            self._encoded[new.id] = _MISSING
            self._missing += 1
            if old is not None:
                self._moves = -1  # it is back where it was, which is not the end
        elif (old is new or old is None or old.spec is not new.spec) and self._encoded[new.id]:
            self._encoded[new.id] = _MISSING
            self._missing += 1

    def _order(self) -> None:
        """Take over the records' order."""
        described = (record.id for record in self._records if record.state.described)
        self._encoded = {id: self._encoded.get(id, _MISSING) for id in described}
        self._missing = sum(not encoded for encoded in self._encoded.values())
        self._moves = self._records.moves
