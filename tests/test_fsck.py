"""`fsck` and `export`: what is saved of damaged files, what is said of them, and that nothing is ever destroyed."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.decoding import NotJSON, WrongShape
from pyinfrakit.instance import Record
from pyinfrakit.store import document, salvage
from pyinfrakit.store.document import Content
from pyinfrakit.store.recovery import Pair
from test_state_file import NAMES, OURS, RECORDS, unknown

STATE = Path("/nowhere/rack1.json")
EPOCH = "0123456789abcdef"

MANY = settings(max_examples=120, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# any stretch of a state file


def stamped(content: Content) -> bytes:
    return b"".join(document.stamped(content, EPOCH, 7))


def as_the_c_demo(content: Content) -> bytes:
    """Write what the C demo keeps of a content, on one line."""

    def listed(described: bool) -> list[dict[str, Any]]:
        found = [record for record in content.records if record.state.described == described]
        return [{"ID": each.id, "LogicalID": each.spec.logical_id, "Tags": dict(each.spec.tags)} for each in found]

    return json.dumps({"Provider": {}, "Instances": listed(True), "NonFunctional": listed(False)}).encode()


def indented(content: Content) -> bytes:
    return json.dumps(json.loads(stamped(content)), indent=2, ensure_ascii=False).encode()


MINTED = st.from_regex("0[0-9a-v]{11}-[0-9a-v]{6}", fullmatch=True)
ENTRIES = st.builds(lambda record, id: replace(record, id=id), RECORDS, MINTED | NAMES)
CONTENTS = st.builds(
    Content,
    st.lists(ENTRIES, max_size=6, unique_by=lambda record: record.id),
    MINTED,
    unknown("Mark", "LastID", "Checkpoint"),
    NAMES,
    unknown("Provider", "Instances", "NonFunctional", *OURS),
)
FILES = st.builds(lambda content, form: form(content), CONTENTS, st.sampled_from([stamped, stamped, as_the_c_demo, indented]))
JUNK = st.binary(min_size=1, max_size=30) | st.text('{}[]",:\\\n1', min_size=1, max_size=3).map(str.encode)


class Damage(msgspec.Struct, frozen=True):
    """*junk* in place of what is from *start* up to *end*."""

    start: int
    end: int
    junk: bytes

    def of(self, data: bytes) -> bytes:
        return data[: self.start] + self.junk + data[self.end :]

    def touches(self, start: int, end: int) -> bool:
        return self.start < end and self.end > start if self.end > self.start else start < self.start < end


@st.composite
def damages(draw: st.DrawFn, size: int) -> Damage:
    """Any one stretch overwritten, cut out, or put in; or the end cut off."""
    start = draw(st.integers(0, size))
    length = draw(st.integers(1, 40) | st.integers(1, size + 1))
    end = min(start + length, size)
    match draw(st.sampled_from(["overwritten", "cut out", "put in", "cut off"])):
        case "overwritten":
            junk = draw(JUNK)
            return Damage(start, min(start + len(junk), size), junk)
        case "cut out":
            return Damage(start, end, b"")
        case "put in":
            return Damage(start, start, draw(JUNK))
        case _:
            return Damage(start, size, b"")


def spans(data: bytes) -> list[tuple[int, int]]:
    """Give where the entries of a whole file are, in its order."""
    whole = msgspec.json.decode(data, type=dict[str, Raw])
    found, position = [], 0
    for name in ("Instances", "NonFunctional"):
        for entry in msgspec.json.decode(whole[name], type=list[Raw]):
            start = data.index(bytes(entry), position)
            position = start + len(bytes(entry))
            found.append((start, position))
    return found


def span(data: bytes, key: str) -> tuple[int, int]:
    """Give where a member of the document is, with its key."""
    value = re.escape(bytes(msgspec.json.decode(data, type=dict[str, Raw])[key]))
    keys = b"|".join(re.escape(each) for each in (msgspec.json.encode(key), json.dumps(key).encode(), json_of(key)))
    found = re.search(rb"(?:" + keys + rb")\s*:\s*" + value, data)
    assert found is not None
    return found.span()


def json_of(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def heading(data: bytes, key: str) -> tuple[int, int]:
    found = re.search(rf'"{key}"\s*:\s*\['.encode(), data)
    assert found is not None
    return found.span()


def loads(data: bytes) -> bool:
    try:
        document.load(data)
    except (NotJSON, WrongShape):
        return False
    return True


@MANY
@given(st.data())
def test_what_was_not_touched_is_saved(data: st.DataObject) -> None:
    """One damaged stretch costs what it touches: all other entries are saved exactly, in order, and no other is made up."""
    whole = data.draw(FILES)
    damage = data.draw(damages(len(whole)))
    damaged = damage.of(whole)
    if loads(damaged):
        return
    content, before = document.load(whole), spans(whole)
    report = salvage.examine(Pair(STATE, damaged))
    saved = report.content
    assert report.findings
    untouched = [record for record, place in zip(content.records, before, strict=True) if not damage.touches(*place)]
    if any(damage.touches(*heading(whole, name)) for name in ("Instances", "NonFunctional")) and b'"State":' not in whole:
        return  # then nothing says which list they were in
    assert untouched == [each for each in saved.records if each in untouched]
    assert len(saved.records) <= len(untouched) + 1
    for record, (start, end) in zip(content.records, before, strict=True):
        if record.id not in {each.id for each in saved.records}:
            name = re.match(rb'{\s*"ID":\s*"((?:[^"\\]|\\.)*)"', whole[start:end])
            assert name is not None
            if not damage.touches(start, start + name.end()):
                assert any(name[1].decode(errors="replace") in finding.lost for finding in report.findings)
    if not damage.touches(*span(whole, "Provider")):
        last = min([content.last_id, *(record.id for record in saved.records if ids.is_minted(record.id))])
        assert (content.mark, content.notes, last) == (saved.mark, saved.notes, saved.last_id)
    for key in content.unknown:
        if not damage.touches(*span(whole, key)):
            assert content.unknown[key] == saved.unknown[key]
    assert saved.records == document.load(stamped(saved)).records


FAKE: dict[str, object] = {"ID": "fake", "State": "ready", "Tags": {}, "LogicalID": None}
FAKES = st.sampled_from(
    [
        FAKE,
        [FAKE, FAKE],
        {"a": [FAKE], "b": FAKE, "c": [[FAKE]]},
        {"Instances": [FAKE], "NonFunctional": [FAKE]},
        {"Provider": {"Mark": "fake", "LastID": "000000000000-000000"}},
        [{"Provider": {"Mark": "fake"}, "Instances": [], "NonFunctional": [{**FAKE, "Properties": FAKE}]}],
        {"text": json.dumps(FAKE), "{": "}", "}": "{", ",": ":", "[": [[]]},
    ]
)
TRICKED = st.builds(
    lambda record, fake: replace(record, spec=replace(record.spec, properties=Raw(json.dumps(fake).encode()))), ENTRIES, FAKES
)


@MANY
@given(
    st.data(), st.lists(TRICKED, min_size=1, max_size=4, unique_by=lambda record: record.id), st.sampled_from([stamped, indented])
)
def test_what_stands_in_properties_is_never_taken_for_more(data: st.DataObject, found: list[Record], form: Any) -> None:
    """Properties that look like entries, or like a state file, make up no instance and no mark, wherever the damage is."""
    whole = form(Content(found, mark="mark"))
    damage = data.draw(damages(len(whole)))
    damaged = damage.of(whole)
    is_local = any(start <= damage.start and damage.end <= end for start, end in spans(whole))
    if loads(damaged) or not (is_local or damage.end == len(whole)):
        return
    saved = salvage.examine(Pair(STATE, damaged)).content
    assert saved.mark in ("mark", None) or damage.touches(*span(whole, "Provider"))
    assert "fake" not in {record.id for record in saved.records}
    content = document.load(whole)
    before = zip(content.records, spans(whole), strict=True)
    assert [each for each, place in before if not damage.touches(*place)] == [
        each for each in saved.records if each in content.records
    ]
