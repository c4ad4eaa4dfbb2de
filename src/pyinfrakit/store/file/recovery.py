"""Combine a state file with its journals: the start of the store, and the content that `export` prints.

A journal counts only with the file that it belongs to: the file's stamp has the journal's epoch, or the
journal names the file's digest as the beginning of its epoch. Changes that the file holds already are skipped.
A file may be ahead of a whole journal, if a crash came before its removal. It is never behind: then changes
are missing. The file's stamp says which journal must be there, and which of its changes at least.
"""

import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit.disk import Disk, temporary_path
from pyinfrakit.errors import CannotStart, Damaged
from pyinfrakit.locks import Lock
from pyinfrakit.logs import NOTICE
from pyinfrakit.schema.decode import NotJSON, WrongShape
from pyinfrakit.store.file import document, journal
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.file.journal import BrokenJournal, Journal
from pyinfrakit.store.file.stamp import Bound, Stamp, find_stamp, has_stamp, verify_stamp
from pyinfrakit.store.records import Records

PATIENCE = 2.0
"""Seconds in which a reader gets a consistent view of files that a daemon writes."""

RESCUED = ".rescued-"
"""What follows a state file's name in that of a file that a stop had to write beside it."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

EDITED = "edited or damaged: its digest is wrong; if you edited it, confirm that with `fsck --accept-edit`"
"""The problem of a file that another program wrote, or damaged, without harm to its form."""

log = logging.getLogger(__name__)


class Pair(Struct, frozen=True):
    """The bytes of a state file at *path*, None if there is none, and of its journals in order."""

    path: Path
    file: bytes | None
    journals: Sequence[tuple[Path, bytes]] = ()


class Start(Struct, frozen=True):
    """What a store begins with: the *content* of a state file, its *stamp*, and the *epoch* of the next changes.

    If the file could not be written, for lack of room, *problem* says so, and the content is in the file and its
    *journals* together. A new file has to follow before any change; *epoch* is that of the journals then.
    """

    content: Content
    epoch: str
    sequence: int
    stamp: Stamp | None
    journals: Sequence[Path] = ()
    problem: str = ""


class Assembly(Struct, frozen=True):
    """The content of a pair, up to change number *sequence*.

    *stamp* is the file's own; *epoch* is that of the last change, if there is one. *replayed* counts the
    journal entries that were added to the file, and *torn* the bytes of one that was never acknowledged.
    """

    content: Content
    stamp: Stamp | None = None
    epoch: str | None = None
    sequence: int = 0
    replayed: int = 0
    torn: int = 0


def lock(path: Path, subject: str, holder: str) -> Lock:
    """Lock a state file and its journals. Raise `InUse` or `CannotStart`."""
    return Lock(path.with_name(f"{path.name}.lock"), subject, holder)


def journals(disk: Disk, path: Path) -> list[Path]:
    """Return the paths of a state file's journals, in order. Raise OSError."""
    prefix = f"{path.name}.journal-"
    ends = [name.removeprefix(prefix) for name in disk.names(path.parent) if name.startswith(prefix)]
    numbers = sorted(int(end) for end in ends if end.isdecimal() and end.isascii())
    return [journal.journal_path(path, number) for number in numbers]


def read(disk: Disk, path: Path) -> Pair:
    """Read the journals, the state file, and what was added to the journals meanwhile. Raise `CannotStart`.

    In this order, a journal that a checkpoint removes meanwhile is not missed: the file holds its changes by then.
    Nor is a change that the file's stamp calls acknowledged.
    """
    try:
        before = [(each, _read(disk, each)) for each in journals(disk, path)]
        file = _read(disk, path)
        parts = [(each, _read(disk, each) or data) for each, data in before]
    except OSError as error:
        raise CannotStart(f"state file {path} can't be read: {error.strerror or error}") from None
    return Pair(path, file, [(each, data) for each, data in parts if data is not None])


def read_existing(disk: Disk, path: Path) -> Pair:
    """Read a state file or its journals. Raise `CannotStart` if there are neither."""
    pair = read(disk, path)
    if pair.file is None and not pair.journals:
        raise CannotStart(f"state file {path} does not exist")
    return pair


def _read(disk: Disk, path: Path) -> bytes | None:
    try:
        return disk.read(path)
    except FileNotFoundError:
        return None


def read_live(disk: Disk, path: Path) -> Assembly:
    """Read files that a daemon may be writing. Raise `CannotStart`, or `Damaged` if they stay inconsistent."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return assemble(read_existing(disk, path))
        except Damaged:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def assemble(pair: Pair) -> Assembly:
    """Combine a state file with its journals. Raise `Damaged` if one of them is invalid, or they don't match."""
    try:
        return _combine(pair)
    except NotJSON as error:
        where, problem = "content", str(error)
    except WrongShape as error:
        where, problem = error.where or "content", error.problem
    advice = f"the file was left untouched; run `infrakit-instance fsck {pair.path}` to see what can be saved"
    raise Damaged(f"state file {pair.path}", where, problem, advice)


def _combine(pair: Pair) -> Assembly:
    names = " and ".join(path.name for path, _ in pair.journals)
    if pair.file is None:
        if pair.journals:
            raise WrongShape("content", f"missing, but {names} holds changes to it")
        return Assembly(Content())
    content, stamp = document.load(pair.file), verify_stamp(pair.file)
    if stamp is None and pair.journals:
        raise WrongShape("content", f"modified by another program, but {names} holds changes to the previous version")
    if stamp is None and has_stamp(pair.file):
        raise WrongShape("content", EDITED)
    if stamp is None:
        return Assembly(content)
    assembly = _replay(pair, content, stamp) if pair.journals else Assembly(content, stamp, stamp.epoch, stamp.sequence)
    if stamp.bound is not None:
        _check_bound(pair, assembly.sequence, stamp.bound)
    return assembly


def _check_bound(pair: Pair, sequence: int, bound: Bound) -> None:
    """Raise `WrongShape` unless a pair has its last journal, and *sequence* is not before an acknowledged change."""
    last = journal.journal_path(pair.path, bound.after)
    if last not in {path for path, _ in pair.journals}:
        raise WrongShape("content", f"its journal {last.name} is missing; acknowledged changes are in it")
    if sequence < bound.acknowledged:
        text = f"damaged or cut off after change {sequence}, but changes up to {bound.acknowledged} were acknowledged"
        raise WrongShape(last.name, text)


def _replay(pair: Pair, content: Content, stamp: Stamp) -> Assembly:
    records = Records(content.records, content.last_id, content.notes)
    epoch, position, replayed, torn = stamp.epoch, stamp.sequence, 0, 0
    for (path, data), follower in zip(pair.journals, (*pair.journals[1:], None), strict=True):
        if follower is not None and journal.after(follower[0]) <= stamp.sequence:
            continue  # the file holds all of this journal
        try:
            if torn:
                raise WrongShape(path.name, f"follows a journal that ends with {torn} bytes that are not an entry")
            each = _read_fitting(path, data, stamp, position)
            for entry in each.entries[position - each.after :]:
                for change in journal.read_changes(entry):
                    records.apply(change)
                position = entry.sequence
                replayed += 1
            epoch = each.epoch
        except BrokenJournal as error:
            raise WrongShape(path.name, str(error)) from None
        torn = each.torn
    whole = Content(list(records), records.last_id, records.notes, content.mark, content.unknown)
    return Assembly(whole, stamp, epoch, position, replayed, torn)


def _read_fitting(path: Path, data: bytes, stamp: Stamp, position: int) -> Journal:
    """Decode a journal. Raise `WrongShape` unless it continues the file with *stamp*, without a gap after *position*."""
    each = journal.read(data)
    if each.epoch != stamp.epoch and each.base != stamp.digest:
        raise WrongShape(path.name, "belongs to another version of the file, older or newer")
    if each.after != journal.after(path):
        raise WrongShape(path.name, f"has the content of journal {each.after}")
    if each.after > position:
        raise WrongShape(path.name, f"begins after change {each.after}, but the changes before it end with {position}")
    return each


def resolve_path(path: Path) -> Path:
    """Resolve links, so that a checkpoint replaces the file and not the link. Raise `CannotStart` if it is unusable."""
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except FileNotFoundError:
        if not real.parent.is_dir():
            raise CannotStart(f"state file {path}: the folder {real.parent} does not exist") from None
        return real
    except OSError as error:
        raise CannotStart(f"state file {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise CannotStart(f"state file {path}: not a regular file")
    # The mode counts as well: root has access to a file that someone made read-only on purpose.
    if not mode & 0o222 or not os.access(real, os.W_OK):
        raise CannotStart(f"state file {path}: read-only (mode {stat.S_IMODE(mode):04o})")
    return real


def start(disk: Disk, path: Path, mark: str | None, sub_types: Sequence[str], was_there: bool) -> Start:
    """Read a state file for a store, and fold its journals in. The content has a mark: *mark*, or the file's own.

    *was_there*: the last daemon was killed while it had a state file. Raise `CannotStart`, also for a record of none
    of *sub_types*, or OSError if the file can't be written.
    """
    _check_rescued(disk, path)
    disk.sync_folder(path.parent)  # an earlier process may have been killed between a rename and this
    pair = read(disk, path)
    if was_there and pair.file is None and not pair.journals:
        advice = f"restore a copy, or remove {path.name}.lock to begin without instances"
        raise Damaged(f"state file {path}", "content", "missing, although the last daemon was killed with it", advice)
    assembly = assemble(pair)
    content, stamp = assembly.content, assembly.stamp
    _check_sub_types(path, content, sub_types)
    if pair.journals:
        torn = f"; {assembly.torn} bytes at the end were never acknowledged" if assembly.torn else ""
        log.log(NOTICE, "state file %s: replayed %d entries of its journal%s", path, assembly.replayed, torn)
    content = replace(content, mark=mark or content.mark or secrets.token_hex(8))
    is_ready = stamp is not None and stamp.tells and not pair.journals and content.mark == assembly.content.mark
    if not is_ready or not disk.is_private(path):
        return _rewrite(disk, pair, assembly, content)
    _remove_leftovers(disk, path)
    return Start(content, secrets.token_hex(8), assembly.sequence, stamp)


def _remove_leftovers(disk: Disk, path: Path) -> None:
    for leftover in (temporary_path(path), journal.unfinished_journal(path)):
        disk.remove(leftover)


def _check_rescued(disk: Disk, path: Path) -> None:
    """Raise `CannotStart` if an earlier stop had to leave its content beside the state file."""
    try:
        found = sorted(name for name in disk.names(path.parent) if name.startswith(f"{path.name}{RESCUED}"))
    except OSError as error:
        raise CannotStart(f"state file {path} can't be read: {error.strerror or error}") from None
    if found:
        advice = f"move it to {path.name} to use it, or move it away to use what is there"
        raise CannotStart(
            f"state file {path}: a stop could not write it, and left its content in {found[-1]}; {advice}"
        )


def _check_sub_types(path: Path, content: Content, sub_types: Sequence[str]) -> None:
    """Raise `CannotStart` for a record that no plugin would manage."""
    stray = next((record for record in content.records if record.sub_type not in sub_types), None)
    if stray is not None:
        own = f"is of sub-type {stray.sub_type!r}" if stray.sub_type else "has no sub-type"
        known = f"has the sub-types {', '.join(sub_types)}" if any(sub_types) else "has no sub-types"
        advice = "configure the plugin for it, or change the Type of its entry; the file was left untouched"
        raise CannotStart(f"state file {path}: instance {stray.id} {own}, but this plugin {known}; {advice}")


def _rewrite(disk: Disk, pair: Pair, assembly: Assembly, content: Content) -> Start:
    """Write the state file anew and remove its journals. If there is no room for it, leave all as it is.

    The file gets the journals' epoch: if a crash undoes their removal, the next start can tell that they are
    obsolete.
    """
    epoch = assembly.epoch or secrets.token_hex(8)
    data = b"".join(document.dump_stamped(content, epoch, assembly.sequence))
    _remove_leftovers(disk, pair.path)
    paths = [path for path, _ in pair.journals]
    try:
        disk.replace(pair.path, [data])
    except OSError as error:
        if error.errno not in NO_ROOM or pair.file is None:
            raise
        problem = f"no room for a new state file of {len(data)} bytes ({error.strerror})"
        return Start(content, epoch, assembly.sequence, assembly.stamp, paths, problem)
    for path in paths:
        disk.remove(path)
    if paths:
        disk.sync_folder(pair.path.parent)
    stamp = find_stamp(data)
    return Start(content, secrets.token_hex(8), assembly.sequence, stamp)
