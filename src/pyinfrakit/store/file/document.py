"""The state file's content: the C demo's JSON form, with keys of our own beside its own.

    {"Instances": [{"ID", "LogicalID", "Tags", …}], "NonFunctional": [{…}], "Provider": {…, "Checkpoint": {…}}}

A file that the C demo wrote loads as it is, and one written here is one that it can read: keys that either
doesn't know are kept. Which list an entry stands in counts more than its ``State``, as the C demo moves entries without
knowing of that key; but what was being destroyed still is.

The last thing in the file is its stamp: which changes it holds, and a digest of all the bytes before. Where that is not
right, somebody else has written the file.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.record import Attachment, Record, Spec, State
from pyinfrakit.schema.decode import NotJSON, WrongShape, check_depth, check_text, decode

SLICE = 64
"""How many entries are written at a time: msgspec and Python keep the interpreter's lock meanwhile, for about 0.15 ms."""


class _Attachment(Struct, frozen=True):
    ID: str
    Type: str = ""


class _Entry(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    ID: str
    Type: str = ""
    LogicalID: str | None | UnsetType = UNSET
    Tags: dict[str, str] | None | UnsetType = UNSET
    State: str | UnsetType = UNSET
    Since: float = 0.0
    Reason: str = ""
    Made: bool = True
    ByHand: bool = False
    Relabel: bool = False
    Handle: str | None = None
    Init: str = ""
    Attachments: tuple[_Attachment, ...] = ()
    Properties: Raw | UnsetType = UNSET


KEYS_OF_ENTRIES = _Entry.__struct_fields__
"""In the order in which they are written."""


_KEYS = {f.encode_name for f in msgspec.structs.fields(_Entry)}

_NONE: Mapping[str, Raw] = MappingProxyType({})

LISTS = ("Instances", "NonFunctional")
_STATES = {state.value: state for state in State}
_STAMP = re.compile(rb'"Checkpoint":\{"Epoch":"([0-9a-f]+)","Sequence":(\d+),"Digest":"([0-9a-f]{64})"\}\}\}\n\Z')
_END = b'"}}}\n'
_LONGEST_STAMP = 250


class Stamp(Struct, frozen=True):
    """What a state file holds: every change of *epoch* up to number *sequence*. *digest* is of its bytes up to itself."""

    epoch: str
    sequence: int
    digest: str


class Content(Struct, frozen=True):
    """A whole state file. *mark* is None where it has none yet; *unknown* holds keys that are not ours.

    What else stands in its ``Provider`` object are the *notes*.
    """

    records: Sequence[Record] = ()
    last_id: str = ids.NEVER
    notes: Mapping[str, Raw] = {}
    mark: str | None = None
    unknown: Mapping[str, Raw] = {}


class _Usual(Struct, forbid_unknown_fields=True):
    """A file of ours in which nobody has put anything, read at once."""

    Provider: dict[str, Raw]
    Instances: list[_Entry]
    NonFunctional: list[_Entry]


class _Unusual(Struct):
    """Any other file, read entry by entry."""

    Provider: dict[str, Raw] | UnsetType = UNSET
    Instances: list[Raw] | UnsetType = UNSET
    NonFunctional: list[Raw] | UnsetType = UNSET


def load(data: bytes) -> Content:
    """Read a state file's bytes. Raise `NotJSON` or `WrongShape`."""
    check_text(data)
    try:
        usual = msgspec.json.decode(data, type=_Usual)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _load_unusual(data)
    records = [_record(entry, _NONE, LISTS[0], index) for index, entry in enumerate(usual.Instances)]
    aside = [_record(entry, _NONE, LISTS[1], index) for index, entry in enumerate(usual.NonFunctional)]
    return _content(records, aside, usual.Provider, {})


def _load_unusual(data: bytes) -> Content:
    check_depth(data)
    keys = decode(data, dict[str, Raw])
    document = decode(data, _Unusual)
    for name in LISTS:
        if name not in keys:
            raise WrongShape(name, "missing; a state file has Provider, Instances and NonFunctional")
    records = [read_entry(raw, LISTS[0], index) for index, raw in enumerate(document.Instances or ())]
    aside = [read_entry(raw, LISTS[1], index) for index, raw in enumerate(document.NonFunctional or ())]
    unknown = {key: keys[key] for key in keys if key not in (*LISTS, "Provider")}
    return _content(records, aside, document.Provider or {}, unknown)


def _content(
    described: list[Record], aside: list[Record], own: Mapping[str, Raw], unknown: Mapping[str, Raw]
) -> Content:
    _check_unique(described, aside)
    records = [in_service(record) for record in described] + [out_of_service(record) for record in aside]
    notes = _owned(own, "Provider.")
    notes.pop("Checkpoint", None)
    mark = _text(notes.pop("Mark", None), "Provider.Mark")
    last = _text(notes.pop("LastID", None), "Provider.LastID") or ids.NEVER
    if last != ids.NEVER and not ids.is_minted(last):
        raise WrongShape("Provider.LastID", f'expected an ID that was minted here, got "{last}"')
    return Content(records, last, notes, mark, _owned(unknown, ""))


def _check_unique(described: Sequence[Record], aside: Sequence[Record]) -> None:
    """Raise `WrongShape` where an ID stands twice."""
    if len({record.id for record in (*described, *aside)}) == len(described) + len(aside):
        return
    places: dict[str, str] = {}
    for name, records in zip(LISTS, (described, aside), strict=True):
        for index, record in enumerate(records):
            where = f"{name}[{index}]"
            if (other := places.setdefault(record.id, where)) != where:
                raise WrongShape(f"{where}.ID", f'"{record.id}" stands at {other} too; an ID may be there once')


def _owned(values: Mapping[str, Raw], where: str) -> dict[str, Raw]:
    """Give values with their own memory: as they are, each keeps the whole file's."""
    for key, value in values.items():
        _check_depth(value, where + key)
    return {key: value.copy() for key, value in values.items()}


def _check_depth(value: Raw, name: str, index: int | None = None) -> None:
    try:
        check_depth(bytes(value))
    except NotJSON as error:
        raise WrongShape(_place(name, index), str(error)) from None


def _text(raw: Raw | None, where: str) -> str | None:
    return None if raw is None else decode(raw, str, where)


def read_entry(raw: Raw | bytes, name: str, index: int | None = None) -> Record:
    """Read one entry, at *name* or the *index*th of that, with keys that may not be ours; raise `WrongShape`."""
    unknown = _NONE
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except msgspec.ValidationError:
        where = _place(name, index)
        keys = decode(raw, dict[str, Raw], where)
        unknown = _owned({key: value for key, value in keys.items() if key not in _KEYS}, f"{where}.")
        known = {key: value for key, value in keys.items() if key in _KEYS}
        entry = decode(msgspec.json.encode(known), _Entry, where)
    return _record(entry, unknown, name, index)


def _place(name: str, index: int | None) -> str:
    return name if index is None else f"{name}[{index}]"


def _record(entry: _Entry, unknown: Mapping[str, Raw], name: str, index: int | None) -> Record:
    if not entry.ID:
        raise WrongShape(f"{_place(name, index)}.ID", "expected an ID, got an empty string")
    properties = None
    if entry.Properties is not UNSET:
        _check_depth(entry.Properties, name, index)
        properties = entry.Properties.copy()
    state = State.READY if entry.State is UNSET else _STATES.get(entry.State)
    if state is None:
        raise WrongShape(f"{_place(name, index)}.State", f'expected {", ".join(State)}, got "{entry.State}"')
    spec = Spec(
        properties=properties,
        tags=entry.Tags or {},
        init=entry.Init,
        logical_id=entry.LogicalID or None,
        attachments=tuple(Attachment(a.ID, a.Type) for a in entry.Attachments) if entry.Attachments else (),
    )
    return Record(
        id=entry.ID,
        state=state,
        spec=spec,
        sub_type=entry.Type,
        since=entry.Since,
        handle=entry.Handle,
        reason=entry.Reason,
        made=entry.Made,
        by_hand=entry.ByHand,
        relabel=entry.Relabel,
        unknown=unknown,
    )


def in_service(record: Record) -> Record:
    """Have a record agree with the list that it stands in."""
    if record.state is State.NON_FUNCTIONAL:
        return replace(record, state=State.READY, reason="", by_hand=False)
    return record


def out_of_service(record: Record) -> Record:
    """Have a record agree with the list that it stands in: what somebody else has set aside stays so until restored by hand."""
    if record.state.described:
        return replace(record, state=State.NON_FUNCTIONAL, reason="set aside in the state file", by_hand=True)
    return record


def stamp(data: bytes) -> Stamp | None:
    """Give a state file's stamp, where it has one and its bytes are those that were stamped."""
    found = claimed(data)
    if found is None or hashlib.sha256(memoryview(data)[: -len(found.digest) - len(_END)]).hexdigest() != found.digest:
        return None
    return found


def claimed(data: bytes) -> Stamp | None:
    """Give the stamp that a state file ends with, whether right or not."""
    found = _STAMP.search(data, max(0, len(data) - _LONGEST_STAMP))
    return Stamp(found[1].decode(), int(found[2]), found[3].decode()) if found else None


def dump(content: Content) -> Iterator[bytes]:
    """Write a state file's bytes, an entry a line, in slices; without a stamp."""
    yield from _unclosed(content)
    yield b"}}\n"


def stamped(content: Content, epoch: str, sequence: int) -> Iterator[bytes]:
    """Write a state file's bytes as `dump` does, stamped as holding all changes of *epoch* up to *sequence*."""
    digest = hashlib.sha256()
    for chunk in _unclosed(content):
        digest.update(chunk)
        yield chunk
    last = b',"Checkpoint":{"Epoch":' + _encode(epoch) + b',"Sequence":' + _encode(sequence) + b',"Digest":"'
    digest.update(last)
    yield last + digest.hexdigest().encode() + _END


def _unclosed(content: Content) -> Iterator[bytes]:
    """Write all but what closes ``Provider``, which is last, and the document."""
    aside: list[Record] = []
    yield b'{"Instances":['
    yield from _array(_described(content.records, aside))
    yield b'],\n"NonFunctional":['
    yield from _array(_sliced(aside))
    mark = {} if content.mark is None else {"Mark": content.mark}
    unknown = b"".join(_encode(key) + b":" + bytes(value) + b",\n" for key, value in content.unknown.items())
    yield b"],\n" + unknown + b'"Provider":' + _encode({**mark, "LastID": content.last_id, **content.notes})[:-1]


def _sliced(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    return (records[start : start + SLICE] for start in range(0, len(records), SLICE))


def _described(records: Sequence[Record], aside: list[Record]) -> Iterator[Sequence[Record]]:
    """Give slices of the records in service; put the others *aside*."""
    for some in _sliced(records):
        yield [record for record in some if record.state.described]
        aside.extend(record for record in some if not record.state.described)


def _array(slices: Iterable[Sequence[Record]]) -> Iterator[bytes]:
    begin = b"\n"
    for some in slices:
        if some:
            yield begin + b",\n".join([entry(record) for record in some])
            begin = b",\n"
    if begin != b"\n":
        yield b"\n"


def entry(record: Record) -> bytes:
    """Write the file's entry for a record. Raise TypeError or ValueError where JSON can't hold it."""
    spec = record.spec
    data = _encode(
        _Entry(
            ID=record.id,
            Type=record.sub_type,
            LogicalID=spec.logical_id,
            Tags=dict(spec.tags),
            State=record.state,
            Since=record.since,
            Reason=record.reason,
            Made=record.made,
            ByHand=record.by_hand,
            Relabel=record.relabel,
            Handle=record.handle,
            Init=spec.init,
            Attachments=tuple(_Attachment(a.id, a.type) for a in spec.attachments) if spec.attachments else (),
            Properties=UNSET if spec.properties is None else spec.properties,
        )
    )
    return data[:-1] + b"," + _encode(record.unknown)[1:] if record.unknown else data


_encode = msgspec.json.Encoder().encode
