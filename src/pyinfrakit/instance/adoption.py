"""Machines that exist without a record: an operator has them adopted, or destroyed."""

import logging
import time
from collections.abc import Collection, Mapping, Sequence

from pyinfrakit import ids
from pyinfrakit.errors import Refused, UnknownInstance
from pyinfrakit.instance.calls import Calls
from pyinfrakit.instance.chronicle import OPERATOR, Chronicle
from pyinfrakit.instance.holders import refuse_second_holder
from pyinfrakit.instance.jobs import Jobs
from pyinfrakit.instance.reconcile import PORTION, Reconciler
from pyinfrakit.logs import NOTICE, Quota
from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record, Spec, State
from pyinfrakit.store import Store
from pyinfrakit.store.records import Put
from pyinfrakit.turns import share

log = logging.getLogger(__name__)
log.addFilter(Quota())  # callers cause its lines


class Adoption:
    """The orphans of a plugin, and the machines that never had its mark."""

    def __init__(self, store: Store, calls: Calls, chronicle: Chronicle, jobs: Jobs, reconciler: Reconciler) -> None:
        self._store = store
        self._records = store.records
        self._calls = calls
        self._chronicle = chronicle
        self._jobs = jobs
        self._reconciler = reconciler
        self._handles_in_adoption: set[str] = set()

    async def adopt(self, handle: str, spec: Spec) -> str:
        """Mark a machine that existed before, and make a record of it; return its ID.

        Raise `Refused`, `GiveUp` if the provider can't adopt it, `TryAgain` or `StoreFailed`.
        """
        self._refuse_known(handle)
        id = ids.mint_adopted(time.time())
        refuse_second_holder(self._records, id, spec)
        self._handles_in_adoption.add(handle)
        try:
            # The mark comes first. After a crash in between, the machine is an orphan, which operators see. The
            # other way round, a restart would find a record without a machine, and provision a second one.
            machine = await self._calls.adopt(id, handle, spec)
        finally:
            self._handles_in_adoption.discard(handle)
        refuse_second_holder(self._records, id, spec)
        log.log(NOTICE, "%s: adopted machine %s", id, handle)
        await self._chronicle.commit(OPERATOR, Put(self._record_ready(machine, spec)))
        return id

    def _refuse_known(self, handle: str) -> None:
        for record in self._records:
            if record.handle == handle:
                raise Refused(record.id, f"is machine {handle} already, and {record.state}")
        for machine in self._reconciler.orphans.values():
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
                refuse_second_holder(self._records, machine.id, spec)
                identity = (spec.logical_id or "", spec.group)
                if spec.logical_id is not None and identity in identities:
                    problem = f"another orphan has logical ID {spec.logical_id} too: adopt one, and destroy one"
                    raise Refused(machine.id, problem)
                identities.add(identity)
        adopted: list[str] = []
        async for some in share(machines, PORTION):
            left = [
                machine for machine in some if machine.id in self._reconciler.orphans
            ]  # another call may have taken others
            records = [self._record_ready(machine, _read_spec(machine, tags)) for machine in left]
            for record in records:
                refuse_second_holder(self._records, record.id, record.spec)  # it may have come meanwhile
            await self._take_orphans("adopted, as it has this plugin's mark", records)
            adopted += [record.id for record in records]
        return adopted

    async def destroy_orphans(self, wanted: Collection[str]) -> None:
        """Have orphans destroyed. Return once that is sure to happen. Raise `UnknownInstance` or `StoreFailed`."""
        async for some in share(await self._find_orphans(wanted), PORTION):
            left = [machine for machine in some if machine.id in self._reconciler.orphans]
            records = [self._record_ready(machine, _read_spec(machine, {})) for machine in left]
            doomed = [record.after(Event.DESTROY, time.time(), "an orphan, destroyed by hand") for record in records]
            await self._take_orphans("an orphan, destroyed by hand", doomed)

    async def _take_orphans(self, text: str, records: Sequence[Record]) -> None:
        """Make the records of orphans durable, and have the provider called for those to be destroyed."""
        for record in records:
            log.log(NOTICE, "%s: %s", record.id, text)
        self._reconciler.forget_orphans([record.id for record in records])
        written = self._chronicle.commit(OPERATOR, *map(Put, records))
        for record in records:
            self._jobs.start(record.id)
        await written

    async def _find_orphans(self, wanted: Collection[str]) -> Sequence[Machine]:
        """Return the orphans, the *wanted* ones or all. Raise `UnknownInstance`, or `Refused` if another sub-type has one."""
        orphans, machines = self._reconciler.orphans, list[Machine]()
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
