"""The state file's content: the C demo's JSON form, with keys of our own beside its own.

    {"Provider": {…}, "Instances": [{"ID", "LogicalID", "Tags", …}], "NonFunctional": [{…}]}

A file that the C demo wrote loads as it is, and one written here is one that it can read: keys that either
doesn't know are kept. Which list an entry stands in counts more than its ``State``, as the C demo moves entries without
knowing of that key; but what was being destroyed still is.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.decoding import WrongShape, check, decode
from pyinfrakit.instance import Attachment, Record, Spec, State
from pyinfrakit.records import Records


class _Attachment(Struct, frozen=True):
    ID: str
    Type: str = ""


class _Entry(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    ID: str
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


_KEYS = {f.encode_name for f in msgspec.structs.fields(_Entry)}


class Content(Struct, frozen=True):
    """A whole state file. *mark* is None where it has none yet; *unknown* holds keys that are not ours.

    What else stands in its ``Provider`` object are the records' notes.
    """

    records: Records
    mark: str | None
    unknown: Mapping[str, Raw]


class _Document(Struct):
    Provider: dict[str, Raw] | UnsetType = UNSET
    Instances: list[Raw] | UnsetType = UNSET
    NonFunctional: list[Raw] | UnsetType = UNSET


def load(data: bytes) -> Content:
    """Read a state file's bytes. Raise `NotJSON` or `WrongShape`."""
    check(data)
    keys = decode(data, dict[str, Raw])
    document = decode(data, _Document)
    for name in ("Instances", "NonFunctional"):
        if name not in keys:
            raise WrongShape(name, "missing; a state file has Provider, Instances and NonFunctional")
    own = _owned(document.Provider or {})
    mark = _text(own.pop("Mark", None), "Provider.Mark")
    last = _text(own.pop("LastID", None), "Provider.LastID") or ids.NEVER
    if last != ids.NEVER and not ids.is_minted(last):
        raise WrongShape("Provider.LastID", f'expected an ID that was minted here, got "{last}"')
    unknown = _owned({key: keys[key] for key in keys if key not in ("Provider", "Instances", "NonFunctional")})
    return Content(Records(_records(document), last, own), mark, unknown)


def _owned(values: Mapping[str, Raw]) -> dict[str, Raw]:
    """Give values with their own memory: as they are, each keeps the whole file's."""
    return {key: value.copy() for key, value in values.items()}


def _text(raw: Raw | None, where: str) -> str | None:
    return None if raw is None else decode(raw, str, where)


def _records(document: _Document) -> Iterable[Record]:
    places: dict[str, str] = {}
    lists = (("Instances", document.Instances), ("NonFunctional", document.NonFunctional))
    for name, entries in lists:
        for index, raw in enumerate(entries or ()):
            where = f"{name}[{index}]"
            record = _record(raw, where, name == "Instances")
            if not record.id:
                raise WrongShape(f"{where}.ID", "expected an ID, got an empty string")
            if (other := places.setdefault(record.id, where)) != where:
                raise WrongShape(f"{where}.ID", f'"{record.id}" stands at {other} too; an ID may be there once')
            yield record


def _record(raw: bytes, where: str, in_service: bool) -> Record:
    unknown: Mapping[str, Raw] = {}
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except msgspec.ValidationError:
        keys = decode(raw, dict[str, Raw], where)
        unknown = _owned({key: value for key, value in keys.items() if key not in _KEYS})
        known = {key: value for key, value in keys.items() if key in _KEYS}
        entry = decode(msgspec.json.encode(known), _Entry, where)
    spec = Spec(
        properties=None if entry.Properties is UNSET else entry.Properties.copy(),
        tags=entry.Tags or {},
        init=entry.Init,
        logical_id=entry.LogicalID or None,
        attachments=tuple(Attachment(a.ID, a.Type) for a in entry.Attachments),
    )
    record = Record(
        id=entry.ID,
        state=State.READY if entry.State is UNSET else _state(entry.State, where),
        spec=spec,
        since=entry.Since,
        handle=entry.Handle,
        reason=entry.Reason,
        made=entry.Made,
        by_hand=entry.ByHand,
        relabel=entry.Relabel,
        unknown=unknown,
    )
    return _as_listed(record, in_service)


def _state(name: str, where: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise WrongShape(f"{where}.State", f'expected {", ".join(State)}, got "{name}"') from None


def _as_listed(record: Record, in_service: bool) -> Record:
    """Have a record agree with the list that it stands in. What somebody else has set aside stays so until restored by hand."""
    if in_service and record.state is State.NON_FUNCTIONAL:
        return replace(record, state=State.READY, reason="", by_hand=False)
    if not in_service and record.state.described:
        return replace(record, state=State.NON_FUNCTIONAL, reason="set aside in the state file", by_hand=True)
    return record


def dump(content: Content) -> bytes:
    """Write a state file's bytes, an entry a line."""
    own = {"Mark": content.mark, "LastID": content.records.last_id}
    lists: dict[bool, list[bytes]] = {True: [], False: []}
    for record in content.records:
        lists[record.state.described].append(entry(record))
    keys: dict[str, bytes] = {
        "Provider": _encode(own | content.records.notes),
        "Instances": _array(lists[True]),
        "NonFunctional": _array(lists[False]),
    }
    keys |= {key: bytes(value) for key, value in content.unknown.items()}
    return b"{" + b",\n".join(_encode(key) + b":" + value for key, value in keys.items()) + b"}\n"


def _array(entries: list[bytes]) -> bytes:
    return b"[\n" + b",\n".join(entries) + b"\n]" if entries else b"[]"


def entry(record: Record) -> bytes:
    """Write the file's entry for a record."""
    spec = record.spec
    data = _encode(
        _Entry(
            ID=record.id,
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
            Attachments=tuple(_Attachment(a.id, a.type) for a in spec.attachments),
            Properties=UNSET if spec.properties is None else spec.properties,
        )
    )
    return data[:-1] + b"," + _encode(record.unknown)[1:] if record.unknown else data


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)
