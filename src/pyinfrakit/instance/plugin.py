"""What a plugin does: what InfraKit and operators call, and what goes on around it."""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping

from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.errors import PyInfrakitError, Refused, TryAgain, UnknownInstance
from pyinfrakit.instance.calls import Bounds, Calls
from pyinfrakit.instance.jobs import LOOK_AGAIN, Work
from pyinfrakit.instance.plan import Limits, why_unwanted
from pyinfrakit.instance.reconcile import Watch
from pyinfrakit.logs import NOTICE
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Event, Record, Spec, State
from pyinfrakit.schema.describe import NOTHING, redacted, without_secrets_of
from pyinfrakit.store import Store
from pyinfrakit.store.records import Put, Records

log = logging.getLogger(__name__)

PROVIDER_STOP = 1.0
"""Seconds that a provider has to let go of what it holds."""

ROLLING_UPDATE = "rolling_update"
"""The reason that InfraKit's last release gives where it destroys a member to replace it."""


class _Ready:
    """The IDs of the instances that are ready now."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def __contains__(self, id: object) -> bool:
        record = self._records.get(id) if isinstance(id, str) else None
        return record is not None and record.state is State.READY


class Plugin:
    """One provider's instances, and all that can be done with them.

    *wait*: for how many seconds a call may wait for the provider, below the 15 that InfraKit's clients take. *paced*: whether a
    rolling update waits for one member before it takes down the next. *interval*: seconds between observations, each of which
    may take *observe_timeout*.
    """

    def __init__(
        self,
        store: Store,
        provider: Provider,
        *,
        wait: float = 10.0,
        paced: bool = True,
        interval: float = 10.0,
        observe_timeout: float = 60.0,
        limits: Limits = Limits(),
        bounds: Bounds = Bounds(),
    ) -> None:
        self._store = store
        self._provider = provider
        self._wait = wait
        self._paced = paced
        self.calls = Calls(provider, bounds, self._begun)
        self._work = Work(store, self.calls)
        self.watch = Watch(store, self.calls, self._work, interval, observe_timeout, limits)
        self.adoption = Adoption(store, self.calls, self._work, self.watch)
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def records(self) -> Records:
        return self._store.records

    @property
    def provider(self) -> Provider:
        return self._provider

    def shown(self, record: Record) -> Raw:
        """Give the properties that are shown of an instance: those that its provider says it has, or those asked for.

        The type of what was asked for says where secrets are in that. A provider may tell them again, anywhere.
        """
        asked, shape = record.spec.properties or NOTHING, self._provider.Properties
        live = self.records.live(record.id)
        return redacted(asked, shape) if live is None else without_secrets_of(asked, shape, live)

    async def start(self) -> None:
        """Start the provider, and begin to observe."""
        await self.calls.start(self._store.mark, list(self.records), _Ready(self.records))
        self._watching = asyncio.create_task(self.watch.run(), name="watch")
        self._watching.add_done_callback(self._must_not_end)

    def trouble(self, id: str) -> str:
        """Say why the provider is to be asked again for an instance; empty where nothing went wrong."""
        return self._work.trouble(id)

    def stop_waiting(self) -> None:
        """Have calls that wait for the provider answer now; what they asked for is recorded, and goes on."""
        self._stopping = True
        self._work.stop_waiting()

    async def stop(self, timeout: float) -> None:
        """Stop, with up to *timeout* seconds for calls to the provider that are in flight. The store is to be flushed then."""
        self.stop_waiting()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching}, timeout=PROVIDER_STOP)
        try:
            await self._work.stop(timeout)
            await self.calls.stop(PROVIDER_STOP)
        except PyInfrakitError as error:
            log.error("the provider did not stop: %s", error)
        finally:
            self.calls.abandon()

    def _begun(self, id: str) -> None:
        self.records.touched.add(id)

    async def validate(self, properties: Raw | None) -> None:
        """Raise `InvalidSpec` for properties that the provider would not take."""
        await self.calls.validate(properties)

    async def provision(self, spec: Spec) -> str:
        """Give the ID of a new instance, or of the one that has the spec's logical ID and is the same otherwise.

        Waits for the provider, but not longer than the plugin's *wait*: then it goes on in the background. Raises
        `InvalidSpec`, `Refused`, `StoreFailed`, or `GiveUp` where the provider failed; then there is no instance.
        """
        await self.validate(spec.properties)
        holder = self._holder(spec)
        if holder is None:
            id = ids.mint(self.records.last_id, time.time())
            record = Record(id=id, type=self._store.type, state=State.PROVISIONING, spec=spec, since=time.time(), made=False)
            written = self._store.commit(Put(record))
            self._work.start(id)
        else:
            id, written = holder.id, self._store.commit()
        await written
        await self._work.provisioned(id, self._wait)
        return id

    def _holder(self, spec: Spec) -> Record | None:
        if spec.logical_id is None:
            return None
        for record in self.records.of_logical_id(spec.logical_id, spec.group):
            if record.state.described:
                if spec.asks_for(record.spec):
                    return record
                raise Refused(record.id, f"has logical ID {spec.logical_id} already, with another spec; destroy it first")
        return None

    async def destroy(self, id: str, reason: str) -> None:
        """Have an instance destroyed; returns once that is sure to happen. Raises `UnknownInstance`, `TryAgain`."""
        if self._paced and reason == ROLLING_UPDATE and self.records[id].state is not State.DESTROYING:
            await self._pace(self.records[id])
        record = self.records[id].after(Event.DESTROY, time.time(), reason)
        assert record is not None
        written = self._store.commit(Put(record))
        self._work.start(id)
        await written

    async def _pace(self, record: Record) -> None:
        """Wait until no other member of the group is being provisioned; raise `TryAgain` where that takes too long.

        Looks again and again: this is rare, and there are many ways in which a provision ends.
        """
        end = time.monotonic() + self._wait
        while others := self._provisioning_beside(record):
            if time.monotonic() >= end or self._stopping:
                raise TryAgain(f"{record.id}: not destroyed, as {others[0]}, of the same group, is still being provisioned")
            await asyncio.sleep(LOOK_AGAIN)

    def _provisioning_beside(self, record: Record) -> list[str]:
        if record.spec.group is None:
            return []
        members = self.records.in_group(record.spec.group)
        return [m.id for m in members if m.state is State.PROVISIONING and m.id != record.id]

    async def label(self, id: str, tags: Mapping[str, str]) -> None:
        """Add or replace tags; the provider is told in the background.

        Raises `UnknownInstance`, `StoreFailed`, or `Refused` where it would come into a group in which another has
        its logical ID.
        """
        record = self.records[id]
        spec = replace(record.spec, tags={**record.spec.tags, **tags})
        if spec.group != record.spec.group:
            refuse_second_holder(self._store, id, spec)
        written = self._store.commit(Put(replace(record, spec=spec, relabel=self.calls.keeps_labels)))
        self._work.start(id)
        await written

    async def set_aside(self, id: str, reason: str) -> None:
        """Take an instance out of service by hand. Raises `UnknownInstance`, `Refused`, `StoreFailed`."""
        record = self.records[id].after(Event.SET_ASIDE, time.time(), reason)
        assert record is not None
        log.log(NOTICE, "%s: set aside by hand: %s", id, reason)
        await self._store.commit(Put(record))

    async def restore(self, id: str, force: bool) -> None:
        """Bring a non-functional instance back, to the front; with *force* also one that has been replaced.

        One whose machine was never made is asked for again. Raises `UnknownInstance`, `Refused`, `StoreFailed`.
        """
        record = self.records[id]
        restored = record.after(Event.RESTORED if record.made else Event.ASKED_AGAIN, time.time())
        assert restored is not None
        unwanted = why_unwanted(record, self.records)
        if unwanted and not force:
            raise Refused(id, f"not restored, as {unwanted}; destroy it, or restore it by force")
        log.log(NOTICE, "%s: restored by hand", id)
        written = self._store.commit(Put(restored, front=True))
        self._work.start(id)
        await written

    def _must_not_end(self, task: asyncio.Task[None]) -> None:
        """Say loudly that the reconcile loop ended by a bug: what goes on without it is blind."""
        if not self._stopping:
            log.critical("the reconcile loop ended", exc_info=None if task.cancelled() else task.exception())


# ==== Take in machines that exist: those with this plugin's mark that no record is of, and those that had nothing to do with it.
class Adoption:
    """What an operator may have done with machines that no record is of."""

    def __init__(self, store: Store, calls: Calls, work: Work, watch: Watch) -> None:
        self._store = store
        self._calls = calls
        self._work = work
        self._watch = watch
        self._under_way: set[str] = set()
        """Handles of machines that are being adopted."""

    def orphans(self) -> Mapping[str, Machine]:
        """Give, by ID, the machines with this plugin's mark that the last observation saw, and no record is of."""
        return self._watch.orphans

    async def adopt(self, handle: str, spec: Spec) -> str:
        """Have a machine that existed before marked, and make a record of it; give its ID.

        Marked first: a crash in between leaves an orphan, which is told, and not a record of which the machine would be made
        again. Raises `Refused`, `GiveUp` where the provider can't, `TryAgain`, `StoreFailed`.
        """
        self._refuse_known(handle)
        id = ids.mint_adopted(time.time())
        refuse_second_holder(self._store, id, spec)
        self._under_way.add(handle)
        try:
            machine = await self._calls.adopt(id, handle, spec)
        finally:
            self._under_way.discard(handle)
        refuse_second_holder(self._store, id, spec)
        log.log(NOTICE, "%s: adopted machine %s", id, handle)
        await self._store.commit(Put(_record(self._store.type, machine, spec)))
        return id

    def _refuse_known(self, handle: str) -> None:
        for record in self._store.records:
            if record.handle == handle:
                raise Refused(record.id, f"is machine {handle} already, and {record.state}")
        for machine in self.orphans().values():
            if machine.handle == handle:
                raise Refused(machine.id, f"is machine {handle}, an orphan of this plugin's: adopt it as one")
        if handle in self._under_way:
            raise Refused(handle, "is being adopted already")

    async def adopt_orphans(self, wanted: Collection[str], tags: Mapping[str, str]) -> list[str]:
        """Make records of orphans, *wanted* ones or all, from what is written on them, with *tags* added; give their IDs.

        It is all of them or none. Raises `UnknownInstance` for what is no orphan, `Refused`, `StoreFailed`.
        """
        machines = self._wanted(wanted)
        specs = [Spec(tags={**machine.tags, **tags}, logical_id=machine.logical_id) for machine in machines]
        named: set[tuple[str, str | None]] = set()
        for machine, spec in zip(machines, specs, strict=True):
            refuse_second_holder(self._store, machine.id, spec)
            if spec.logical_id is not None:
                if (spec.logical_id, spec.group) in named:
                    raise Refused(machine.id, f"another orphan has logical ID {spec.logical_id} too: adopt one, and destroy one")
                named.add((spec.logical_id, spec.group))
        for machine in machines:
            log.log(NOTICE, "%s: adopted, as it has this plugin's mark", machine.id)
        records = [_record(self._store.type, machine, spec) for machine, spec in zip(machines, specs, strict=True)]
        written = self._store.commit(*map(Put, records))
        ids = [record.id for record in records]
        self._watch.forget_orphans(ids)
        await written
        return ids

    async def destroy_orphans(self, wanted: Collection[str]) -> None:
        """Have orphans destroyed; returns once that is sure to happen. Raises `UnknownInstance`, `StoreFailed`."""
        machines = self._wanted(wanted)
        written = self._store.commit(*(Put(_to_destroy(self._store.type, machine)) for machine in machines))
        for machine in machines:
            log.log(NOTICE, "%s: an orphan is destroyed by hand", machine.id)
            self._work.start(machine.id)
        self._watch.forget_orphans([machine.id for machine in machines])
        await written

    def _wanted(self, wanted: Collection[str]) -> list[Machine]:
        orphans = self.orphans()
        for id in wanted:
            if id not in orphans:
                raise UnknownInstance(id)
        found = [machine for id, machine in orphans.items() if not wanted or id in wanted]
        for machine in found:
            if other := self._store.elsewhere(machine.id):
                raise Refused(machine.id, f"is an instance of sub-type {other}; does the provider go by the mark?")
        return found


def refuse_second_holder(store: Store, id: str, spec: Spec) -> None:
    """Raise `Refused` where *id* would come to have a logical ID that another instance of its group has."""
    if spec.logical_id is None:
        return
    for other in store.records.of_logical_id(spec.logical_id, spec.group):
        if other.state.described and other.id != id:
            where = f"in group {spec.group}" if spec.group else "in no group"
            raise Refused(id, f"{other.id} has logical ID {spec.logical_id} {where} already")


def _to_destroy(type: str, machine: Machine) -> Record:
    record = _record(type, machine, Spec(tags=machine.tags, logical_id=machine.logical_id))
    destroying = record.after(Event.DESTROY, time.time(), "an orphan, destroyed by hand")
    assert destroying is not None
    return destroying


def _record(type: str, machine: Machine, spec: Spec) -> Record:
    return Record(id=machine.id, type=type, state=State.READY, spec=spec, since=time.time(), handle=machine.handle)
