"""Take in machines that exist: those with this plugin's mark that no record is of, and those that had nothing to do with it.

Nothing is adopted or destroyed here unless an operator says so.
"""

import logging
import time
from collections.abc import Collection, Mapping

from pyinfrakit import ids
from pyinfrakit.errors import Refused, UnknownInstance
from pyinfrakit.instance.calls import Calls
from pyinfrakit.instance.jobs import Work
from pyinfrakit.instance.reconcile import Watch
from pyinfrakit.logs import NOTICE
from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record, Spec, State
from pyinfrakit.store import Store
from pyinfrakit.store.records import Put

log = logging.getLogger(__name__)


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
