"""Files that somebody deleted, cut or altered between a kill and a start: the start is refused, and says why."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from test_crash_simulation import DISKS, Run, disk_with, little, open_and_read, played
from test_journal import BATCHES, EPOCH, PATH, STORY, content_of, entries, file_with, flipped, journals
from test_state_file import C_DEMO, keep

from conftest import FAST
from pyinfrakit.errors import Damaged
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import document, journal, recovery
from pyinfrakit.store.file.stamp import Bound, bound_place, encode_bound, find_stamp
from pyinfrakit.store.records import Change
from support.harness import Daemon, command, eventually
from support.model import held


def bound(file: bytes, after: int, acknowledged: int) -> bytes:
    """Return a state file that says that a journal belongs to it, and how far it was acknowledged."""
    stamp = find_stamp(file)
    assert stamp is not None
    value, place = encode_bound(stamp.digest, Bound(after, acknowledged)), bound_place(len(file))
    return file[:place] + value + file[place + len(value) :]


def refused(file: bytes, *found: tuple[Path, bytes]) -> str:
    with pytest.raises(Damaged) as caught:
        recovery.assemble(recovery.Pair(PATH, file, found))
    return str(caught.value)


@pytest.mark.parametrize("acknowledged", range(len(STORY) + 1))
def test_any_damage_to_an_acknowledged_entry_is_refused(acknowledged: int) -> None:
    """Each wrong byte, and each cut, in an acknowledged entry is refused; damage after the last one is a torn end."""
    file = bound(file_with(0), 0, acknowledged)
    ((path, data),) = journals((0, len(STORY)))
    safe = len(b"".join(entries(STORY)[: acknowledged + 1]))
    last = len(data) - len(entries(STORY)[-1])
    for at in range(len(data)):
        if at < safe:
            refused(file, (path, flipped(data, at)))
            refused(file, (path, data[:at]))
            refused(file, (path, data[:at].ljust(len(data), b"\0")))
        elif at >= last:
            whole = held(content_of(STORY[:-1]))
            assert whole == held(recovery.assemble(recovery.Pair(PATH, file, [(path, flipped(data, at))])).content)


@settings(max_examples=25, deadline=None)
@given(BATCHES.filter(bool), st.data())
def test_damage_to_any_acknowledged_entry_is_refused(batches: list[list[Change]], data: st.DataObject) -> None:
    """Bytes that are overwritten, cut out or inserted in acknowledged entries are refused, whatever the entries hold."""
    parts = entries(batches)
    acknowledged = data.draw(st.integers(0, len(batches)))
    whole, safe = b"".join(parts), len(b"".join(parts[: acknowledged + 1]))
    start = data.draw(st.integers(0, safe - 1))
    junk = data.draw(st.binary(max_size=20))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + junk + whole[end:]
    if not damaged.startswith(whole[:safe]):
        refused(bound(file_with(0), 0, acknowledged), (journal.journal_path(PATH, 0), damaged))


def test_a_missing_journal_is_refused() -> None:
    """A state file that says that a journal belongs to it is refused without this journal, and beside another one."""
    file = bound(file_with(2), 2, 2)
    assert "content: its journal state.json.journal-2 is missing" in refused(file)
    assert "content: its journal state.json.journal-2 is missing" in refused(file, *journals((0, 2)))
    later = bound(file_with(0), 2, 2)
    assert "state.json.journal-2 is missing" in refused(later, *journals((0, 2)))
    assert "begins after change 2" in refused(later, *journals((2, 5)))


def test_any_change_to_a_state_file_is_refused() -> None:
    """A state file with any byte changed, or cut off anywhere, is refused without a journal too."""
    for file in (file_with(2), bound(file_with(2), 2, 2)):
        for at in range(len(file)):
            refused(flipped(file, at), *(journals((2, 5)) if find_stamp(file).bound else ()))  # type: ignore[union-attr]
            if at < len(file) - 1:
                refused(file[:at])


def test_a_state_file_that_does_not_tell_of_journals_any_more_is_refused() -> None:
    """A state file from which somebody removed the journal's name is not taken for one of an earlier version."""
    removed = re.sub(rb', *"Journal":"[^"]*"', b"", bound(file_with(2), 2, 4))
    assert "digest is wrong" in refused(removed)
    assert "modified by another program" in refused(removed, *journals((2, 5)))


def test_the_link_to_a_journal_is_in_one_sector() -> None:
    """No file's value that is written in place lies in two sectors: a power cut leaves it whole."""
    for size in range(600):
        record = Record(id="i", state=State.READY, spec=Spec(properties=Raw(b'"%b"' % (b"x" * size))))
        file = b"".join(document.dump_stamped(document.Content([record]), EPOCH, 7))
        place = bound_place(len(file))
        assert place // 512 == (place + len(encode_bound("", None)) - 1) // 512


def test_a_journal_that_is_deleted_after_a_kill_is_never_overlooked(tmp_path: Path) -> None:
    """After a kill at any step, a start without one of the journals is refused, or finds everything acknowledged."""
    path = tmp_path / "state.json"

    def prepare(run: Run) -> None:
        run.draws = 1

    run = played(little, path, disk_with(tmp_path, DISKS["a file"]), prepare)
    refusals = 0
    for image in run.images:
        names = [name for name in image.disk.files if ".journal-" in name.name]
        for name in names if image.by_kill else ():
            disk = image.disk.killed()
            disk.remove(name)
            try:
                found = open_and_read(disk, path)
            except Damaged:
                refusals += 1
            else:
                assert found in image.possible()
    assert refusals > 10


def test_a_journal_that_is_cut_after_a_kill_is_never_overlooked(tmp_path: Path) -> None:
    """After a kill at any step, a start with a journal that was cut is refused, or finds everything acknowledged."""
    path = tmp_path / "state.json"

    def prepare(run: Run) -> None:
        run.draws = 1

    run = played(little, path, disk_with(tmp_path, DISKS["a file"]), prepare)
    refusals = 0
    for image in run.images:
        for name, data in image.disk.files.items() if image.by_kill else ():
            if ".journal-" not in name.name:
                continue
            disk = image.disk.killed()
            disk.create(name).append(data[: run.dice.randrange(len(data))])
            try:
                found = open_and_read(disk, path)
            except Damaged:
                refusals += 1
            else:
                assert found in image.possible()
    assert refusals > 10


# With the real daemon


def delete(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    """Cut off the last entry."""
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[: data.rindex(b"\n=") + 1])


def flip(path: Path) -> None:
    """Change a byte of the last entry."""
    data = path.read_bytes()
    path.write_bytes(flipped(data, len(data.rstrip(b"\0")) - 30))


def killed_with_a_journal(daemon: Daemon) -> Path:
    """Kill a daemon just after a change. Return the path of its last journal."""

    def attempt() -> list[Path]:
        daemon.start()
        daemon.provision()
        daemon.kill()
        return sorted(daemon.state.parent.glob("*.journal-*"), key=journal.after)

    daemon.kill()
    return eventually(attempt, "a kill comes before the checkpoint")[-1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("damage", [delete, rename, empty, cut, flip])
def test_a_damaged_journal_stops_the_start(daemon: Daemon, home: Path, damage: Callable[[Path], None]) -> None:
    """A journal that was deleted, cut or altered after a kill stops the start; a repair says what is lost, and saves the rest."""
    path = killed_with_a_journal(daemon)
    damage(path)
    before = {each.name: each.read_bytes() for each in daemon.state.parent.glob("*.json*")}
    done = command(home, "--name", "rack1")
    assert 2 == done.returncode
    (line,) = done.stderr.splitlines()
    assert path.name in line
    assert f"run `infrakit-instance fsck {daemon.state}`" in line
    assert before == {each.name: each.read_bytes() for each in daemon.state.parent.glob("*.json*")}
    report = command(home, "fsck", str(daemon.state))
    assert (1, True) == (report.returncode, "would lose" in report.stdout), report.stdout
    assert 0 == command(home, "fsck", str(daemon.state), "--repair").returncode
    daemon.start()
    assert 0 == daemon.stop()


def edited(daemon: Daemon, edit: Callable[[str], str]) -> subprocess.CompletedProcess[str]:
    """Edit the state file after a clean stop, and start the daemon, which must refuse it."""
    daemon.state.write_text(edit(daemon.state.read_text()))
    return command(daemon.home, "--name", daemon.name)


def test_an_edit_counts_once_a_person_confirms_it(daemon: Daemon, home: Path) -> None:
    """An edited file stops the start, until `--accept-edit`, which names the changed, added and removed instances."""
    kept, changed, removed = (daemon.provision({"n": n}, a="1") for n in range(3))
    eventually(lambda: b'"provisioning"' not in daemon.exported(), "all are ready")
    assert 0 == daemon.stop()

    def edit(text: str) -> str:
        content = json.loads(text)
        content["Instances"] = [each for each in content["Instances"] if each["ID"] != removed]
        next(each for each in content["Instances"] if each["ID"] == changed)["Tags"]["a"] = "2"
        content["Instances"].append({"ID": "by-hand", "Tags": {}})
        return json.dumps(content, indent=2)

    refusal = edited(daemon, edit)
    assert (2, True) == (refusal.returncode, "its digest is wrong" in refusal.stderr)
    assert "--accept-edit" in refusal.stderr
    lines = {f"edit: changed {changed}", "edit: added by-hand", "edit: removed 1 instance"}
    assert lines <= set(command(home, "fsck", str(daemon.state)).stdout.splitlines())
    done = command(home, "fsck", str(daemon.state), "--accept-edit")
    assert (0, True) == (done.returncode, lines <= set(done.stdout.splitlines())), done.stderr
    assert kept not in done.stdout
    daemon.start()
    assert {kept, changed, "by-hand"} == set(daemon.described())
    assert [changed] == daemon.described(a="2")


def test_other_damage_is_no_edit(daemon: Daemon, home: Path) -> None:
    """`--accept-edit` accepts no file that makes no sense, none with a journal, and none together with `--repair`."""
    daemon.provision()
    assert 0 == daemon.stop()
    assert 2 == edited(daemon, lambda text: text.replace('"Tags":{}', '"Tags":5')).returncode
    before = daemon.state.read_bytes()
    done = command(home, "fsck", str(daemon.state), "--accept-edit")
    assert (1, True) == (done.returncode, "has other problems than an edit" in done.stderr)
    assert 2 == command(home, "fsck", str(daemon.state), "--accept-edit", "--repair").returncode
    assert before == daemon.state.read_bytes()


@pytest.mark.parametrize("form", [None, 2])
def test_a_file_without_a_stamp_needs_no_confirmation(home: Path, run: Callable[..., Daemon], form: int | None) -> None:
    """A file of the C demo, edited or not, and an export load as they are."""
    path = keep(home, json.dumps(C_DEMO, indent=form).encode())
    daemon = run(*FAST)
    assert ["InfraKit-x1", "InfraKit-x0"] == daemon.described()
    assert 0 == command(home, "export", str(path), "-o", str(home / "copy")).returncode
    assert 0 == daemon.stop()
    (home / "copy").rename(path)
    daemon.start()
    assert ["InfraKit-x1", "InfraKit-x0"] == daemon.described()
