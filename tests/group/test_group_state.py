"""The state of groups is durable, belongs to one process, and is never taken for empty."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from pyinfrakit.errors import CannotStart, Damaged, InUse, InvalidSpec, Refused, Rescued, StoreFailed, TryAgain
from pyinfrakit.group.state import Entry, FileGroupStore, GroupStore, default_path, open_group_store
from support.faulty_disk import Fault, FaultyDisk, Step

ONE, TWO = Raw(b'{"Size": 1}'), Raw(b'{"Size": 2}')


def open_store(folder: Path) -> GroupStore:
    return FileGroupStore(folder / "groups", "controller group")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def values(store: GroupStore) -> dict[str, bytes]:
    """Return what a new start of the store would find."""
    return {key: bytes(entry.value or b"") for key, entry in store.load().items()}


def test_a_group_is_found_after_a_restart(tmp_path: Path) -> None:
    """A group that was put is in its own private file, byte for byte, and a new store loads it."""

    async def put() -> None:
        async with open_store(tmp_path).lead():
            pass
        store = open_store(tmp_path)
        async with store.lead():
            entry = await store.put("web", ONE, 0)
            assert Entry("web", ONE, 1) == entry
            assert {"web": entry} == store.load()

    run(put())
    path = tmp_path / "groups" / "web.json"
    assert [path] == list(path.parent.iterdir())
    assert b'{"Key":"web","Version":1,"Value":{"Size": 1}}\n' == path.read_bytes()
    assert (0o600, 0o700) == (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777)
    assert {"web": Entry("web", ONE, 1)} == open_store(tmp_path).load()


def test_a_put_replaces_only_the_version_that_it_names(tmp_path: Path) -> None:
    """A put with another version than the stored one is refused; versions never repeat, not even after a deletion."""

    async def put() -> None:
        store = open_store(tmp_path)
        async with store.lead():
            with pytest.raises(Refused, match="web: changed meanwhile: expected version 1, but nothing is stored"):
                await store.put("web", ONE, 1)
            first = await store.put("web", ONE, 0)
            with pytest.raises(Refused, match="web: changed meanwhile: expected version 0, but version 1 is stored"):
                await store.put("web", TWO, 0)
            second = await store.put("web", TWO, first.version)
            with pytest.raises(Refused):
                await store.put("web", None, first.version)
            assert Entry("web") == await store.put("web", None, second.version)
            assert {} == store.load()
            third = await store.put("web", ONE, 0)
            assert first.version < second.version < third.version

    run(put())


def test_only_one_of_several_puts_at_once_replaces_an_entry(tmp_path: Path) -> None:
    """Of several puts at once that name the same version, one succeeds and the others are refused."""

    async def put() -> None:
        store = open_store(tmp_path)
        async with store.lead():
            puts = [store.put("web", Raw(str(number).encode()), 0) for number in range(10)]
            results = await asyncio.gather(*puts, return_exceptions=True)
            entries = [each for each in results if isinstance(each, Entry)]
            assert [True] * 9 == [isinstance(each, Refused) for each in results if not isinstance(each, Entry)]
            assert {"web": entries[0]} == store.load()

    run(put())
    assert 1 == len(open_store(tmp_path).load())


@given(keys=st.sets(st.text(st.characters(exclude_categories=["C"], exclude_characters="/"), min_size=1), max_size=20))
@settings(max_examples=30, deadline=None)
def test_any_group_id_has_a_file(tmp_path_factory: pytest.TempPathFactory, keys: set[str]) -> None:
    """Groups with any printable names get files of their own, and keep their names."""
    folder = tmp_path_factory.mktemp("keys")
    keys |= {".", "..", ".web.json.new", "lock", "%2E", "a" * 300, "a" * 301, "ü" * 200}

    async def put() -> None:
        store = open_store(folder)
        async with store.lead():
            await asyncio.gather(*(store.put(key, Raw(json.dumps(key).encode()), 0) for key in keys))

    run(put())
    assert {key: key for key in keys} == {key: json.loads(value) for key, value in values(open_store(folder)).items()}


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """A second controller on the same state does not start, and its error names the first one."""

    async def lead() -> None:
        async with open_store(tmp_path).lead() as leadership:
            assert leadership.is_leader
            other = f"""if True:
                import asyncio
                from pathlib import Path
                from pyinfrakit.group.state import FileGroupStore
                async def lead():
                    async with FileGroupStore(Path({str(tmp_path / "groups")!r}), "controller two").lead():
                        pass
                asyncio.run(lead())
            """
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", other], capture_output=True, text=True, check=False
            )
            assert f"InUse: group state {tmp_path}/groups is in use by controller group (process {os.getpid()})" in (
                done.stderr
            )
            with pytest.raises(InUse):
                async with open_store(tmp_path).lead():
                    pass
        assert not leadership.is_leader
        await leadership.lost()

    run(lead())


def test_without_the_leadership_nothing_can_be_changed(tmp_path: Path) -> None:
    """A store without the leadership loads, but refuses to put."""

    async def put() -> None:
        store = open_store(tmp_path)
        assert {} == store.load()
        with pytest.raises(TryAgain, match="not a leader"):
            await store.put("web", ONE, 0)

    run(put())
    assert not (tmp_path / "groups").exists()


def test_a_watcher_sees_the_newest_entry_of_each_group(tmp_path: Path) -> None:
    """A watcher gets each group's newest entry once, deletions too, and ends with the leadership."""

    async def watch() -> None:
        store = open_store(tmp_path)
        async with store.lead():
            watcher = store.watch()
            web = await store.put("web", ONE, 0)
            assert web == await anext(watcher)
            web = await store.put("web", TWO, web.version)
            web = await store.put("web", None, web.version)
            db = await store.put("db", ONE, 0)
            assert [web, db] == [await anext(watcher), await anext(watcher)]
        assert [] == [entry async for entry in watcher]

    run(watch())


@pytest.mark.parametrize("value", [b"", b"{", b"{} {}", b'{"a": {"b": 1, "b": 2}}', b"\xff", b"[" * 200 + b"]" * 200])
def test_a_value_that_could_not_be_loaded_is_not_stored(tmp_path: Path, value: bytes) -> None:
    """A value that is not valid JSON, nests too deeply, or has a key twice, is refused before it is stored."""

    async def put() -> None:
        store = open_store(tmp_path)
        async with store.lead():
            with pytest.raises(InvalidSpec, match="web: "):
                await store.put("web", Raw(value), 0)

    run(put())
    assert {} == open_store(tmp_path).load()


# Damage

DAMAGE = {
    "an empty file": (b"", "content: empty"),
    "a file of zeros": (bytes(40), "content: not JSON"),
    "half a file": (b'{"Key":"web","Version":1,"Va', "content: not JSON: it ends too early"),
    "trailing data": (b'{"Key":"web","Version":1,"Value":{}}\n{}', "content: not JSON: trailing characters"),
    "a duplicate key": (b'{"Key":"web","Version":1,"Value":{"a":1,"a":2}}', "content: duplicate key 'a'"),
    "another group": (b'{"Key":"db","Version":1,"Value":{}}', "Key: expected the key of a file with this name"),
    "an unknown key": (b'{"Key":"web","Version":1,"Value":{},"More":1}', "content: has an unknown field More"),
    "no value": (b'{"Key":"web","Version":1}', "content: missing required field Value"),
    "no version": (b'{"Key":"web","Version":0,"Value":{}}', "Version: expected an integer >= 1, got 0"),
    "no text": (b'{"Key":"web","Version":1,"Value":"\xff"}', "content: not UTF-8"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_stops_the_start_and_is_left_alone(tmp_path: Path, damage: str) -> None:
    """A damaged file stops the start with an error that names file and place, and stays as it is."""
    content, message = DAMAGE[damage]
    path = tmp_path / "groups" / "web.json"
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    leftover = path.with_name(".web.json.new")
    leftover.write_bytes(b"half a fi")

    async def lead() -> None:
        async with open_store(tmp_path).lead():
            pass

    for attempt in (lambda: run(lead()), lambda: open_store(tmp_path).load()):
        with pytest.raises(Damaged) as caught:
            attempt()
        assert str(caught.value).startswith(f"group state {path}: {message}")
        assert "the file was left untouched" in str(caught.value)
    assert content == path.read_bytes()
    assert b"half a fi" == leftover.read_bytes()


def test_a_file_that_cannot_be_read_is_not_a_missing_group(tmp_path: Path) -> None:
    """A folder or a dangling link in a group's place is damage."""
    folder = tmp_path / "groups"
    (folder / "web.json").mkdir(parents=True)
    with pytest.raises(Damaged, match=r"web\.json: file: can't be read: not a regular file"):
        open_store(tmp_path).load()
    (folder / "web.json").rmdir()
    (folder / "web.json").symlink_to("nowhere")
    with pytest.raises(Damaged, match=r"web\.json: file: can't be read: No such file"):
        open_store(tmp_path).load()


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    """A leader removes unfinished files, and leaves other files alone."""
    folder = tmp_path / "groups"
    folder.mkdir(mode=0o700)
    (folder / ".web.json.new").write_bytes(b"{")
    (folder / "notes.txt").write_bytes(b"mine")

    async def lead() -> None:
        async with open_store(tmp_path).lead():
            pass

    run(lead())
    assert [folder / "notes.txt"] == list(folder.iterdir())


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A folder that others can look into is no place for specs, which hold secrets."""
    (tmp_path / "groups").mkdir(mode=0o755)

    async def lead() -> None:
        async with open_store(tmp_path).lead():
            pass

    with pytest.raises(CannotStart, match="expected a folder of this user with mode 0700"):
        run(lead())


def test_the_store_is_chosen_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a URL of a file, or nothing chooses the file store; another scheme is an error that lists what works."""
    monkeypatch.setenv("INFRAKIT_HOME", str(tmp_path))
    assert tmp_path / "state" / "group.groups" == default_path("group")
    assert f"group state {tmp_path}/state/group.groups" == open_group_store(None, "group").location
    assert "group state /x" == open_group_store("/x", "group").location
    assert "group state /x" == open_group_store("file:///x", "group").location
    with pytest.raises(CannotStart, match=r"expected a path, or a URL of file, got redis://"):
        open_group_store("redis://h", "group")


# Faults of the disk, and crashes


def open_faulty(folder: Path, disk: FaultyDisk) -> FileGroupStore:
    return FileGroupStore(folder / "groups", "controller group", disk)


KINDS = ["create", "append", "sync", "rename", "remove", "sync_folder"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_a_failed_write_changes_nothing(tmp_path: Path, kind: str, done: float) -> None:
    """A put that fails leaves the old entry in memory and on the disk, and later puts work."""
    disk = FaultyDisk()

    def fail(step: Step) -> Fault | None:
        return Fault(done=done) if step.kind == kind else None

    async def put() -> None:
        store = open_faulty(tmp_path, disk)
        async with store.lead():
            web = await store.put("web", ONE, 0)
            db = await store.put("db", ONE, 0)
            disk.fail = fail
            results = await asyncio.gather(
                store.put("web", TWO, web.version), store.put("db", None, db.version), return_exceptions=True
            )
            disk.fail = lambda step: None
            failed = [each for each in results if isinstance(each, StoreFailed)]
            assert failed
            assert all("can't be written: Input/output error; nothing was changed" in str(each) for each in failed)
            kept = [
                result if isinstance(result, Entry) else old for old, result in zip((web, db), results, strict=True)
            ]
            expected = {entry.key: entry for entry in kept if entry.value is not None}
            assert expected == store.load()
            await store.put("more", ONE, 0)
            assert {*expected, "more"} == set(store.load())
            for seed in range(20):
                assert store.load() == open_faulty(tmp_path, disk.crash(random.Random(seed))).load()

    run(put())


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_loses_nothing_acknowledged(tmp_path: Path, seed: int) -> None:
    """After faults and a power cut at any step, each group is the acknowledged one or the one that was being put."""
    dice = random.Random(seed)
    disk = FaultyDisk()
    keys = ["a", "b", "c", "d"]
    acknowledged: dict[str, bytes | None] = dict.fromkeys(keys)
    allowed: dict[str, set[bytes | None]] = {key: {None} for key in keys}
    end = dice.randrange(20, 400)

    def fail(step: Step) -> Fault | None:
        if step.number > end:
            disk.is_off = True
        return Fault(done=dice.choice([0, 0.5, 1])) if dice.random() < 0.03 or disk.is_off else None

    async def change(store: GroupStore, key: str) -> None:
        value = dice.choice([None, Raw(str(dice.random()).encode())])
        new = None if value is None else bytes(value)
        allowed[key].add(new)
        try:
            await store.put(key, value, store.load().get(key, Entry(key)).version)
        except StoreFailed:
            if not disk.is_off:
                assert acknowledged[key] == values(store).get(key)
        else:
            acknowledged[key] = new
            allowed[key] = {new}

    async def put() -> None:
        store = open_faulty(tmp_path, disk)
        async with store.lead():
            disk.fail = fail
            while not disk.is_off:
                await asyncio.gather(*(change(store, key) for key in dice.sample(keys, dice.randint(1, 4))))

    with suppress(Rescued):  # the stop can't read the files that it wrote
        run(put())
    after = values(open_faulty(tmp_path, disk.crash(dice)))
    assert [] == [key for key in keys if after.get(key) not in allowed[key]]


WRITER = """
import asyncio, sys
from pathlib import Path
from msgspec import Raw
from pyinfrakit.group.state import Entry, FileGroupStore

async def put(store, key):
    entry = store.load().get(key, Entry(key))
    number = int(bytes(entry.value or b"0"))
    while True:
        number += 1
        print(key, number, "begins", flush=True)
        entry = await store.put(key, Raw(str(number).encode()), entry.version)
        print(key, number, "done", flush=True)

async def main():
    store = FileGroupStore(Path(sys.argv[1]), "writer")
    async with store.lead():
        await asyncio.gather(*(put(store, key) for key in "abcde"))

asyncio.run(main())
"""


def test_a_killed_process_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """After each of 20 kills during puts, each group is as it was acknowledged last, or as it was being put."""
    dice = random.Random(7)
    folder = tmp_path / "groups"
    done: dict[str, int] = {}
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(dice.randrange(1, 200))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        begun: dict[str, int] = {}
        for words in (line.split() for line in lines):
            if len(words) == 3:  # the kill may cut the last line
                (done if words[2] == "done" else begun)[words[0]] = int(words[1])
        stored = {key: int(value) for key, value in values(FileGroupStore(folder, "test")).items()}
        wrong = [key for key in "abcde" if stored.get(key, 0) not in (done.get(key, 0), begun.get(key, 0))]
        assert [] == wrong
        done |= stored
    assert set("abcde") == set(done)


def test_a_reader_beside_the_leader_finds_whole_entries(tmp_path: Path) -> None:
    """Another process may load the state at any time; groups that come and go are no damage."""

    async def put() -> None:
        store, reader = open_store(tmp_path), open_store(tmp_path)
        async with store.lead():
            keep = await store.put("keep", ONE, 0)
            for _ in range(50):
                entries = await asyncio.gather(*(store.put(f"g{number}", ONE, 0) for number in range(5)))
                deletes = asyncio.gather(*(store.put(entry.key, None, entry.version) for entry in entries))
                while not deletes.done():
                    assert keep == (await asyncio.to_thread(reader.load))["keep"]
                await deletes

    run(put())
