"""How a provider lives with the real plugin around it: through crashes, slow answers and passing errors."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Provider
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.schema.describe import find_example
from pyinfrakit.testing.run import MARK, Run, bounded, crash, plugin_with, run_within, started, until
from pyinfrakit.testing.wrapped import Stalled, Unsteady


class Lives:
    """How the provider and its machines are made for a test, and the part of the contract that has the plugin in it."""

    patience: float = 60
    """Seconds that one test may take; to be set higher where machines do."""

    interval: float = 0.05
    """Seconds between observations; to be set higher where these cost something."""

    def provider(self, folder: Path) -> Provider:
        """Give a new object. All those of one *folder* have the same machines, as before and after a restart of the daemon."""
        raise NotImplementedError("say how your provider is made: write the method `provider`")

    def properties(self, provider: Provider) -> Mapping[str, Any]:
        """Give properties to provision with: those of a machine that is made soon, and does not fail. By default, the example."""
        return find_example(provider.Properties, provider.example)

    def started(self, folder: Path, known: Sequence[Record] = (), mark: str = MARK) -> AbstractAsyncContextManager[Run]:
        """Start a new object, and stop it in the end."""
        provider = self.provider(folder)
        return started(provider, self._spec(provider), known, mark)

    @bounded
    async def test_the_plugin_answers_a_provision(self, tmp_path: Path) -> None:
        """It waits for the provider, and its instance is ready."""
        provider = self.provider(tmp_path)
        async with plugin_with(provider, tmp_path, self.interval) as plugin:
            id = await plugin.provision(self._spec(provider))
            assert {id: State.READY} == _states(plugin), (
                "the plugin waited for the provider, so the instance must be ready"
            )
            assert not plugin.trouble, plugin.trouble

    @bounded
    async def test_a_provision_that_nobody_waits_for_becomes_ready(self, tmp_path: Path) -> None:
        """Where the provider takes longer than InfraKit waits, the instance is provisioning, and then ready."""
        inner = self.provider(tmp_path)
        provider = Stalled(inner, "provision")
        async with plugin_with(provider, tmp_path, self.interval, wait=0) as plugin:
            id = await plugin.provision(self._spec(inner))
            assert {id: State.PROVISIONING} == _states(plugin)
            provider.go_on.set()
            await until(lambda: _states(plugin) == {id: State.READY}, f"{id} is ready")

    def test_a_crash_in_the_middle_of_a_provision_makes_no_second_machine(self, tmp_path: Path) -> None:
        """The machine is there, and nobody heard of it: after the restart there is that one, and its instance is ready."""
        provider = Stalled(inner := self.provider(tmp_path), "provision")

        async def life(plugin: Plugin) -> None:
            await plugin.provision(self._spec(inner))
            await provider.done.wait()

        async def next_life() -> None:
            async with plugin_with(self.provider(tmp_path), tmp_path, self.interval) as plugin:
                (id,) = _states(plugin)
                await until(lambda: _states(plugin) == {id: State.READY}, f"{id} is ready after the restart")
            await self._there_are(tmp_path, plugin, [id])

        run_within(self.patience, crash(provider, tmp_path, self.interval, life))
        run_within(self.patience, next_life())

    def test_a_crash_in_the_middle_of_a_destroy_leaves_nothing(self, tmp_path: Path) -> None:
        """The machine is gone, and nobody heard of it: after the restart it is destroyed again, which changes nothing."""
        provider = Stalled(inner := self.provider(tmp_path), "destroy")

        async def life(plugin: Plugin) -> None:
            id = await plugin.provision(self._spec(inner))
            await until(lambda: _states(plugin) == {id: State.READY}, f"{id} is ready")
            await plugin.destroy(id, "terminate")
            await provider.done.wait()

        async def next_life() -> None:
            async with plugin_with(self.provider(tmp_path), tmp_path, self.interval) as plugin:
                await until(lambda: _states(plugin) == {}, "no instance is left after the restart")
            await self._there_are(tmp_path, plugin, [])

        run_within(self.patience, crash(provider, tmp_path, self.interval, life))
        run_within(self.patience, next_life())

    @bounded
    async def test_errors_that_pass_lose_nothing(self, tmp_path: Path) -> None:
        """Where the first calls fail, they are made again: what was asked for is there in the end, and only that."""
        inner = self.provider(tmp_path)
        async with plugin_with(Unsteady(inner, 3), tmp_path, self.interval, wait=0) as plugin:
            wanted = await asyncio.gather(*(plugin.provision(self._spec(inner)) for _ in range(3)))
            await until(
                lambda: _states(plugin) == dict.fromkeys(wanted, State.READY), "all that was asked for is ready"
            )
            await plugin.destroy(wanted[0], "terminate")
            await until(lambda: wanted[0] not in _states(plugin), f"{wanted[0]} is gone")
        await self._there_are(tmp_path, plugin, wanted[1:])

    def _spec(self, provider: Provider) -> Spec:
        return Spec(properties=raw(self.properties(provider)))

    async def _there_are(self, folder: Path, plugin: Plugin, ids: Sequence[str]) -> None:
        """Look with another new object, which knows the records."""
        async with self.started(folder, list(plugin.records)) as run:
            assert sorted(ids) == await run.seen_ids(), "there must be one machine for each instance, and no other"


def raw(properties: Mapping[str, Any]) -> Raw:
    """Give properties as they come from InfraKit."""
    return Raw(msgspec.json.encode(properties))


def _states(plugin: Plugin) -> dict[str, State]:
    return {record.id: record.state for record in plugin.records}
