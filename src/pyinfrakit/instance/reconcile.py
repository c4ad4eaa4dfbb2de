"""The reconcile loop: observe, plan, and have the plan done."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Mapping

import msgspec
from msgspec import Raw, Struct

from pyinfrakit.errors import CannotStart, PyInfrakitError, StoreFailed, TryAgain
from pyinfrakit.instance.calls import Calls
from pyinfrakit.instance.jobs import Work
from pyinfrakit.instance.plan import History, Limits, Observation, Plan, Transition, plan
from pyinfrakit.logs import NOTICE
from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record
from pyinfrakit.schema.decode import WrongShape, decode, encodable
from pyinfrakit.store import Store
from pyinfrakit.store.records import Change, Drop, Note, Put

log = logging.getLogger(__name__)


def _key(store: Store) -> str:
    """Give the key of what is kept from one run to the next: sub-types have one each, in the file that they share."""
    return f"Watch/{store.type}" if store.type else "Watch"


class _Memory(Struct, frozen=True, rename="pascal"):
    """What is kept: the losses of late and those that are held, by ID."""

    losses: dict[str, float] = {}
    held: dict[str, Transition] = {}


_NOTHING = Raw(msgspec.json.encode(_Memory()))


def _recalled(store: Store) -> History:
    """Give what an earlier run noted; raise `CannotStart` where that makes no sense."""
    try:
        memory = decode(store.records.notes.get(_key(store), _NOTHING), _Memory, _key(store))
    except WrongShape as error:
        raise CannotStart(f"{store.location}: Provider.{error}") from None
    return History({}, memory.losses, memory.held)


class Watch:
    """Brings records in line with what the provider is seen to have, every *interval* seconds.

    An observation may take *timeout* seconds. Raises `CannotStart` where what an earlier run noted makes no sense.
    """

    def __init__(self, store: Store, calls: Calls, work: Work, interval: float, timeout: float, limits: Limits) -> None:
        self._store = store
        self._records = store.records
        self._key = _key(store)
        self._whose = f" of {store.type}" if store.type else ""
        self._calls = calls
        self._work = work
        self._interval = interval
        self._timeout = timeout
        self._limits = limits
        self._history = _recalled(store)
        self._started = time.time()
        self._released: set[str] = set()
        self._now = asyncio.Event()
        self.trouble = ""
        """Why the provider can't be observed now; empty where it can."""
        self.orphans: Mapping[str, Machine] = {}
        """Machines with this plugin's mark that no record is of, by ID."""
        self.held: dict[str, Transition] = {}
        """Losses that are held back, by ID, until they are confirmed or were seen well again."""
        self.observed: float | None = None
        """When the last good observation ended, in seconds since 1970."""

    def release(self) -> list[str]:
        """Let the held losses happen, at the next observation, which begins at once; give their IDs."""
        self._released |= self.held.keys()
        self._now.set()
        return sorted(self.held)

    def forget_orphans(self, ids: Collection[str]) -> None:
        """Take those for orphans no more that have records now; what goes on being one is seen again."""
        self.orphans = {id: machine for id, machine in self.orphans.items() if id not in ids}

    async def run(self) -> None:
        """Observe until cancelled. What an earlier run of the daemon left to do begins after the first good observation."""
        while True:
            self._now.clear()
            machines = await self._observe()
            if machines is not None:
                await self._reconcile(machines)
                self._work.resume()
                self.observed = time.time()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._now.wait(), self._interval)

    async def _observe(self) -> dict[str, Machine] | None:
        """Give the machines by ID, or None where that is not known: then nothing changes."""
        self._records.touched = set(self._calls.in_flight)
        call = asyncio.create_task(self._calls.observe())
        call.add_done_callback(lambda call: call.cancelled() or call.exception())  # at a stop nobody may wait for it any more
        try:
            done, _ = await asyncio.wait({call}, timeout=self._timeout)
            if not done:
                raise TryAgain(f"no answer for {self._timeout:g} s")
            machines = call.result()
        except PyInfrakitError as error:
            self._say_trouble(encodable(str(error)))
            call.cancel()
            await asyncio.wait({call})  # one observe at a time, however long the last one takes
            return None
        finally:
            call.cancel()
        self._say_trouble("")
        log.debug("observed %d machines", len(machines))
        return machines

    def _say_trouble(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("the provider%s can't be observed, so nothing is concluded: %s", self._whose, trouble)
        elif self.trouble and not trouble:
            log.log(NOTICE, "the provider%s can be observed again", self._whose)
        self.trouble = trouble

    async def _reconcile(self, machines: dict[str, Machine]) -> None:
        unknown = {machine.id for machine in machines.values() if machine.unknown}
        seen = Observation(machines, time.time(), frozenset(self._records.touched | unknown), self._started)
        released = frozenset(self._released)
        decided = plan(self._records, seen, self._history, self._limits, released)
        self._records.show_all({m.id: m.live for m in machines.values() if m.live is not None})
        try:
            await self._store.commit(*self._changes(decided), *self._remembered(decided.history))
        except StoreFailed as error:
            log.error("%s; what was observed is looked at again", error)
            return
        self._history = decided.history
        acted = {transition.id for transition in decided.transitions}
        self._released -= released - (seen.silent - acted)
        for transition in decided.transitions:
            if transition.event is Event.AGED:
                self._work.start(transition.id)
        self._say_held(decided)
        changed = self._records.touched  # while this was written, by an operator
        self._say_orphans({id: machines[id] for id in decided.orphans if id not in changed})

    def _remembered(self, history: History) -> list[Change]:
        """Note what the mass-loss rule goes by, where that changed: a restart must not let go of what is held."""
        note = Raw(msgspec.json.encode(_Memory(dict(history.losses), dict(history.held))))
        return [] if note == self._records.notes.get(self._key, _NOTHING) else [Note(self._key, note)]

    def _changes(self, decided: Plan) -> list[Change]:
        return [self._change(self._records[transition.id], transition) for transition in decided.transitions]

    def _change(self, record: Record, transition: Transition) -> Change:
        after = record.after(transition.event, time.time(), transition.reason)
        log.log(NOTICE, "%s: %s: %s", record.id, transition.event, transition.reason or "works again")
        return Drop(record.id) if after is None else Put(after, front=transition.event is Event.HEALED)

    def _say_held(self, decided: Plan) -> None:
        held = dict(decided.history.held)
        if held.keys() - self.held.keys():
            first = next(iter(held.values()))
            log.critical(
                "%d instances seem lost at once (%s, …: %s). They are held: InfraKit is shown them as before, until they are"
                " seen well or `infrakit-instance confirm` says that they are lost",
                len(held),
                first.id,
                first.reason,
            )
        elif self.held and not held:
            log.log(NOTICE, "no losses are held any more")
        self.held = held

    def _say_orphans(self, orphans: Mapping[str, Machine]) -> None:
        for id in orphans.keys() - self.orphans.keys():
            log.warning(
                "%s: a machine with this plugin's mark, but no record of it here; it is left alone:"
                " `infrakit-instance orphans` shows it",
                id,
            )
        self.orphans = orphans
