"""The reconcile loop: observe, plan, and carry out the plan."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping

import msgspec
from msgspec import Raw, Struct

from pyinfrakit.errors import CannotStart, PyInfrakitError, StoreFailed, TryAgain
from pyinfrakit.instance.calls import Calls
from pyinfrakit.instance.chronicle import Chronicle
from pyinfrakit.instance.jobs import LOOK_AGAIN, Jobs
from pyinfrakit.instance.plan import History, Observation, Plan, Thresholds, Transition, plan
from pyinfrakit.logs import NOTICE
from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record
from pyinfrakit.schema.decode import WrongShape, decode, make_encodable
from pyinfrakit.store import Store
from pyinfrakit.store.records import Change, Drop, Note, Put, Records

log = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.05
"""Seconds between two observations, however soon the provider reports another change."""


class _Memory(Struct, frozen=True, rename="pascal"):
    """What survives a restart: recent losses, and held ones, by ID. A restart must not release what is held."""

    losses: dict[str, float] = {}
    held: dict[str, Transition] = {}


_EMPTY_MEMORY = Raw(msgspec.json.encode(_Memory()))


class _Changed:
    """The IDs whose record is not the one from *before*, and *others*.

    Records are frozen, so that every change is another object: a copy of the mapping is all that has to be kept.
    """

    def __init__(self, before: Mapping[str, Record], records: Records, others: Collection[str]) -> None:
        self._before = before
        self._records = records
        self._others = others

    def __contains__(self, id: object) -> bool:
        assert isinstance(id, str)
        return id in self._others or self._records.get(id) is not self._before.get(id)


class Reconciler:
    """Bring records in line with observations of the provider, every *interval* seconds.

    An observation may take *timeout* seconds. Raise `CannotStart` if the notes of an earlier run make no sense.
    """

    def __init__(
        self,
        store: Store,
        calls: Calls,
        jobs: Jobs,
        chronicle: Chronicle,
        interval: float,
        timeout: float,
        thresholds: Thresholds,
    ) -> None:
        self._store = store
        self._records = store.records
        self._calls = calls
        self._jobs = jobs
        self._chronicle = chronicle
        self._interval = interval
        self._timeout = timeout
        self._thresholds = thresholds
        # Sub-types share a file, so that each has a key of its own there. "Watch" is older than this class's name.
        self._key = f"Watch/{store.sub_type}" if store.sub_type else "Watch"
        self._whose = f" of {store.sub_type}" if store.sub_type else ""
        self._history = self._recall()
        self._started = time.time()
        self._released: set[str] = set()
        self._observe_now = asyncio.Event()
        self._has_changed = False
        self._owed: set[str] = set()
        self._before: Mapping[str, Record] = {}
        self._call: asyncio.Task[dict[str, Machine]] | None = None
        self.trouble = ""
        """Why the provider can't be observed now, or empty."""
        self.orphans: Mapping[str, Machine] = {}
        """Machines with this plugin's mark and no record, by ID."""
        self.held: dict[str, Transition] = {}
        """Losses that are held back, by ID, until an operator confirms them or the instances are seen working."""
        self.observed: float | None = None
        """When the last good observation ended, in seconds since 1970."""

    def release(self) -> list[str]:
        """Let the held losses happen at the next observation, which begins at once; return their IDs."""
        for id in self.held.keys() - self._released:
            self._chronicle.record(id, "released", "operator", "the loss is confirmed")
        self._released |= self.held.keys()
        self._observe_now.set()
        return sorted(self.held)

    def listen(self) -> Callable[[], None]:
        """Return a function by which the provider reports changes, from any thread."""
        loop = asyncio.get_running_loop()

        def report_change() -> None:
            if not self._has_changed:
                self._has_changed = True
                with contextlib.suppress(RuntimeError):  # the loop has ended, and nothing is observed any more
                    loop.call_soon_threadsafe(self._observe_now.set)

        return report_change

    def forget_orphans(self, ids: Collection[str]) -> None:
        """Drop orphans that have records now. The next observation finds the others again."""
        self.orphans = {id: machine for id, machine in self.orphans.items() if id not in ids}

    async def run(self) -> None:
        """Observe until cancelled. Work that an earlier run left is resumed after the first good observation."""
        while True:
            start = time.monotonic()
            self._observe_now.clear()
            was_reported, self._has_changed = self._has_changed or bool(self._owed), False
            machines = await self._observe()
            if machines is not None:
                self._owed = self._find_unjudged(machines) if was_reported else set()
                await self._reconcile(machines)
                self._before = {}  # dropped records need not be kept until the next observation
                self._jobs.resume()
                self.observed = time.time()
            await self._pause(time.monotonic() - start)

    def _find_unjudged(self, machines: Mapping[str, Machine]) -> set[str]:
        """Return the IDs of instances that do not work, but about which the observation says nothing.

        The change that the provider reported may be theirs. They are observed again once their calls have ended.
        """
        changed = _Changed(self._before, self._records, self._calls.called)
        working = {machine.id for machine in machines.values() if machine.functional}
        unseen = (each.id for each in self._records if each.state.described and each.id not in working)
        return {id for id in unseen if id in changed}

    async def _pause(self, duration: float) -> None:
        """Wait for the interval, or for a reason to observe at once.

        Observations, the last of which took *duration* seconds, take at most half of the time, however often the
        provider reports changes.
        """
        end = time.monotonic() + self._interval
        await asyncio.sleep(min(self._interval, max(SHORTEST_PAUSE, duration)))
        while (left := end - time.monotonic()) > 0 and self._owed <= self._calls.in_flight:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._observe_now.wait(), min(left, LOOK_AGAIN) if self._owed else left)
                return

    def _recall(self) -> History:
        """Return the history that an earlier run noted; raise `CannotStart` if it makes no sense."""
        try:
            memory = decode(self._records.notes.get(self._key, _EMPTY_MEMORY), _Memory, self._key)
        except WrongShape as error:
            raise CannotStart(f"{self._store.location}: Provider.{error}") from None
        return History({}, memory.losses, memory.held)

    async def _observe(self) -> dict[str, Machine] | None:
        """Return the machines by ID, or None if the provider can't be observed: then nothing changes."""
        if self._call is not None:
            await asyncio.wait({self._call})  # one observe at a time: that of a loop that a bug ended may still run
        self._before = self._records.copy()
        self._calls.called = set(self._calls.in_flight)
        call = self._call = asyncio.create_task(self._calls.observe(self._before.keys()))
        call.add_done_callback(lambda call: call.cancelled() or call.exception())  # after a stop, nobody else looks
        try:
            done, _ = await asyncio.wait({call}, timeout=self._timeout)
            if not done:
                raise TryAgain(f"no answer for {self._timeout:g} s")
            machines = call.result()
        except PyInfrakitError as error:
            self.report_trouble(make_encodable(str(error)))
            call.cancel()
            await asyncio.wait({call})  # one observe at a time, however long the last one takes
            return None
        finally:
            call.cancel()
        self.report_trouble("")
        log.debug("observed %d machines", len(machines))
        return machines

    def report_trouble(self, trouble: str) -> None:
        """Report why the provider can't be observed, or, with an empty text, that it can. Repeats are not logged."""
        if trouble and trouble != self.trouble:
            log.error("the provider%s can't be observed, so nothing changes: %s", self._whose, trouble)
            self._chronicle.record_plugin("trouble", "observed", f"the provider can't be observed: {trouble}")
        elif self.trouble and not trouble:
            log.log(NOTICE, "the provider%s can be observed again", self._whose)
            self._chronicle.record_plugin("recovered", "observed", "the provider can be observed again")
        self.trouble = trouble

    async def _reconcile(self, machines: dict[str, Machine]) -> None:
        # An observation says nothing about instances that changed, or had a call in flight, since it began; nor
        # about those that the provider can't judge.
        changed = _Changed(self._before, self._records, self._calls.called)
        unknown = {machine.id for machine in machines.values() if machine.unknown}
        silent = _Changed(self._before, self._records, self._calls.called | unknown)
        observation = Observation(machines, time.time(), silent, self._started)
        released = frozenset(self._released)
        decided = plan(self._records, observation, self._history, self._thresholds, released)
        self._records.show_all({m.id: m.live for m in machines.values() if m.live is not None}, newer=changed)
        unjudged = {id for id in released if id in silent}
        try:
            changes = [*self._list_changes(decided), *self._remember(decided.history)]
            await self._chronicle.commit("observed", *changes)
        except StoreFailed as error:
            log.error("%s; the next observation tries again", error)
            return
        self._history = decided.history
        acted = {transition.id for transition in decided.transitions}
        self._released -= released - (unjudged - acted)
        for transition in decided.transitions:
            if transition.event is Event.AGED:
                self._jobs.start(transition.id)
        self._report_held(decided, released)
        # An operator may have adopted or destroyed an orphan during the commit.
        self._report_orphans({id: machines[id] for id in decided.orphans if id not in changed})

    def _remember(self, history: History) -> list[Change]:
        note = Raw(msgspec.json.encode(_Memory(dict(history.losses), dict(history.held))))
        return [] if note == self._records.notes.get(self._key, _EMPTY_MEMORY) else [Note(self._key, note)]

    def _list_changes(self, decided: Plan) -> list[Change]:
        changes: list[Change] = []
        for transition in decided.transitions:
            record, event, reason = self._records[transition.id], transition.event, transition.reason
            # "missing from …" needs no event in front of it.
            text = reason if event is Event.MISSING else f"{event}: {reason or 'works again'}"
            log.log(NOTICE, "%s: %s", record.id, text)
            if record.next_state(event) is None:
                changes.append(Drop(record.id, reason))
            else:
                changes.append(Put(record.after(event, time.time(), reason), front=event is Event.HEALED))
        return changes

    def _report_held(self, decided: Plan, released: Collection[str]) -> None:
        held = dict(decided.history.held)
        for id in held.keys() - self.held.keys():
            self._chronicle.record(id, "held", "observed", held[id].reason)
        for id in self.held.keys() - held.keys() - set(released):
            if id in self._records:
                self._chronicle.record(id, "released", "observed", "it is not lost any more")
        if held.keys() - self.held.keys():
            first = next(iter(held.values()))
            log.critical(
                "%d instances seem lost at once (%s, …: %s). They are held: InfraKit sees them as before, until they are"
                " observed working or `infrakit-instance confirm` confirms the loss",
                len(held),
                first.id,
                first.reason,
            )
        elif self.held and not held:
            log.log(NOTICE, "no losses are held any more")
        self.held = held

    def _report_orphans(self, orphans: Mapping[str, Machine]) -> None:
        for id in orphans.keys() - self.orphans.keys():
            self._chronicle.record(id, "orphan", "observed", "a machine with this plugin's mark, but without a record")
            log.warning(
                "%s: a machine with this plugin's mark, but without a record here; it is left alone:"
                " `infrakit-instance orphans` shows it",
                id,
            )
        self.orphans = orphans
