"""Examine a damaged state file and its journals, and put a file with everything that can be saved in their place.

A file that is one JSON object is read as JSON, no matter which program wrote it. Any other file is read by lines,
because the writer puts each entry, each heading and each other key of the document on a line of its own. If the
file and a journal disagree on an instance, the journal wins, because it is newer.
"""

import contextlib
import itertools
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart, Damaged
from pyinfrakit.record import Record
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, check_text, decode
from pyinfrakit.store.file import document, journal, recovery
from pyinfrakit.store.file.document import LISTS, Content
from pyinfrakit.store.file.edits import Sums, find_edits
from pyinfrakit.store.file.journal import BrokenJournal, Entry, Gap
from pyinfrakit.store.file.recovery import Pair
from pyinfrakit.store.file.stamp import OF_THE_FILE, read_own, verify_stamp
from pyinfrakit.store.records import Records, Undo

T = TypeVar("T")

# The beginnings of the lines that the writer writes: an entry, a list's heading or end, and any other key.
_START = re.compile(
    rb'^(?:\{"ID":|\{?"(?P<heading>Instances|NonFunctional)":\[\]?,?[ \t\r]*$|\],?[ \t\r]*$|")', re.MULTILINE
)
# The mark is the first value in Provider. Nothing before that on its line has a brace: not so on the line of an entry.
_MARK = re.compile(rb'^[^{\n]*"Provider":\{"Mark":("(?:[^"\\\n]|\\.)*+")', re.MULTILINE)
_ID = re.compile(rb'(?="(?:ID|Drop)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)")')
_NOTHING = re.compile(rb"[\s,\[\]{}]*+")
_NO_MARK = "the mark; start the plugin with --mark, or it takes its own machines for another plugin's"


class Problem(Struct, frozen=True):
    """A problem at a *place*, and the *loss* that a repair has to accept because of it, if any."""

    place: str
    text: str
    loss: str = ""


class Examination(Struct, frozen=True):
    """The problems of a state file with its journals, and the content that can be saved.

    *changed* names the instances and notes that this content has from the journals. *edits* has the changes of a file
    that an editor wrote, if nothing else is wrong: a person can accept them.
    """

    problems: Sequence[Problem]
    content: Content
    changed: Sequence[str] = ()
    edits: Sequence[str] = ()


class _Piece(Struct, frozen=True):
    """The text of an entry. *list* is the list that holds it, if known; the entry's own State wins unless *is_sure*."""

    place: str
    list: str
    data: bytes
    is_sure: bool


def examine(pair: Pair, with_journals: bool = True) -> Examination:
    """Examine a state file with its journals, or without them if they do not belong together."""
    try:
        return Examination((), recovery.assemble(pair).content)
    except Damaged as error:
        damage = error
    problems: list[Problem] = []
    content, changed = _read_file(pair.file, problems), set[str]()
    if with_journals:
        content, changed = _replay(pair, content, problems)
    else:
        for path, data in pair.journals:
            alone = Pair(pair.path, None, [(journal.journal_path(pair.path, 0), data)])
            skipped = ", ".join(sorted(_replay(alone, Content(), [])[1])) or "nothing"
            problems.append(Problem(path.name, "skipped", f"the journal's changes to {skipped}"))
    if not problems and not pair.journals and damage.problem == recovery.EDITED:
        return Examination(
            [Problem(damage.where, damage.problem)], content, edits=_list_edits(pair.file or b"", content)
        )
    # The store's own reason comes first, unless the same place of the file has a problem already.
    if damage.where not in {each.place for each in problems} - {path.name for path, _ in pair.journals}:
        problems.insert(0, Problem(damage.where, damage.problem, _find_loss(pair)))
    return Examination(problems, content, sorted(changed))


def _list_edits(data: bytes, content: Content) -> Sequence[str]:
    """Describe how a file with *content* differs from the one that the plugin wrote."""
    sums = Sums.decode(read_own(data).get("Sums"))
    if sums is None:
        return ["it is unknown which instances changed"]
    edits = find_edits(content.records, sums, document.dump_entry)
    lists = {"changed": edits.changed, "added": edits.added}
    lines = [f"{verb} {', '.join(ids)}" for verb, ids in lists.items() if ids]
    if edits.removed:
        lines.append(f"removed {edits.removed} instance{'' if edits.removed == 1 else 's'}")
    return lines or ["all instances are as the plugin wrote them"]


def _find_loss(pair: Pair) -> str:
    """Name the acknowledged changes that the files should have, according to the state file, and do not have."""
    stamp = verify_stamp(pair.file or b"")
    if stamp is None or stamp.bound is None:
        return ""
    last = max(
        (each.sequence for _, data in pair.journals for each in journal.scan(data) if isinstance(each, Entry)),
        default=stamp.sequence,
    )
    if last < stamp.bound.acknowledged:
        return f"the changes after number {last}, at least up to {stamp.bound.acknowledged}"
    paths = {path for path, _ in pair.journals}
    last_journal = journal.journal_path(pair.path, stamp.bound.after)
    return "" if last_journal in paths else f"all changes in {last_journal.name}"


def repair(disk: Disk, pair: Pair, content: Content) -> Sequence[Path]:
    """Make *content* the state file, and return the paths of the copies of its old files. Raise `CannotStart` on failure.

    After a crash at any moment, either all old files are in place or the new one is. Journals that are then still
    beside the new file do not count, because its stamp says that it holds all of their changes.
    """
    try:
        copies = _copy(disk, pair)
        disk.replace(pair.path, document.dump_stamped(content, *_find_end(pair)))
        for path, _ in pair.journals:
            disk.remove(path)
        disk.remove(journal.unfinished_journal(pair.path))
        disk.sync_folder(pair.path.parent)
    except OSError as error:
        raise CannotStart(f"state file {pair.path} can't be repaired: {error.strerror or error}") from None
    return copies


def _copy(disk: Disk, pair: Pair) -> Sequence[Path]:
    """Copy a pair's files to names that are free; leave no copy if that fails."""
    now = time.strftime(".damaged-%Y%m%d-%H%M%S")
    taken = disk.names(pair.path.parent)
    ends = itertools.chain([now], (f"{now}-{number}" for number in itertools.count(2)))
    end = next(each for each in ends if not any(name.endswith(each) for name in taken))
    files = [(path.with_name(path.name + end), data) for path, data in ((pair.path, pair.file), *pair.journals)]
    copies = {path: data for path, data in files if data is not None}
    try:
        for path, data in copies.items():
            disk.replace(path, [data])
    except OSError:
        with contextlib.suppress(OSError):  # a full disk gets its space back
            for path in copies:
                disk.remove(path)
        raise
    return list(copies)


def _find_end(pair: Pair) -> tuple[str, int]:
    """Return the epoch and the number of a pair's last change."""
    entries = [each for _, data in pair.journals for each in journal.scan(data) if isinstance(each, Entry)]
    numbers = [each.sequence for each in entries] + [journal.after(path) for path, _ in pair.journals]
    return entries[-1].epoch if entries else secrets.token_hex(8), max(numbers, default=0)


# ==== The state file


def _read_file(data: bytes | None, problems: list[Problem]) -> Content:
    """Return everything in a state file that can be read."""
    if data is None:
        problems.append(Problem("content", "missing", f"everything that is not in the journal, including {_NO_MARK}"))
        return Content()
    with contextlib.suppress(WrongShape, NotJSON):
        return document.load(data)
    keys = _parse(data, dict[str, Raw])
    return _read_lines(data, problems) if keys is None else _read_json(keys, problems)


def _parse(data: bytes | Raw, shape: type[T]) -> T | None:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(data, type=shape)
    return None


def _read_json(keys: dict[str, Raw], problems: list[Problem]) -> Content:
    """Return everything that makes sense in a JSON object."""
    provider = keys.pop("Provider", None)
    missing = [name for name in LISTS if name not in keys]
    problems += [Problem(name, "missing") for name in missing]
    pieces: list[_Piece] = []
    for key in list(keys):
        if key in LISTS:
            pieces += _split(key, key, keys.pop(key), not missing, problems)
        elif missing and _is_list(keys[key]):  # The key of a list is damaged. If both are, each entry's State decides.
            problems.append(Problem(key, f"read as {' or '.join(missing)}"))
            pieces += _split(key, missing[0] if len(missing) == 1 else "", keys.pop(key), False, problems)
    return _build(pieces, _read_provider(provider, None, problems), keys, problems)


def _is_list(value: Raw) -> bool:
    """Return whether *value* is a list of entries."""
    entries = _parse(value, list[dict[str, Raw]]) or []
    return bool(entries) and all("ID" in each and each.keys() & {"State", "Tags", "LogicalID"} for each in entries)


def _split(key: str, name: str, value: Raw, is_sure: bool, problems: list[Problem]) -> Iterator[_Piece]:
    try:
        entries = [] if bytes(value) == b"null" else decode(value, list[Raw], key)
    except WrongShape as error:
        problems.append(Problem(key, error.problem, f"the value of {key}{_list_ids(bytes(value))}"))
        return
    yield from (_Piece(f"{key}[{index}]", name, bytes(each), is_sure) for index, each in enumerate(entries))


def _read_lines(data: bytes, problems: list[Problem]) -> Content:
    """Return everything that is on lines of its own, as the writer writes it. All else is lost, and listed.

    Text in somebody's properties is never taken for an entry: the end of its own entry follows it on the same line, so
    the text that damage splits off is not a whole JSON object.
    """
    starts = list(_START.finditer(data))
    missing = sorted(set(LISTS) - {start["heading"].decode() for start in starts if start["heading"]})
    problems += [Problem(name, "its heading is unreadable; the State of each entry decides") for name in missing]
    pieces: list[_Piece] = []
    keys: dict[str, Raw] = {}
    current, position = "", 0
    for start, follower in itertools.zip_longest(starts, starts[1:]):
        begin, stop = start.span()
        if start["heading"]:
            current = start["heading"].decode()
        else:
            found, stop = _read_line(data, begin, follower.start() if follower else len(data))
            if isinstance(found, list):
                pieces += [_Piece(f"entry at byte {begin}", current, bytes(each), not missing) for each in found]
            elif found is not None:
                keys |= found
            else:
                continue
        _lose(data, position, begin, problems)
        position = stop
    _lose(data, position, len(data), problems)
    for name in keys.keys() & set(LISTS):  # damage may have joined a heading with the next line
        pieces += _split(name, name, keys.pop(name), False, problems)
    marks = _MARK.findall(data)
    provider = _read_provider(keys.pop("Provider", None), Raw(marks[-1]) if marks else None, problems)
    return _build(pieces, provider, keys, problems)


def _read_line(data: bytes, begin: int, end: int) -> tuple[list[Raw] | dict[str, Raw] | None, int]:
    """Return the entries on a line, or the document's keys, or None if it is unreadable; and the end of this text.

    The lines up to *end* may continue it, because values of other programs may be indented.
    """
    for stop in (data.find(b"\n", begin) + 1 or end, end):
        text = data[begin:stop].rstrip().removesuffix(b",")
        if text.startswith(b"{") and (entries := _parse(b"[%b]" % text, list[Raw])) is not None:
            return entries, stop
        for brace in (b"}", b""):  # the line of Provider has the document's own brace too
            keys = _parse(b"{%b%b" % (text, brace), dict[str, Raw])
            if keys is not None and (brace or keys.keys() == {"Provider"}):
                return keys, stop
    return None, begin


def _lose(data: bytes, start: int, end: int, problems: list[Problem]) -> None:
    """List the bytes from *start* up to *end* as lost, unless they are only brackets, commas and space."""
    if not _NOTHING.fullmatch(data, start, end):
        place = f"bytes {start} to {end}"
        problems.append(Problem(place, "unreadable", f"the text at {place}{_list_ids(data[start:end])}"))


def _list_ids(data: bytes) -> str:
    """Name the IDs in text that can't be read."""
    found = dict.fromkeys(id.decode(errors="replace") for id in _ID.findall(data))
    return f", with the IDs {', '.join(found)}" if found else ""


def _read_provider(data: Raw | None, mark: Raw | None, problems: list[Problem]) -> dict[str, Raw]:
    """Return the keys in Provider, or at least *mark*, which was read by itself."""
    try:
        if data is not None:
            return decode(data, dict[str, Raw])
        problem = "missing or unreadable"
    except (WrongShape, NotJSON) as error:
        problem = str(error)
    loss = f"everything in Provider, including {_NO_MARK}" if mark is None else "everything in Provider except the mark"
    problems.append(Problem("Provider", problem, loss))
    return {} if mark is None else {"Mark": mark}


def _build(
    pieces: Sequence[_Piece], provider: dict[str, Raw], unknown: dict[str, Raw], problems: list[Problem]
) -> Content:
    """Return a content that the store can load, and list everything that it can't hold."""
    records: dict[str, Record] = {}
    for piece in pieces:
        record = _read_entry(piece, problems)
        if record is not None and records.setdefault(record.id, record) is not record:
            text = f'duplicate ID "{record.id}"'
            problems.append(Problem(f"{piece.place}.ID", text, f"the second entry of {record.id}"))
    for key in OF_THE_FILE:
        provider.pop(key, None)
    mark = _read_text(provider, "Mark", _NO_MARK, problems)
    last = _read_text(provider, "LastID", "the last ID", problems) or ids.NEVER
    if last != ids.NEVER and not ids.is_minted(last):
        problems.append(Problem("Provider.LastID", f'expected an ID that was minted here, got "{last}"', "the last ID"))
        last = ids.NEVER
    kept = Records(records.values(), last)  # it makes up for a last ID that is lost
    notes, unknown = _check_values(provider, "Provider.", problems), _check_values(unknown, "", problems)
    return Content(list(kept), kept.last_id, notes, mark, unknown)


def _check_values(values: dict[str, Raw], prefix: str, problems: list[Problem]) -> dict[str, Raw]:
    """Return the values that a state file can hold, with their own memory."""
    good = {}
    for key, value in values.items():
        try:
            check(bytes(value))
            good[key] = decode(value, Raw).copy()
        except NotJSON as error:
            problems.append(Problem(prefix + key, str(error), prefix + key))
    return good


def _read_entry(piece: _Piece, problems: list[Problem]) -> Record | None:
    try:
        check_text(piece.data)
        record = document.read_entry(piece.data, piece.place)
    except (WrongShape, NotJSON) as error:
        place, text = (error.where, error.problem) if isinstance(error, WrongShape) else (piece.place, str(error))
        problems.append(Problem(place, text, f"{piece.place}{_list_ids(piece.data)}"))
        return None
    if not piece.list or (not piece.is_sure and "State" in decode(piece.data, dict[str, Raw])):
        return record
    return document.in_service(record) if piece.list == LISTS[0] else document.out_of_service(record)


def _read_text(provider: dict[str, Raw], key: str, loss: str, problems: list[Problem]) -> str | None:
    value = provider.pop(key, None)
    try:
        return None if value is None else decode(value, str)
    except (WrongShape, NotJSON) as error:
        problems.append(Problem(f"Provider.{key}", str(error), loss))
        return None


# ==== The journals


def _replay(pair: Pair, content: Content, problems: list[Problem]) -> tuple[Content, set[str]]:
    """Apply all changes in the journals that can be read and that the file does not hold; return their IDs too."""
    records = Records(content.records, content.last_id, content.notes)
    changed: set[str] = set()
    stamp = verify_stamp(pair.file or b"")
    position, epoch = 0, ""
    for path, data in pair.journals:
        unread = b""
        for entry in journal.scan(data):
            if isinstance(entry, Gap):
                unread += data[entry.start : entry.end]
                continue
            if entry.payload.startswith(b"{"):
                continue  # the journal's header
            if entry.epoch != epoch:
                epoch = entry.epoch
                position = stamp.sequence if stamp and stamp.epoch == epoch else journal.after(path)
            if entry.sequence <= position:
                continue
            if entry.sequence > position + 1:
                first, last = position + 1, entry.sequence - 1
                missing = f"changes {first} to {last}" if last > first else f"change {first}"
                problems.append(Problem(path.name, f"{missing}: missing or unreadable", missing + _list_ids(unread)))
            changed |= _apply(entry, records, path.name, problems)
            position, unread = entry.sequence, b""
        if unread:
            loss = f"their changes{_list_ids(unread)}, unless a crash cut them short: then nobody got a reply"
            problems.append(Problem(path.name, f"the last {len(unread)} bytes are no entry", loss))
    return Content(list(records), records.last_id, records.notes, content.mark, content.unknown), changed


def _apply(entry: Entry, records: Records, name: str, problems: list[Problem]) -> set[str]:
    """Apply an entry's changes; return the IDs of the changed instances, and ``Provider.KEY`` for a note."""
    try:
        undos = [records.apply(change) for change in journal.read_changes(entry)]
    except BrokenJournal as error:
        problems.append(Problem(name, str(error), f"change {entry.sequence}{_list_ids(entry.payload)}"))
        return set()
    return {undo.id if isinstance(undo, Undo) else f"Provider.{undo.key}" for undo in undos}
