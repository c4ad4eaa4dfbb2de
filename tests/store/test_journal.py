"""The journal: entries are read as written, a torn end is dropped, and all other damage is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from test_state_file import C_DEMO, RAW, RECORDS, TEXT

from pyinfrakit.disk import Disk
from pyinfrakit.errors import Damaged
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import FileStore, document, journal, recovery
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.file.journal import BrokenJournal, Journal
from pyinfrakit.store.file.stamp import verify_stamp
from pyinfrakit.store.records import Change, Drop, Note, Put
from support.harness import command
from support.model import Plain, Seen, held

EPOCH, OTHER = "00112233aabbccdd", "ffeeddccbbaa9988"
BASE = "0" * 64
PATH = Path("/s/state.json")

Batch = Sequence[Change]

CHANGES: st.SearchStrategy[Change] = (
    st.builds(Put, RECORDS, st.booleans()) | st.builds(Drop, TEXT) | st.builds(Note, TEXT, RAW)
)
BATCHES = st.lists(st.lists(CHANGES, min_size=1, max_size=3), max_size=4)


def record(id: str, **spec: object) -> Record:
    return Record(id=id, state=State.READY, spec=Spec(**spec))  # type: ignore[arg-type]


STORY: Sequence[Batch] = [
    [Put(record("a")), Put(record("b"))],
    [Put(record("a", tags={"t": "1"})), Drop("b"), Note("n", Raw(b'{"x":[1]}'))],
    [Put(record("c"), front=True), Drop("a")],
    [Put(record("b", init="=0000\n"), front=True), Note("n", Raw(b"2")), Drop("nobody")],
    [Put(record("a")), Put(record("c", tags={"t": "2"}))],
]


def entry(batch: Batch, sequence: int, epoch: str = EPOCH) -> bytes:
    return journal.encode_entry(epoch, sequence, journal.join_changes(map(journal.encode_change, batch)))


def entries(batches: Sequence[Batch], after: int = 0) -> list[bytes]:
    """Return a journal's first entry, and one for each batch."""
    return [journal.encode_header(EPOCH, BASE, after), *(entry(batch, after + n) for n, batch in enumerate(batches, 1))]


def written(batches: Sequence[Batch], after: int = 0) -> bytes:
    return b"".join(entries(batches, after))


def batches_in(found: Journal) -> list[list[Change]]:
    return [list(journal.read_changes(each)) for each in found.entries]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :]


# One journal


@settings(max_examples=80, deadline=None)
@given(BATCHES, st.integers(0, 2**40))
def test_a_written_journal_is_read_unchanged(batches: list[list[Change]], after: int) -> None:
    """A written journal is read unchanged: every batch and every change, in order."""
    found = journal.read(written(batches, after))
    assert (EPOCH, BASE, after, 0) == (found.epoch, found.base, found.after, found.torn)
    assert batches == batches_in(found)
    assert [after + n for n, _ in enumerate(batches, 1)] == [each.sequence for each in found.entries]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=2), min_size=1, max_size=3), st.binary(max_size=40))
@example([[Drop("a")]], b"\n!\0")
def test_a_torn_end_is_dropped(batches: list[list[Change]], garbage: bytes) -> None:
    """A last entry that was cut off at any byte is dropped, and its length without zeros at the end is reported."""
    *whole, last = entries(batches)
    for cut in range(len(last)):
        for end in (last[:cut], last[:cut].ljust(len(last), b"\0"), last[:cut] + garbage):
            found = journal.read(b"".join(whole) + end)
            kept, torn = (batches, end.removeprefix(last)) if end.startswith(last) else (batches[:-1], end)
            assert (kept, len(torn.rstrip(b"\0"))) == (batches_in(found), found.torn)


def test_a_last_entry_with_a_wrong_byte_is_dropped() -> None:
    """A last entry with a wrong byte counts as unfinished."""
    *whole, last = entries(STORY)
    for at in range(len(last)):
        found = journal.read(b"".join(whole) + flipped(last, at))
        assert (STORY[:-1], len(last)) == (batches_in(found), found.torn)


def test_damage_before_the_last_entry_is_refused() -> None:
    """A wrong byte before the last entry is refused with the offset of its entry."""
    parts, start = entries(STORY), 0
    for part in parts[:-1]:
        for at in range(start, start + len(part)):
            with pytest.raises(BrokenJournal, match=f"^byte {start}: ") as caught:
                journal.read(flipped(b"".join(parts), at))
            assert start == caught.value.start
        start += len(part)


def test_a_journal_of_one_entry_that_is_damaged_is_refused() -> None:
    """Damage in the first entry is refused: it is never torn, because a rename puts the journal in its place."""
    first = written([])
    for damaged in (
        b"",
        *(first[:cut] for cut in range(len(first))),
        *(flipped(first, at) for at in range(len(first))),
    ):
        with pytest.raises(BrokenJournal):
            journal.read(damaged)


@pytest.mark.parametrize("missing", range(1, len(STORY)))
def test_a_missing_entry_is_refused(missing: int) -> None:
    """A journal with a gap in its sequence is refused with the number that was expected."""
    parts = entries(STORY)
    del parts[missing]
    with pytest.raises(BrokenJournal, match=f"entry {missing + 1} of epoch {EPOCH}, expected {missing} of"):
        journal.read(b"".join(parts))


@pytest.mark.parametrize("strange", [entry(STORY[1], 2, OTHER), entry(STORY[0], 1), entry(STORY[2], 3)])
def test_an_entry_that_does_not_continue_the_journal_is_refused(strange: bytes) -> None:
    """A whole entry of another epoch, or with a wrong sequence number, is damage, even as the last one."""
    with pytest.raises(BrokenJournal, match="expected 2 of"):
        journal.read(written(STORY[:1]) + strange)


def test_another_version_is_refused() -> None:
    """A journal of an unknown version is refused with the known one."""
    header = journal.encode_entry(EPOCH, 0, json.dumps({"Version": 2, "Base": BASE}).encode())
    with pytest.raises(BrokenJournal, match=r"version 2; .* knows version 1"):
        journal.read(header + entry(STORY[0], 1))


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[", b"[{}]", b'[{"Put":{}}]', b'[{"Drop":1}]', b'[{"Note":"n"}]', b'[{"Later":1}]', b"\xff"],
)
def test_an_invalid_entry_is_refused(payload: bytes) -> None:
    """An entry with a right checksum and unknown content, as of a later version, is never skipped."""
    found = journal.read(written([]) + journal.encode_entry(EPOCH, 1, payload))
    with pytest.raises(BrokenJournal, match=f"^byte {len(written([]))}: "):
        journal.read_changes(found.entries[0])


def encode(batch: Batch) -> list[bytes]:
    """Encode each change of a batch."""
    return [journal.encode_change(change) for change in batch]


FORGED = entry([Drop("a")], 2).decode()
"""An entry that would be valid in its place, with the right epoch."""


@pytest.mark.parametrize(
    "forger",
    [
        record("x", init=f"\n{FORGED}\n{FORGED}"),
        record("x", tags={f"\n{FORGED}": FORGED}),
        record("x", properties=Raw(json.dumps({"a": f"\n{FORGED}"}, indent=1).encode())),
        record(FORGED),
        Record(id="x", state=State.READY, spec=Spec(), unknown={FORGED: Raw(b'[\n"\\n="\n]')}),
    ],
)
def test_a_text_is_never_taken_for_an_entry(forger: Record) -> None:
    """A client's text with a whole entry in it is never read as an entry, even if the journal is torn."""
    batches: list[Batch] = [[Put(record("a"))], [Put(forger), Note("n", Raw(json.dumps(FORGED).encode()))]]
    # The encoded form is compared: line ends become spaces if a line could be taken for one of the file's own.
    read = batches_in(journal.read(written(batches)))
    assert [encode(batch) for batch in batches] == [encode(batch) for batch in read]
    *whole, last = entries(batches)
    for cut in range(len(last)):
        assert batches[:1] == batches_in(journal.read(b"".join(whole) + last[:cut]))


# A state file and its journals


def content_of(batches: Sequence[Batch]) -> Content:
    plain = Plain((record("a", tags={"old": ""}), record("z"))).after(
        *(change for batch in batches for change in batch)
    )
    return Content(plain.records, notes=plain.notes, mark="m")


def file_with(count: int, epoch: str = EPOCH) -> bytes:
    """Return the state file that holds the first *count* batches of the story."""
    return b"".join(document.dump_stamped(content_of(STORY[:count]), epoch, count))


def journals(*bounds: tuple[int, int]) -> list[tuple[Path, bytes]]:
    """Return journals, each with the batches of the story from one number to another."""
    return [(journal.journal_path(PATH, first), written(STORY[first:last], first)) for first, last in bounds]


def assembled(file: bytes | None, found: Sequence[tuple[Path, bytes]]) -> Seen:
    return held(recovery.assemble(recovery.Pair(PATH, file, found)).content)


def refused(file: bytes | None, found: Sequence[tuple[Path, bytes]]) -> str:
    with pytest.raises(Damaged, match=f"run `infrakit-instance fsck {PATH}` to see what can be saved") as caught:
        recovery.assemble(recovery.Pair(PATH, file, found))
    return str(caught.value)


WHOLE = held(content_of(STORY))


@pytest.mark.parametrize("count", range(len(STORY) + 1))
@pytest.mark.parametrize("rotated", range(len(STORY) + 1))
def test_changes_that_the_file_holds_are_skipped(count: int, rotated: int) -> None:
    """One or two journals and a file that holds any part of them make up the same content."""
    assert WHOLE == assembled(file_with(count), journals((0, len(STORY))))
    assert WHOLE == assembled(
        file_with(count), journals((0, rotated), (rotated, len(STORY))) if rotated else journals((0, 5))
    )
    if rotated <= count:
        assert WHOLE == assembled(file_with(count), journals((rotated, len(STORY))))


def test_a_journal_may_begin_with_a_file_of_another_epoch() -> None:
    """Until a run's first checkpoint, the file has an earlier epoch, and the journal names the file's digest."""
    file = file_with(0, OTHER)
    stamp = verify_stamp(file)
    assert stamp is not None
    head = journal.encode_header(EPOCH, stamp.digest, 0)
    found = head + b"".join(entries(STORY)[1:])
    assert WHOLE == assembled(file, [(journal.journal_path(PATH, 0), found)])
    assert "belongs to another version of the file" in refused(
        file_with(1, OTHER), [(journal.journal_path(PATH, 0), found)]
    )


def test_a_file_ahead_of_its_journals_stands_alone() -> None:
    """Journals that end before the file's last change are leftovers of a crash, and add nothing."""
    assert WHOLE == assembled(file_with(5), journals((0, 3)))
    assert WHOLE == assembled(file_with(5), journals((0, 1), (1, 4)))
    assert WHOLE == assembled(file_with(5), [])


def test_a_journal_that_is_missing_is_refused() -> None:
    """A journal that begins after the end of the file, or of the journal before it, is refused."""
    assert "state.json.journal-3: begins after change 3, but the changes before it end with 1" in refused(
        file_with(1), journals((3, 5))
    )
    assert "begins after change 3, but the changes before it end with 2" in refused(
        file_with(0), journals((0, 2), (3, 5))
    )


def test_only_the_last_journal_may_be_torn() -> None:
    """A torn journal before another one is refused, unless the file holds all of it."""
    (first, data), second = journals((0, 2), (2, 5))
    torn = [(first, data + entry(STORY[2], 3)[:-1]), second]
    assert "state.json.journal-2: follows a journal that ends with " in refused(file_with(0), torn)
    assert WHOLE == assembled(file_with(2), torn)
    assert held(content_of(STORY[:2])) == assembled(file_with(0), torn[:1])


def test_a_journal_of_another_state_file_is_refused() -> None:
    """A journal of another file, or of an older version of this one, is refused."""
    assert "state.json.journal-0: belongs to another version of the file" in refused(
        file_with(0, OTHER), journals((0, 5))
    )


def test_a_journal_under_another_name_is_refused() -> None:
    """A renamed journal is refused."""
    ((_, data),) = journals((0, 5))
    assert "state.json.journal-1: has the content of journal 0" in refused(
        file_with(1), [(journal.journal_path(PATH, 1), data)]
    )


def test_a_journal_without_its_state_file_is_refused() -> None:
    """A journal without its state file is damage, and not an empty store."""
    assert "content: missing, but state.json.journal-0 holds changes to it" in refused(None, journals((0, 5)))


def test_a_damaged_journal_is_named() -> None:
    """The error for a damaged journal or an unknown entry names the journal and the byte."""
    ((path, data),) = journals((0, 5))
    start = len(entries(STORY)[0])
    assert f"state.json.journal-0: byte {start}: " in refused(file_with(0), [(path, flipped(data, start + 20))])
    strange = written([]) + journal.encode_entry(EPOCH, 1, b'[{"Later":1}]')
    assert f"state.json.journal-0: byte {start}: this version does not understand the entry" in refused(
        file_with(0), [(path, strange)]
    )


def test_a_file_with_a_changed_byte_is_refused_beside_a_journal() -> None:
    """A state file with any changed byte does not match its journal."""
    file = file_with(2)
    for at in range(len(file)):
        refused(flipped(file, at), journals((0, 5)))


def reformatted(file: bytes) -> bytes:
    return json.dumps(json.loads(file), indent=2).encode()


def retagged(file: bytes) -> bytes:
    return file.replace(b'"old"', b'"new"')


def shortened(file: bytes) -> bytes:
    """Remove the last newline, as some editors do."""
    return file.rstrip()


def of_the_c_demo(file: bytes) -> bytes:
    return json.dumps(C_DEMO).encode()


def empty(file: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("edit", [reformatted, retagged, shortened, of_the_c_demo, empty])
def test_an_edited_file_beside_a_journal_stops_the_start(home: Path, edit: Callable[[bytes], bytes]) -> None:
    """An edited state file with a journal stops the start with an error that names `fsck`; both stay untouched."""
    state = home / "state" / "rack1.json"
    state.parent.mkdir(parents=True)
    files = {state: edit(file_with(0)), journal.journal_path(state, 0): written(STORY)}
    for path, data in files.items():
        path.write_bytes(data)
        path.chmod(0o600)
    with pytest.raises(Damaged):
        FileStore(state, "test")
    done = command(home, "--name", "rack1")
    assert 0 != done.returncode
    (line,) = done.stderr.splitlines()
    assert f"`infrakit-instance fsck {state}`" in line
    assert files == {path: path.read_bytes() for path in state.parent.iterdir()}
    assert {0o600} == {path.stat().st_mode & 0o777 for path in state.parent.iterdir()}


def test_a_file_and_its_journal_become_one_file(tmp_path: Path) -> None:
    """A start after a kill reads the state file and its journal, and leaves one file with all changes."""
    state = tmp_path / "rack1.json"
    state.write_bytes(file_with(2))
    state.chmod(0o600)
    journal.journal_path(state, 0).write_bytes(written(STORY) + b"=torn")
    with FileStore(state, "test") as store:
        assert WHOLE == held(store.records)
    assert [state] == list(tmp_path.iterdir())
    assert WHOLE == held(recovery.assemble(recovery.read(Disk(), state)).content)
