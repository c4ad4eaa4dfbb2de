"""Find what can be saved of a damaged state file and its journals, and say what can't.

Pure: bytes in, a report out. Whatever makes sense by itself is kept; where two sources say something of an instance, the
journal is believed, as it is newer.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.decoding import NotJSON, WrongShape, check_text, decode
from pyinfrakit.errors import Damaged
from pyinfrakit.instance import Record
from pyinfrakit.records import Change, Note, Put, Records
from pyinfrakit.store import document, journal, recovery
from pyinfrakit.store.document import LISTS, Content
from pyinfrakit.store.journal import Broken, Entry
from pyinfrakit.store.recovery import Pair

_LIST = re.compile(rf'"({"|".join(LISTS)})"\s*:')
_PROVIDER = re.compile(r'"Provider"\s*:\s*(?=\{)')
_MARK = re.compile(r'"Mark"\s*:\s*("[^"\\]*")')
_ID = re.compile(r'"ID"\s*:\s*"([^"\\]*)"')
_NOTHING = re.compile(r"[\s,\[\]{}]*")
_OURS = {"ID", "State", "Tags", "LogicalID"}
_JSON = json.JSONDecoder()


class Finding(Struct, frozen=True):
    """Something wrong, and what is lost by it, if anything."""

    where: str
    problem: str
    lost: str = ""


class Report(Struct, frozen=True):
    """What is wrong, if anything, and what can be saved."""

    findings: Sequence[Finding]
    content: Content


class _Piece(Struct, frozen=True):
    """What may be an entry: of which list, if that is known."""

    where: str
    list: str | None
    data: bytes


def examine(pair: Pair, with_journals: bool = True) -> Report:
    """Examine a state file with its journals; where they make no sense together these may be left out."""
    try:
        return Report((), recovery.assemble(pair).content)
    except Damaged as error:
        whole = error
    findings: list[Finding] = []
    content = _of_file(pair.file, findings)
    if with_journals:
        content = _with_journals(pair, content, findings)
    else:
        findings += [_left_out(path.name, data) for path, data in pair.journals]
    if whole.where not in {finding.where for finding in findings}:
        findings.insert(0, Finding(whole.where, whole.problem, "" if pair.file else "all that is not in the journal"))
    return Report(findings, content)


def _left_out(name: str, data: bytes) -> Finding:
    changed = {id for entry in _entries(data) for id in _ids(_changes(entry, name, []))}
    return Finding(name, "left out", f"its changes to {', '.join(sorted(changed)) or 'nothing'}")


def _of_file(data: bytes | None, findings: list[Finding]) -> Content:
    """Give what can be read of a state file."""
    try:
        return Content() if data is None else document.load(data)
    except WrongShape:
        return _of_json(data or b"", findings)
    except NotJSON:
        return _of_text((data or b"").decode("latin-1"), findings)


def _of_json(data: bytes, findings: list[Finding]) -> Content:
    """Give what makes sense of JSON of a wrong shape."""
    keys = _object(data, "content", findings)
    pieces = [piece for name in LISTS for piece in _listed(name, keys.pop(name, None), findings)]
    own = _object(keys.pop("Provider", Raw(b"{}")), "Provider", findings)
    return _content(pieces, own, {key: value.copy() for key, value in keys.items()}, findings)


def _object(data: bytes | Raw, where: str, findings: list[Finding]) -> dict[str, Raw]:
    try:
        return decode(data, dict[str, Raw], where)
    except (WrongShape, NotJSON) as error:
        findings.append(Finding(where, str(error).removeprefix(f"{where}: "), f"{where}, whatever it was"))
        return {}


def _listed(name: str, data: Raw | None, findings: list[Finding]) -> Iterator[_Piece]:
    if data is None:
        findings.append(Finding(name, "missing"))
        return
    try:
        entries = [] if bytes(data) == b"null" else decode(data, list[Raw], name)
    except WrongShape as error:
        findings.append(Finding(name, error.problem, f"{name}, whatever it was"))
        return
    yield from (_Piece(f"{name}[{index}]", name, bytes(entry)) for index, entry in enumerate(entries))


def _of_text(text: str, findings: list[Finding]) -> Content:
    """Give what makes sense of text that is no JSON: all objects in it that may be entries, and the plugin's identity.

    Each of its characters stands for a byte: all that matters here is ASCII.
    """
    pieces, position = [], 0
    lists = [(match.start(), match[1]) for match in _LIST.finditer(text)]
    provider = _PROVIDER.search(text)
    own = _object_at(text, provider.end()) if provider else None
    for start, end in _objects(text):
        _gap(text, position, start, findings)
        name = next((name for begin, name in reversed(lists) if begin < start), None)
        pieces.append(_Piece(f"byte {start}", name, _bytes(text[start:end])))
        position = end
    _gap(text, position, provider.start() if provider and provider.start() >= position else len(text), findings)
    if own is None:
        mark = _MARK.search(text)
        own = {"Mark": Raw(_bytes(mark[1]))} if mark else {}
        kept = "all but the mark" if mark else "with it the mark: say --mark to the plugin, or its machines are taken for others'"
        findings.append(Finding("Provider", "can't be read", f"what was noted in Provider, {kept}"))
    return _content(pieces, own, {}, findings)


def _objects(text: str) -> Iterator[tuple[int, int]]:
    """Find the outermost objects that have what an entry has."""
    position = text.find("{")
    while position >= 0:
        end = position + 1
        try:
            found, after = _JSON.raw_decode(text, position)
        except (ValueError, RecursionError):
            pass
        else:
            if isinstance(found.get("ID"), str) and len(_OURS & found.keys()) > 1:
                yield position, after
                end = after
        position = text.find("{", end)


def _object_at(text: str, position: int) -> dict[str, Raw] | None:
    try:
        _, end = _JSON.raw_decode(text, position)
        return decode(_bytes(text[position:end]), dict[str, Raw])
    except (ValueError, RecursionError):
        return None


def _gap(text: str, start: int, end: int, findings: list[Finding]) -> None:
    """Say what stands between two entries, if that is more than brackets."""
    between = _PROVIDER.sub("", _LIST.sub("", text[start:end]))
    if not _NOTHING.fullmatch(between):
        seen = ", ".join(_bytes(id).decode(errors="replace") for id in _ID.findall(between))
        lost = f"what stood there, with the IDs {seen}" if seen else "what stood there"
        findings.append(Finding(f"bytes {start} to {end}", "make no sense", lost))


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _content(pieces: Sequence[_Piece], own: dict[str, Raw], unknown: Mapping[str, Raw], findings: list[Finding]) -> Content:
    records: dict[str, Record] = {}
    for piece in pieces:
        record = _record(piece, findings)
        if record is not None and record.id in records:
            problem = f'"{record.id}" stands there again; an ID may be there once'
            findings.append(Finding(f"{piece.where}.ID", problem, f"the second entry of {record.id}"))
        elif record is not None:
            records[record.id] = record
    own.pop("Checkpoint", None)
    mark = _text(own, "Mark", findings)
    last = _text(own, "LastID", findings) or ids.NEVER
    notes = {key: value.copy() for key, value in own.items()}
    kept = Records(records.values(), last if ids.is_minted(last) else ids.NEVER)
    return Content(list(kept), kept.last_id, notes, mark, unknown)


def _record(piece: _Piece, findings: list[Finding]) -> Record | None:
    try:
        check_text(piece.data)
        record = document.read_entry(piece.data, piece.where)
    except (WrongShape, NotJSON) as error:
        where, problem = (error.where, error.problem) if isinstance(error, WrongShape) else (piece.where, str(error))
        seen = _ID.search(piece.data.decode(errors="replace"))
        findings.append(Finding(where, problem, f"the entry at {piece.where}" + (f", of {seen[1]}" if seen else "")))
        return None
    if piece.list is None:
        return record
    return document.in_service(record) if piece.list == LISTS[0] else document.out_of_service(record)


def _text(own: dict[str, Raw], key: str, findings: list[Finding]) -> str | None:
    value = own.pop(key, None)
    try:
        return None if value is None else decode(value, str)
    except WrongShape as error:
        findings.append(Finding(f"Provider.{key}", error.problem, f"the {key}"))
        return None


def _with_journals(pair: Pair, content: Content, findings: list[Finding]) -> Content:
    """Make the journals' changes that the file does not hold, as far as they can be read."""
    records = Records(content.records, content.last_id, content.notes)
    position: int | None = None
    changed: set[str] = set()
    for path, data in pair.journals:
        for entry in _entries(data):
            if position is None:
                position = _held(pair.file, entry.epoch, recovery.after(path))
            if entry.sequence <= position:
                continue
            if entry.sequence > position + 1:
                missing = f"change {position + 1}" + (f" to {entry.sequence - 1}" if entry.sequence > position + 2 else "")
                findings.append(Finding(path.name, f"{missing}: missing, or can't be read", missing))
            changes = _changes(entry, path.name, findings)
            changed |= _ids(changes)
            for change in changes:
                records.apply(change)
            position = entry.sequence
    if changed:
        findings.append(Finding("journal", f"its changes are made to what the file holds: {', '.join(sorted(changed))}"))
    return Content(list(records), records.last_id, records.notes, content.mark, content.unknown)


def _held(file: bytes | None, epoch: str, after: int) -> int:
    """Give the number of the last change that a file seems to hold, of those that follow change *after* in *epoch*."""
    claimed = document.claimed(file or b"")
    return max(after, claimed.sequence) if claimed and claimed.epoch == epoch else after


def _entries(data: bytes) -> Iterator[Entry]:
    """Give a journal's readable entries, but for the first, which is none of changes."""
    return (each for each in journal.scan(data) if isinstance(each, Entry) and each.start > 0)


def _changes(entry: Entry, name: str, findings: list[Finding]) -> Sequence[Change]:
    try:
        return journal.changes(entry)
    except Broken as error:
        findings.append(Finding(name, str(error), f"change {entry.sequence}"))
        return ()


def _ids(changes: Sequence[Change]) -> set[str]:
    return {
        change.record.id if isinstance(change, Put) else change.key if isinstance(change, Note) else change.id
        for change in changes
    }
