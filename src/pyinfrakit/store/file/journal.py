"""A journal's form: changes, in the order in which they became durable.

A journal is a sequence of entries. Each is a line, ``=LENGTH SEQUENCE EPOCH CHECKSUM`` in hexadecimal digits,
a payload of that length, and a newline. The checksum is CRC-32 of the line before it and of the payload.
Sequence numbers go up by one.

The first entry's payload is the journal's `Header`; its sequence number is that of the last change before the
journal. Each later entry holds one batch: a JSON array of ``{"Put": …}`` with an entry of the state file,
``{"Drop": ID}`` and ``{"Note": KEY, "Value": …}``. A batch has one write and one sync, so only the last entry can
be torn. The first one can't, because a rename puts the journal in its place.

The epoch is a random number. It ties a journal to its state file. Clients do not know it, so no text in a
payload passes for an entry.
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
    """The journal's version, and the digest of the state file with which its epoch began."""

    version: int
    base: str


class Entry(Struct, frozen=True):
    """One entry, from byte *start* to *end*."""

    sequence: int
    epoch: str
    payload: bytes
    start: int
    end: int


class Gap(Struct, frozen=True):
    """Bytes from *start* to *end* that are not an entry."""

    start: int
    end: int


class Journal(Struct, frozen=True):
    """A whole journal, from change number *after* on. *torn* bytes at its end were never acknowledged."""

    epoch: str
    base: str
    after: int
    entries: Sequence[Entry]
    torn: int


class BrokenJournal(ValueError):
    """A journal is invalid at byte *start*, and a write that was cut short does not explain it."""

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


def encode_header(epoch: str, base: str, after: int) -> bytes:
    """Encode the first entry of a journal."""
    return encode_entry(epoch, after, msgspec.json.encode(Header(VERSION, base)))


def encode_entry(epoch: str, sequence: int, payload: bytes) -> bytes:
    """Encode an entry. *epoch* has 16 hexadecimal digits."""
    line = f"={len(payload):08x} {sequence:012x} {epoch} ".encode()
    return b"%b%08x\n%b\n" % (line, zlib.crc32(payload, zlib.crc32(line)), payload)


def encode_change(change: Change) -> bytes:
    """Encode a change. Raise TypeError or ValueError if JSON can't hold it."""
    match change:
        case Put(record, front):
            return b'{"Put":' + document.dump_entry(record) + (b',"Front":true}' if front else b"}")
        case Drop(id):
            return msgspec.json.encode({"Drop": id})
        case Note(key, value):
            return msgspec.json.encode({"Note": key, "Value": value})


def join_changes(changes: Iterable[bytes]) -> bytes:
    """Return the payload for a batch of encoded changes."""
    return b"[" + b",".join(changes) + b"]"


def read_changes(entry: Entry) -> Sequence[Change]:
    """Decode an entry's changes. Raise `BrokenJournal`."""
    try:
        return [_read_change(each, index) for index, each in enumerate(decode(entry.payload, list[_Change]))]
    except (WrongShape, NotJSON) as error:
        raise BrokenJournal(entry.start, f"this version does not understand the entry: {error}") from None


def _read_change(change: _Change, index: int) -> Change:
    if change.Put is not UNSET:
        return Put(document.read_entry(change.Put, f"[{index}]"), change.Front)
    if change.Drop is not UNSET:
        return Drop(change.Drop)
    if change.Note is not UNSET and change.Value is not UNSET:
        return Note(change.Note, change.Value.copy())
    raise WrongShape(f"[{index}]", "expected Put, Drop, or Note with Value")


def read(data: bytes) -> Journal:
    """Decode a journal, without a torn end. Raise `BrokenJournal`."""
    parts = list(scan(data))
    torn = 0
    if len(parts) > 1 and isinstance(parts[-1], Gap):
        torn = parts[-1].end - parts.pop().start
    entries = [part for part in parts if isinstance(part, Entry)]
    if not entries:
        raise BrokenJournal(0, "expected a journal's first entry")
    for part in parts:
        if isinstance(part, Gap):
            raise BrokenJournal(part.start, f"{part.end - part.start} bytes are not an entry, but entries follow")
    first, *rest = entries
    header = _read_header(first)
    for sequence, entry in enumerate(rest, first.sequence + 1):
        if (entry.sequence, entry.epoch) != (sequence, first.epoch):
            problem = f"entry {entry.sequence} of epoch {entry.epoch}, expected {sequence} of {first.epoch}"
            raise BrokenJournal(entry.start, problem)
    return Journal(first.epoch, header.base, first.sequence, rest, torn)


def _read_header(first: Entry) -> Header:
    try:
        header = decode(first.payload, Header)
    except (WrongShape, NotJSON) as error:
        raise BrokenJournal(first.start, f"expected a journal's first entry: {error}") from None
    if header.version != VERSION:
        raise BrokenJournal(first.start, f"journal version {header.version}; this program knows version {VERSION}")
    return header


def scan(data: bytes) -> Iterator[Entry | Gap]:
    """Yield all entries with a right checksum, and the gaps between them."""
    data = data.rstrip(b"\0")  # room that was reserved and not used
    position = 0
    for line in _LINE.finditer(data):
        entry = _read_entry(data, line) if line.start() >= position else None  # a payload may contain a line
        if entry is not None:
            if entry.start > position:
                yield Gap(position, entry.start)
            yield entry
            position = entry.end
    if position < len(data):
        yield Gap(position, len(data))


def _read_entry(data: bytes, line: re.Match[bytes]) -> Entry | None:
    start, end = line.start(), line.end() + int(line[1], 16)
    if data[end : end + 1] != b"\n":
        return None
    payload = data[line.end() : end]
    if zlib.crc32(payload, zlib.crc32(data[start : start + _SUMMED])) != int(line[4], 16):
        return None
    return Entry(int(line[2], 16), line[3].decode(), payload, start, end + 1)


def journal_path(path: Path, after: int) -> Path:
    """Return the path of the journal with the changes after number *after*."""
    return path.with_name(f"{path.name}.journal-{after}")


def unfinished_journal(path: Path) -> Path:
    """Return the path of a journal that is not yet in its place."""
    return path.with_name(f".{path.name}.journal.new")


def after(path: Path) -> int:
    """Return the number in a journal's name."""
    return int(path.name.rpartition("-")[2])
