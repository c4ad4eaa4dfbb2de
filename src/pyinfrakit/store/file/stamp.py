"""The stamp at the end of a state file: the changes that the file holds, a digest of it, and its journal.

    "Checkpoint":{"Epoch":"…","Sequence":4,"Digest":"…","Journal":"000000000004 000000000007 894a45f5"}}}

``Journal`` is the one value of a state file that is written in place: the number in the name of the last journal,
a change that was acknowledged in it, and a CRC-32. It has dashes while no journal belongs to the file.
"""

import hashlib
import re
import zlib
from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

OF_THE_FILE = ("Checkpoint", "Sums")
"""The keys of ``Provider`` that describe the file itself."""

SECTOR = 512
"""Bytes that a disk writes as a whole or not at all."""

_STAMP = re.compile(
    rb'"Checkpoint":\{"Epoch":"([0-9a-f]+)","Sequence":(\d+),"Digest":"([0-9a-f]{64})"'
    rb'(?:, *"Journal":"(?P<bound>(-{12}|[0-9a-f]{12}) (-{12}|[0-9a-f]{12}) [0-9a-f]{8})")?\}\}\}\n\Z'
)
_PART = re.compile(rb'"Sequence":\d+,"Digest":"|"Digest":"[0-9a-f]{64}"')
_LONGEST = 400
"""The last bytes of a file in which its stamp is."""
_END = b'"}}}\n'
_LENGTH = len("000000000000 000000000000 00000000")


class Bound(Struct, frozen=True):
    """The last journal of a state file, which begins after change *after*, and a change that was acknowledged in it.

    Later changes may have been acknowledged too, but the journal has at least all those up to *acknowledged*.
    """

    after: int
    acknowledged: int


class Stamp(Struct, frozen=True):
    """The changes in a state file: all of *epoch* up to number *sequence*. *digest* covers the bytes before it.

    *bound* is None if no journal has acknowledged changes. Stamps of earlier versions do not tell: *tells* is false.
    """

    epoch: str
    sequence: int
    digest: str
    bound: Bound | None = None
    tells: bool = True


class _Own(Struct):
    Provider: Mapping[str, Raw]


def read_own(data: bytes) -> Mapping[str, Raw]:
    """Return the values in a state file's ``Provider``; nothing if it can't be read."""
    try:
        return msgspec.json.decode(data, type=_Own).Provider
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def verify_stamp(data: bytes) -> Stamp | None:
    """Return a state file's stamp, or None if it has none or its bytes differ from the stamped ones."""
    match = _STAMP.search(data, max(0, len(data) - _LONGEST))
    if match is None or hashlib.sha256(memoryview(data)[: match.start(3)]).hexdigest().encode() != match[3]:
        return None
    stamp = _read_stamp(match)
    # A file of an earlier version has no checksums. In a file that has them, somebody removed the journal's value.
    return None if stamp is not None and not stamp.tells and "Sums" in read_own(data) else stamp


def find_stamp(data: bytes) -> Stamp | None:
    """Return the stamp at the end of a state file, whether its digest is right or not, or None."""
    match = _STAMP.search(data, max(0, len(data) - _LONGEST))
    return match and _read_stamp(match)


def _read_stamp(match: re.Match[bytes]) -> Stamp | None:
    """Return a stamp, or None if the journal's value is wrong."""
    epoch, sequence, digest = match[1].decode(), int(match[2]), match[3].decode()
    if match["bound"] is None:
        return Stamp(epoch, sequence, digest, tells=False)
    text, after, acknowledged = match["bound"], match[5], match[6]
    bound = None if b"-" in after + acknowledged else Bound(int(after, 16), int(acknowledged, 16))
    return Stamp(epoch, sequence, digest, bound) if encode_bound(digest, bound) == text else None


def has_stamp(data: bytes) -> bool:
    """Return whether a state file has a stamp, or a part of one. The C demo's files have none."""
    if _PART.search(data, max(0, len(data) - _LONGEST)):
        return True
    return (b"Checkpoint" in data or b"Sums" in data) and not read_own(data).keys().isdisjoint(OF_THE_FILE)


def encode_stamp(epoch: str, sequence: int, digest: "hashlib._Hash", length: int) -> bytes:
    """Return the end of a state file whose first *length* bytes are in *digest*."""
    first = f',"Checkpoint":{{"Epoch":"{epoch}","Sequence":{sequence},"Digest":"'.encode()
    digest.update(first)
    first += digest.hexdigest().encode() + b'",'
    key = b'"Journal":"'
    start = (length + len(first) + len(key)) % SECTOR
    # In one sector, so that no power cut leaves a part of the value.
    space = b" " * (SECTOR - start if start + _LENGTH > SECTOR else 0)
    return first + space + key + encode_bound(digest.hexdigest(), None) + _END


def encode_bound(digest: str, bound: Bound | None) -> bytes:
    """Return the value of ``Journal`` in the file with *digest*. Its length is always the same."""
    text = f"{bound.after:012x} {bound.acknowledged:012x} " if bound else f"{'-' * 12} {'-' * 12} "
    return b"%b%08x" % (text.encode(), zlib.crc32((digest + text).encode()))


def bound_place(size: int) -> int:
    """Return where in a state file of *size* bytes the value of ``Journal`` begins."""
    return size - len(_END) - _LENGTH
