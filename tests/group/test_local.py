"""The controller's view of an instance plugin in its own process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import Raw

from pyinfrakit.errors import InvalidSpec, NoCapacity, UnknownInstance
from pyinfrakit.events import EventLog
from pyinfrakit.group.local import LocalPlugin
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.providers.simulator import Simulator
from pyinfrakit.record import Spec
from pyinfrakit.store.file import FileStore
from support.harness import until

WORKERS = Spec(properties=Raw(b'{"delay": 0}'), tags={"infrakit.group": "workers"})
MANAGERS = Spec(tags={"infrakit.group": "managers"}, logical_id="a")


@asynccontextmanager
async def run_plugin(home: Path, interval: float = 0.1) -> AsyncIterator[Plugin]:
    with FileStore(home / "state.json", "a test") as store:
        plugin = Plugin(store, Simulator("sim", home), "sim", EventLog(), interval=interval)
        await plugin.start()
        try:
            yield plugin
        finally:
            await plugin.stop(1)
            await store.flush()


def test_members_have_states_reasons_and_properties(tmp_path: Path) -> None:
    """A description has every member of the group in any state, with the reason and the properties as they are."""

    async def check() -> None:
        async with run_plugin(tmp_path) as running:
            plugin = LocalPlugin(running)
            one, two = [await plugin.provision(WORKERS) for _ in range(2)]
            other = await plugin.provision(MANAGERS)
            await plugin.set_aside(one, "to look at it")
            members = {each.id: each for each in await plugin.describe("workers")}
            assert {one: "non-functional", two: "ready"} == {id: each.state for id, each in members.items()}
            assert ("to look at it", "") == (members[one].reason, members[two].reason)
            assert WORKERS.tags == members[two].tags
            assert members[two].properties == (running.records.live(two) or WORKERS.properties)
            (manager,) = await plugin.describe("managers")
            assert (other, "a") == (manager.id, manager.logical_id)
            await plugin.label(two, {"tier": "web"})
            await plugin.destroy(one, "terminate")
            tags = {each.id: each.tags.get("tier") for each in await plugin.describe("workers")}
            assert "web" == tags[two]
            assert plugin.is_certain

    asyncio.run(check())


def test_errors_are_those_of_the_provider(tmp_path: Path) -> None:
    """A provision raises `NoCapacity` if there is no room and `InvalidSpec` for wrong properties."""

    async def check() -> None:
        async with run_plugin(tmp_path) as running:
            plugin = LocalPlugin(running)
            with running.provider.world.change() as scene:  # type: ignore[attr-defined]
                scene.capacity = 0
            with pytest.raises(NoCapacity, match="no room: the world's capacity is 0"):
                await plugin.provision(WORKERS)
            with pytest.raises(InvalidSpec, match=r"Properties\.delay: expected"):
                await plugin.validate(Raw(b'{"delay": "long"}'))
            with pytest.raises(UnknownInstance):
                await plugin.destroy("gone", "terminate")

    asyncio.run(check())


def test_changes_call_back_once_for_each_group(tmp_path: Path) -> None:
    """Changes that happen at once call back once for each group that they concern, until the follower stops."""

    async def check() -> None:
        async with run_plugin(tmp_path, interval=3600) as running:
            plugin = LocalPlugin(running)
            changed: list[str] = []
            end = plugin.follow(changed.append)
            ids = await asyncio.gather(*(plugin.provision(WORKERS) for _ in range(20)), plugin.provision(MANAGERS))
            await until(lambda: {"workers", "managers"} == set(changed))
            changed.clear()
            for id in ids:
                running.records.show(id, Raw(b'{"address": "10.0.0.1"}'))
            await asyncio.sleep(0)
            assert ["workers", "managers"] == changed
            changed.clear()
            await plugin.label(ids[0], {"infrakit.group": "managers"})
            await until(lambda: {"workers", "managers"} == set(changed))
            await plugin.provision(Spec())
            end()
            changed.clear()
            await plugin.provision(WORKERS)
            await asyncio.sleep(0.05)
            assert [] == changed

    asyncio.run(check())
