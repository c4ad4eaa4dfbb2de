"""Work on instances until they are at rest, with at most one provider call for an ID at any time.

A record that is provisioning, destroying or newly labeled has a job: a task that calls the provider until
the record is at rest, with longer and longer pauses after failures. Decisions made meanwhile (a destroy
while the provision still runs, for example) are recorded, and the job finds them when its call ends.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from pyinfrakit.errors import GiveUp, PyInfrakitError, TryAgain
from pyinfrakit.instance.calls import Calls
from pyinfrakit.instance.chronicle import Chronicle
from pyinfrakit.instance.waits import Waits
from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record, Spec, State
from pyinfrakit.schema.decode import make_encodable
from pyinfrakit.store import Store
from pyinfrakit.store.records import Drop, Put
from pyinfrakit.turns import share

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds between a failed call and the next one for the ID."""

SHORTEST_AFTER, LONGEST_AFTER = 0.1, 24 * 3600.0
"""Bounds of the pause that a provider asks for, in seconds: "at once" must not fill the log."""


class _GroupedLog:
    """Log one event of many instances in one line: a line each would cost more than a provision does."""

    def __init__(self) -> None:
        self._ids: dict[str, list[str]] = {}

    def info(self, id: str, event: str) -> None:
        """Log *event*, with the other instances to which it happens in this turn of the event loop."""
        if not self._ids:
            asyncio.get_running_loop().call_soon(self._write)
        self._ids.setdefault(event, []).append(id)

    def _write(self) -> None:
        grouped, self._ids = self._ids, {}
        for event, ids in grouped.items():
            log.info("%s: %s", ", ".join(ids), event)


class _Job:
    """The work on one instance.

    A job settles once, with the answer for the callers who wait for a provision: an error, or None for success.
    """

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.is_settled = False
        self.has_news = False
        self.last_failure = ""
        """Why the last call failed, during the pause after it."""
        self._error: PyInfrakitError | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._pause: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """End a pause, or skip the next one, because the record changed."""
        self.has_news = True
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    async def pause(self, seconds: float) -> None:
        """Wait for *seconds*, or until there is news."""
        if self.has_news:
            return
        self._pause = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._pause, seconds)

    def settle(self, error: PyInfrakitError | None) -> None:
        """Answer all callers who wait. Only the first answer counts."""
        if self.is_settled:
            return
        self.is_settled, self._error = True, error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout: float) -> PyInfrakitError | None:
        """Return the answer. After *timeout* seconds, settle the job with success: its work goes on."""
        if not self.is_settled:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(timeout, self.settle, None)
            waiter = loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                timer.cancel()
        return self._error


_Step = Callable[[Record, _Job], Coroutine[Any, Any, None]]


class Jobs:
    """All jobs of a plugin."""

    def __init__(self, store: Store, calls: Calls, chronicle: Chronicle, waits: Waits) -> None:
        self._store = store
        self._records = store.records
        self._calls = calls
        self._chronicle = chronicle
        self._waits = waits
        self._jobs: dict[str, _Job] = {}
        self._log = _GroupedLog()
        # Work that an earlier run of the daemon left. It waits for `resume`, because an observation comes first.
        self._left = set(self._records.unfinished)
        self._stopping = False

    def start(self, id: str) -> None:
        """Make sure that an instance has a job, if it needs one, and that the job looks at the record again."""
        record = self._records.get(id)
        if record is None or id in self._left:
            return
        job = self._jobs.get(id)
        if job is None:
            if not record.is_unfinished:
                return
            job = self._jobs[id] = _Job()
            if record.state is not State.PROVISIONING:
                job.settle(None)
            job.task = asyncio.create_task(self._run(id, job))
        job.wake()

    async def resume(self) -> None:
        """Start the jobs of all unfinished records that have none, destroys first.

        They are left over from an earlier run of the daemon, or their change was undone when it could not be written.
        """
        self._left.clear()
        idle = [self._records[id] for id in self._records.unfinished if id not in self._jobs]
        async for some in share(sorted(idle, key=lambda record: record.state is not State.DESTROYING)):
            for id in (record.id for record in some if record.id not in self._jobs):
                self.start(id)
                if id in self._jobs:
                    self._jobs[id].settle(None)

    async def wait_for_provision(self, id: str, timeout: float) -> None:
        """Wait until a provision is done, for *timeout* seconds at most, or until a stop. Raise its error if it failed."""
        job = self._jobs.get(id)
        if job is None:
            return
        if self._stopping:
            job.settle(None)
        if (error := await job.wait(timeout)) is not None:
            raise error

    def last_failure(self, id: str) -> str:
        """Return why the last call for an instance failed, while it waits to be retried; else an empty string."""
        job = self._jobs.get(id)
        return "" if job is None else job.last_failure

    def stop_waiting(self) -> None:
        """End all waits for provisions, and begin no new calls."""
        self._stopping = True
        for job in self._jobs.values():
            job.settle(None)

    async def stop(self, timeout: float) -> None:
        """Let calls in flight end within *timeout* seconds, then cancel them. The next start resumes them."""
        self.stop_waiting()
        calling = {self._jobs[id].task for id in self._calls.in_flight if id in self._jobs}
        tasks = {job.task for job in self._jobs.values()}
        for task in tasks - calling:
            task.cancel()
        if calling:
            _, late = await asyncio.wait(calling, timeout=timeout)
            for task in late:
                task.cancel()
        self._calls.abandon()
        if tasks:
            await asyncio.wait(tasks, timeout=1)

    async def _run(self, id: str, job: _Job) -> None:
        failures = 0
        try:
            while (step := self._next_step(id)) is not None:
                job.has_news = False
                try:
                    await step(self._records[id], job)
                    failures = 0
                except PyInfrakitError as error:
                    failures += 1
                    await self._pause(id, job, failures, error)
            job.settle(None)
        finally:
            del self._jobs[id]
            if not job.is_settled:
                job.settle(GiveUp(f"{id}: the work on it broke off; the log says why"))

    def _next_step(self, id: str) -> _Step | None:
        record = self._records.get(id)
        if record is None or self._stopping:
            return None
        if record.state is State.PROVISIONING:
            return self._provision
        if record.state is State.DESTROYING:
            return self._destroy
        return self._label if record.relabel else None

    async def _pause(self, id: str, job: _Job, failures: int, error: PyInfrakitError) -> None:
        """Wait longer after each failure, but not if there is news. The jitter keeps failed calls from returning together."""
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures - 1, 20)) * random.uniform(0.5, 1)
        if isinstance(error, TryAgain) and error.after is not None:
            seconds = min(max(error.after, SHORTEST_AFTER), LONGEST_AFTER)
        log.warning("work on %s: %s; again in %.1f s", id, error, seconds)
        job.last_failure = make_encodable(str(error))
        if failures == 1:
            self._chronicle.record(id, "failing", "provider", job.last_failure)
        await job.pause(seconds)
        job.last_failure = ""

    async def _provision(self, record: Record, job: _Job) -> None:
        await self._store.commit()
        if record.spec.logical_id is not None:
            await self._waits.until_free(
                record.spec.logical_id,
                record.spec.group,
                lambda: self._pending_spec(record.id) is None or not self._must_wait(record),
            )
        try:
            machine = await self._calls.provision(record.id, lambda: self._pending_spec(record.id))
        except PyInfrakitError as error:
            # Once the caller has the ID, it counts on the instance, whose machine may exist and work.
            if job.is_settled and isinstance(error, TryAgain):
                raise
            await self._fail(record.id, job, error)
        else:
            if machine is not None:
                await self._succeed(job, machine)

    def _pending_spec(self, id: str) -> Spec | None:
        """Return the spec to provision, or None if the instance was destroyed or set aside while it waited its turn."""
        record = self._records.get(id)
        return None if record is None or record.state is not State.PROVISIONING or self._stopping else record.spec

    def _must_wait(self, record: Record) -> bool:
        """Return whether another holder of the logical ID is still being destroyed: two machines must not share it."""
        spec = record.spec
        if spec.logical_id is None:
            return False
        holders = self._records.find_logical(spec.logical_id, spec.group)
        return any(other.state is State.DESTROYING and other.id != record.id for other in holders)

    async def _fail(self, id: str, job: _Job, error: PyInfrakitError) -> None:
        """Have a half-made machine destroyed. Answer the caller, with the *error*, only once that is sure to happen."""
        reason = make_encodable(f"provision failed: {error}")
        log.error("%s: %s", id, reason)
        failed = self._records[id].after(Event.FAILED, time.time(), reason)
        await self._chronicle.commit("provider", Put(failed))
        failure = GiveUp(f"{id}: {reason}")
        failure.kind = error.kind or failure.kind
        job.settle(failure)

    async def _succeed(self, job: _Job, machine: Machine) -> None:
        id = machine.id
        record = self._records[id].after(Event.PROVISIONED, time.time())
        ready = Put(replace(record, handle=machine.handle, made=True))
        written = self._chronicle.commit("provider", ready, urgent=False)
        if machine.live is not None:
            self._records.show(id, machine.live)
        # Answer before the write ends. If it is lost, a restart provisions the same ID again, which changes nothing.
        job.settle(None)
        self._log.info(id, "provisioned")
        await written

    async def _destroy(self, record: Record, job: _Job) -> None:
        job.settle(None)
        await self._store.commit()
        await self._calls.destroy(record, record.reason)
        reason = f"destroyed ({record.reason})"
        await self._chronicle.commit("provider", Drop(record.id, reason), urgent=False)
        self._log.info(record.id, reason)

    async def _label(self, record: Record, job: _Job) -> None:
        await self._store.commit()
        await self._calls.label(record)
        current = self._records.get(record.id)
        if current is not None and current.spec.tags == record.spec.tags:
            await self._chronicle.commit("provider", Put(replace(current, relabel=False)), urgent=False)
