"""A plugin: one provider's instances, and every call that InfraKit and operators make about them."""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence

from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.errors import PyInfrakitError, Refused, TryAgain, UnknownInstance
from pyinfrakit.events import EventLog
from pyinfrakit.instance.calls import CallLimits, Calls
from pyinfrakit.instance.chronicle import Chronicle
from pyinfrakit.instance.jobs import Jobs
from pyinfrakit.instance.plan import Thresholds, Transition, explain_unwanted
from pyinfrakit.instance.reconcile import PORTION, Reconciler
from pyinfrakit.instance.waits import Waits
from pyinfrakit.logs import NOTICE
from pyinfrakit.provider import Machine, PoolMachine, Provider
from pyinfrakit.record import Event, Record, Spec, State
from pyinfrakit.schema.secrets import EMPTY_OBJECT, redact_live, redact_properties
from pyinfrakit.store import Store
from pyinfrakit.store.records import Put, Records
from pyinfrakit.turns import share

log = logging.getLogger(__name__)

PROVIDER_STOP = 1.0
"""Seconds in which a provider has to release its resources at a stop."""

ROLLING_UPDATE = "rolling_update"
"""The reason that InfraKit's last release sends when it destroys a member to replace it."""

OPERATOR = "operator"
"""The cause of events that come from an operator's call."""


class _ReadyIDs:
    """The IDs of the instances that are ready at the moment."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def __contains__(self, id: object) -> bool:
        record = self._records.get(id) if isinstance(id, str) else None
        return record is not None and record.state is State.READY


class Plugin:
    """One provider's instances. *log* gets the events of the plugin *name*, ``NAME`` or ``NAME/SUB-TYPE``.

    *wait* is how many seconds a call may wait for the provider: below the 15 seconds after which InfraKit's
    clients give up. If *paced*, a rolling update takes down a member only while no other is provisioning.
    *interval* is the seconds between observations, and *observe_timeout* the most that one may take.
    """

    def __init__(
        self,
        store: Store,
        provider: Provider,
        name: str,
        log: EventLog,
        *,
        wait: float = 10.0,
        paced: bool = True,
        interval: float = 10.0,
        observe_timeout: float = 60.0,
        thresholds: Thresholds = Thresholds(),
        call_limits: CallLimits = CallLimits(),
    ) -> None:
        self.provider = provider
        self.records = store.records
        self._store = store
        self._wait = wait
        self._paced = paced
        self._calls = Calls(provider, call_limits)
        self._chronicle = Chronicle(store, log, name)
        self._waits = Waits(self.records)
        self._jobs = Jobs(store, self._calls, self._chronicle, self._waits)
        limits = replace(thresholds, certain=provider.certain)
        self._reconciler = Reconciler(
            store, self._calls, self._jobs, self._chronicle, interval, observe_timeout, limits
        )
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False
        self._handles_in_adoption: set[str] = set()

    # --- Life

    async def start(self) -> None:
        """Start the provider, and begin to observe."""
        changed = self._reconciler.listen()
        await self._calls.start(self._store.mark, list(self.records), _ReadyIDs(self.records), changed)
        self._loop = asyncio.create_task(self._reconciler.run(), name="reconcile")
        self._loop.add_done_callback(self._report_end)
        self._chronicle.record_plugin("started", "daemon", f"provider {type(self.provider).__name__}")

    def stop_waiting(self) -> None:
        """Answer the calls that wait for the provider now. Their requests are recorded, and go on."""
        if not self._stopping:
            self._chronicle.record_plugin("stopping", "daemon")
        self._stopping = True
        self._jobs.stop_waiting()
        self._waits.end()

    async def stop(self, timeout: float) -> None:
        """Stop, with up to *timeout* seconds for provider calls in flight. The caller flushes the store afterwards."""
        self.stop_waiting()
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop}, timeout=PROVIDER_STOP)
        try:
            await self._jobs.stop(timeout)
            await self._calls.stop(PROVIDER_STOP)
        except PyInfrakitError as error:
            log.error("the provider did not stop: %s", error)
        finally:
            self._calls.abandon()

    def abandon(self) -> None:
        """Wait for no provider call any more, as a crash would: threads that hang are left to themselves."""
        self._calls.abandon()

    def _report_end(self, task: asyncio.Task[None]) -> None:
        # A bug ended the loop. The plugin goes on serving, but nothing is observed any more.
        if not self._stopping:
            log.critical("the reconcile loop ended", exc_info=None if task.cancelled() else task.exception())

    # --- Status

    @property
    def trouble(self) -> str:
        """Why the provider can't be observed now, or an empty string."""
        return self._reconciler.trouble

    @property
    def observed(self) -> float | None:
        """When the last good observation ended, in seconds since 1970."""
        return self._reconciler.observed

    @property
    def held(self) -> Mapping[str, Transition]:
        """Losses that are held back, by ID, until an operator confirms them or the instances are seen working."""
        return self._reconciler.held

    @property
    def orphans(self) -> Mapping[str, Machine]:
        """Machines with this plugin's mark and no record, by ID, as of the last observation."""
        return self._reconciler.orphans

    @property
    def late_calls(self) -> Collection[str]:
        """Provider calls beyond their time limit."""
        return self._calls.late

    def count_states(self) -> dict[str, int]:
        """Return the number of instances in each state."""
        return {state.value: self.records.count(state) for state in State}

    def last_failure(self, id: str) -> str:
        """Return why the last provider call for an instance failed, while it waits to be retried; else an empty string."""
        return self._jobs.last_failure(id)

    def redact(self, record: Record) -> Raw:
        """Return the properties to show of an instance, without secrets: its live ones, or those of its spec.

        The type of the spec's properties says which of them are secret. A provider may repeat them anywhere
        in the live properties.
        """
        properties, shape = record.spec.properties or EMPTY_OBJECT, self.provider.Properties
        live = self.records.live(record.id)
        return redact_properties(properties, shape) if live is None else redact_live(live, properties, shape)

    async def list_pool(self) -> list[PoolMachine]:
        """Return all machines of the provider's pool. Raise `GiveUp` if the provider has no pool."""
        return await self._calls.list_pool()

    # --- InfraKit's calls

    async def validate(self, properties: Raw | None) -> None:
        """Raise `InvalidSpec` if the provider would refuse the properties."""
        await self._calls.validate(properties)

    async def provision(self, spec: Spec) -> str:
        """Return the ID of a new instance, or of the one that has the spec's logical ID and is otherwise the same.

        Wait for the provider, but not longer than the plugin's *wait*: after that, the work goes on in the
        background. Raise `InvalidSpec`, `Refused`, `StoreFailed`, or `GiveUp` if the provider failed; in
        that case there is no instance.
        """
        await self.validate(spec.properties)
        holder = self._find_holder(spec)
        if holder is None:
            now = time.time()
            id = ids.mint(self.records.last_id, now)
            sub_type = self._store.sub_type
            # Durable before the provider hears of it: after a crash, the same ID is provisioned again.
            written = self._chronicle.commit(
                "Instance.Provision",
                Put(Record(id=id, sub_type=sub_type, state=State.PROVISIONING, spec=spec, since=now, made=False)),
            )
            self._jobs.start(id)
        else:
            id, written = holder.id, self._store.commit()
        await written
        await self._jobs.wait_for_provision(id, self._wait)
        return id

    def _find_holder(self, spec: Spec) -> Record | None:
        """Return the live instance with the spec's logical ID; raise `Refused` if its spec is another one."""
        if spec.logical_id is None:
            return None
        for record in self.records.find_logical(spec.logical_id, spec.group):
            if record.state.described:
                if spec.asks_for(record.spec):
                    return record
                raise Refused(
                    record.id, f"has logical ID {spec.logical_id} already, with another spec; destroy it first"
                )
        return None

    async def destroy(self, id: str, reason: str) -> None:
        """Have an instance destroyed. Return once that is sure to happen. Raise `UnknownInstance` or `TryAgain`."""
        if self._paced and reason == ROLLING_UPDATE and self.records[id].state is not State.DESTROYING:
            await self._pace(self.records[id])
        doomed = self.records[id].after(Event.DESTROY, time.time(), reason)
        await self._commit_and_start("Instance.Destroy", Put(doomed))

    async def _pace(self, record: Record) -> None:
        """Wait until no other member of the group is provisioning; raise `TryAgain` if that takes too long."""
        group = record.spec.group
        if group is None:
            return
        others = self.records.find_provisioning

        def is_alone() -> bool:
            return self._stopping or len(others(group)) == (record.id in others(group))

        await self._waits.until_provisioned(group, is_alone, self._wait)
        if other := next((id for id in others(group) if id != record.id), None):
            raise TryAgain(f"{record.id}: not destroyed, as {other}, of the same group, is still being provisioned")

    async def label(self, id: str, tags: Mapping[str, str]) -> None:
        """Add or replace tags. The provider's own `label` follows in the background.

        Raise `UnknownInstance`, `StoreFailed`, or `Refused` if that moves the instance into a group in which
        another one has its logical ID.
        """
        record = self.records[id]
        spec = replace(record.spec, tags={**record.spec.tags, **tags})
        if spec.group != record.spec.group:
            self._refuse_second_holder(id, spec)
        labeled = replace(record, spec=spec, relabel=self._calls.keeps_labels)
        await self._commit_and_start("Instance.Label", Put(labeled))

    def _refuse_second_holder(self, id: str, spec: Spec) -> None:
        """Raise `Refused` if *id* would get a logical ID that another instance of its group has."""
        if spec.logical_id is None:
            return
        for other in self.records.find_logical(spec.logical_id, spec.group):
            if other.state.described and other.id != id:
                group = f"in group {spec.group}" if spec.group else "in no group"
                raise Refused(id, f"{other.id} has logical ID {spec.logical_id} {group} already")

    async def _commit_and_start(self, cause: str, *changes: Put) -> None:
        """Make changes durable; have their jobs look at the records again, as soon as memory has them."""
        written = self._chronicle.commit(cause, *changes)
        for change in changes:
            self._jobs.start(change.record.id)
        await written

    # --- Operators' calls

    async def set_aside(self, id: str, reason: str) -> None:
        """Take an instance out of service by hand. Raise `UnknownInstance`, `Refused` or `StoreFailed`."""
        aside = self.records[id].after(Event.SET_ASIDE, time.time(), reason)
        log.log(NOTICE, "%s: set aside by hand: %s", id, reason)
        await self._chronicle.commit(OPERATOR, Put(aside))

    async def restore(self, id: str, force: bool) -> None:
        """Bring a non-functional instance back, to the front; with *force*, also one that was replaced.

        An instance whose machine was never made is provisioned again. Raise `UnknownInstance`, `Refused` or
        `StoreFailed`.
        """
        record = self.records[id]
        restored = record.after(Event.RESTORED if record.made else Event.ASKED_AGAIN, time.time())
        unwanted = explain_unwanted(record, self.records)
        if unwanted and not force:
            raise Refused(id, f"not restored, as {unwanted}; destroy it, or restore it by force")
        log.log(NOTICE, "%s: restored by hand", id)
        await self._commit_and_start(OPERATOR, Put(restored, front=True))

    async def confirm_losses(self) -> list[str]:
        """Let the held losses happen at the next observation, which begins at once; return their IDs."""
        return await self._reconciler.release()

    async def adopt(self, handle: str, spec: Spec) -> str:
        """Mark a machine that existed before, and make a record of it; return its ID.

        Raise `Refused`, `GiveUp` if the provider can't adopt it, `TryAgain` or `StoreFailed`.
        """
        self._refuse_known(handle)
        id = ids.mint_adopted(time.time())
        self._refuse_second_holder(id, spec)
        self._handles_in_adoption.add(handle)
        try:
            # The mark comes first. After a crash in between, the machine is an orphan, which operators see. The
            # other way round, a restart would find a record without a machine, and provision a second one.
            machine = await self._calls.adopt(id, handle, spec)
        finally:
            self._handles_in_adoption.discard(handle)
        self._refuse_second_holder(id, spec)
        log.log(NOTICE, "%s: adopted machine %s", id, handle)
        await self._chronicle.commit(OPERATOR, Put(self._record_ready(machine, spec)))
        return id

    def _refuse_known(self, handle: str) -> None:
        for record in self.records:
            if record.handle == handle:
                raise Refused(record.id, f"is machine {handle} already, and {record.state}")
        for machine in self.orphans.values():
            if machine.handle == handle:
                raise Refused(machine.id, f"is machine {handle}, an orphan of this plugin's: adopt it as one")
        if handle in self._handles_in_adoption:
            raise Refused(handle, "is being adopted already")

    async def adopt_orphans(self, wanted: Collection[str], tags: Mapping[str, str]) -> list[str]:
        """Make records of orphans, the *wanted* ones or all, from the tags on the machines and *tags*; return their IDs.

        Check all before the first is adopted. Raise `UnknownInstance` for an ID that is no orphan, `Refused` or
        `StoreFailed`; after the latter, those that were not adopted are orphans again at the next observation.
        """
        machines = await self._find_orphans(wanted)
        identities: set[tuple[str, str | None]] = set()
        async for some in share(machines):
            for machine in some:
                spec = _read_spec(machine, tags)
                self._refuse_second_holder(machine.id, spec)
                identity = (spec.logical_id or "", spec.group)
                if spec.logical_id is not None and identity in identities:
                    problem = f"another orphan has logical ID {spec.logical_id} too: adopt one, and destroy one"
                    raise Refused(machine.id, problem)
                identities.add(identity)
        adopted: list[str] = []
        async for some in share(machines, PORTION):
            left = [machine for machine in some if machine.id in self.orphans]  # another call may have taken others
            records = [self._record_ready(machine, _read_spec(machine, tags)) for machine in left]
            await self._take_orphans("adopted, as it has this plugin's mark", records)
            adopted += [record.id for record in records]
        return adopted

    async def destroy_orphans(self, wanted: Collection[str]) -> None:
        """Have orphans destroyed. Return once that is sure to happen. Raise `UnknownInstance` or `StoreFailed`."""
        async for some in share(await self._find_orphans(wanted), PORTION):
            left = [machine for machine in some if machine.id in self.orphans]
            records = [self._record_ready(machine, _read_spec(machine, {})) for machine in left]
            doomed = [record.after(Event.DESTROY, time.time(), "an orphan, destroyed by hand") for record in records]
            await self._take_orphans("an orphan, destroyed by hand", doomed)

    async def _take_orphans(self, text: str, records: Sequence[Record]) -> None:
        """Make records of orphans."""
        for record in records:
            log.log(NOTICE, "%s: %s", record.id, text)
        self._reconciler.forget_orphans([record.id for record in records])
        await self._commit_and_start(OPERATOR, *map(Put, records))

    async def _find_orphans(self, wanted: Collection[str]) -> Sequence[Machine]:
        """Return the orphans, the *wanted* ones or all. Raise `UnknownInstance`, or `Refused` if another sub-type has one."""
        orphans, machines = self.orphans, list[Machine]()
        async for some in share(list(dict.fromkeys(wanted) or orphans)):
            for id in some:
                if id not in orphans:
                    raise UnknownInstance(id, "orphan")
                if other := self._store.find_elsewhere(id):
                    raise Refused(id, f"is an instance of sub-type {other}; does the provider go by the mark?")
                machines.append(orphans[id])
        return machines

    def _record_ready(self, machine: Machine, spec: Spec) -> Record:
        sub_type, now = self._store.sub_type, time.time()
        return Record(id=machine.id, sub_type=sub_type, state=State.READY, spec=spec, since=now, handle=machine.handle)


def _read_spec(machine: Machine, tags: Mapping[str, str]) -> Spec:
    """Return the spec of an orphan, from the tags on the machine and *tags*."""
    return Spec(tags={**machine.tags, **tags}, logical_id=machine.logical_id)
