"""`fsck` and `export`: they save everything that can be read, list every loss, and never destroy a file."""

import itertools
import json
import os
import re
import stat
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace
from test_state_file import C_DEMO, NAMES, OURS, RAW, RECORDS, Run, keep, listed, unknown

from conftest import FAST
from pyinfrakit import ids
from pyinfrakit.disk import AppendFile, Disk
from pyinfrakit.errors import CannotStart, Damaged
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.schema.decode import NotJSON, WrongShape
from pyinfrakit.store.file import document, fsck, journal, recovery
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.file.fsck import Examination
from pyinfrakit.store.file.journal import journal_path
from pyinfrakit.store.file.recovery import Pair
from pyinfrakit.store.file.stamp import verify_stamp
from pyinfrakit.store.records import Change, Drop, Note, Put, Records
from support.harness import COMMAND, Daemon, command, environment

STATE = Path("/nowhere/rack1.json")
EPOCH = "0123456789abcdef"

MANY = settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# damage to any part of a state file


def dump_stamped(content: Content) -> bytes:
    return b"".join(document.dump_stamped(content, EPOCH, 7))


def as_the_c_demo(content: Content) -> bytes:
    """Write what the C demo keeps of a content, on one line."""

    def listed(described: bool) -> list[dict[str, Any]]:
        found = [record for record in content.records if record.state.described == described]
        return [{"ID": each.id, "LogicalID": each.spec.logical_id, "Tags": dict(each.spec.tags)} for each in found]

    return json.dumps({"Provider": {}, "Instances": listed(True), "NonFunctional": listed(False)}).encode()


def indented(content: Content) -> bytes:
    return json.dumps(json.loads(dump_stamped(content)), indent=2, ensure_ascii=False).encode()


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
FILES = st.builds(
    lambda content, form: form(content),
    CONTENTS,
    st.sampled_from([dump_stamped, dump_stamped, as_the_c_demo, indented]),
)
JUNK = st.binary(min_size=1, max_size=30) | st.text('{}[]",:\\\n1', min_size=1, max_size=3).map(str.encode)


class Damage(msgspec.Struct, frozen=True):
    """Replaces the bytes from *start* up to *end* with *junk*."""

    start: int
    end: int
    junk: bytes

    def apply(self, data: bytes) -> bytes:
        return data[: self.start] + self.junk + data[self.end :]

    def touches(self, start: int, end: int) -> bool:
        return self.start < end and self.end > start if self.end > self.start else start < self.start < end


@st.composite
def damages(draw: st.DrawFn, size: int) -> Damage:
    """Return damage to one part: bytes are overwritten, cut out or inserted, or the end is cut off."""
    start = draw(st.integers(0, size))
    length = draw(st.integers(1, 40) | st.integers(1, size + 1))
    end = min(start + length, size)
    match draw(st.sampled_from(["overwrite", "cut out", "insert", "cut off"])):
        case "overwrite":
            junk = draw(JUNK)
            return Damage(start, min(start + len(junk), size), junk)
        case "cut out":
            return Damage(start, end, b"")
        case "insert":
            return Damage(start, start, draw(JUNK))
        case _:
            return Damage(start, size, b"")


def spans(data: bytes) -> list[tuple[int, int]]:
    """Return the first and last byte of each entry in a whole file, in order."""
    whole = msgspec.json.decode(data, type=dict[str, Raw])
    found, position = [], 0
    for name in ("Instances", "NonFunctional"):
        for entry in msgspec.json.decode(whole[name], type=list[Raw]):
            start = data.index(bytes(entry), position)
            position = start + len(bytes(entry))
            found.append((start, position))
    return found


def lines(data: bytes, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the whole lines that hold *places*, each with the line end before it and its own."""
    return [(data.rfind(b"\n", 0, start), data.find(b"\n", end) + 1 or len(data)) for start, end in places]


def span(data: bytes, key: str) -> tuple[int, int]:
    """Return the first and last byte of one of the document's keys with its value."""
    value = re.escape(bytes(msgspec.json.decode(data, type=dict[str, Raw])[key]))
    keys = b"|".join(re.escape(each) for each in (msgspec.json.encode(key), json.dumps(key).encode(), json_of(key)))
    found = re.search(rb"(?:" + keys + rb")\s*:\s*" + value, data)
    assert found is not None
    return found.span()


def json_of(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def loads(data: bytes) -> bool:
    try:
        document.load(data)
    except (NotJSON, WrongShape):
        return False
    return True


def examine(file: bytes | None, *journals: tuple[int, bytes], with_journals: bool = True) -> Examination:
    return fsck.examine(
        Pair(STATE, file, [(journal_path(STATE, after), data) for after, data in journals]), with_journals
    )


def saved_ids(examination: Examination) -> set[str]:
    return {record.id for record in examination.content.records}


def report(examination: Examination) -> str:
    return "\n".join(f"{each.place}: {each.text}: {each.loss}" for each in examination.problems)


def check_losses(whole: bytes, damage: Damage, examination: Examination) -> None:
    """Each entry is saved, or its ID is in a loss unless the damage is in the ID itself."""
    saved = saved_ids(examination)
    for record, (start, end) in zip(document.load(whole).records, spans(whole), strict=True):
        name = re.match(rb'{\s*"ID":\s*"((?:[^"\\]|\\.)*)"', whole[start:end])
        assert name is not None
        if record.id not in saved and not damage.touches(start, start + name.end()):
            assert any(name[1].decode(errors="replace") in each.loss for each in examination.problems)


@MANY
@given(st.data(), CONTENTS)
def test_every_untouched_line_is_saved(data: st.DataObject, content: Content) -> None:
    """Damage to one part of a written file costs only the lines that it touches; lost entries are listed, none is made up."""
    whole = dump_stamped(content)
    damage = data.draw(damages(len(whole)))
    damaged = damage.apply(whole)
    if loads(damaged):
        return
    content = document.load(whole)
    places = lines(whole, spans(whole))
    examination = examine(damaged)
    saved = examination.content
    assert examination.problems
    untouched = [record for record, place in zip(content.records, places, strict=True) if not damage.touches(*place)]
    assert untouched == [each for each in saved.records if each in untouched]
    # Damage may join the halves of two entries into one that nobody can tell from a sound one, but never makes two.
    assert 1 >= len([each for each in saved.records if each not in content.records])
    check_losses(whole, damage, examination)
    (provider,) = lines(whole, [span(whole, "Provider")])
    if not damage.touches(*provider):
        last = min([content.last_id, *(record.id for record in saved.records if ids.is_minted(record.id))])
        assert (content.mark, content.notes, last) == (saved.mark, saved.notes, saved.last_id)
    for key in content.unknown:
        (line,) = lines(whole, [span(whole, key)])
        if not damage.touches(*line):
            assert content.unknown[key] == saved.unknown[key]
    assert saved.records == document.load(dump_stamped(saved)).records


@MANY
@given(st.data(), CONTENTS, st.sampled_from([as_the_c_demo, indented]))
def test_every_id_of_another_form_is_saved_or_listed(data: st.DataObject, content: Content, form: Any) -> None:
    """In a damaged file on one line, or an indented one, each entry is saved or listed; if it is still JSON, it is saved."""
    whole = form(content)
    damage = data.draw(damages(len(whole)))
    damaged = damage.apply(whole)
    if loads(damaged):
        return
    examination = examine(damaged)
    saved = examination.content
    assert examination.problems
    check_losses(whole, damage, examination)
    try:
        keys = msgspec.json.decode(damaged, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    content = document.load(whole)
    if {"Instances", "NonFunctional"} <= keys.keys():
        before = zip(content.records, spans(whole), strict=True)
        untouched = [record for record, place in before if not damage.touches(*place)]
        assert untouched == [each for each in saved.records if each in untouched]
    # The encoded form is compared: line ends become spaces if a line could be taken for one of the file's own.
    reread = document.load(dump_stamped(saved)).records
    assert [document.dump_entry(each) for each in saved.records] == [document.dump_entry(each) for each in reread]


FAKE: dict[str, Any] = {"ID": "fake", "State": "ready", "Tags": {}, "LogicalID": None}
FAKES = st.sampled_from(
    [
        FAKE,
        {"a": [FAKE], "b": FAKE, "c": [[FAKE]]},
        {"Instances": FAKE, "NonFunctional": FAKE},
        {"Provider": {"Mark": "fake", "LastID": "000000000000-000000"}},
        [{"Provider": {"Mark": "fake"}, "Instances": [], "NonFunctional": [{**FAKE, "Properties": FAKE}]}],
        {"text": json.dumps(FAKE), "{": "}", "}": "{", ",": ":", "[": [[]]},
    ]
)
TRICKED = st.builds(
    lambda record, fake: replace(record, spec=replace(record.spec, properties=Raw(json.dumps(fake).encode()))),
    ENTRIES,
    FAKES,
)


@MANY
@given(
    st.data(),
    st.lists(TRICKED, min_size=1, max_size=4, unique_by=lambda record: record.id),
    st.sampled_from([dump_stamped, indented]),
)
def test_properties_are_never_taken_for_an_entry(data: st.DataObject, found: list[Record], form: Any) -> None:
    """Properties that look like entries, or like a state file, never become an instance or a mark, wherever the damage is."""
    whole = form(Content(found, mark="mark"))
    damage = data.draw(damages(len(whole)))
    damaged = damage.apply(whole)
    if loads(damaged):
        return
    examination = examine(damaged)
    assert examination.content.mark in ("mark", None) or damage.touches(*span(whole, "Provider"))
    assert "fake" not in saved_ids(examination)
    check_losses(whole, damage, examination)


@pytest.mark.parametrize("keys", list(itertools.permutations(["Provider", "Instances", "Mark"], 2)))
def test_a_split_entry_makes_no_other(keys: tuple[str, str]) -> None:
    """A line end in an entry, wherever it is, splits off no text that counts as an instance, a list or a mark."""
    fakes = [
        Raw(json.dumps(each, separators=(",", ":")).encode())
        for each in (FAKE, {"Provider": {"Mark": "fake"}, "Instances": [FAKE]}, [FAKE, FAKE], {"Mark": "fake"})
    ]
    tricky = [
        Record(
            id=f"i{n}", state=State.READY, spec=Spec(properties=fake), unknown=dict(zip(keys, fakes[-2:], strict=True))
        )
        for n, fake in enumerate(fakes)
    ]
    whole = dump_stamped(Content(tricky, mark="mark"))
    for position in range(*spans(whole)[-1]):
        for junk in (b"\n", b"\n,\n", b"?\n", b"],\n"):
            examination = examine(Damage(position, position + 1, junk).apply(whole))
            assert "mark" == examination.content.mark
            assert {"i0", "i1", "i2"} == saved_ids(examination) - {"i3"}
            assert not examination.content.unknown


@pytest.mark.parametrize("junk", [b"]", b'"', b"\n],", b"\n}", b"\0\0\0", b'"x":1', b'{"ID":', b'"Provider":{'])
def test_junk_after_the_end_costs_nothing(junk: bytes) -> None:
    """If junk follows the end of the document, the whole document is saved."""
    content = document.load(dump_stamped(Content([machine("a")], mark="m", notes={"Rack": Raw(b"[1]")})))
    examination = examine(dump_stamped(content) + junk)
    assert examination.problems
    assert content == msgspec.structs.replace(examination.content, unknown={})


def test_the_mark_is_saved_from_a_damaged_provider() -> None:
    """The mark is saved if its own bytes are intact, whatever happens to the rest of Provider; otherwise the loss is named."""
    whole = dump_stamped(Content([machine("a")], mark="the-mark", notes={"Rack": Raw(b'{"Mark":"other"}')}))
    start, _ = span(whole, "Provider")
    end = whole.index(b'"the-mark"') + len(b'"the-mark"')
    for position in range(start, len(whole) - 1):
        examination = examine(Damage(position, position + 1, b"\0").apply(whole))
        assert ("the-mark" if position >= end else None) == examination.content.mark
        assert {"a"} == saved_ids(examination)
        assert ("--mark" in report(examination)) == (position < end)


# damage to any part of a journal

CHANGES = st.lists(
    st.lists(
        st.builds(Put, ENTRIES, st.booleans()) | st.builds(Drop, NAMES) | st.builds(Note, st.sampled_from("ab"), RAW),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=6,
)


def digest(file: bytes) -> str:
    stamp = verify_stamp(file)
    assert stamp is not None
    return stamp.digest


def entries(batches: Sequence[Sequence[Change]], after: int, epoch: str = EPOCH) -> list[bytes]:
    return [
        journal.encode_entry(epoch, number, journal.join_changes(journal.encode_change(change) for change in batch))
        for number, batch in enumerate(batches, after + 1)
    ]


@MANY
@given(st.data(), CONTENTS, CHANGES, st.integers(0, 6))
def test_every_untouched_change_is_applied(
    data: st.DataObject, content: Content, batches: list[list[Change]], cut: int
) -> None:
    """If one part of a journal is damaged, all other entries of it, and of the next journal, are applied in order."""
    file = dump_stamped(content)
    written = entries(batches, 7, "f" * 16)
    first = min(cut, len(batches))
    parts = [written[:first], written[first:]] if cut else [written]
    afters = [7, 7 + first] if cut else [7]
    whole = [
        journal.encode_header("f" * 16, digest(file), after) + b"".join(part)
        for after, part in zip(afters, parts, strict=True)
    ]
    which = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(damages(len(whole[which])))
    whole[which] = damage.apply(whole[which])
    pairs = [(journal_path(STATE, after), each) for after, each in zip(afters, whole, strict=True)]
    held = document.load(file)
    expected = Records(held.records, held.last_id, held.notes)
    for entry, batch in zip(written, batches, strict=True):
        if any(entry in each for each in whole):
            for change in batch:
                expected.apply(change)
    saved = fsck.examine(Pair(STATE, file, pairs)).content
    assert list(expected) == list(saved.records)
    assert (expected.notes, expected.last_id, content.mark) == (saved.notes, saved.last_id, saved.mark)


# shapes


def of_shape(**keys: Any) -> bytes:
    return json.dumps({**C_DEMO, **keys}).encode()


def with_entry(entry: Any) -> bytes:
    return of_shape(Instances=[*C_DEMO["Instances"], entry])


ALL = {"InfraKit-x1", "InfraKit-x0", "InfraKit-broken"}
DEEP = Raw(b"[" * 200 + b"]" * 200)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param(
            with_entry({"ID": "i", "Tags": 5}), "Instances[2].Tags: expected an object or null, got 5", id="bad entry"
        ),
        pytest.param(with_entry("i"), 'Instances[2]: expected an object, got "i"', id="entry is text"),
        pytest.param(with_entry({"ID": "InfraKit-x0"}), "the second entry of InfraKit-x0", id="ID twice"),
        pytest.param(of_shape(Provider=[]), "start the plugin with --mark", id="Provider is an array"),
        pytest.param(of_shape(Provider={"Mark": 5}), "start the plugin with --mark", id="Mark is a number"),
        pytest.param(
            of_shape(Provider={"LastID": "x"}), 'expected an ID that was minted here, got "x"', id="bad LastID"
        ),
        pytest.param(
            with_entry({"ID": "i", "State": "odd"}), "Instances[2].State: expected provisioning", id="unknown state"
        ),
        pytest.param(
            with_entry({"ID": "i", "Tags": {"a": "X"}}).replace(b"X", b"\xff"),
            "Instances[2], with the IDs i",
            id="invalid UTF-8",
        ),
        pytest.param(
            with_entry({"ID": "i", "Properties": "X"}).replace(b'"X"', bytes(DEEP)),
            "Instances[2], with the IDs i",
            id="deep properties",
        ),
        pytest.param(
            of_shape(Comment="X").replace(b'"X"', bytes(DEEP)), "Comment: nested more than 128", id="deep comment"
        ),
        pytest.param(of_shape(Provider={"n": "X"}).replace(b'"X"', bytes(DEEP)), "Provider.n: nested", id="deep note"),
    ],
)
def test_one_wrong_value_costs_only_itself(file: bytes, text: str) -> None:
    """In a file that is JSON, one wrong value is named; all instances are saved, and the repaired file loads."""
    examination = examine(file)
    assert saved_ids(examination) == ALL
    assert text in report(examination)
    assert examination.content.records == document.load(dump_stamped(examination.content)).records


OWN = dump_stamped(document.load(json.dumps(C_DEMO).encode()))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param(b'{"ID":"i","Tags":5},', "Tags: expected an object or null, got 5: entry at byte", id="bad tags"),
        pytest.param(b'{"ID":"i","Tags":{},"State":"odd"},', "State: expected provisioning", id="unknown state"),
        pytest.param(b'{"ID":"InfraKit-x0"},', "the second entry of InfraKit-x0", id="ID twice"),
        pytest.param(b'{"ID":"i","Tags":{"a":"\xff"}},', "not UTF-8 at byte 23: entry at byte", id="invalid UTF-8"),
        pytest.param(b'{"ID":"i","Tags":{"a":"\\ud800"}},', "with the IDs i", id="half a surrogate"),
        pytest.param(b'{"ID":"i","Properties":%b},' % bytes(DEEP), "with the IDs i", id="deep properties"),
        pytest.param(b'{"ID":"i","Tags":{},', "unreadable: the text at bytes", id="incomplete"),
        pytest.param(b'{"ID":"i"}x,', "with the IDs i", id="junk behind it"),
        pytest.param(b' {"ID":"i"} {"ID":"j"},', "with the IDs i, j", id="indented"),
        pytest.param(b"x" * 9, "unreadable", id="junk"),
    ],
)
@pytest.mark.parametrize("is_json", [True, False])
def test_one_wrong_line_costs_only_itself(line: bytes, text: str, is_json: bool) -> None:
    """In a damaged file, one wrong line is named with its bytes and IDs; all other lines are saved."""
    file = OWN.replace(b'\n],\n"Non', b",\n" + line.removesuffix(b",") + b'\n],\n"Non')
    if not is_json:
        file = file.replace(b'\n],\n"Non', b'\n];\n"Non')
    examination = examine(file)
    assert saved_ids(examination) == ALL
    if not is_json:
        assert text in report(examination)
    assert examination.content.records == document.load(dump_stamped(examination.content)).records


@pytest.mark.parametrize("form", [as_the_c_demo, indented])
def test_a_damaged_file_of_another_form_is_listed(home: Path, form: Any) -> None:
    """If a file on one line, or an indented one, is no JSON, then all of its IDs are listed, and the file itself is kept."""
    damaged = form(document.load(OWN)).replace(b'"NonFunctional":', b'"NonFunctional";')
    path = keep(home, damaged)
    done = run_fsck(home, path, status=1)
    assert "content: not JSON" in done.stdout
    assert f"would lose the text at bytes 0 to {len(damaged)}, with the IDs InfraKit-x1, " in done.stdout
    assert all(id in done.stdout for id in ALL)
    assert "--mark" in done.stdout
    assert "`--repair` would save 0 instances" in done.stderr
    assert "0 instances" in run_fsck(home, path, "--repair", status=0).stdout
    assert damaged in inside(path.parent).values()


def test_properties_on_several_lines_are_written_on_one() -> None:
    """Every entry is on a line of its own, so that no line of a client's properties ever counts as an entry."""
    tricky = Raw(b'[\n{"ID":"fake","Tags":{}}\n]')
    notes = {"Rack": tricky}
    whole = dump_stamped(
        Content([replace(machine("i"), spec=Spec(properties=tricky), unknown=notes)], "1", notes, "m", notes)
    )
    assert 6 == whole.count(b"\n")
    examination = examine(whole.replace(b'"ID":"i"', b'"ID":"i', 1))
    assert set() == saved_ids(examination)


def test_indented_properties_stay_with_their_entry() -> None:
    """An entry whose properties span several lines, as a client sent them, is saved whole."""
    spread = replace(machine("i"), spec=Spec(properties=Raw(b'{\n  "a": [\n    {"ID": "fake", "Tags": {}}\n  ]\n  }')))
    # An earlier version of the writer kept line ends in properties.
    whole = dump_stamped(Content([replace(spread, spec=Spec(properties=Raw(b'"here"'))), machine("j")], mark="m"))
    whole = whole.replace(b'"here"', bytes(spread.spec.properties or b""))
    examination = examine(whole.replace(b'"Provider":', b'"Provider";'))
    assert [spread, machine("j")] == examination.content.records


@pytest.mark.parametrize(
    ("file", "lost"),
    [
        pytest.param(of_shape(Instances=None), {"InfraKit-x1", "InfraKit-x0"}, id="null"),
        pytest.param(of_shape(Instances={"a": {"ID": "b"}}), {"InfraKit-x1", "InfraKit-x0"}, id="object"),
        pytest.param(
            json.dumps({key: C_DEMO[key] for key in ("Provider", "NonFunctional")}).encode(),
            {"InfraKit-x1", "InfraKit-x0"},
            id="none",
        ),
        pytest.param(b"[]", ALL, id="array"),
        pytest.param(b"", ALL, id="empty"),
        pytest.param(b" \n", ALL, id="blank"),
        pytest.param(b"\0" * 5000, ALL, id="zeros"),
        pytest.param(bytes(range(256)) * 10, ALL, id="binary"),
    ],
)
def test_a_missing_list_is_a_problem(file: bytes, lost: set[str]) -> None:
    """A list that is missing, null or of another type is reported; the other list is saved."""
    examination = examine(file)
    assert examination.problems
    assert ALL - lost == saved_ids(examination)


def test_a_list_with_a_damaged_key_is_found() -> None:
    """If a list's key is damaged, but the file is still JSON, its entries are saved as instances."""
    file = json.dumps(C_DEMO).encode().replace(b'"NonFunctional"', b'"NonFumctional"')
    examination = examine(file)
    assert "NonFumctional: read as NonFunctional" in report(examination)
    assert document.load(json.dumps(C_DEMO).encode()).records == examination.content.records
    assert {} == examination.content.unknown


@pytest.mark.parametrize("name", ["Instances", "NonFunctional"])
@pytest.mark.parametrize("damage", [b'"%b";[', b'"%b":', b"?", b'"%b":[\0'])
def test_state_decides_if_a_heading_is_damaged(name: str, damage: bytes) -> None:
    """If a heading is unreadable, that is reported, and each entry goes to the list that its own State belongs to."""
    content = document.load(OWN)
    file = OWN.replace(b'"%b":[' % name.encode(), damage.replace(b"%b", name.encode()))
    examination = examine(file)
    assert f"{name}: its heading is unreadable" in report(examination)
    assert content.records == examination.content.records


def test_unknown_keys_are_saved() -> None:
    """Other programs' keys are saved at every level, from JSON of a wrong shape and from a file that is no JSON."""
    odd = {"Deep": [1, {"x": None}]}
    content = {
        "Comment": odd,
        "Provider": {"Rack": odd},
        "Instances": [{"ID": "i", "Tags": {}, "Serial": odd}],
        "NonFunctional": [],
    }
    whole = dump_stamped(document.load(json.dumps(content).encode()))
    for junk in (b'{"Instances":[\n5,', b'{"Instances":[\n?'):
        saved = examine(whole.replace(b'{"Instances":[', junk)).content
        (record,) = saved.records
        for value in (saved.unknown["Comment"], saved.notes["Rack"], record.unknown["Serial"]):
            assert odd == json.loads(bytes(value))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece",
    [
        "{",
        "[",
        '"ID":"',
        '{"a":',
        '{"ID":"a","Tags":',
        '"',
        '{"',
        "{}",
        '\\"{',
        '{"Instances":[',
        '{"":[',
        "[[],",
        "\n{ ",
        '"a" ',
        "=00",
        '\n"',
        '\n{"ID":"',
        '\n"Provider":{"Mark":',
        "\n],",
        '\n{"Instances":[',
        '"ID":"\\',
    ],
)
def test_hostile_text_is_examined_quickly(piece: str) -> None:
    """A hundred kilobytes of brackets, quotes, line ends and beginnings of entries is examined quickly, without a crash."""
    text = (piece * (100_000 // len(piece))).encode()
    for each in (text, b"x" + text[:50_000] + b"}" * 1000, b'"NonFunctional":[\n' + text):
        assert not saved_ids(examine(each))


@pytest.mark.timeout(60)
def test_one_line_of_100000_is_lost() -> None:
    """In a large file only the damaged entry is lost."""
    file = dump_stamped(Content([machine(f"i{n}") for n in range(100_000)], mark="m"))
    examination = examine(file.replace(b'"i50000",', b'"i50000"'))
    assert 99_999 == len(examination.content.records)
    assert "with the IDs i50000" in report(examination)


# a file and its journal


def machine(id: str, reason: str = "") -> Record:
    return Record(id=id, state=State.READY, spec=Spec(), reason=reason)


BEFORE = Content([machine("a"), machine("b")], mark="the-mark")
FILE = dump_stamped(BEFORE)
HEAD = journal.encode_header(EPOCH, digest(FILE), 7)
STEPS = entries([[Put(machine("c"))], [Drop("a")], [Put(machine("d")), Put(machine("b", "new"))]], 7)
JOURNAL = HEAD + b"".join(STEPS)
EDITED = FILE.replace(b'"ID":"a"', b'"ID":"e"')
BY_THE_C_DEMO = json.dumps(json.loads(FILE)).encode()
FOREIGN = journal.encode_header("f" * 16, "0" * 64, 3) + b"".join(entries([[Put(machine("z"))]], 3, "f" * 16))
OTHER = journal.encode_header("e" * 16, "0" * 64, 12) + b"".join(entries([[Put(machine("y"))]], 12, "e" * 16))
NEWER = journal.encode_entry(EPOCH, 7, b'{"Version":2,"Base":""}') + b"".join(
    [*STEPS[:2], journal.encode_entry(EPOCH, 10, b'[{"Move":{"ID":"q"}}]')]
)
LATE = journal.encode_header(EPOCH, digest(FILE), 9) + STEPS[2]

PAIRS = [
    pytest.param(EDITED, {7: JOURNAL}, {"e", "b", "c", "d"}, {"e", "b"}, {"a", "b", "c", "d"}, "", id="edited"),
    pytest.param(
        BY_THE_C_DEMO, {7: JOURNAL}, {"b", "c", "d"}, {"a", "b"}, {"a", "b", "c", "d"}, "", id="by the C demo"
    ),
    pytest.param(FILE, {3: FOREIGN}, {"a", "b", "z"}, {"a", "b"}, {"z"}, "", id="of another file"),
    pytest.param(
        FILE, {7: JOURNAL, 12: OTHER}, {"b", "c", "d", "y"}, {"a", "b"}, {"a", "b", "c", "d", "y"}, "", id="two files'"
    ),
    pytest.param(None, {7: JOURNAL}, {"b", "c", "d"}, set(), {"a", "b", "c", "d"}, "content: missing", id="no file"),
    pytest.param(FILE, {9: LATE}, {"a", "b", "d"}, {"a", "b"}, {"b", "d"}, "changes 8 to 9: missing", id="a gap"),
    pytest.param(
        FILE,
        {7: HEAD + STEPS[0] + STEPS[2]},
        {"a", "b", "c", "d"},
        {"a", "b"},
        {"b", "c", "d"},
        "change 9: missing",
        id="a missing entry",
    ),
    pytest.param(FILE, {7: NEWER}, {"b", "c"}, {"a", "b"}, {"a", "c"}, "change 10", id="of a newer version"),
    pytest.param(FILE, {7: b""}, {"a", "b"}, {"a", "b"}, set(), "", id="an empty journal"),
]


def beside(home: Path, file: bytes | None, journals: dict[int, bytes]) -> Path:
    """Write a state file and its journals into the folder of a daemon in *home*."""
    path = keep(home, b"" if file is None else file)
    if file is None:
        path.unlink()
    for after, data in journals.items():
        journal_path(path, after).write_bytes(data)
    return path


def opened(path: Path) -> Content:
    return recovery.assemble(recovery.read(Disk(), path)).content


def inside(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("without", [False, True])
@pytest.mark.parametrize(("file", "journals", "both", "alone", "changed", "text"), PAIRS)
def test_a_pair_that_does_not_belong_together_is_reported(
    file: bytes | None,
    journals: dict[int, bytes],
    both: set[str],
    alone: set[str],
    changed: set[str],
    text: str,
    without: bool,
) -> None:
    """The store's reason is reported. Both files are saved, or the state file alone; then the journal's changes are lost."""
    examination = examine(file, *journals.items(), with_journals=not without)
    with pytest.raises(Damaged) as caught:
        recovery.assemble(Pair(STATE, file, [(journal_path(STATE, after), data) for after, data in journals.items()]))
    assert without or text in report(examination)
    assert file is None or f"{caught.value.where}: {caught.value.problem}" in report(examination)
    assert (alone if without else both) == saved_ids(examination)
    if without:
        losses = re.findall("the journal's changes to (.*)", report(examination))
        assert changed == {id for each in losses for id in each.split(", ")} - {"nothing"}
    else:
        assert changed == set(examination.changed)


def test_losses_of_a_journal_are_named() -> None:
    """Instances in the unreadable part of a journal, and in changes that this version does not know, are listed as lost."""
    assert "change 9, with the IDs a" in report(examine(FILE, (7, HEAD + STEPS[0] + STEPS[1][:-3] + STEPS[2])))
    assert "change 10, with the IDs q" in report(examine(FILE, (7, NEWER)))
    torn = report(examine(EDITED, (7, HEAD + STEPS[0] + STEPS[1][:-3])))
    assert "are no entry: their changes, with the IDs a, unless a crash cut them short" in torn


def test_a_damaged_stamp_hides_no_change() -> None:
    """A file whose stamp claims more than it holds, because of a damaged digit, gets all of the journal's changes."""
    file = FILE.replace(b'"Sequence":7', b'"Sequence":9')
    assert {"b", "c", "d"} == saved_ids(examine(file, (7, JOURNAL)))


# the commands


def run_fsck(home: Path, path: Path, *flags: str, status: int) -> subprocess.CompletedProcess[str]:
    done = command(home, "fsck", str(path), *flags)
    assert status == done.returncode, done
    assert (1 if status else 0) == len(done.stderr.splitlines())
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("flags", [["--repair"], ["--without-journal", "--repair"]])
@pytest.mark.parametrize(("file", "journals", "both", "alone", "changed", "text"), [PAIRS[0], PAIRS[4]])
def test_a_repair_keeps_the_entries(
    home: Path,
    run: Run,
    file: bytes | None,
    journals: dict[int, bytes],
    both: set[str],
    alone: set[str],
    changed: set[str],
    text: str,
    flags: list[str],
) -> None:
    """A repair keeps the old files, private and unchanged, under the names that it prints; the daemon keeps its mark."""
    path = beside(home, file, journals)
    before = inside(path.parent)
    done = run_fsck(home, path, *flags, status=0)
    expected = both if len(flags) == 1 else alone
    assert expected == {record.id for record in opened(path).records}
    names = {Path(line.removeprefix("kept ")) for line in done.stdout.splitlines() if line.startswith("kept ")}
    assert before == {name.name.partition(".damaged-")[0]: name.read_bytes() for name in names}
    assert {0o600} == {stat.S_IMODE(name.stat().st_mode) for name in (path, *names)}
    assert {path, *names} == set(path.parent.iterdir())
    assert "no problems" in run_fsck(home, path, status=0).stdout
    daemon = run(*FAST)
    assert expected == set(daemon.described())
    if file is not None:
        assert "the-mark" == daemon.saved()["Provider"]["Mark"]
    else:
        assert "--mark" in done.stdout


def test_fsck_alone_only_reports(home: Path) -> None:
    """Without --repair, fsck writes nothing. It reports the problem, the losses and the savings, with status 1."""
    path = keep(home, of_shape(NonFunctional=[{"ID": "bad\x1b[31m", "Tags": 7}]))
    before = inside(path.parent)
    done = run_fsck(home, path, status=1)
    assert "NonFunctional[0].Tags: expected an object or null, got 7" in done.stdout
    assert "would lose NonFunctional[0], with the IDs bad" in done.stdout
    assert "\x1b" not in done.stdout
    assert f"1 problem in {path}: `--repair` would save 2 instances and keep copies of the old files" in done.stderr
    assert before == inside(path.parent)


def test_a_sound_pair_is_not_touched(home: Path) -> None:
    """A pair without problems stays unchanged, with --repair and with --without-journal too."""
    path = beside(home, FILE, {7: JOURNAL + b"=torn"})
    before = inside(path.parent)
    for flags in ([], ["--repair"], ["--repair", "--without-journal"], ["--without-journal"]):
        assert "no problems" in run_fsck(home, path, *flags, status=0).stdout
        assert before == inside(path.parent)


def test_two_repairs_keep_both(home: Path) -> None:
    """A repair never overwrites the copies of an earlier one, even within the same second."""
    path = keep(home, b"{")
    for content in (b"{", b"[", b"x"):
        path.write_bytes(content)
        fsck.repair(Disk(), recovery.read(Disk(), path), Content())
    kept = [data for name, data in inside(path.parent).items() if "damaged" in name]
    assert [b"[", b"x", b"{"] == sorted(kept)


@pytest.mark.parametrize("verb", ["fsck", "export"])
def test_an_unreadable_path_is_wrong_use(home: Path, verb: str) -> None:
    """A path that is no regular file, or has a FIFO for a journal, is refused at once with one line and status 2."""
    path = keep(home, C_DEMO)
    (home / "loop").symlink_to("loop")
    (home / "gone").symlink_to("nowhere")
    os.mkfifo(home / "fifo")
    odd = keep(home, C_DEMO, "odd")
    os.mkfifo(journal_path(odd, 3))
    for each in (
        home,
        home / "fifo",
        home / "loop",
        home / "gone",
        home / "no" / "x",
        path / "x",
        odd,
        Path("/dev/null"),
        Path("/"),
    ):
        for flags in ([], ["--repair"]) if verb == "fsck" else ([],):
            done = command(home, verb, str(each), *flags)
            (line,) = done.stderr.splitlines()
            assert (2, "") == (done.returncode, done.stdout), line
            assert line.startswith("infrakit-instance: ")
            assert str(each) in line or "nowhere" in line
    assert C_DEMO == json.loads(path.read_bytes())


def test_a_link_is_followed(home: Path) -> None:
    """Both commands follow a symbolic link to the state file, and a repair leaves the link in place."""
    path = keep(home, with_entry(5))
    link = home / "link"
    link.symlink_to(path)
    run_fsck(home, link, status=1)
    run_fsck(home, link, "--repair", status=0)
    assert link.is_symlink()
    assert {"InfraKit-x1", "InfraKit-x0"} == set(listed(json.loads(command(home, "export", str(link)).stdout))[0])


def test_an_empty_file_is_damage(home: Path) -> None:
    """An empty file, as a broken disk may leave, is damage; its repair says that it saves 0 instances."""
    path = keep(home, b"")
    assert "0 instances" in run_fsck(home, path, status=1).stderr
    assert "0 instances" in run_fsck(home, path, "--repair", status=0).stdout
    assert () == tuple(opened(path).records)


def test_an_export_writes_only_regular_files(home: Path) -> None:
    """An export writes a file with mode 0600, also through a link or over an old one, but never over the plugin's own."""
    path = beside(home, FILE, {7: JOURNAL})
    out = home / "out.json"
    (home / "link").symlink_to(out)
    for name in ("out.json", "link", "link"):
        assert 0 == command(home, "export", str(path), "-o", str(home / name)).returncode
        assert {"b", "c", "d"} == {record.id for record in document.load(out.read_bytes()).records}
        assert 0o600 == stat.S_IMODE(out.stat().st_mode)
    before = inside(path.parent)
    os.mkfifo(home / "fifo")
    own = [
        path,
        journal_path(path, 7),
        journal_path(path, 99),
        path.with_name("rack1.json.lock"),
        path.with_name(".rack1.json.new"),
    ]
    for target in (home, home / "fifo", home / "no" / "x", Path("/dev/null"), Path("/dev/stdout"), path / "x", *own):
        done = command(home, "export", str(path), "-o", str(target))
        (line,) = done.stderr.splitlines()
        assert 2 == done.returncode, line
        assert str(target) in line
    assert before == inside(path.parent)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_an_export_without_a_reader_is_silent(home: Path) -> None:
    """`export | head -c 10` writes nothing to stderr; a closed or full stdout is one line."""
    path = keep(home, dump_stamped(Content([machine(f"i{n}") for n in range(20_000)])))
    for end, text in (
        ("| head -c 10", ""),
        (">&-", "there is no standard output"),
        (">/dev/full", "No space left on device"),
    ):
        line = f'"$@" {end}'
        done = subprocess.run(
            ["sh", "-c", line, "sh", *COMMAND, "export", str(path)],
            capture_output=True,
            text=True,
            env=environment(home),
            timeout=60,
            check=False,
        )
        assert (f"infrakit-instance: {text}\n" if text else "") == done.stderr


# interrupted repairs


class PowerCut(BaseException):
    """Stops a repair, so that it can't even clean up."""


class Failing(Disk):
    """Raises *error* at operation number *left*, and at all later ones."""

    def __init__(self, left: int, error: BaseException) -> None:
        self.left = left
        self.error = error

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error

    def create(self, path: Path) -> AppendFile:
        self._count()
        return super().create(path)

    def rename(self, old: Path, new: Path) -> None:
        self._count()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        self._count()
        super().sync_folder(folder)


@pytest.mark.parametrize("with_journals", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PowerCut()])
@pytest.mark.parametrize(("file", "journals", "both", "alone", "changed", "text"), PAIRS)
def test_a_repair_may_stop_anywhere(
    tmp_path: Path,
    file: bytes | None,
    journals: dict[int, bytes],
    both: set[str],
    alone: set[str],
    changed: set[str],
    text: str,
    error: BaseException,
    with_journals: bool,
) -> None:
    """After a crash or an error at any moment, either the old files are in place or the new one is, without problems."""
    for left in itertools.count():
        path = beside(tmp_path / str(left), file, journals)
        pair = recovery.read(Disk(), path)
        examination = fsck.examine(pair, with_journals)
        disk = Failing(left, error)
        with suppress(CannotStart, PowerCut):
            fsck.repair(disk, pair, examination.content)
        now = recovery.read(Disk(), path)
        if now.file != file:
            expected = both if with_journals else alone
            for again in (True, False):
                assert expected == saved_ids(fsck.examine(now, again))
        else:
            assert pair == now
        if disk.left >= 0:
            assert not now.journals
            break


def test_a_full_disk_leaves_the_old_files(home: Path) -> None:
    """A repair on a full disk fails with one line, and leaves the old files unchanged and no others."""
    path = keep(home, dump_stamped(Content([machine(f"i{n}") for n in range(100)])).replace(b'"ID":"i50"', b'"ID":50'))
    before = inside(path.parent)
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 4; exec "$@"', "sh", *COMMAND, "fsck", str(path), "--repair"],
        capture_output=True,
        text=True,
        env=environment(home),
        timeout=60,
        check=False,
    )
    (line,) = done.stderr.splitlines()
    assert (2, True) == (done.returncode, f"state file {path} can't be repaired: " in line)
    assert before == inside(path.parent)


# while a daemon runs


def test_a_running_daemon_keeps_its_file(run: Run, home: Path) -> None:
    """While a daemon uses a file, --repair and exports onto it fail, name the holder, and change nothing."""
    daemon, other = run(*FAST), run(*FAST, name="rack2")
    ids = [daemon.provision(), other.provision()]
    assert (
        f"is in use by plugin rack1 (process {daemon.pid})" in run_fsck(home, daemon.state, "--repair", status=2).stderr
    )
    assert "destroy" in command(home, "export", str(daemon.state), "-o", str(daemon.state)).stderr
    done = command(home, "export", str(daemon.state), "-o", str(other.state))
    assert (2, True) == (done.returncode, f"is in use by plugin rack2 (process {other.pid})" in done.stderr)
    for each, id in zip((daemon, other), ids, strict=True):
        assert [id] == each.described()
        each.kill()
        assert [id] == [record.id for record in opened(each.state).records]


def test_an_export_under_load_is_complete(daemon: Daemon, home: Path) -> None:
    """While a daemon writes, an export has every acknowledged instance, and fsck reports no problems."""
    acknowledged: list[str] = []
    ended = threading.Event()

    def load() -> None:
        with daemon.client() as client:
            while not ended.is_set():
                reply = client.call("Instance.Provision", {"Spec": {"Properties": {"a": "x" * 200}}})
                acknowledged.append(json.loads(bytes(reply))["ID"])

    def check(export: Callable[[], str | bytes]) -> None:
        known = set(acknowledged)
        service, aside = listed(json.loads(export()))
        assert known <= {*service, *aside}

    with ExitStack() as stack:
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            stack.callback(thread.join)
        stack.callback(ended.set)
        for thread in threads:
            thread.start()
        for _ in range(40):
            check(daemon.exported)
        for _ in range(5):
            check(lambda: command(home, "export", str(daemon.state)).stdout)
            assert "no problems" in run_fsck(home, daemon.state, status=0).stdout
