"""The contract of all providers, as tests. Subclass `ProviderContract` to run them on your provider:

class TestRack(ProviderContract):
    def provider(self, folder: Path) -> Rack:
        return Rack("rack1", folder)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.errors import GiveUp, InvalidSpec, PyInfrakitError
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.schema.describe import find_example
from pyinfrakit.testing.run import MARK, Run, bounded, crash, limit, run_plugin, run_provider, wait_until
from pyinfrakit.testing.wrapped import Stalled, Unsteady, Wrapped


class ProviderContract:
    """Tests that every provider must pass. Each test has its own folder, which has no machines at first.

    No test destroys the machines that remain at its end.
    """

    patience: float = 60
    """Maximum seconds for one test. Set it higher if your machines are slow."""

    interval: float = 0.05
    """Seconds between observations. Set it higher if they are expensive."""

    many = 20
    """Number of provisions at once: InfraKit provisions all members of a group in parallel."""

    def provider(self, folder: Path) -> Provider:
        """Return a new object. All objects of one *folder* share their machines, as before and after a restart."""
        raise NotImplementedError("define how to make your provider: write the method `provider`")

    def properties(self, provider: Provider) -> Mapping[str, Any]:
        """Return properties to provision with, of a machine that is fast to make. The default is the example."""
        return find_example(provider.Properties, provider.example)

    def wrong_properties(self) -> Sequence[Mapping[str, Any]]:
        """Return properties that the provider must refuse, in addition to those that its type `Properties` excludes."""
        return ()

    def stuck(self, provider: Provider, id: str) -> AbstractContextManager[None] | None:
        """Return a context in which the machine *id* can't be destroyed, or None to skip tests of that."""
        return None

    def stranger(self, provider: Provider) -> str | None:
        """Make a machine without any plugin's mark, and return its handle; or return None to skip tests of that."""
        return None

    # --- The provider with the real plugin around it

    @bounded
    async def test_the_plugin_answers_a_provision(self, tmp_path: Path) -> None:
        """A provision waits for the provider, and its instance is ready."""
        provider = self.provider(tmp_path)
        async with run_plugin(provider, tmp_path, self.interval) as plugin:
            id = await plugin.provision(self._spec(provider))
            assert {id: State.READY} == _states(plugin), "the plugin waited for the provider: expected a ready instance"
            assert not plugin.trouble, plugin.trouble

    @bounded
    async def test_a_provision_that_nobody_waits_for_becomes_ready(self, tmp_path: Path) -> None:
        """If the provider takes longer than InfraKit waits, the instance is first provisioning and then ready."""
        inner = self.provider(tmp_path)
        provider = Stalled(inner, "provision")
        async with run_plugin(provider, tmp_path, self.interval, wait=0) as plugin:
            id = await plugin.provision(self._spec(inner))
            assert {id: State.PROVISIONING} == _states(plugin)
            provider.go_on.set()
            await wait_until(lambda: _states(plugin) == {id: State.READY}, f"{id} is ready")

    def test_a_crash_in_the_middle_of_a_provision_makes_no_second_machine(self, tmp_path: Path) -> None:
        """A machine whose provision never returned is found after the restart, and its instance becomes ready."""
        provider = Stalled(inner := self.provider(tmp_path), "provision")

        async def live(plugin: Plugin) -> list[str]:
            id = await plugin.provision(self._spec(inner))
            await provider.done.wait()
            return [id]

        self._crash_and_restart(tmp_path, provider, live)

    def test_a_crash_in_the_middle_of_a_destroy_leaves_nothing(self, tmp_path: Path) -> None:
        """A machine whose destroy never returned is destroyed again after the restart, which succeeds."""
        provider = Stalled(inner := self.provider(tmp_path), "destroy")

        async def live(plugin: Plugin) -> list[str]:
            id = await plugin.provision(self._spec(inner))
            await wait_until(lambda: _states(plugin) == {id: State.READY}, f"{id} is ready")
            await plugin.destroy(id, "terminate")
            await provider.done.wait()
            return []

        self._crash_and_restart(tmp_path, provider, live)

    @bounded
    async def test_errors_that_pass_lose_nothing(self, tmp_path: Path) -> None:
        """The plugin repeats calls that fail at first, until exactly the wanted machines exist."""
        inner = self.provider(tmp_path)
        async with run_plugin(Unsteady(inner, 3), tmp_path, self.interval, wait=0) as plugin:
            wanted = await asyncio.gather(*(plugin.provision(self._spec(inner)) for _ in range(3)))
            await wait_until(lambda: _states(plugin) == dict.fromkeys(wanted, State.READY), "all instances are ready")
            await plugin.destroy(wanted[0], "terminate")
            await wait_until(lambda: wanted[0] not in _states(plugin), f"{wanted[0]} is gone")
        await self._check_machines(tmp_path, plugin, wanted[1:])

    # --- The provider by itself

    @bounded
    async def test_provisioning_an_id_again_gives_the_machine_it_has(self, tmp_path: Path) -> None:
        """A second provision of an ID, as after a crash, returns the first one's machine and handle."""
        async with self._run(tmp_path) as run:
            first = await run.make(_mint_id())
            second = await run.make(first.id)
            await run.check_ids([first.id], "it was provisioned twice")
            (observed,) = await run.list_machines()
        _check_handles(first, second, "the second provision")
        _check_handles(first, observed, "observe")

    @bounded
    async def test_ids_are_kept_apart(self, tmp_path: Path) -> None:
        """Each ID has its own machine with its own handle, and a destroy removes only that machine."""
        async with self._run(tmp_path) as run:
            one, two = await run.make(_mint_id()), await run.make(_mint_id())
            assert one.handle is None or one.handle != two.handle, f"two IDs share the machine {one.handle}"
            await run.check_ids([one.id, two.id])
            await run.destroy_all(one)
            await run.check_ids([two.id], f"only {one.id} was destroyed")

    @bounded
    async def test_destroying_what_is_gone_is_fine(self, tmp_path: Path) -> None:
        """A destroy succeeds for a machine that is gone, and for one that never existed."""
        async with self._run(tmp_path) as run:
            record = await run.make(_mint_id())
            await run.destroy_all(record)
            errors = await run.try_destroy(record)
            assert {} == errors, "destroying a machine that is gone must succeed: the plugin repeats it after a crash"
            errors = await run.try_destroy(Record(id=_mint_id(), state=State.DESTROYING, spec=run.spec, made=False))
            assert {} == errors, "destroying a machine that never existed must succeed: its provision may have failed"
            await run.check_ids([])

    @bounded
    async def test_a_batch_is_destroyed(self, tmp_path: Path) -> None:
        """One call destroys up to `batch` machines. Some may be gone already; all others stay."""
        async with self._run(tmp_path) as run:
            *batch, gone, stays = await _make_several(run, run.provider.batch + 2)
            await run.destroy_all(gone)
            await run.destroy_all(*batch[1:], gone)
            await run.check_ids([batch[0].id, stays.id], "destroy removes the machines of its batch, and no other")
            await run.destroy_all(batch[0])

    @bounded
    async def test_a_batch_with_one_that_is_stuck_is_destroyed_but_for_that(self, tmp_path: Path) -> None:
        """A destroy returns the error of a stuck machine by its ID, and still observes it; the others are gone."""
        async with self._run(tmp_path) as run:
            first, stuck, last = records = await _make_several(run, 3)
            sticking = self.stuck(run.provider, stuck.id)
            if sticking is None:
                pytest.skip("`stuck` does not say how to prevent a machine's destruction")
            with sticking:
                errors = await run.try_destroy(*records)
                assert [stuck.id] == list(errors), f"destroy must return an error for {stuck.id} alone: {errors}"
                await run.check_ids([stuck.id], f"{first.id} and {last.id} were destroyed")
            await run.destroy_all(stuck)
            await run.check_ids([])

    @bounded
    async def test_other_plugins_machines_are_not_shown(self, tmp_path: Path) -> None:
        """Each plugin sees only machines with its own mark; the machines of another plugin live on."""
        async with self._run(tmp_path, mark="one") as run:
            one = await run.make(_mint_id())
        async with self._run(tmp_path, mark="two") as run:
            await run.check_ids([], f"{one.id} has another plugin's mark")
            two = await run.make(_mint_id())
            await run.check_ids([two.id], "no other machine has this mark")
        async with self._run(tmp_path, [one], mark="one") as run:
            await run.check_ids([one.id], "no other machine has this mark")

    @bounded
    async def test_machines_outlive_a_restart(self, tmp_path: Path) -> None:
        """A new object with the same mark observes all machines, finds them by ID, and can destroy them."""
        async with self._run(tmp_path) as run:
            records = await _make_several(run, 3)
            before = await run.list_machines()
        async with self._run(tmp_path, records) as run:
            after = await run.list_machines()
            await run.check_ids([each.id for each in before], "machines outlive a restart")
            for one, other in zip(before, after, strict=True):
                _check_handles(one, other, "observe after a restart")
            again = await run.make(records[0].id)
            _check_handles(records[0], again, "provision after a restart")
            await run.check_ids([each.id for each in before], f"{again.id} was provisioned again after a restart")
            await run.destroy_all(*records)
            await run.check_ids([], "all machines were destroyed after a restart")

    @bounded
    async def test_many_provisions_at_once(self, tmp_path: Path) -> None:
        """Parallel provisions make one machine for each ID, and repeated ones return the same machines."""
        wanted = sorted(_mint_id() for _ in range(self.many))
        async with self._run(tmp_path) as run:
            for _ in range(2):
                records = await asyncio.gather(*(run.make(id) for id in wanted))
                await run.check_ids(wanted, f"{self.many} provisions ran at once")
            handles = {record.handle for record in records} - {None}
            assert len(handles) in (0, self.many), f"{self.many} IDs have {len(handles)} different handles"
            await run.destroy_all(*records)
            await run.check_ids([], "all machines were destroyed at once")

    @bounded
    async def test_a_provision_that_is_cut_off_is_made_whole_by_the_next(self, tmp_path: Path) -> None:
        """The next provision of an ID makes one whole machine, wherever an async one before it was cancelled.

        Python can't cancel a plain method.
        """
        async with self._run(tmp_path) as run:
            for turns in range(1, 12):  # each turn of the event loop is another point to cancel at
                id = _mint_id()
                cut = asyncio.create_task(run.make(id))
                for _ in range(turns):
                    await asyncio.sleep(0)
                cut.cancel()
                await asyncio.gather(cut, return_exceptions=True)
                await run.make(id)
                count = [machine.id for machine in await run.list_machines()].count(id)
                assert count == 1, f"provision of {id} was cancelled and repeated: expected one machine, got {count}"

    @bounded
    async def test_tags_are_put_on_machines_that_are_there(self, tmp_path: Path) -> None:
        """A provider's `label` works for an existing machine, and does not make one that is gone."""
        async with self._run(tmp_path) as run:
            if not run.keeps_labels:
                pytest.skip("the provider keeps no tags: it has no `label`")
            record = await run.make(_mint_id())
            record = msgspec.structs.replace(record, spec=msgspec.structs.replace(record.spec, tags={"tier": "web"}))
            await run.label(record)
            (machine,) = await run.list_machines()
            assert machine.tags in ({}, {"tier": "web"}), f"observe must return the last label's tags: {machine.tags}"
            await run.destroy_all(record)
            error = await _catch(run.label(record))
            # `Calls` reports all other exceptions of a provider as bugs.
            rule = "label of a machine that is gone must do nothing, or raise GiveUp or TryAgain"
            assert error is None or "bug" not in str(error), f"{rule}: {error}"
            await run.check_ids([], rule)

    @bounded
    async def test_a_machine_that_existed_before_is_adopted(self, tmp_path: Path) -> None:
        """An adopted machine keeps its handle, has its new ID, and can be destroyed. A missing one is refused."""
        async with self._run(tmp_path) as run:
            handle = None if type(run.provider).adopt is Provider.adopt else self.stranger(run.provider)
            if handle is None:
                pytest.skip("the provider has no `adopt`, or `stranger` does not make a machine without a mark")
            await run.check_ids([], f"{handle} lacks this plugin's mark")
            machine = await run.adopt(_mint_id(), handle, run.spec)
            await run.check_ids([machine.id], f"{handle} was adopted")
            assert handle == machine.handle, f"adopt must keep the handle {handle}, but returned {machine.handle}"
            observed = (await run.list_machines())[0].handle
            assert handle == observed, f"observe must return handle {handle} for the adopted machine, not {observed}"
            await run.destroy_all(Record(id=machine.id, state=State.DESTROYING, spec=run.spec, handle=handle))
            error = await _catch(run.adopt(_mint_id(), handle, run.spec))
            assert isinstance(error, GiveUp), f"adopt must raise GiveUp for a machine that is gone; got {error!r}"
            await run.check_ids([], "adopt must not make a machine")

    @bounded
    async def test_properties_are_checked(self, tmp_path: Path) -> None:
        """The properties to provision with are valid. A wrong shape is refused with an `InvalidSpec` that names the field."""
        async with self._run(tmp_path) as run:
            provider = run.provider
            await run.validate(run.spec.properties)
            for wrong in [*map(_encode, self.wrong_properties()), *_misshape(provider.Properties)]:
                error = await _catch(run.validate(wrong))
                text = bytes(wrong).decode()
                assert isinstance(error, InvalidSpec), f"expected InvalidSpec for properties {text}; got {error!r}"
                assert error.field.startswith("Properties"), f"expected a path such as Properties.x, got {error.field}"

    def _run(self, folder: Path, known: Sequence[Record] = (), mark: str = MARK) -> AbstractAsyncContextManager[Run]:
        """Start a new provider object, and stop it at the end."""
        provider = self.provider(folder)
        return run_provider(provider, self._spec(provider), known, mark)

    def _spec(self, provider: Provider) -> Spec:
        return Spec(properties=_encode(self.properties(provider)))

    def _crash_and_restart(
        self, folder: Path, provider: Wrapped, live: Callable[[Plugin], Awaitable[list[str]]]
    ) -> None:
        """Crash a plugin after *live*, which returns the IDs of the instances that are ready after a restart."""
        wanted = asyncio.run(limit(self.patience, crash(provider, folder, self.interval, live)))

        async def live_again() -> None:
            async with run_plugin(self.provider(folder), folder, self.interval) as plugin:
                ready = dict.fromkeys(wanted, State.READY)
                await wait_until(lambda: _states(plugin) == ready, f"the instances after the restart are {ready}")
            await self._check_machines(folder, plugin, wanted)

        asyncio.run(limit(self.patience, live_again()))

    async def _check_machines(self, folder: Path, plugin: Plugin, ids: Sequence[str]) -> None:
        """Check with a new provider object, which knows the records, that exactly these machines exist."""
        async with self._run(folder, list(plugin.records)) as run:
            await run.check_ids(ids, "each instance has one machine")


_last_id = ids.NEVER


def _mint_id() -> str:
    """Return a new ID, as the plugin mints them."""
    global _last_id  # noqa: PLW0603 - IDs are unique in a process, because tests may share machines
    _last_id = ids.mint(_last_id, time.time())
    return _last_id


async def _make_several(run: Run, count: int) -> list[Record]:
    return [await run.make(_mint_id()) for _ in range(count)]


def _encode(properties: Mapping[str, Any]) -> Raw:
    """Return properties in the form in which InfraKit sends them."""
    return Raw(msgspec.json.encode(properties))


def _misshape(shape: Any) -> list[Raw]:
    """Return values that certainly do not fit the type *shape*, a provider's `Properties`."""
    if not (isinstance(shape, type) and issubclass(shape, Struct)):
        return []
    is_strict = shape.__struct_config__.forbid_unknown_fields
    return [Raw(b"[]"), Raw(b'"two"'), *([Raw(b'{"no such property":1}')] if is_strict else [])]


async def _catch(call: Awaitable[object]) -> PyInfrakitError | None:
    """Return the error that a call raises, or None."""
    try:
        await call
    except PyInfrakitError as error:
        return error
    return None


def _check_handles(one: Machine | Record, other: Machine | Record, caller: str) -> None:
    """Check that *caller* did not change a machine's handle, which never changes. None leaves it as it is."""
    handles = {one.handle, other.handle} - {None}
    assert len(handles) <= 1, f"{caller} must return the same handle for {one.id}: {one.handle}, then {other.handle}"


def _states(plugin: Plugin) -> dict[str, State]:
    return {record.id: record.state for record in plugin.records}
