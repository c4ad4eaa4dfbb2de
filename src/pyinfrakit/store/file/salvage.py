"""Find what can be saved of a damaged state file and its journals, and say what can't.

Pure: bytes in, a report out. Whatever makes sense by itself is kept; where two sources say something of an instance, the
journal is believed, as it is newer.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit import ids
from pyinfrakit.errors import Damaged
from pyinfrakit.record import Record
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, check_text, decode
from pyinfrakit.store.file import document, fragments, journal, judging, recovery
from pyinfrakit.store.file.document import LISTS, Content
from pyinfrakit.store.file.fragments import Value
from pyinfrakit.store.file.journal import BrokenJournal, Entry, Gap
from pyinfrakit.store.file.recovery import Pair
from pyinfrakit.store.records import Change, Drop, Put, Records

_HEADING = re.compile(rf'"({"|".join(judging.KEYS)})"\s*:')
_ID = re.compile(rb'"(?:ID|Drop)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_NOTHING = re.compile(r"[\s,\[\]{}]*")
_NO_MARK = "the mark: start the plugin with --mark, or it takes its own machines for another's"


class Finding(Struct, frozen=True):
    """Something wrong, and what is lost by it, if anything."""

    where: str
    problem: str
    lost: str = ""


class Report(Struct, frozen=True):
    """What is wrong, if anything, what can be saved, and which instances are in that as the journals have them."""

    findings: Sequence[Finding]
    content: Content
    changed: Sequence[str] = ()


class _Piece(Struct, frozen=True):
    """What may be an entry: of which list, if that is known; *certain*: and sure."""

    where: str
    list: str | None
    data: bytes
    certain: bool = True


class _Stated(Struct):
    State: Raw | UnsetType = UNSET


def examine(pair: Pair, with_journals: bool = True) -> Report:
    """Examine a state file with its journals; where they make no sense together these may be left out."""
    try:
        return Report((), recovery.assemble(pair).content)
    except Damaged as error:
        whole = error
    findings: list[Finding] = []
    content, changed = _of_file(pair.file, findings), set[str]()
    if with_journals:
        content, changed = _with_journals(pair, content, findings)
    else:
        findings += [_left_out(path.name, data) for path, data in pair.journals]
    said = {finding.where for finding in findings} - {path.name for path, _ in pair.journals}
    if whole.where not in said:
        findings.insert(0, Finding(whole.where, whole.problem))
    return Report(findings, content, sorted(changed))


def _left_out(name: str, data: bytes) -> Finding:
    changed = {id for entry in _entries(data) if isinstance(entry, Entry) for id in _ids(_changes(entry, name, []))}
    return Finding(name, "left out", f"the journal's changes to {', '.join(sorted(changed)) or 'nothing'}")


def _of_file(data: bytes | None, findings: list[Finding]) -> Content:
    """Give what can be read of a state file."""
    if data is None:
        findings.append(Finding("content", "missing", f"all that is not in the journal, with it {_NO_MARK}"))
        return Content()
    try:
        return document.load(data)
    except WrongShape:
        return _of_json(data, findings)
    except NotJSON:
        return _of_text(data.decode("latin-1"), findings)


def _of_json(data: bytes, findings: list[Finding]) -> Content:
    """Give what makes sense of JSON of a wrong shape."""
    keys = _object(data, "content", findings)
    own = keys.pop("Provider", None)
    missing = [name for name in LISTS if name not in keys]
    findings += [Finding(name, "missing") for name in missing]
    lists = {key: value for key, value in keys.items() if key in LISTS or (missing and _is_list(value))}
    findings += [Finding(key, f"taken to be {' or '.join(missing)}") for key in lists if key not in LISTS]
    stray = missing[0] if len(missing) == 1 else None
    pieces = [
        piece
        for name, value in lists.items()
        for piece in _listed(name, name if name in LISTS else stray, value, not missing, findings)
    ]
    unknown = {key: value for key, value in keys.items() if key not in lists}
    return _content(pieces, _own(own, set(), findings), unknown, findings)


def _is_list(value: Raw) -> bool:
    """Is this a list of entries?"""
    try:
        entries = msgspec.json.decode(value, type=list[dict[str, Raw]])
    except msgspec.MsgspecError:
        return False
    return bool(entries) and all(len(judging.SURE & entry.keys()) > 1 for entry in entries)


def _object(data: bytes | Raw, where: str, findings: list[Finding]) -> dict[str, Raw]:
    try:
        return decode(data, dict[str, Raw], where)
    except (WrongShape, NotJSON) as error:
        lost = f"{where}, whatever it was{_with_ids(bytes(data))}"
        findings.append(Finding(where, str(error).removeprefix(f"{where}: "), lost))
        return {}


def _listed(name: str, kind: str | None, data: Raw, certain: bool, findings: list[Finding]) -> Iterator[_Piece]:
    try:
        entries = [] if bytes(data) == b"null" else decode(data, list[Raw], name)
    except WrongShape as error:
        findings.append(Finding(name, error.problem, f"{name}, whatever it was{_with_ids(bytes(data))}"))
        return
    yield from (_Piece(f"{name}[{index}]", kind, bytes(entry), certain) for index, entry in enumerate(entries))


def _of_text(text: str, findings: list[Finding]) -> Content:
    """Give what makes sense of text that is no JSON: what stands where entries do, and the members of the document.

    Each of its characters stands for a byte: all that matters here is ASCII.
    """
    entries: list[tuple[Value, str | None]] = []
    members: list[Value] = []
    marks: set[str] = set()
    current, position = None, 0
    for stretch in fragments.stretches(text, (*judging.KEYS, "Mark")):
        levels = judging.depths_of_entries(text, stretch)
        for value in stretch.values:
            if value.key is not None and value.level + 1 in levels:
                members.append(value)
                current = value.key if value.key in LISTS else current
            elif (
                value.key == "Mark"
                and value.level in levels
                and value.inside in ("Provider", None if stretch.last else "Provider")
            ):
                marks.add(text[value.start : value.end])
            elif value.end is not None and value.start >= position and judging.is_entry(text, stretch, value, levels):
                entries.append((value, value.inside if value.inside in LISTS else current))
                position = value.end if judging.keys_of(text, value) else position
    return _of_values(text, entries, members, marks, findings)


def _of_values(
    text: str,
    entries: Sequence[tuple[Value, str | None]],
    members: Sequence[Value],
    marks: set[str],
    findings: list[Finding],
) -> Content:
    missing = set(LISTS) - {value.key for value in members}
    untold = "missing, or can't be read; what does not say its state is taken to be in the list before it"
    findings += [Finding(name, untold) for name in LISTS if name in missing]
    pieces = [
        _Piece(f"entry at byte {value.start}", name, _bytes(text[value.start : value.end]), not missing)
        for value, name in entries
    ]
    others = _members(
        text,
        [value for value in members if value.end is not None and value.key not in (*LISTS, *judging.ENTRY)],
        findings,
    )
    known = [value for value, _ in entries] + [
        value for value in members if value.end is not None and value.key not in LISTS
    ]
    gaps = _gaps(text, sorted((value.start, value.end or value.start) for value in known))
    findings += [found for start, end in gaps if (found := _gap(text, start, end)) is not None]
    return _content(pieces, _own(others.pop("Provider", None), marks, findings), others, findings)


def _members(text: str, values: Iterable[Value], findings: list[Finding]) -> dict[str, Raw]:
    members: dict[str, Raw] = {}
    for value in values:
        where = _bytes(value.key or "").decode(errors="replace")
        members |= _object(_bytes(f'{{"{value.key}":{text[value.start : value.end]}}}'), where, findings)
    return members


def _gaps(text: str, known: Iterable[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    gaps, position = [], 0
    for start, end in (*known, (len(text), len(text))):
        if start > position:
            gaps.append((position, start))
        position = max(position, end)
    return gaps


def _gap(text: str, start: int, end: int) -> Finding | None:
    """Say what stands between two values, if that is more than brackets and headings."""
    if _NOTHING.fullmatch(_HEADING.sub("", text[start:end])):
        return None
    lost = f"what stood at bytes {start} to {end}" + _with_ids(_bytes(text[start:end]))
    return Finding(f"bytes {start} to {end}", "make no sense", lost)


def _with_ids(data: bytes) -> str:
    """Name the IDs in what can't be read."""
    seen = dict.fromkeys(id.decode(errors="replace") for id in _ID.findall(data))
    return f", with the IDs {', '.join(seen)}" if seen else ""


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _own(data: Raw | None, marks: set[str], findings: list[Finding]) -> dict[str, Raw]:
    """Read what is in ``Provider``; at least the mark, if just one was found in what is left of that."""
    try:
        if data is not None:
            return decode(data, dict[str, Raw])
        problem = "missing, or can't be read"
    except (WrongShape, NotJSON) as error:
        problem = str(error)
    kept = {"Mark": Raw(_bytes(*marks))} if len(marks) == 1 else {}
    findings.append(
        Finding("Provider", problem, "all but the mark in Provider" if kept else f"all in Provider, with it {_NO_MARK}")
    )
    return kept


def _content(
    pieces: Sequence[_Piece], own: dict[str, Raw], unknown: dict[str, Raw], findings: list[Finding]
) -> Content:
    records: dict[str, Record] = {}
    for piece in pieces:
        record = _record(piece, findings)
        if record is not None and record.id in records:
            problem = f'"{record.id}" stands there again; an ID may be there once'
            findings.append(Finding(f"{piece.where}.ID", problem, f"the second entry of {record.id}"))
        elif record is not None:
            records[record.id] = record
    own.pop("Checkpoint", None)
    mark = _text(own, "Mark", _NO_MARK, findings)
    last = _text(own, "LastID", "the last ID", findings) or ids.NEVER
    if last != ids.NEVER and not ids.is_minted(last):
        findings.append(Finding("Provider.LastID", f'expected an ID that was minted here, got "{last}"', "the last ID"))
        last = ids.NEVER
    kept = Records(records.values(), last)
    return Content(
        list(kept), kept.last_id, _checked(own, "Provider.", findings), mark, _checked(unknown, "", findings)
    )


def _checked(values: dict[str, Raw], where: str, findings: list[Finding]) -> dict[str, Raw]:
    """Give the values that a state file can hold, with their own memory."""
    good = {}
    for key, value in values.items():
        try:
            check(bytes(value))
            good[key] = decode(value, Raw).copy()
        except NotJSON as error:
            findings.append(Finding(where + key, str(error), where + key))
    return good


def _record(piece: _Piece, findings: list[Finding]) -> Record | None:
    try:
        check_text(piece.data)
        is_stated = decode(piece.data, _Stated, piece.where).State is not UNSET
        record = document.read_entry(piece.data, piece.where)
    except (WrongShape, NotJSON) as error:
        where, problem = (error.where, error.problem) if isinstance(error, WrongShape) else (piece.where, str(error))
        seen = _ID.search(piece.data)
        of = f", of {seen[1].decode(errors='replace')}" if seen else ""
        findings.append(
            Finding(where, problem, f"the {'' if piece.where.startswith('entry') else 'entry at '}{piece.where}{of}")
        )
        return None
    if piece.list is None or (is_stated and not piece.certain):
        return record
    return document.in_service(record) if piece.list == LISTS[0] else document.out_of_service(record)


def _text(own: dict[str, Raw], key: str, what: str, findings: list[Finding]) -> str | None:
    value = own.pop(key, None)
    try:
        return None if value is None else decode(value, str)
    except (WrongShape, NotJSON) as error:
        findings.append(Finding(f"Provider.{key}", str(error), what))
        return None


def _with_journals(pair: Pair, content: Content, findings: list[Finding]) -> tuple[Content, set[str]]:
    """Make the journals' changes that the file does not hold, as far as they can be read; give the IDs in them too."""
    records = Records(content.records, content.last_id, content.notes)
    changed: set[str] = set()
    stamp = document.verify_stamp(pair.file or b"")
    position, epoch = 0, ""
    for path, data in pair.journals:
        unread = b""
        for entry in _entries(data):
            if isinstance(entry, Gap):
                unread += data[entry.start : entry.end]
                continue
            if entry.epoch != epoch:
                epoch = entry.epoch
                position = stamp.sequence if stamp and stamp.epoch == epoch else journal.after(path)
            if entry.sequence <= position:
                continue
            if entry.sequence > position + 1:
                findings.append(_missing(path.name, position + 1, entry.sequence - 1, unread))
            changes = _changes(entry, path.name, findings)
            changed |= _ids(changes)
            for change in changes:
                records.apply(change)
            position, unread = entry.sequence, b""
        if unread:
            lost = f"what they held{_with_ids(unread)}, unless a crash cut it short: then it was never acknowledged"
            findings.append(Finding(path.name, f"its last {len(unread)} bytes are no entry", lost))
    return Content(list(records), records.last_id, records.notes, content.mark, content.unknown), changed


def _missing(name: str, first: int, last: int, unread: bytes) -> Finding:
    missing = f"change {first}" if first == last else f"changes {first} to {last}"
    return Finding(name, f"{missing}: missing, or can't be read", missing + _with_ids(unread))


def _entries(data: bytes) -> Iterator[Entry | Gap]:
    """Give a journal's readable entries, and what is between them, but for its header."""
    return (each for each in journal.scan(data) if isinstance(each, Gap) or not each.payload.startswith(b"{"))


def _changes(entry: Entry, name: str, findings: list[Finding]) -> Sequence[Change]:
    try:
        return journal.read_changes(entry)
    except BrokenJournal as error:
        findings.append(Finding(name, str(error), f"change {entry.sequence}{_with_ids(entry.payload)}"))
        return ()


def _ids(changes: Sequence[Change]) -> set[str]:
    """Give the instances that are changed; a note is named as the key that it has in the file."""
    return {
        change.record.id
        if isinstance(change, Put)
        else change.id
        if isinstance(change, Drop)
        else f"Provider.{change.key}"
        for change in changes
    }
