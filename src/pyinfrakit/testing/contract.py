"""What every provider must do, as tests: subclass `ProviderContract`, and say how yours is made.

class TestRack(ProviderContract):
    def provider(self, folder: Path) -> Rack:
        return Rack("rack1", folder)
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.errors import GiveUp, InvalidSpec, PyInfrakitError
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, State
from pyinfrakit.schema.describe import find_example
from pyinfrakit.testing.lives import Lives, raw
from pyinfrakit.testing.run import Run, bounded


class ProviderContract(Lives):
    """The tests that any provider is held to. Each has a folder of its own, where there are no machines yet."""

    many = 20
    """So many provisions at once: InfraKit asks for a group's members in parallel."""

    def stuck(self, provider: Provider, id: str) -> AbstractContextManager[None] | None:
        """Give what keeps the machine *id* from being destroyed while it is entered; None where that can't be brought about."""
        return None

    def wrong_properties(self) -> Sequence[Mapping[str, Any]]:
        """Give properties that the provider must refuse, in addition to what its type `Properties` tells."""
        return ()

    def stranger(self, provider: Provider) -> str | None:
        """Make a machine that no plugin's mark is on, and give its handle; None where that can't be brought about."""
        return None

    @bounded
    async def test_provisioning_an_id_again_gives_the_machine_it_has(self, tmp_path: Path) -> None:
        """After a crash the plugin asks again for what it asked for: there is one machine, called as it was."""
        async with self.started(tmp_path) as run:
            first = await run.make(_id())
            second = await run.make(first.id)
            seen = await run.seen()
        assert [first.id] == [each.id for each in seen], (
            f"provision was called twice for {first.id}; observe must give one machine, it gave {_said(seen)}"
        )
        _same_handle(first, second, "provision, called again,")
        _same_handle(first, seen[0], "observe")

    @bounded
    async def test_ids_are_kept_apart(self, tmp_path: Path) -> None:
        """Each ID has a machine of its own, called differently, and a destroy takes the one that it is told."""
        async with self.started(tmp_path) as run:
            one, two = [await run.make(_id()) for _ in range(2)]
            assert one.handle is None or one.handle != two.handle, f"two IDs were given the same machine, {one.handle}"
            assert sorted([one.id, two.id]) == await run.seen_ids(), "observe must give the machines of both IDs"
            await self._ended(run, run.made[one.id])
            assert [two.id] == await run.seen_ids(), (
                f"{one.id} alone was destroyed: observe must give {two.id}, and only that"
            )

    @bounded
    async def test_destroying_what_is_gone_is_fine(self, tmp_path: Path) -> None:
        """A destroy succeeds for a machine that was destroyed before, and for one that never was."""
        async with self.started(tmp_path) as run:
            machine = await run.make(_id())
            await self._ended(run, run.made[machine.id])
            errors = await run.end(run.made[machine.id])
            assert {} == errors, "destroying a machine that is gone must succeed: the plugin asks again after a crash"
            errors = await run.end(Record(id=_id(), state=State.DESTROYING, spec=run.spec, made=False))
            assert {} == errors, "destroying a machine that never was must succeed: its provision may have failed"
            assert [] == await run.seen_ids()

    @bounded
    async def test_a_batch_is_destroyed(self, tmp_path: Path) -> None:
        """As many as `batch` are destroyed in one call, of which some may be gone; the others stay."""
        async with self.started(tmp_path) as run:
            records = await self._several(run, run.provider.batch + 2)
            *batch, gone, stays = records
            await self._ended(run, gone)
            await self._ended(run, *batch[1:], gone)
            assert sorted([batch[0].id, stays.id]) == await run.seen_ids(), (
                "what is not in the batch must stay, all else must go"
            )
            await self._ended(run, batch[0])

    @bounded
    async def test_a_batch_with_one_that_is_stuck_is_destroyed_but_for_that(self, tmp_path: Path) -> None:
        """The error of a machine that can't be destroyed is told by its ID, and it is still observed; the others are gone."""
        async with self.started(tmp_path) as run:
            first, stuck, last = records = await self._several(run, 3)
            sticking = self.stuck(run.provider, stuck.id)
            if sticking is None:
                pytest.skip("`stuck` does not say how a machine may be made impossible to destroy")
            with sticking:
                errors = await run.end(*records)
                assert [stuck.id] == list(errors), (
                    f"destroy must tell the error of {stuck.id}, by its ID, and no other: {errors}"
                )
                assert [stuck.id] == await run.seen_ids(), (
                    f"{first.id} and {last.id} must be gone, {stuck.id} must be observed"
                )
            await self._ended(run, stuck)
            assert [] == await run.seen_ids()

    @bounded
    async def test_other_plugins_machines_are_not_shown(self, tmp_path: Path) -> None:
        """Each plugin sees the machines with its own mark; the other's live on."""
        async with self.started(tmp_path, mark="one") as run:
            one = await run.make(_id())
        known = list(run.made.values())
        async with self.started(tmp_path, mark="two") as run:
            assert [] == await run.seen_ids(), f"observe must not give {one.id}: it has another plugin's mark"
            two = await run.make(_id())
            assert [two.id] == await run.seen_ids(), (
                f"observe must give {two.id}, which has this plugin's mark, and only that"
            )
        async with self.started(tmp_path, known, mark="one") as run:
            assert [one.id] == await run.seen_ids(), (
                f"observe must give {one.id}, whatever another plugin did, and only that"
            )

    @bounded
    async def test_machines_outlive_a_restart(self, tmp_path: Path) -> None:
        """A new object, started with the same mark, sees all machines, gives them for their IDs, and can destroy them."""
        async with self.started(tmp_path) as run:
            records = await self._several(run, 3)
            before = await run.seen()
        async with self.started(tmp_path, records) as run:
            after = await run.seen()
            assert [each.id for each in before] == [each.id for each in after], (
                "observe must give the same after a restart"
            )
            for one, other in zip(before, after, strict=True):
                _same_handle(one, other, "observe, after a restart,")
            again = await run.make(records[0].id)
            _same_handle(Machine(again.id, records[0].handle), again, "provision, after a restart,")
            assert len(records) == len(await run.seen()), (
                "provision made a second machine after a restart, for the same ID"
            )
            await self._ended(run, *records)
            assert [] == await run.seen_ids(), "what was destroyed after a restart must be gone"

    @bounded
    async def test_many_provisions_at_once(self, tmp_path: Path) -> None:
        """Each gets its machine, and the same one when all are asked for again."""
        wanted = sorted(_id() for _ in range(self.many))
        async with self.started(tmp_path) as run:
            for _ in range(2):
                await asyncio.gather(*(run.make(id) for id in wanted))
                assert wanted == await run.seen_ids(), (
                    f"{self.many} were provisioned at once: observe must give each of them once"
                )
            handles = {record.handle for record in run.made.values()} - {None}
            assert len(handles) in (0, self.many), f"{self.many} IDs were given {len(handles)} different machines"
            await self._ended(run, *run.made.values())
            assert [] == await run.seen_ids(), "all were destroyed at once, and must be gone"

    @bounded
    async def test_a_provision_that_is_cut_off_is_made_whole_by_the_next(self, tmp_path: Path) -> None:
        """Wherever an async provision is cancelled, the next one for the ID ends with one machine. (A plain one can't be.)"""
        async with self.started(tmp_path) as run:
            for turns in range(1, 12):
                id = _id()
                cut = asyncio.create_task(run.make(id))
                for _ in range(turns):
                    await asyncio.sleep(0)
                cut.cancel()
                await asyncio.gather(cut, return_exceptions=True)
                await run.make(id)
                seen = (await run.seen_ids()).count(id)
                assert seen == 1, (
                    f"provision of {id} was cut off, and called again: there must be one machine, not {seen}"
                )

    @bounded
    async def test_tags_are_put_on_machines_that_are_there(self, tmp_path: Path) -> None:
        """`label`, where there is one, works for a machine that exists, and makes none that is gone."""
        async with self.started(tmp_path) as run:
            if not run.keeps_labels:
                pytest.skip("the provider keeps no tags: it has no `label`")
            machine = await run.make(_id())
            record = _tagged(run.made[machine.id], {"tier": "web"})
            await run.label(record)
            (seen,) = await run.seen()
            assert seen.tags in ({}, {"tier": "web"}), (
                f"observe, where it gives tags, must give those of the last label: {seen.tags}"
            )
            await self._ended(run, record)
            error = await _error(run.label(record))
            told = "label of a machine that is gone must do nothing, or raise GiveUp or TryAgain"
            assert error is None or "bug" not in str(error), f"{told}: {error}"
            assert [] == await run.seen_ids(), "label must not make a machine that is gone"

    @bounded
    async def test_a_machine_that_existed_before_is_adopted(self, tmp_path: Path) -> None:
        """It is observed under its new ID, called as it was, and can be destroyed; what is not there can't be adopted."""
        async with self.started(tmp_path) as run:
            handle = None if type(run.provider).adopt is Provider.adopt else self.stranger(run.provider)
            if handle is None:
                pytest.skip(
                    "the provider has no `adopt`, or `stranger` does not say how there may be a machine without a mark"
                )
            assert [] == await run.seen_ids(), f"observe must not give {handle}, which does not have this plugin's mark"
            machine = await run.adopt(_id(), handle, run.spec)
            (seen,) = await run.seen()
            assert (machine.id, handle) == (seen.id, seen.handle), (
                f"observe must give the adopted machine as {machine.id}, {handle}"
            )
            await self._ended(run, Record(id=machine.id, state=State.DESTROYING, spec=run.spec, handle=handle))
            error = await _error(run.adopt(_id(), handle, run.spec))
            assert isinstance(error, GiveUp), f"adopt must raise GiveUp for what is not there; got {error!r}"
            assert [] == await run.seen_ids(), "adopt must not make a machine"

    @bounded
    async def test_properties_are_checked(self, tmp_path: Path) -> None:
        """The example is right, and what is of another shape is refused with an `InvalidSpec` that names the field."""
        async with self.started(tmp_path) as run:
            provider = run.provider
            await run.validate(raw(find_example(provider.Properties, provider.example)))
            await run.validate(run.spec.properties)
            for wrong in [*map(raw, self.wrong_properties()), *_of_another_shape(provider)]:
                error = await _error(run.validate(wrong))
                text = bytes(wrong).decode()
                assert isinstance(error, InvalidSpec), (
                    f"these properties must be refused with InvalidSpec: {text}; got {error!r}"
                )
                assert error.field.startswith("Properties"), f"the field must be a path, as Properties.x: {error.field}"

    async def _several(self, run: Run, count: int) -> list[Record]:
        return [run.made[(await run.make(_id())).id] for _ in range(count)]

    async def _ended(self, run: Run, *records: Record) -> None:
        errors = await run.end(*records)
        assert {} == errors, f"destroy must succeed for all of {', '.join(record.id for record in records)}"


class _LastID:
    value = ids.NEVER


def _id() -> str:
    """Give a new ID, as the plugin does."""
    _LastID.value = ids.mint(_LastID.value, time.time())
    return _LastID.value


def _of_another_shape(provider: Provider) -> list[Raw]:
    """Give what is surely not of the provider's type `Properties`."""
    kind = provider.Properties
    if not (isinstance(kind, type) and issubclass(kind, Struct)):
        return []
    strict = kind.__struct_config__.forbid_unknown_fields
    return [Raw(b"[]"), Raw(b'"two"'), *([Raw(b'{"no such property":1}')] if strict else [])]


async def _error(call: Awaitable[object]) -> PyInfrakitError | None:
    """Give the error that a call raises, None where it succeeds."""
    try:
        await call
    except PyInfrakitError as error:
        return error
    return None


def _tagged(record: Record, tags: Mapping[str, str]) -> Record:
    return msgspec.structs.replace(record, spec=msgspec.structs.replace(record.spec, tags=tags))


def _same_handle(one: Machine, other: Machine, who: str) -> None:
    """A machine's handle is its name for good; who does not say it leaves it as it is."""
    handles = {one.handle, other.handle} - {None}
    assert len(handles) <= 1, f"{who} gave the machine of {one.id} another handle: {one.handle}, then {other.handle}"


def _said(machines: Sequence[Machine]) -> str:
    return ", ".join(f"{each.id} ({each.handle})" for each in machines) or "none"
