"""Put a state file and the journals beside it together: what the store opens with, and what `export` prints.

A journal counts only beside the file that it belongs to: one that has the journal's epoch in its stamp, or is the one with
which that epoch began. Changes that the file holds already are passed over. The file may be ahead of a whole
journal, which a crash kept from being removed; it is never behind: then changes are missing.
"""

import logging
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit.disk import Disk, unfinished
from pyinfrakit.errors import CannotStart, Damaged
from pyinfrakit.locks import Lock
from pyinfrakit.logs import NOTICE
from pyinfrakit.record import Record
from pyinfrakit.schema.decode import NotJSON, WrongShape
from pyinfrakit.store.file import document, journal
from pyinfrakit.store.file.document import Content, Stamp
from pyinfrakit.store.file.journal import Broken, Journal
from pyinfrakit.store.file.writer import Writer
from pyinfrakit.store.records import Records

PATIENCE = 2.0
"""Seconds in which a file that a daemon writes can be read together with its journals."""


class Pair(Struct, frozen=True):
    """A state file at *path*, None where there is none, and its journals in order, as bytes."""

    path: Path
    file: bytes | None
    journals: Sequence[tuple[Path, bytes]] = ()


class Found(Struct, frozen=True):
    """What a pair holds, up to change number *sequence*.

    *stamp* is the file's own; *epoch* that of the last change, if there is one. *replayed* counts the journals' entries that
    came to the file, and *torn* the bytes of one that was never acknowledged.
    """

    content: Content
    stamp: Stamp | None
    epoch: str | None
    sequence: int
    replayed: int = 0
    torn: int = 0


def lock(path: Path, what: str, holder: str) -> Lock:
    """Lock a state file and all beside it; raise `InUse` or `CannotStart`."""
    return Lock(path.with_name(f"{path.name}.lock"), what, holder)


def journals(disk: Disk, path: Path) -> list[Path]:
    """Give the journals beside a state file, in order. Raise OSError."""
    prefix = f"{path.name}.journal-"
    ends = (name.removeprefix(prefix) for name in disk.names(path.parent) if name.startswith(prefix))
    return [
        journal.journal_path(path, number)
        for number in sorted(int(end) for end in ends if end.isdecimal() and end.isascii())
    ]


def read(disk: Disk, path: Path) -> Pair:
    """Read the journals, and then the state file: what leaves those meanwhile is in this by then. Raise `CannotStart`."""
    try:
        found = [(each, _read(disk, each)) for each in journals(disk, path)]
        file = _read(disk, path)
    except OSError as error:
        raise CannotStart(f"state file {path} can't be read: {error.strerror or error}") from None
    return Pair(path, file, [(each, data) for each, data in found if data is not None])


def read_existing(disk: Disk, path: Path) -> Pair:
    """Read a state file that has to be there, or its journals. Raise `CannotStart`."""
    pair = read(disk, path)
    if pair.file is None and not pair.journals:
        raise CannotStart(f"there is no state file {path}")
    return pair


def _read(disk: Disk, path: Path) -> bytes | None:
    try:
        return disk.read(path)
    except FileNotFoundError:
        return None


def read_live(disk: Disk, path: Path) -> Found:
    """Give what is there while a daemon may be writing. Raise `CannotStart`, or `Damaged` where it stays unreadable."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return assemble(read_existing(disk, path))
        except Damaged:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def assemble(pair: Pair) -> Found:
    """Put a state file and its journals together. Raise `Damaged` where they make no sense, alone or together."""
    if pair.file is None:
        if pair.journals:
            raise _damaged(pair.path, "content", f"missing, but {_names(pair)} with changes to it is there")
        return Found(Content(), None, None, 0)
    content, stamp = load(pair.path, pair.file), document.stamp(pair.file)
    if not pair.journals:
        return Found(content, stamp, stamp.epoch, stamp.sequence) if stamp else Found(content, None, None, 0)
    if stamp is None:
        problem = f"changed by something else than this program, while {_names(pair)} has changes to what it was before"
        raise _damaged(pair.path, "content", problem)
    return _replayed(pair, content, stamp)


def _names(pair: Pair) -> str:
    return " and ".join(path.name for path, _ in pair.journals)


def load(path: Path, data: bytes) -> Content:
    """Read the state file *path*'s bytes; raise `Damaged`."""
    try:
        return document.load(data)
    except NotJSON as error:
        raise _damaged(path, "content", str(error)) from None
    except WrongShape as error:
        raise _damaged(path, error.where or "content", error.problem) from None


def _replayed(pair: Pair, content: Content, stamp: Stamp) -> Found:
    records = Records(content.records, content.last_id, content.notes)
    epoch, position, replayed, torn = stamp.epoch, stamp.sequence, 0, 0
    for path, found in _relevant(pair, stamp):
        if torn:
            raise _damaged(pair.path, path.name, f"continues a journal whose end, {torn} bytes, is no entry")
        if found.after > position:
            raise _damaged(
                pair.path, path.name, f"begins after change {found.after}, but what is before it ends with {position}"
            )
        for entry in found.entries[position - found.after :]:
            try:
                for change in journal.changes(entry):
                    records.apply(change)
            except Broken as error:
                raise _damaged(pair.path, path.name, str(error)) from None
            epoch, position = entry.epoch, entry.sequence
            replayed += 1
        torn = found.torn
    whole = Content(list(records), records.last_id, records.notes, content.mark, content.unknown)
    return Found(whole, stamp, epoch, position, replayed, torn)


def _relevant(pair: Pair, stamp: Stamp) -> Iterator[tuple[Path, Journal]]:
    """Give the journals, but for those that the file is ahead of, as it is of all that a later one continues within it."""
    for (path, data), follower in zip(pair.journals, (*pair.journals[1:], None), strict=True):
        if follower is not None and journal.after(follower[0]) <= stamp.sequence:
            continue
        try:
            found = journal.read(data)
        except Broken as error:
            raise _damaged(pair.path, path.name, str(error)) from None
        if found.epoch != stamp.epoch and found.base != stamp.digest:
            raise _damaged(
                pair.path, path.name, "belongs to another content of the file, from before or after this one"
            )
        if found.after != journal.after(path):
            raise _damaged(pair.path, path.name, f"has the content of journal {found.after}")
        yield path, found


# ==== Open a state file: put together what is there, and see that it is as it should be before anything is added.
log = logging.getLogger(__name__)


def usable(path: Path) -> Path:
    """Resolve links, so that what they point to is replaced, not they. Raise `CannotStart`."""
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except FileNotFoundError:
        if not real.parent.is_dir():
            raise CannotStart(f"state file {path}: there is no folder {real.parent}") from None
        return real
    except OSError as error:
        raise CannotStart(f"state file {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise CannotStart(f"state file {path}: not a regular file")
    if not mode & 0o222 or not os.access(real, os.W_OK):
        raise CannotStart(f"state file {path}: read-only (mode {stat.S_IMODE(mode):04o})")
    return real


def opened(disk: Disk, path: Path, mark: str | None, sub_types: Sequence[str]) -> tuple[Content, Writer]:
    """Give a state file's content, with a mark, and what writes to it from now on; *mark* replaces the file's.

    Raises `CannotStart`, also for a record that is of none of *sub_types*, or OSError where it can't be written.
    """
    disk.sync_folder(path.parent)  # what an earlier process renamed just before it was killed may not be there for good
    pair = read(disk, path)
    found = assemble(pair)
    _check_types(path, found.content.records, sub_types)
    if pair.journals:
        torn = f"; {found.torn} bytes at the end were never acknowledged" if found.torn else ""
        log.log(NOTICE, "state file %s: %d entries of its journal are replayed%s", path, found.replayed, torn)
    content = replace(found.content, mark=mark or found.content.mark or secrets.token_hex(8))
    stamp = found.stamp
    if stamp is None or pair.journals or content.mark != found.content.mark or not disk.is_private(path):
        stamp = _rewrite(disk, pair, found, content)
    for leftover in (unfinished(path), journal.unfinished_journal(path)):
        disk.remove(leftover)
    return content, Writer(disk, path, secrets.token_hex(8), stamp.digest, found.sequence)


def _check_types(path: Path, records: Iterable[Record], sub_types: Sequence[str]) -> None:
    """Raise `CannotStart` for a record that no plugin would look after."""
    stray = next((record for record in records if record.sub_type not in sub_types), None)
    if stray is None:
        return
    its = f"is of sub-type {stray.sub_type!r}" if stray.sub_type else "is of no sub-type"
    known = f"the sub-types {', '.join(sub_types)}" if any(sub_types) else "no sub-types"
    advice = "configure the plugin for it, or change the Type of its entry; the file was left untouched"
    raise CannotStart(f"state file {path}: instance {stray.id} {its}, and this plugin has {known}; {advice}")


def _rewrite(disk: Disk, pair: Pair, found: Found, content: Content) -> Stamp:
    """Write the state file anew, and remove its journals; give its stamp.

    It gets the journals' epoch: should a crash bring them back, they are known to be over. Journals that hold nothing new may
    be of another epoch; so they go first.
    """
    if not found.replayed:
        _remove_journals(disk, pair)
    data = b"".join(document.stamped(content, found.epoch or secrets.token_hex(8), found.sequence))
    disk.replace(pair.path, [data])
    if found.replayed:
        _remove_journals(disk, pair)
    stamp = document.stamp(data)
    assert stamp is not None
    return stamp


def _remove_journals(disk: Disk, pair: Pair) -> None:
    for path, _ in pair.journals:
        disk.remove(path)
    if pair.journals:
        disk.sync_folder(pair.path.parent)


def _damaged(path: Path, where: str, problem: str) -> Damaged:
    advice = f"the file was left untouched, and `infrakit-instance fsck {path}` says what can be saved"
    return Damaged(f"state file {path}", where, problem, advice)
