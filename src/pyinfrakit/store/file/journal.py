"""A journal's form: changes, in the order in which they were made durable.

A journal is a row of entries. Each is a line, ``=LENGTH SEQUENCE EPOCH CHECKSUM`` in hexadecimal digits, then its payload of so
many bytes, and a newline. The checksum is CRC-32 of the line up to there and of the payload. Sequence numbers go up by one.

The first entry's payload is the journal's `Header`, and its sequence number that of the last change before the journal.
Each later entry holds what was made durable together, by one write and one sync, so that only the last can be torn (the
first can't, as a journal comes into its place by a rename): a JSON array of ``{"Put": …}`` with an entry as in the state
file, ``{"Drop": ID}`` and ``{"Note": KEY, "Value": …}``.

The epoch is a random number. It ties a journal to its state file, and nobody who can write into a payload knows it: no
text that somebody chose is ever taken for an entry.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.schema.decode import NotJSON, WrongShape, decode
from pyinfrakit.store.file import document
from pyinfrakit.store.records import Change, Drop, Note, Put

VERSION = 1

_LINE = re.compile(rb"=([0-9a-f]{8}) ([0-9a-f]{12}) ([0-9a-f]{16}) ([0-9a-f]{8})\n")
_SUMMED = len("=LLLLLLLL SSSSSSSSSSSS EEEEEEEEEEEEEEEE ")


class Header(Struct, frozen=True, rename="pascal"):
    """What a journal is of: a state file of its own epoch, or the one of digest *base*, with which the epoch began."""

    version: int
    base: str


class Entry(Struct, frozen=True):
    """One entry, at byte *start* up to *end*."""

    sequence: int
    epoch: str
    payload: bytes
    start: int
    end: int


class Gap(Struct, frozen=True):
    """Bytes from *start* up to *end* that are no entry."""

    start: int
    end: int


class Journal(Struct, frozen=True):
    """A whole journal: what comes after change number *after*. *torn* bytes at its end were never acknowledged."""

    epoch: str
    base: str
    after: int
    entries: Sequence[Entry]
    torn: int


class Broken(ValueError):
    """A journal makes no sense at byte *start*, and that is not because its last write was cut short."""

    def __init__(self, start: int, problem: str) -> None:
        super().__init__(f"byte {start}: {problem}")
        self.start = start
        self.problem = problem


class _Change(Struct, frozen=True, forbid_unknown_fields=True):
    Put: Raw | UnsetType = UNSET
    Front: bool = False
    Drop: str | UnsetType = UNSET
    Note: str | UnsetType = UNSET
    Value: Raw | UnsetType = UNSET


def begin(epoch: str, base: str, after: int) -> bytes:
    """Write the first entry of a journal."""
    return entry(epoch, after, msgspec.json.encode(Header(VERSION, base)))


def entry(epoch: str, sequence: int, payload: bytes) -> bytes:
    """Write an entry; *epoch* has 16 hexadecimal digits."""
    line = f"={len(payload):08x} {sequence:012x} {epoch} ".encode()
    return b"%b%08x\n%b\n" % (line, zlib.crc32(payload, zlib.crc32(line)), payload)


def changed(change: Change) -> bytes:
    """Write one change. Raise TypeError or ValueError where JSON can't hold it."""
    match change:
        case Put(record, front):
            return b'{"Put":' + document.entry(record) + (b',"Front":true}' if front else b"}")
        case Drop(id):
            return msgspec.json.encode({"Drop": id})
        case Note(key, value):
            return msgspec.json.encode({"Note": key, "Value": value})


def together(changes: Iterable[bytes]) -> bytes:
    """Put changes, as `changed` wrote them, into one payload."""
    return b"[" + b",".join(changes) + b"]"


def changes(found: Entry) -> Sequence[Change]:
    """Read an entry's changes; raise `Broken`."""
    try:
        return [_change(each, index) for index, each in enumerate(decode(found.payload, list[_Change]))]
    except (WrongShape, NotJSON) as error:
        raise Broken(found.start, f"an entry that this version does not understand: {error}") from None


def _change(change: _Change, index: int) -> Change:
    if change.Put is not UNSET:
        return Put(document.read_entry(change.Put, "", index), change.Front)
    if change.Drop is not UNSET:
        return Drop(change.Drop)
    if change.Note is not UNSET and change.Value is not UNSET:
        return Note(change.Note, change.Value.copy())
    raise WrongShape(f"[{index}]", "expected Put, Drop, or Note with Value")


def read(data: bytes) -> Journal:
    """Read a journal, without a torn end. Raise `Broken`."""
    found = list(scan(data))
    torn = 0
    if len(found) > 1 and isinstance(found[-1], Gap):
        gap = found.pop()
        torn = gap.end - gap.start
    entries = [each for each in found if isinstance(each, Entry)]
    if not entries:
        raise Broken(0, "expected a journal's first entry")
    if gaps := [each for each in found if isinstance(each, Gap)]:
        raise Broken(gaps[0].start, f"{gaps[0].end - gaps[0].start} bytes that are no entry, with entries behind them")
    return _journal(entries, torn)


def _journal(entries: Sequence[Entry], torn: int) -> Journal:
    first, *rest = entries
    header = _header(first)
    for sequence, each in enumerate(rest, first.sequence + 1):
        if (each.sequence, each.epoch) != (sequence, first.epoch):
            raise Broken(
                each.start, f"entry {each.sequence} of epoch {each.epoch}, expected {sequence} of {first.epoch}"
            )
    return Journal(first.epoch, header.base, first.sequence, rest, torn)


def _header(first: Entry) -> Header:
    try:
        header = decode(first.payload, Header)
    except (WrongShape, NotJSON) as error:
        raise Broken(first.start, f"expected a journal's first entry: {error}") from None
    if header.version != VERSION:
        raise Broken(
            first.start, f"version {header.version} of the journal's form; this program knows version {VERSION}"
        )
    return header


def scan(data: bytes) -> Iterator[Entry | Gap]:
    """Give all entries whose checksums are right, and what is between them. Zeros at the end are room that was not used."""
    data = data.rstrip(b"\0")
    position = 0
    while position < len(data):
        found = _entry_at(data, position)
        if found is None:
            start = position
            found = _next_entry(data, start + 1)
            position = len(data) if found is None else found.start
            yield Gap(start, position)
        if found is not None:
            yield found
            position = found.end


def _next_entry(data: bytes, position: int) -> Entry | None:
    while (line := _LINE.search(data, position)) is not None:
        found = _entry_at(data, line.start())
        if found is not None:
            return found
        position = line.start() + 1
    return None


def _entry_at(data: bytes, start: int) -> Entry | None:
    line = _LINE.match(data, start)
    if line is None:
        return None
    end = line.end() + int(line[1], 16)
    if data[end : end + 1] != b"\n":
        return None
    payload = data[line.end() : end]
    if zlib.crc32(payload, zlib.crc32(data[start : start + _SUMMED])) != int(line[4], 16):
        return None
    return Entry(int(line[2], 16), line[3].decode(), payload, start, end + 1)


def journal_path(path: Path, after: int) -> Path:
    """Give the name of the journal of what comes after change number *after*."""
    return path.with_name(f"{path.name}.journal-{after}")


def unfinished_journal(path: Path) -> Path:
    """Give the name that a journal has until it comes into its place."""
    return path.with_name(f".{path.name}.journal.new")


def after(path: Path) -> int:
    """Give the number in a journal's name."""
    return int(path.name.rpartition("-")[2])
