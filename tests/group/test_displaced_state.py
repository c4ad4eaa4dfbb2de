"""The state of groups in the hands of others, while a controller runs: no change is acknowledged that may be lost."""

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import Raw

from conftest import FAST
from pyinfrakit.errors import CannotStart, Rescued, StoreFailed
from pyinfrakit.group.state import Entry, FileGroupStore
from support.harness import Daemon

ONE, TWO = Raw(b'{"Size": 1}'), Raw(b'{"Size": 2}')

PROGRAM = (str(Path(sys.executable).with_name("infrakit-group")),)


def open_store(folder: Path) -> FileGroupStore:
    return FileGroupStore(folder, "controller group")


def remove(folder: Path) -> None:
    (folder / "web.json").unlink()


def change(folder: Path) -> None:
    path = folder / "web.json"
    path.write_bytes(path.read_bytes().replace(b'"Size": 1', b'"Size": 7'))


def put_an_older_one_back(folder: Path) -> None:
    path = folder / "web.json"
    path.write_bytes(path.read_bytes().replace(b'"Version":2', b'"Version":1'))


def rename_folder(folder: Path) -> None:
    folder.rename(folder.with_name("away"))


def replace_folder(folder: Path) -> None:
    rename_folder(folder)
    folder.mkdir(mode=0o700)


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "displace", [remove, change, put_an_older_one_back, rename_folder, replace_folder, remove_folder]
)
def test_a_group_whose_file_is_not_as_it_was_is_written_beside_it(
    tmp_path: Path, displace: Callable[[Path], None]
) -> None:
    """If a group's file or its folder was taken away, a put fails, and the end of the lead leaves the group beside it."""
    folder = tmp_path / "groups"

    async def lead() -> None:
        store = open_store(folder)
        async with store.lead():
            first = await store.put("web", TWO, 0)
            entry = await store.put("web", ONE, first.version)
            displace(folder)
            with pytest.raises(StoreFailed, match="put it back"):
                await store.put("web", TWO, entry.version)
            assert {"web": entry} == store.load()

    with pytest.raises(Rescued) as caught:
        asyncio.run(lead())
    path = Path(caught.value.path)
    assert (b'{"Key":"web","Version":2,"Value":{"Size": 1}}\n', 0o600) == (
        path.read_bytes(),
        path.stat().st_mode & 0o777,
    )
    if path.parent != folder:
        path.unlink()
        return

    async def lead_again() -> None:
        async with open_store(folder).lead():
            pass

    with pytest.raises(CannotStart, match=r"left web\.json\.rescued-"):
        asyncio.run(lead_again())
    path.rename(folder / "web.json")
    asyncio.run(lead_again())
    assert {"web": Entry("web", ONE, 2)} == open_store(folder).load()


def test_other_groups_can_be_changed(tmp_path: Path) -> None:
    """A group whose file was removed does not keep others from changes; once it is back, it can be changed again."""
    folder = tmp_path / "groups"

    async def lead() -> None:
        store = open_store(folder)
        async with store.lead():
            web, db = await store.put("web", ONE, 0), await store.put("db", ONE, 0)
            data = (folder / "web.json").read_bytes()
            remove(folder)
            outcomes = await asyncio.gather(
                store.put("web", TWO, web.version), store.put("db", TWO, db.version), return_exceptions=True
            )
            assert [StoreFailed, Entry] == [type(each) for each in outcomes]
            (folder / "web.json").write_bytes(data)
            await store.put("web", TWO, web.version)

    asyncio.run(lead())
    assert {"web": TWO, "db": TWO} == {key: entry.value for key, entry in open_store(folder).load().items()}


def test_a_controller_without_its_lock_acknowledges_nothing(tmp_path: Path) -> None:
    """Once its lock was removed, a controller fails all puts, and leaves the folder and the new lock to the next one."""
    folder = tmp_path / "groups"

    async def lead() -> None:
        store, other = open_store(folder), open_store(folder)
        async with store.lead():
            entry = await store.put("web", ONE, 0)
            (folder / "lock").unlink()
            async with other.lead():
                with pytest.raises(StoreFailed, match="lock was removed or replaced"):
                    await store.put("web", TWO, entry.version)
                with pytest.raises(StoreFailed, match="lock was removed or replaced"):
                    await store.put("db", TWO, 0)
                await other.put("db", ONE, 0)

    with pytest.raises(StoreFailed, match="lock was removed or replaced"):
        asyncio.run(lead())
    assert {"web": ONE, "db": ONE} == {key: entry.value for key, entry in open_store(folder).load().items()}


def test_a_stop_of_the_controller_is_not_silent(run: Callable[..., Daemon], home: Path) -> None:
    """A controller whose group was removed from its folder exits with status 1, and names the file with the group."""
    run(*FAST, name="plugin")
    daemon = run(name="group", program=PROGRAM)
    instance = {"Plugin": "plugin", "Properties": {}}
    flavor = {"Plugin": "vanilla", "Properties": {}}
    spec = {"ID": "web", "Properties": {"Allocation": {"Size": 0}, "Instance": instance, "Flavor": flavor}}
    daemon.call("Group.CommitGroup", Spec=spec, Pretend=False)
    folder = home / "state" / "group.groups"
    remove(folder)
    assert 1 == daemon.stop()
    (path,) = folder.glob("web.json.rescued-*")
    assert str(path) in daemon.log
