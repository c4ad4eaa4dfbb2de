"""A plugin: one provider's instances, and every call that InfraKit and operators make about them."""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping

from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.errors import PyInfrakitError, Refused, TryAgain
from pyinfrakit.events import EventLog
from pyinfrakit.foreign import attempt, describe_error
from pyinfrakit.instance.adoption import Adoption
from pyinfrakit.instance.calls import Calls
from pyinfrakit.instance.chronicle import OPERATOR, Chronicle
from pyinfrakit.instance.holders import find_holder, refuse_second_holder
from pyinfrakit.instance.jobs import Jobs
from pyinfrakit.instance.plan import Thresholds, Transition, explain_unwanted
from pyinfrakit.instance.reconcile import Reconciler
from pyinfrakit.instance.slots import CallLimits
from pyinfrakit.instance.waits import Waits
from pyinfrakit.logs import NOTICE, Quota
from pyinfrakit.provider import Machine, PoolMachine, Provider
from pyinfrakit.record import Event, Record, Spec, State
from pyinfrakit.schema.secrets import EMPTY_OBJECT, redact_properties
from pyinfrakit.store import Store
from pyinfrakit.store.records import Put, Records

log = logging.getLogger(__name__)
log.addFilter(Quota())  # callers cause its lines

PROVIDER_STOP = 1.0
"""Seconds in which a provider has to release its resources at a stop."""

RESTART_PAUSE = 1.0
"""Seconds before the reconcile loop starts again after a bug ended it."""

ROLLING_UPDATE = "rolling_update"
"""The reason that InfraKit's last release sends when it destroys a member to replace it."""


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
        self._calls = Calls(provider, call_limits, store.records)
        self._chronicle = Chronicle(store, log, name)
        self._waits = Waits(self.records)
        self._jobs = Jobs(store, self._calls, self._chronicle, self._waits)
        limits = replace(thresholds, certain=attempt(lambda: bool(provider.certain), False))
        self._reconciler = Reconciler(
            store, self._calls, self._jobs, self._chronicle, interval, observe_timeout, limits
        )
        self.adoption = Adoption(store, self._calls, self._chronicle, self._jobs, self._reconciler)
        self._loop: asyncio.Task[None] | None = None
        self._stopping = False

    # --- Life

    async def start(self) -> None:
        """Start the provider, and begin to observe."""
        changed = self._reconciler.listen()
        await self._calls.start(self._store.mark, list(self.records), _ReadyIDs(self.records), changed)
        self._run_loop()
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

    def _run_loop(self) -> None:
        if self._stopping:
            return
        self._loop = asyncio.create_task(self._reconciler.run(), name="reconcile")
        self._loop.add_done_callback(self._restart_loop)

    def _restart_loop(self, ended: asyncio.Task[None]) -> None:
        """Run the reconcile loop again, after a pause: a bug of pyinfrakit ended it."""
        if self._stopping:
            return
        error = None if ended.cancelled() else ended.exception()
        log.critical("a bug ended the reconcile loop; it starts again in %g s", RESTART_PAUSE, exc_info=error)
        why = "it was cancelled" if error is None else describe_error(error)
        self._reconciler.report_trouble(f"a bug ended the reconcile loop: {why}")
        asyncio.get_running_loop().call_later(RESTART_PAUSE, self._run_loop)

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

        The type of the spec's properties says which of them are secret. A provider may repeat them, and `Init`,
        anywhere in the live properties.
        """
        live = self.records.live(record.id)
        if live is None:
            return redact_properties(record.spec.properties or EMPTY_OBJECT, self.provider.Properties)
        redaction = self._calls.redaction
        return redaction.of(record.spec).redact_json(live) if redaction.has_secrets(record.spec) else live

    def redact_handle(self, id: str, handle: str | None) -> str | None:
        """Return the provider's name for a machine without its instance's secrets."""
        return self._calls.hide(id, handle) if handle else handle

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
        holder = find_holder(self.records, spec)
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
            refuse_second_holder(self.records, id, spec)
        labeled = replace(record, spec=spec, relabel=self._calls.keeps_labels)
        await self._commit_and_start("Instance.Label", Put(labeled))

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
