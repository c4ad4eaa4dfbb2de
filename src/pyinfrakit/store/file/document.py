"""The state file's content: the C demo's JSON form, with further keys.

    {"Instances": [{"ID", "LogicalID", "Tags", …}], "NonFunctional": [{…}], "Provider": {…, "Checkpoint": {…}}}

A file that the C demo wrote loads as it is, and the C demo can read a file that this module wrote. Both keep
keys that they don't know. The list that holds an entry counts more than the entry's ``State``, because the C
demo moves entries and does not know that key; only ``destroying`` stays.

The file ends with its stamp: the changes that it holds, and a digest of all bytes before. If the digest is
wrong, another program has written the file. ``Sums``, before the stamp, has two checksums for each entry, by
which `find_edits` names the entries that an editor changed.

The stamp's last value, ``Journal``, is the one part of the file that is written in place. It says which journal
belongs to the file, and up to where that was acknowledged.
"""

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.record import Attachment, Record, Spec, State
from pyinfrakit.schema.decode import NotJSON, WrongShape, check_depth, check_text, decode

SLICE = 64
"""Entries that are encoded at a time. Python keeps the interpreter's lock meanwhile, for about 0.15 ms."""


class _Attachment(Struct, frozen=True):
    ID: str
    Type: str = ""


class _Entry(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    # The order of the fields is that of the keys in the file. The C demo's are always there, others if they differ
    # from the default.
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


LISTS = ("Instances", "NonFunctional")
OF_THE_FILE = ("Checkpoint", "Sums")
"""The keys of ``Provider`` that describe the file itself."""

_NONE: Mapping[str, Raw] = MappingProxyType({})
_STATES = {state.value: state for state in State}
_STAMP = re.compile(
    rb'"Checkpoint":\{"Epoch":"([0-9a-f]+)","Sequence":(\d+),"Digest":"([0-9a-f]{64})"'
    rb'(?:, *"Journal":"(?P<bound>(-{12}|[0-9a-f]{12}) (-{12}|[0-9a-f]{12}) [0-9a-f]{8})")?\}\}\}\n\Z'
)
_LONGEST = 400
"""The last bytes of a file in which its stamp is."""
_END = b'"}}}\n'
_BOUND = 34
"""The length of ``Journal``'s value."""
SECTOR = 512
_FALSE_LINE = re.compile(rb'\n["{\]]')


class Bound(Struct, frozen=True):
    """The last journal of a state file, which begins after change *after*, and a change that was acknowledged in it.

    Later changes may have been acknowledged too, but the journal has at least all those up to *acknowledged*.
    """

    after: int
    acknowledged: int


class Stamp(Struct, frozen=True):
    """The changes in a state file: all of *epoch* up to number *sequence*. *digest* covers the bytes before it.

    *bound* is None if no journal has acknowledged changes. Only earlier versions wrote stamps that don't tell.
    """

    epoch: str
    sequence: int
    digest: str
    bound: Bound | None = None
    tells: bool = True


class Edits(Struct, frozen=True):
    """The IDs that an editor changed or added, and the number of entries that it removed."""

    changed: Sequence[str]
    added: Sequence[str]
    removed: int


class Content(Struct, frozen=True):
    """A whole state file. *mark* is None if it has none yet; *unknown* holds other programs' keys.

    *notes* holds the remaining keys of its ``Provider`` object.
    """

    records: Sequence[Record] = ()
    last_id: str = ids.NEVER
    notes: Mapping[str, Raw] = {}
    mark: str | None = None
    unknown: Mapping[str, Raw] = {}


class _Own(Struct):
    """The part of a state file that describes the file."""

    Provider: dict[str, Raw]


class _Document(Struct, forbid_unknown_fields=True):
    """A file without keys of other programs: msgspec decodes it in one go, several times as fast."""

    Provider: dict[str, Raw]
    Instances: list[_Entry]
    NonFunctional: list[_Entry]


def load(data: bytes) -> Content:
    """Decode a state file. Raise `NotJSON` or `WrongShape`."""
    check_text(data)
    try:
        document = msgspec.json.decode(data, type=_Document)
        described = [_to_record(entry) for entry in document.Instances]
        aside = [_to_record(entry) for entry in document.NonFunctional]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, WrongShape):
        return _load_slowly(data)  # its errors name the place
    return _to_content(described, aside, document.Provider, {})


def _load_slowly(data: bytes) -> Content:
    """Decode a state file entry by entry, and keep keys of other programs."""
    check_depth(data)
    keys = decode(data, dict[str, Raw])
    for name in LISTS:
        if name not in keys:
            raise WrongShape(name, "missing; a state file has Provider, Instances and NonFunctional")
    own = decode(keys.pop("Provider", b"{}"), dict[str, Raw], "Provider")
    described, aside = (
        [read_entry(raw, f"{name}[{index}]") for index, raw in enumerate(decode(keys.pop(name), list[Raw], name))]
        for name in LISTS
    )
    return _to_content(described, aside, own, keys)


def _to_content(
    described: list[Record], aside: list[Record], own: Mapping[str, Raw], unknown: Mapping[str, Raw]
) -> Content:
    _check_unique(described, aside)
    records = [in_service(record) for record in described] + [out_of_service(record) for record in aside]
    notes = _copy_values(own, "Provider.")
    for key in OF_THE_FILE:
        notes.pop(key, None)
    mark = decode(notes.pop("Mark"), str, "Provider.Mark") if "Mark" in notes else None
    last = (decode(notes.pop("LastID"), str, "Provider.LastID") if "LastID" in notes else "") or ids.NEVER
    if last != ids.NEVER and not ids.is_minted(last):
        raise WrongShape("Provider.LastID", f'expected an ID that was minted here, got "{last}"')
    return Content(records, last, notes, mark, _copy_values(unknown, ""))


def _check_unique(described: Sequence[Record], aside: Sequence[Record]) -> None:
    """Raise `WrongShape` for a duplicate ID."""
    if len({record.id for record in (*described, *aside)}) == len(described) + len(aside):
        return
    places: dict[str, str] = {}
    for name, records in zip(LISTS, (described, aside), strict=True):
        for index, record in enumerate(records):
            place = f"{name}[{index}]"
            if (other := places.setdefault(record.id, place)) != place:
                raise WrongShape(f"{place}.ID", f'"{record.id}" is a duplicate of the ID at {other}')


def _copy_values(values: Mapping[str, Raw], prefix: str) -> dict[str, Raw]:
    """Copy values to memory of their own: otherwise each keeps the whole file in memory."""
    for key, value in values.items():
        _check_depth(value, prefix + key)
    return {key: value.copy() for key, value in values.items()}


def _check_depth(value: Raw, place: str) -> None:
    try:
        check_depth(bytes(value))
    except NotJSON as error:
        raise WrongShape(place, str(error)) from None


def read_entry(raw: Raw | bytes, place: str) -> Record:
    """Decode the entry at *place*, which may have keys of other programs. Raise `WrongShape`."""
    unknown = _NONE
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except msgspec.ValidationError:
        keys = decode(raw, dict[str, Raw], place)
        known = {key: keys.pop(key) for key in _Entry.__struct_fields__ if key in keys}
        unknown = _copy_values(keys, f"{place}.")
        entry = decode(msgspec.json.encode(known), _Entry, place)
    return _to_record(entry, unknown, place)


def _to_record(entry: _Entry, unknown: Mapping[str, Raw] = _NONE, place: str = "") -> Record:
    if not entry.ID:
        raise WrongShape(f"{place}.ID", "expected an ID, got an empty string")
    properties = None
    if entry.Properties is not UNSET:
        _check_depth(entry.Properties, place)
        properties = entry.Properties.copy()
    state = State.READY if entry.State is UNSET else _STATES.get(entry.State)
    if state is None:
        raise WrongShape(f"{place}.State", f'expected {", ".join(State)}, got "{entry.State}"')
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
    """Return the record of an entry in ``Instances``, with a state that fits."""
    if record.state is State.NON_FUNCTIONAL:
        return replace(record, state=State.READY, reason="", by_hand=False)
    return record


def out_of_service(record: Record) -> Record:
    """Return the record of an entry in ``NonFunctional``, with a state that fits.

    An instance that another program moved there stays set aside until an operator restores it.
    """
    if record.state.described:
        return replace(record, state=State.NON_FUNCTIONAL, reason="set aside in the state file", by_hand=True)
    return record


def verify_stamp(data: bytes) -> Stamp | None:
    """Return a state file's stamp, or None if it has none or its bytes differ from the stamped ones."""
    match = _STAMP.search(data, max(0, len(data) - _LONGEST))
    if match is None or hashlib.sha256(memoryview(data)[: match.start(3)]).hexdigest().encode() != match[3]:
        return None
    stamp = _read_stamp(match)
    # An earlier version's stamp does not tell of journals. In a file with checksums, somebody removed that part.
    return None if stamp is not None and not stamp.tells and _read_sums(data) is not None else stamp


def _read_sums(data: bytes) -> Raw | None:
    return msgspec.json.decode(data, type=_Own).Provider.get("Sums")


def find_stamp(data: bytes) -> Stamp | None:
    """Return the stamp at the end of a state file, whether its digest is right or not, or None."""
    match = _STAMP.search(data, max(0, len(data) - _LONGEST))
    return match and _read_stamp(match)


def _read_stamp(match: re.Match[bytes]) -> Stamp | None:
    """Return a stamp, or None if its last value is wrong."""
    epoch, sequence, digest = match[1].decode(), int(match[2]), match[3].decode()
    if match["bound"] is None:
        return Stamp(epoch, sequence, digest, tells=False)
    text, after, acknowledged = match["bound"], match[5], match[6]
    bound = None if b"-" in (after + acknowledged) else Bound(int(after, 16), int(acknowledged, 16))
    return Stamp(epoch, sequence, digest, bound) if encode_bound(digest, bound) == text else None


def _compact(record: Record) -> Record:
    """Return a record with its properties as most clients send them: without spaces."""
    properties = record.spec.properties
    if properties is None:
        return record
    return replace(record, spec=replace(record.spec, properties=Raw(msgspec.json.format(bytes(properties), indent=-1))))


def encode_bound(digest: str, bound: Bound | None) -> bytes:
    """Return the value of ``Journal`` in the file with *digest*. Its length is always the same."""
    text = f"{bound.after:012x} {bound.acknowledged:012x} " if bound else f"{'-' * 12} {'-' * 12} "
    return f"{text}{zlib.crc32((digest + text).encode()):08x}".encode()


def bound_place(size: int) -> int:
    """Return where in a state file of *size* bytes the value of ``Journal`` begins."""
    return size - len(_END) - _BOUND


def is_stamped(data: bytes) -> bool:
    """Return whether a state file has a stamp, right or not. The C demo's files have none."""
    try:
        return b"Checkpoint" in data and "Checkpoint" in msgspec.json.decode(data, type=_Own).Provider
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def find_edits(data: bytes) -> Edits | None:
    """Return how the entries of a state file differ from those that this module wrote; None if that is unknown.

    Other spaces and line ends are no difference. Raise `NotJSON` or `WrongShape` if it can't be loaded.
    """
    records = load(data).records
    sums = _read_sums(data)
    try:
        known = {text[:8]: text[8:] for text in decode(sums, str).split()} if sums is not None else None
    except WrongShape:
        known = None
    if known is None:
        return None
    changed, added = [], []
    for record in records:
        forms = {_sum_up(each, dump_entry(each)) for each in (record, _compact(record))}
        old = known.pop(next(iter(forms))[:8], None)
        if old is None:
            added.append(record.id)
        elif old not in {each[8:] for each in forms}:
            changed.append(record.id)
    return Edits(changed, added, len(known))


def dump(content: Content) -> Iterator[bytes]:
    """Yield a state file's bytes in pieces, with an entry on each line and without a stamp."""
    yield from _dump_open(content)
    yield b"}}\n"


def dump_stamped(content: Content, epoch: str, sequence: int) -> Iterator[bytes]:
    """Yield a state file's bytes like `dump`, with a stamp for all changes of *epoch* up to *sequence*.

    The last piece holds the whole stamp.
    """
    digest, length = hashlib.sha256(), 0
    sums: list[str] = []
    for piece in _dump_open(content, sums):
        digest.update(piece)
        length += len(piece)
        yield piece
    last = b',"Checkpoint":{"Epoch":' + _encode(epoch) + b',"Sequence":' + _encode(sequence) + b',"Digest":"'
    digest.update(last)
    last += digest.hexdigest().encode() + b'",'
    key = b'"Journal":"'
    start = (length + len(last) + len(key)) % SECTOR
    # In one sector, so that no power cut leaves a part of the value.
    space = b" " * (SECTOR - start if start + _BOUND > SECTOR else 0)
    yield last + space + key + encode_bound(digest.hexdigest(), None) + _END


def _dump_open(content: Content, sums: list[str] | None = None) -> Iterator[bytes]:
    """Yield everything except the brackets that close ``Provider``, the last key, and the document.

    If there is a list *sums*, fill it, and put the checksums of all entries into ``Provider``.
    """
    aside: list[Record] = []
    yield b'{"Instances":['
    yield from _dump_array(content.records, sums, aside)
    yield b'],\n"NonFunctional":['
    yield from _dump_array(aside, sums)
    mark = {} if content.mark is None else {"Mark": content.mark}
    unknown = b"".join(_encode(key) + b":" + _unfold(bytes(value)) + b",\n" for key, value in content.unknown.items())
    provider = _unfold(_encode({**mark, "LastID": content.last_id, **content.notes})[:-1])
    yield b"],\n" + unknown + b'"Provider":' + provider
    if sums is not None:
        yield b',"Sums":"' + " ".join(sums).encode() + b'"'


def _dump_array(
    records: Sequence[Record], sums: list[str] | None, aside: list[Record] | None = None
) -> Iterator[bytes]:
    """Yield the entries of *records* in pieces. If there is a list *aside*, move the records out of service there."""
    separator = b"\n"
    for start in range(0, len(records), SLICE):
        some = records[start : start + SLICE]
        if aside is not None:
            aside.extend(record for record in some if not record.state.described)
            some = [record for record in some if record.state.described]
        entries = [dump_entry(record) for record in some]
        if sums is not None:
            sums += map(_sum_up, some, entries)
        if some:
            yield separator + b",\n".join(entries)
            separator = b",\n"
    if separator != b"\n":
        yield b"\n"


def _sum_up(record: Record, entry: bytes) -> str:
    """Return the checksums of an ID and of its entry."""
    return f"{zlib.crc32(record.id.encode()):08x}{zlib.crc32(entry):08x}"


def dump_entry(record: Record) -> bytes:
    """Encode a record as an entry of the file. Raise TypeError or ValueError if JSON can't hold it."""
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
    if record.unknown:
        data = data[:-1] + b"," + _encode(record.unknown)[1:]
    return _unfold(data)


def _unfold(data: bytes) -> bytes:
    """Return JSON without lines that `fsck`, which reads by lines, could take for lines of the file's own.

    A client's indented properties stay as they are. JSON has no line ends inside strings, so that a space for
    each of them changes nothing else.
    """
    return data.replace(b"\n", b" ") if _FALSE_LINE.search(data) else data


_encode = msgspec.json.Encoder().encode
