"""What an editor changed in a state file, by the checksums of the entries that the plugin wrote."""

import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from pyinfrakit.record import Record
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode


class Sums:
    """The checksums of IDs and of their entries, in the same order."""

    def __init__(self) -> None:
        self.ids = array("I")
        self.entries = array("I")

    def add(self, records: Iterable[Record], entries: Iterable[bytes]) -> None:
        self.ids.extend(map(_sum_up, records))
        self.entries.extend(map(zlib.crc32, entries))

    def encode(self) -> bytes:
        """Return the value of ``Sums`` in a state file: hexadecimal digits, with each checksum's lowest byte first."""
        ids, entries = (_swap(each).tobytes().hex() for each in (self.ids, self.entries))
        return f'"{ids} {entries}"'.encode()

    @classmethod
    def decode(cls, value: Raw | None) -> "Sums | None":
        """Return the checksums in a state file, or None if it has none, or none that fit each other."""
        sums = cls()
        try:
            ids, entries = map(bytes.fromhex, decode(value or Raw(b"null"), str).split(" "))
            sums.ids.frombytes(ids)
            sums.entries.frombytes(entries)
        except (WrongShape, NotJSON, ValueError):
            return None
        sums.ids, sums.entries = _swap(sums.ids), _swap(sums.entries)
        return sums if len(sums.ids) == len(sums.entries) else None


def _swap(numbers: "array[int]") -> "array[int]":
    """Return *numbers* with the lowest byte first, or numbers of that form as they are here."""
    numbers = numbers[:]
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _sum_up(record: Record) -> int:
    return zlib.crc32(record.id.encode())


class Edits(Struct, frozen=True):
    """The IDs that an editor changed or added, and the number of entries that it removed."""

    changed: Sequence[str]
    added: Sequence[str]
    removed: int


def find_edits(records: Iterable[Record], sums: Sums, dump_entry: Callable[[Record], bytes]) -> Edits:
    """Return how *records* differ from those with *sums*. Spaces between values are no difference."""
    known = dict(zip(sums.ids, sums.entries, strict=True))
    changed, added = [], []
    for record in records:
        old = known.pop(_sum_up(record), None)
        if old is None:
            added.append(record.id)
        elif old not in {zlib.crc32(dump_entry(each)) for each in (record, _compact(record))}:
            changed.append(record.id)
    return Edits(changed, added, len(known))


def _compact(record: Record) -> Record:
    """Return a record with its properties as most clients send them: without spaces."""
    properties = record.spec.properties
    if properties is None:
        return record
    return replace(record, spec=replace(record.spec, properties=Raw(msgspec.json.format(bytes(properties), indent=-1))))
