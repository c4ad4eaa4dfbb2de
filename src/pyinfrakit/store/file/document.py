"""The state file's content: the C demo's JSON form, with further keys.

    {"Instances": [{"ID", "LogicalID", "Tags", …}], "NonFunctional": [{…}], "Provider": {…, "Checkpoint": {…}}}

A file that the C demo wrote loads as it is, and the C demo can read a file that this module wrote. Both keep
keys that they don't know. The list that holds an entry counts more than the entry's ``State``, because the C
demo moves entries and does not know that key; only ``destroying`` stays.

The file ends with its stamp. If the stamp is wrong, another program has written the file. ``Sums``, before the
stamp, has two checksums for each entry, by which `fsck` names the entries that an editor changed.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.record import Attachment, Record, Spec, State
from pyinfrakit.schema.decode import NotJSON, WrongShape, check_depth, check_text, decode
from pyinfrakit.store.file.edits import Sums
from pyinfrakit.store.file.stamp import OF_THE_FILE, encode_stamp

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

_NONE: Mapping[str, Raw] = MappingProxyType({})
_STATES = {state.value: state for state in State}
_FALSE_LINE = re.compile(rb'\n["{\]]')


class Content(Struct, frozen=True):
    """A whole state file. *mark* is None if it has none yet; *unknown* holds other programs' keys.

    *notes* holds the remaining keys of its ``Provider`` object.
    """

    records: Sequence[Record] = ()
    last_id: str = ids.NEVER
    notes: Mapping[str, Raw] = {}
    mark: str | None = None
    unknown: Mapping[str, Raw] = {}


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


def dump(content: Content) -> Iterator[bytes]:
    """Yield a state file's bytes in pieces, with an entry on each line and without a stamp."""
    yield from _dump_open(content)
    yield b"}}\n"


def dump_stamped(content: Content, epoch: str, sequence: int) -> Iterator[bytes]:
    """Yield a state file's bytes like `dump`, with a stamp for all changes of *epoch* up to *sequence*.

    The last piece holds the whole stamp.
    """
    digest, length = hashlib.sha256(), 0
    for piece in _dump_open(content, Sums()):
        digest.update(piece)
        length += len(piece)
        yield piece
    yield encode_stamp(epoch, sequence, digest, length)


def _dump_open(content: Content, sums: Sums | None = None) -> Iterator[bytes]:
    """Yield everything except the brackets that close ``Provider``, the last key, and the document.

    If there are *sums*, fill them, and put them into ``Provider``.
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
        yield b',"Sums":' + sums.encode()


def _dump_array(records: Sequence[Record], sums: Sums | None, aside: list[Record] | None = None) -> Iterator[bytes]:
    """Yield the entries of *records* in pieces. If there is a list *aside*, move the records out of service there."""
    separator = b"\n"
    for start in range(0, len(records), SLICE):
        some = records[start : start + SLICE]
        if aside is not None:
            aside.extend(record for record in some if not record.state.described)
            some = [record for record in some if record.state.described]
        entries = [dump_entry(record) for record in some]
        if sums is not None:
            sums.add(some, entries)
        if some:
            yield separator + b",\n".join(entries)
            separator = b",\n"
    if separator != b"\n":
        yield b"\n"


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
