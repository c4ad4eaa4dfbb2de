"""`fsck` and `export`: what is saved of damaged files, what is said of them, and that nothing is ever destroyed."""

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
from test_state_file import C_DEMO, EMPTY, NAMES, OURS, RAW, RECORDS, Run, keep, listed, unknown

from conftest import FAST
from pyinfrakit import ids
from pyinfrakit.disk import AppendFile, Disk
from pyinfrakit.errors import CannotStart
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.schema.decode import NotJSON, WrongShape
from pyinfrakit.store.file import document, journal, recovery, repair, salvage
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.file.journal import journal_path
from pyinfrakit.store.file.recovery import Pair
from pyinfrakit.store.file.salvage import Report
from pyinfrakit.store.records import Change, Drop, Note, Put, Records
from support.harness import COMMAND, Daemon, command, environment

STATE = Path("/nowhere/rack1.json")
EPOCH = "0123456789abcdef"

MANY = settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# any stretch of a state file


def stamped(content: Content) -> bytes:
    return b"".join(document.dump_stamped(content, EPOCH, 7))


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
FILES = st.builds(
    lambda content, form: form(content), CONTENTS, st.sampled_from([stamped, stamped, as_the_c_demo, indented])
)
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
    if (
        any(damage.touches(*heading(whole, name)) for name in ("Instances", "NonFunctional"))
        and b'"State":' not in whole
    ):
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
    st.sampled_from([stamped, indented]),
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


# any stretch of a journal

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
    stamp = document.verify_stamp(file)
    assert stamp is not None
    return stamp.digest


def entries(batches: Sequence[Sequence[Change]], after: int, epoch: str = EPOCH) -> list[bytes]:
    return [
        journal.encode_entry(epoch, number, journal.join_changes(journal.encode_change(change) for change in batch))
        for number, batch in enumerate(batches, after + 1)
    ]


@MANY
@given(st.data(), CONTENTS, CHANGES, st.integers(0, 6))
def test_all_changes_that_were_not_touched_are_made(
    data: st.DataObject, content: Content, batches: list[list[Change]], cut: int
) -> None:
    """Wherever a journal is damaged, every other entry of it, and of the one that follows, is applied, in order."""
    file = stamped(content)
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
    whole[which] = damage.of(whole[which])
    pairs = [(journal_path(STATE, after), each) for after, each in zip(afters, whole, strict=True)]
    held = document.load(file)
    expected = Records(held.records, held.last_id, held.notes)
    for entry, batch in zip(written, batches, strict=True):
        if any(entry in each for each in whole):
            for change in batch:
                expected.apply(change)
    saved = salvage.examine(Pair(STATE, file, pairs)).content
    assert list(expected) == list(saved.records)
    assert (expected.notes, expected.last_id, content.mark) == (saved.notes, saved.last_id, saved.mark)


# shapes


def of_shape(**keys: Any) -> bytes:
    return json.dumps({**C_DEMO, **keys}).encode()


def with_entry(entry: Any) -> bytes:
    return of_shape(Instances=[*C_DEMO["Instances"], entry])


ALL = {"InfraKit-x1", "InfraKit-x0", "InfraKit-broken"}
DEEP = Raw(b"[" * 200 + b"]" * 200)


def examined(file: bytes | None, *journals: tuple[int, bytes], with_journals: bool = True) -> Report:
    return salvage.examine(
        Pair(STATE, file, [(journal_path(STATE, after), data) for after, data in journals]), with_journals
    )


def saved_ids(report: Report) -> set[str]:
    return {record.id for record in report.content.records}


def said(report: Report) -> str:
    return "\n".join(f"{finding.where}: {finding.problem}: {finding.lost}" for finding in report.findings)


@pytest.mark.parametrize(
    ("file", "says"),
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
        pytest.param(with_entry({"ID": "i", "Tags": {"a": "X"}}).replace(b"X", b"\xff"), "of i", id="invalid UTF-8"),
        pytest.param(
            with_entry({"ID": "i", "Tags": {"a": "X"}}).replace(b"X", b"\\ud800"), "of i", id="half a surrogate"
        ),
        pytest.param(
            with_entry({"ID": "i", "Properties": "X"}).replace(b'"X"', bytes(DEEP)), "of i", id="deep properties"
        ),
        pytest.param(
            of_shape(Comment="X").replace(b'"X"', bytes(DEEP)), "Comment: nested more than 128", id="deep comment"
        ),
        pytest.param(of_shape(Provider={"n": "X"}).replace(b'"X"', bytes(DEEP)), "Provider.n: nested", id="deep note"),
        pytest.param(json.dumps(C_DEMO).encode() + b"}", "content: not JSON", id="more at the end"),
    ],
)
def test_what_else_is_in_a_file_is_saved(file: bytes, says: str) -> None:
    """Beside one thing that makes no sense, which is named, all instances are saved, and the repaired file loads."""
    report = examined(file)
    assert saved_ids(report) == ALL
    assert says in said(report)
    assert report.content.records == document.load(stamped(report.content)).records


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
    """A list that is missing, null or no list is said to be; the other one is saved."""
    report = examined(file)
    assert report.findings
    assert ALL - lost == saved_ids(report)


def test_a_list_of_another_name_is_found() -> None:
    """Where a list's name is damaged, so that the file is still JSON, its entries are saved as instances all the same."""
    file = json.dumps(C_DEMO).encode().replace(b'"NonFunctional"', b'"NonFumctional"')
    report = examined(file)
    assert "NonFumctional: taken to be NonFunctional" in said(report)
    assert document.load(json.dumps(C_DEMO).encode()).records == report.content.records
    assert {} == report.content.unknown


def test_unknown_keys_are_saved() -> None:
    """Keys that are not this project's are saved at every level, from JSON of a wrong shape, and from what is no JSON."""
    odd = {"Deep": [1, {"x": None}]}
    content = {
        "Comment": odd,
        "Provider": {"Rack": odd},
        "Instances": [{"ID": "i", "Tags": {}, "Serial": odd}, 5],
        "NonFunctional": [],
    }
    for file in (json.dumps(content).encode(), json.dumps(content).encode().replace(b", 5]", b", ?]")):
        saved = examined(file).content
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
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    """A hundred kilobytes of brackets, quotes, and beginnings of entries is examined at once, without a crash."""
    text = (piece * (100_000 // len(piece))).encode()
    assert not saved_ids(examined(text))
    assert not saved_ids(examined(b"x" + text[:50_000] + b"}" * 1000))


def test_one_entry_of_100000_is_lost() -> None:
    """In a large file just the entry that is damaged is lost."""
    many: list[dict[str, Any]] = [{"ID": f"InfraKit-{n}", "LogicalID": None, "Tags": {}} for n in range(100_000)]
    file = json.dumps({**EMPTY, "Instances": many}).encode()
    report = examined(file.replace(b'"InfraKit-50000",', b'"InfraKit-50000"'))
    assert 99_999 == len(report.content.records)
    assert "with the IDs InfraKit-50000" in said(report)


# a file and its journal


def machine(id: str, reason: str = "") -> Record:
    return Record(id=id, state=State.READY, spec=Spec(), reason=reason)


BEFORE = Content([machine("a"), machine("b")], mark="the-mark")
FILE = stamped(BEFORE)
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
    pytest.param(
        EDITED,
        {7: JOURNAL},
        {"e", "b", "c", "d"},
        {"e", "b"},
        {"a", "b", "c", "d"},
        "modified by another program",
        id="edited",
    ),
    pytest.param(
        BY_THE_C_DEMO,
        {7: JOURNAL},
        {"b", "c", "d"},
        {"a", "b"},
        {"a", "b", "c", "d"},
        "modified by another program",
        id="by the C demo",
    ),
    pytest.param(
        FILE, {3: FOREIGN}, {"a", "b", "z"}, {"a", "b"}, {"z"}, "belongs to another version", id="of another file"
    ),
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
        id="an entry gone",
    ),
    pytest.param(FILE, {7: NEWER}, {"b", "c"}, {"a", "b"}, {"a", "c"}, "version 2", id="of a newer version"),
    pytest.param(
        FILE, {7: b""}, {"a", "b"}, {"a", "b"}, set(), "expected a journal's first entry", id="an empty journal"
    ),
]


def beside(home: Path, file: bytes | None, journals: dict[int, bytes]) -> Path:
    """Write a state file and its journals where a daemon in *home* has its own."""
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
@pytest.mark.parametrize(("file", "journals", "both", "alone", "changed", "says"), PAIRS)
def test_a_pair_that_does_not_fit_is_said_to(
    file: bytes | None,
    journals: dict[int, bytes],
    both: set[str],
    alone: set[str],
    changed: set[str],
    says: str,
    without: bool,
) -> None:
    """Of a file and a journal that do not fit both are saved, or the file alone; then the changes are listed as lost."""
    report = examined(file, *journals.items(), with_journals=not without)
    assert without or says in said(report)
    assert report.findings
    assert (alone if without else both) == saved_ids(report)
    if without:
        lost = {id for each in re.findall("the journal's changes to (.*)", said(report)) for id in each.split(", ")} - {
            "nothing"
        }
        assert changed == lost
    else:
        assert changed == set(report.changed)


def test_what_a_journal_lost_is_named() -> None:
    """Instances in the unreadable part of a journal, and in changes that this version does not know, are listed as lost."""
    assert "change 9, with the IDs a" in said(examined(FILE, (7, HEAD + STEPS[0] + STEPS[1][:-3] + STEPS[2])))
    assert "change 10, with the IDs q" in said(examined(FILE, (7, NEWER)))


def test_a_damaged_stamp_hides_no_change() -> None:
    """A file whose stamp claims more than it holds, as a digit was damaged, gets all of the journal's changes."""
    file = FILE.replace(b'"Sequence":7', b'"Sequence":9')
    assert {"b", "c", "d"} == saved_ids(examined(file, (7, JOURNAL)))


# the commands


def run_fsck(home: Path, path: Path, *flags: str, status: int) -> subprocess.CompletedProcess[str]:
    done = command(home, "fsck", str(path), *flags)
    assert status == done.returncode, done
    assert (1 if status else 0) == len(done.stderr.splitlines())
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("flags", [["--repair"], ["--without-journal", "--repair"]])
@pytest.mark.parametrize(("file", "journals", "both", "alone", "changed", "says"), [PAIRS[0], PAIRS[4]])
def test_a_repair_keeps_what_was_there(
    home: Path,
    run: Run,
    file: bytes | None,
    journals: dict[int, bytes],
    both: set[str],
    alone: set[str],
    changed: set[str],
    says: str,
    flags: list[str],
) -> None:
    """The old files are kept byte for byte, private, under the names that are printed; the daemon starts with the same mark."""
    path = beside(home, file, journals)
    before = inside(path.parent)
    done = run_fsck(home, path, *flags, status=0)
    expected = both if len(flags) == 1 else alone
    assert expected == {record.id for record in opened(path).records}
    names = {Path(line.removeprefix("kept ")) for line in done.stdout.splitlines() if line.startswith("kept ")}
    assert before == {name.name.partition(".damaged-")[0]: name.read_bytes() for name in names}
    assert {0o600} == {stat.S_IMODE(name.stat().st_mode) for name in (path, *names)}
    assert {path, *names} == set(path.parent.iterdir())
    assert "nothing is wrong" in run_fsck(home, path, status=0).stdout
    daemon = run(*FAST)
    assert expected == set(daemon.described())
    if file is not None:
        assert "the-mark" == daemon.saved()["Provider"]["Mark"]
    else:
        assert "--mark" in done.stdout


def test_a_problem_is_told_before_it_is_mended(home: Path) -> None:
    """Without --repair nothing is written; the problem, what would be lost and what would be saved are told, with status 1."""
    path = keep(home, of_shape(NonFunctional=[{"ID": "bad\x1b[31m", "Tags": 7}]))
    before = inside(path.parent)
    done = run_fsck(home, path, status=1)
    assert "NonFunctional[0].Tags: expected an object or null, got 7" in done.stdout
    assert "would lose the entry at NonFunctional[0], of bad" in done.stdout
    assert "\x1b" not in done.stdout
    assert f"1 problem in {path}: `--repair` would save 2 instances" in done.stderr
    assert before == inside(path.parent)


def test_a_sound_pair_is_not_touched(home: Path) -> None:
    """What is sound stays as it is, byte for byte, with --repair, and with --without-journal too."""
    path = beside(home, FILE, {7: JOURNAL + b"=torn"})
    before = inside(path.parent)
    for flags in ([], ["--repair"], ["--repair", "--without-journal"], ["--without-journal"]):
        assert "nothing is wrong" in run_fsck(home, path, *flags, status=0).stdout
        assert before == inside(path.parent)


def test_two_repairs_keep_both(home: Path) -> None:
    """A repair never writes over what an earlier one has kept, however soon after it comes."""
    path = keep(home, b"{")
    for content in (b"{", b"[", b"x"):
        path.write_bytes(content)
        repair.replace(Disk(), recovery.read(Disk(), path), Content())
    kept = [data for name, data in inside(path.parent).items() if "damaged" in name]
    assert [b"[", b"x", b"{"] == sorted(kept)


@pytest.mark.parametrize("verb", ["fsck", "export"])
def test_a_path_that_can_not_be_read_is_wrong_use(home: Path, verb: str) -> None:
    """No file, a folder, a FIFO, a device, a FIFO for a journal, a loop, no folder: one line, status 2, and no waiting."""
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
    """Through a link the file that it points to is examined, exported and mended, and the link stays one."""
    path = keep(home, with_entry(5))
    link = home / "link"
    link.symlink_to(path)
    run_fsck(home, link, status=1)
    run_fsck(home, link, "--repair", status=0)
    assert link.is_symlink()
    assert {"InfraKit-x1", "InfraKit-x0"} == set(listed(json.loads(command(home, "export", str(link)).stdout))[0])


def test_an_empty_file_is_mended(home: Path) -> None:
    """An empty file, as a disk may make of one, is damage; it is repaired to one without instances, which is said."""
    path = keep(home, b"")
    assert "0 instances" in run_fsck(home, path, status=1).stderr
    assert "0 instances" in run_fsck(home, path, "--repair", status=0).stdout
    assert () == tuple(opened(path).records)


def test_an_export_goes_nowhere_else(home: Path) -> None:
    """An export goes to a file, also through a link or in place of another, with mode 0600, and to nothing that is no file."""
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


def test_an_export_that_nobody_reads_is_silent(home: Path) -> None:
    """`export | head -c 10` says nothing on stderr; with stdout closed or full it is one line."""
    path = keep(home, stamped(Content([machine(f"i{n}") for n in range(20_000)])))
    for end, says in (
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
        assert (f"infrakit-instance: {says}\n" if says else "") == done.stderr


# repairs that are broken off


class PowerCut(BaseException):
    """Nothing comes after this."""


class Failing(Disk):
    """A disk that raises *error* at its operation number *left*, and at all that come after."""

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
@pytest.mark.parametrize(("file", "journals", "both", "alone", "changed", "says"), PAIRS)
def test_a_repair_may_be_broken_off_anywhere(
    tmp_path: Path,
    file: bytes | None,
    journals: dict[int, bytes],
    both: set[str],
    alone: set[str],
    changed: set[str],
    says: str,
    error: BaseException,
    with_journals: bool,
) -> None:
    """After a crash or an error at any moment the old files are there, or the new one is, which another repair leaves."""
    for left in itertools.count():
        path = beside(tmp_path / str(left), file, journals)
        pair = recovery.read(Disk(), path)
        report = salvage.examine(pair, with_journals)
        disk = Failing(left, error)
        with suppress(CannotStart, PowerCut):
            repair.replace(disk, pair, report.content)
        now = recovery.read(Disk(), path)
        if now.file != file:
            expected = both if with_journals else alone
            for again in (True, False):
                assert expected == saved_ids(salvage.examine(now, again))
        else:
            assert pair == now
        if disk.left >= 0:
            assert not now.journals
            break


def test_a_full_disk_leaves_the_old_files(home: Path) -> None:
    """Where there is no room for a repair it says so in one line, and leaves the old files as they are and no others."""
    path = keep(home, stamped(Content([machine(f"i{n}") for n in range(100)])).replace(b'"ID":"i50"', b'"ID":50'))
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
    """While a daemon has a file, --repair and exports onto it are refused, naming the holder, and change nothing."""
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


def test_a_daemon_under_load_is_exported_whole(daemon: Daemon, home: Path) -> None:
    """However a daemon writes, an export has all that was acknowledged before it, and fsck finds nothing wrong."""
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
            assert "nothing is wrong" in run_fsck(home, daemon.state, status=0).stdout
