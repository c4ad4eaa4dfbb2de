"""Drive instances to rest, by calls to the provider: at most one for an ID at any time.

A record that is provisioning, destroying or newly labelled has a job: a task that calls the provider until the record
is at rest, with longer and longer pauses after failures. What is decided meanwhile (a destroy while the
provision still runs, say) is recorded, and found by the job when its call is done.
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
from pyinfrakit.logs import Together
from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record, Spec, State
from pyinfrakit.schema.decode import encodable
from pyinfrakit.store import Store
from pyinfrakit.store.records import Drop, Put

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds between a failed call and the next one for the ID."""

SHORTEST_PAUSE, LONGEST_AFTER = 0.1, 24 * 3600.0
"""Bounds of the seconds that a provider says: "at once" must not fill the log."""

LOOK_AGAIN = 0.05
"""Seconds between looks, in the rare waits for what may come about in many ways."""


class _Job:
    """Somebody at work on an instance, and what those who wait for its provision are told: an error, or None for its ID."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.is_settled = False
        self._error: PyInfrakitError | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self.has_news = False
        self.trouble = ""
        """Why the last call for it failed, while there is a pause after it."""
        self._pause: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """End a pause, or make none, as there is news."""
        self.has_news = True
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    async def pause(self, seconds: float) -> None:
        """Do nothing for a while, or until there is news."""
        if self.has_news:
            return
        self._pause = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._pause, seconds)

    def settle(self, error: PyInfrakitError | None) -> None:
        """Tell; first come, first told."""
        if self.is_settled:
            return
        self.is_settled, self._error = True, error
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def outcome(self, timeout: float) -> PyInfrakitError | None:
        """Wait until it is settled, and settle it after *timeout* seconds."""
        if not self.is_settled:
            loop = asyncio.get_running_loop()
            late = loop.call_later(timeout, self.settle, None)
            waiting = loop.create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                late.cancel()
        return self._error


_Step = Callable[[Record, _Job], Coroutine[Any, Any, None]]


class Work:
    """All jobs of a plugin."""

    def __init__(self, store: Store, calls: Calls) -> None:
        self._store = store
        self._records = store.records
        self._calls = calls
        self._jobs: dict[str, _Job] = {}
        self._log = Together(log)
        self._left = {record.id for record in self._records if _is_unfinished(record)}
        """What an earlier run of the daemon left to do, until `resume`."""
        self._stopping = False

    def start(self, id: str) -> None:
        """Make sure that somebody is at work on an instance, and looks at its record again."""
        record = self._records.get(id)
        if record is None or id in self._left:
            return
        job = self._jobs.get(id)
        if job is None:
            if not _is_unfinished(record):
                return
            job = self._jobs[id] = _Job()
            if record.state is not State.PROVISIONING:
                job.settle(None)
            job.task = asyncio.create_task(self._run(id, job))
        job.wake()

    def resume(self) -> None:
        """Take up whatever nobody is at work on, first what is to be destroyed.

        That is what an earlier run of the daemon left, and what was taken back when it could not be written.
        """
        self._left.clear()
        idle = [record for record in self._records if _is_unfinished(record) and record.id not in self._jobs]
        for record in sorted(idle, key=lambda record: record.state is not State.DESTROYING):
            self.start(record.id)
            self._jobs[record.id].settle(None)

    async def provisioned(self, id: str, timeout: float) -> None:
        """Wait until a provision is done, or *timeout* seconds, or a stop. Raise its error where it failed."""
        job = self._jobs.get(id)
        if job is None:
            return
        if self._stopping:
            job.settle(None)
        if (error := await job.outcome(timeout)) is not None:
            raise error

    def trouble(self, id: str) -> str:
        """Say why the last call for an instance failed, where it is made again; empty where none failed."""
        job = self._jobs.get(id)
        return "" if job is None else job.trouble

    def stop_waiting(self) -> None:
        """End all waits for provisions, and begin no new calls."""
        self._stopping = True
        for job in self._jobs.values():
            job.settle(None)

    async def stop(self, timeout: float) -> None:
        """Let calls that are in flight end within *timeout* seconds, then cancel them. The next start takes them up."""
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
        """Wait longer after each failure, but not when there is news."""
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures - 1, 20)) * random.uniform(0.5, 1)
        if isinstance(error, TryAgain) and error.after is not None:
            seconds = min(max(error.after, SHORTEST_PAUSE), LONGEST_AFTER)
        log.warning("work on %s: %s; again in %.1f s", id, error, seconds)
        job.trouble = encodable(str(error))
        await job.pause(seconds)
        job.trouble = ""

    async def _provision(self, record: Record, job: _Job) -> None:
        await self._store.commit()
        while self._wanted(record.id) is not None and self._must_wait(record):
            await asyncio.sleep(LOOK_AGAIN)
        try:
            machine = await self._calls.provision(record.id, lambda: self._wanted(record.id))
        except PyInfrakitError as error:
            if job.is_settled and isinstance(error, TryAgain):
                raise  # its caller counts on it, and its machine may be there and work
            await self._fail(record.id, job, encodable(f"provision failed: {error}"))
        else:
            if machine is not None:
                await self._succeed(job, machine)

    def _wanted(self, id: str) -> Spec | None:
        """Give what is still to be asked for: it may have been destroyed or set aside while it waited for its turn."""
        record = self._records.get(id)
        return None if record is None or record.state is not State.PROVISIONING or self._stopping else record.spec

    def _must_wait(self, record: Record) -> bool:
        """Is another holder of the record's logical ID still being destroyed? Two machines must not be it at once."""
        spec = record.spec
        if spec.logical_id is None:
            return False
        holders = self._records.of_logical_id(spec.logical_id, spec.group)
        return any(other.state is State.DESTROYING and other.id != record.id for other in holders)

    async def _fail(self, id: str, job: _Job, reason: str) -> None:
        """Have what the failed provision may have left destroyed; only when that is sure to happen, tell."""
        log.error("%s: %s", id, reason)
        record = self._records[id].after(Event.FAILED, time.time(), reason)
        assert record is not None
        await self._store.commit(Put(record))
        job.settle(GiveUp(f"{id}: {reason}"))

    async def _succeed(self, job: _Job, machine: Machine) -> None:
        """Tell at once: were the record not written, a restart would provision the same ID again, which changes nothing."""
        id = machine.id
        record = self._records[id].after(Event.PROVISIONED, time.time())
        assert record is not None
        written = self._store.commit(Put(replace(record, handle=machine.handle, made=True)), urgent=False)
        if machine.live is not None:
            self._records.show(id, machine.live)
        job.settle(None)
        self._log.info(id, "provisioned")
        await written

    async def _destroy(self, record: Record, job: _Job) -> None:
        job.settle(None)
        await self._store.commit()
        await self._calls.destroy(record, record.reason)
        await self._store.commit(Drop(record.id), urgent=False)
        self._log.info(record.id, f"destroyed ({record.reason})")

    async def _label(self, record: Record, job: _Job) -> None:
        await self._store.commit()
        await self._calls.label(record)
        current = self._records.get(record.id)
        if current is not None and current.spec.tags == record.spec.tags:
            await self._store.commit(Put(replace(current, relabel=False)), urgent=False)


def _is_unfinished(record: Record) -> bool:
    return record.state in (State.PROVISIONING, State.DESTROYING) or record.relabel
