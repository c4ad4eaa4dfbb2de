"""Encoded descriptions, kept until they change: a describe costs no more than joining bytes."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import UNSET, Raw

from pyinfrakit.record import Record
from pyinfrakit.rpc.instance.types import Description
from pyinfrakit.rpc.jsonrpc import Reply, enclose
from pyinfrakit.store.records import Records
from pyinfrakit.turns import share

LARGEST = 1024
"""Largest description that is kept, in bytes. To keep a larger one would double the memory of its spec."""

MANY = 256
"""Number of descriptions from which a reply is kept whole, until another such reply or a change replaces it.

If as many are not kept yet, they are encoded in turns, while the reply is sent.
"""

FEW = 5
"""Descriptions that are encoded without a look at the clock: to look for secrets in one may take some milliseconds."""

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

    async def reply(self, name: str, tags: Mapping[str, str], with_properties: bool) -> Reply:
        """Return the reply about the instances that have all of *tags*; *name* is its ``Type``.

        It is about one instant, also if it is encoded while it is sent.
        """
        cache = self._caches.get(with_properties)
        if cache is None:
            cache = self._caches[with_properties] = _Cache(self._records, self._redact if with_properties else None)
        head = b'{"Type":' + (msgspec.json.encode(name) if name else b'""') + b',"Descriptions":['
        return enclose(head, await cache.find(tags), b"]}")


class _Cache:
    """One kind of descriptions, each encoded with a comma in front, or `_MISSING` until it is asked for."""

    def __init__(self, records: Records, redact: Redact | None) -> None:
        self._records = records
        self._redact = redact
        self._encoded = {record.id: _MISSING for record in records if record.state.described}
        self._missing = len(self._encoded)
        self._last: tuple[Mapping[str, str], Sequence[bytes]] | None = None
        records.subscribe(self._follow)

    async def find(self, tags: Mapping[str, str]) -> Reply:
        """Return the descriptions of the instances that have all of *tags*, as the inside of a JSON array."""
        if self._last is not None and self._last[0] == tags:
            return self._join(*self._last)
        records = self._records.narrow(tags)
        if not self._missing and len(tags) <= 1:
            found = list(filter(None, map(self._encoded.get, (record.id for record in records))))
        elif len(records) >= MANY:
            return self._stream(records, tags)
        else:
            found = await self._encode_few(_choose(records, tags))
        if found:
            found[0] = found[0][1:]
        if not self._missing and len(found) >= MANY and sum(map(len, found)) <= LARGEST * len(found):
            self._last = (tags, found)
        return found

    def _join(self, tags: Mapping[str, str], found: Sequence[bytes]) -> Sequence[bytes]:
        """Join a reply that is asked for again. The first time is too early: it may change before a second one."""
        if len(found) > 1:
            found = [b"".join(found)]
            self._last = (tags, found)
        return found

    async def _encode_few(self, records: Sequence[Record]) -> list[bytes]:
        """Return the descriptions of *records*. Those that are not kept yet are encoded in turns."""
        fresh: dict[str, bytes] = {}
        async for some in share([record for record in records if not self._encoded.get(record.id)], FEW):
            fresh.update((record.id, self._find_piece(record)) for record in some)
        return [fresh.get(record.id) or self._find_piece(record) for record in records]

    async def _stream(self, records: Sequence[Record], tags: Mapping[str, str]) -> AsyncIterator[bytes]:
        is_first = True
        async for some in share(records, FEW):
            if found := b"".join(map(self._find_piece, _choose(some, tags))):
                yield found[1:] if is_first else found
                is_first = False

    def _find_piece(self, record: Record) -> bytes:
        """Return the description of a record, which may not be the current one of its instance any more."""
        if self._records.get(record.id) is not record:
            return self._encode_fresh(record)
        return self._encoded.get(record.id) or self._encode(record)

    def _encode(self, record: Record) -> bytes:
        encoded = self._encode_fresh(record)
        if len(encoded) <= LARGEST:
            self._encoded[record.id] = encoded
            self._missing -= 1
        return encoded

    def _encode_fresh(self, record: Record) -> bytes:
        properties = UNSET if self._redact is None else self._redact(record)
        description = Description(record.id, record.spec.logical_id, dict(record.spec.tags), properties)
        return b"," + msgspec.json.encode(description)

    def _follow(self, old: Record | None, new: Record | None) -> None:
        """Forget the encoded pieces that a change made stale."""
        self._last = None
        if new is None or not new.state.described:
            if old is not None and self._encoded.pop(old.id, None) == _MISSING:
                self._missing -= 1
        elif new.id not in self._encoded or (
            (old is new or old is None or old.spec is not new.spec) and self._encoded[new.id]
        ):
            self._encoded[new.id] = _MISSING
            self._missing += 1


def _choose(records: Iterable[Record], tags: Mapping[str, str]) -> list[Record]:
    """Return those of *records* that are described and have *tags*."""
    wanted = tags.items()
    return [each for each in records if each.state.described and wanted <= each.spec.tags.items()]
