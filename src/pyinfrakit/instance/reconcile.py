"""The reconcile loop: observe, plan, and carry out the plan."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Container, Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from pyinfrakit.errors import CannotStart, PyInfrakitError, StoreFailed, TryAgain
from pyinfrakit.instance.calls import Calls
from pyinfrakit.instance.chronicle import Chronicle
from pyinfrakit.instance.jobs import Jobs
from pyinfrakit.instance.plan import History, Observation, Plan, Thresholds, Transition, explain_unwanted, plan
from pyinfrakit.instance.threads import Threads
from pyinfrakit.logs import NOTICE, Quota
from pyinfrakit.provider import Machine
from pyinfrakit.record import Event, Record
from pyinfrakit.schema.decode import WrongShape, decode, make_encodable
from pyinfrakit.store import Store
from pyinfrakit.store.records import Change, Drop, Note, Put
from pyinfrakit.store.snapshot import Snapshot
from pyinfrakit.turns import share

log = logging.getLogger(__name__)
log.addFilter(Quota())  # machines and callers cause its lines

SHORTEST_PAUSE = 0.05
"""Seconds between two observations, however soon the provider reports another change."""

LOOK_AGAIN = 0.05
"""Seconds between looks, in the rare wait for the end of calls."""

PORTION = 200
"""Transitions that are made together. Each is several times the work of most items that share the event loop."""

MOST_NAMED = 20
"""New orphans that are named in the log, each in a line. There may be a million."""


class _Memory(Struct, frozen=True, rename="pascal"):
    """What survives a restart: recent losses, and held ones, by ID. A restart must not release what is held."""

    losses: dict[str, float] = {}
    held: dict[str, Transition] = {}


_EMPTY_MEMORY = Raw(msgspec.json.encode(_Memory()))


class _Either:
    """The IDs in either of two sets that may still grow."""

    def __init__(self, one: Container[str], other: Container[str]) -> None:
        self._one = one
        self._other = other

    def __contains__(self, id: object) -> bool:
        return id in self._one or id in self._other


class _Judgment(Struct, frozen=True):
    """The meaning of an observation: a plan, the IDs about which it says nothing, the live properties, and a note."""

    plan: Plan
    silent: frozenset[str]
    live: Mapping[str, Raw]
    note: Raw


def _judge(
    records: Snapshot,
    machines: Mapping[str, Machine],
    touched: frozenset[str],
    times: tuple[float, float],
    history: History,
    thresholds: Thresholds,
    released: frozenset[str],
) -> _Judgment:
    """Return the meaning of an observation of *machines*. *touched* are IDs that changed since it began, or had a call.

    *times* are now and the start of the daemon. All this takes long for many machines: it is for a thread.
    """
    now, started = times
    silent = touched.union(machine.id for machine in machines.values() if machine.unknown)
    decided = plan(records, Observation(machines, now, silent, started), history, thresholds, released)
    live = {machine.id: machine.live for machine in machines.values() if machine.live is not None}
    note = Raw(msgspec.json.encode(_Memory(dict(decided.history.losses), dict(decided.history.held))))
    return _Judgment(decided, silent, live, note)


class _Outcome(Struct, frozen=True):
    """The released IDs that are judged now, the IDs that are held since this plan, and those that are not any more."""

    judged: frozenset[str]
    new: Sequence[str]
    ended: Sequence[str]


def _compare(judgment: _Judgment, before: Mapping[str, Transition], released: frozenset[str]) -> _Outcome:
    """Return the effect of a judgment on the losses that were held *before*, and on *released* ones. For a thread, too."""
    held = judgment.plan.history.held
    acted = {transition.id for transition in judgment.plan.transitions} if released else set()
    return _Outcome(
        judged=released - ((released & judgment.silent) - acted),
        new=[id for id in held if id not in before],
        ended=[id for id in before if id not in held and id not in released],
    )


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
        self._is_reported = False
        self._owed: set[str] = set()
        self._call: asyncio.Task[dict[str, Machine]] | None = None
        self._changed: set[str] = set()  # the IDs of the records that changed since the last observation began
        self._threads = Threads()
        self._records.subscribe(self._note_change)
        self.trouble = ""
        """Why the provider can't be observed now, or empty."""
        self.orphans: dict[str, Machine] = {}
        """Machines with this plugin's mark and no record, by ID."""
        self.held: dict[str, Transition] = {}
        """Losses that are held back, by ID, until an operator confirms them or the instances are seen working."""
        self.observed: float | None = None
        """When the last good observation ended, in seconds since 1970."""

    async def release(self) -> list[str]:
        """Let the held losses happen at the next observation, which begins at once; return their IDs."""
        held, new = sorted(self.held), self.held.keys() - self._released
        self._released |= new
        self._observe_now.set()
        async for some in share(new):
            for id in some:
                self._chronicle.record(id, "released", "operator", "the loss is confirmed")
        return held

    def listen(self) -> Callable[[], None]:
        """Return a function by which the provider reports changes, from any thread."""
        loop = asyncio.get_running_loop()

        def report_change() -> None:
            if not self._is_reported:
                self._is_reported = True
                with contextlib.suppress(RuntimeError):  # the loop has ended, and nothing is observed any more
                    loop.call_soon_threadsafe(self._observe_now.set)

        return report_change

    def forget_orphans(self, ids: Collection[str]) -> None:
        """Drop orphans that have records now. The next observation finds the others again."""
        for id in ids:
            self.orphans.pop(id, None)

    async def run(self) -> None:
        """Observe until cancelled. Work that an earlier run left is resumed after the first good observation."""
        try:
            while True:
                start = time.monotonic()
                self._observe_now.clear()
                was_reported, self._is_reported = self._is_reported or bool(self._owed), False
                machines = await self._observe()
                if machines is not None:
                    self._owed = self._find_unjudged(machines) if was_reported else set()
                    await self._reconcile(machines)
                    await self._jobs.resume()
                    self.observed = time.time()
                await self._pause(time.monotonic() - start)
        finally:
            self._threads.abandon()

    def _note_change(self, old: Record | None, new: Record | None) -> None:
        record = old or new
        if old is not new and record is not None:
            self._changed.add(record.id)

    def _find_unjudged(self, machines: Mapping[str, Machine]) -> set[str]:
        """Return the IDs of instances that do not work, but about which the observation says nothing.

        The change that the provider reported may be theirs. They are observed again once their calls have ended.
        """
        touched = filter(None, map(self._records.get, self._changed | self._calls.called))
        working = {machine.id for machine in machines.values() if machine.functional}
        return {record.id for record in touched if record.state.described and record.id not in working}

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
        self._changed = set()
        self._calls.called = set(self._calls.in_flight)
        call = self._call = asyncio.create_task(self._calls.observe())
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

    async def _reconcile(self, machines: Mapping[str, Machine]) -> None:
        # An observation says nothing about instances that changed, or had a call in flight, since it began; nor
        # about those that the provider can't judge.
        touched, released = frozenset(self._changed | self._calls.called), frozenset(self._released)
        records, times = self._records.copy(), (time.time(), self._started)
        judgment: _Judgment = await self._threads.call(
            _judge, records, machines, touched, times, self._history, self._thresholds, released
        )
        decided = judgment.plan
        history = self._revise(decided.history, (self._changed | self._calls.called) - judgment.silent)
        await self._records.show_all(judgment.live, newer=_Either(self._changed, self._calls.called))
        try:
            # What the next plan has to know comes first: a crash must not lead to more losses than are allowed.
            await self._remember(judgment.note)
            self._history = history
            await self._carry_out(decided.transitions, judgment.silent)
        except StoreFailed as error:
            log.error("%s; the next observation tries again", error)
            return
        before, self.held = self.held, dict(decided.history.held)
        outcome: _Outcome = await self._threads.call(_compare, judgment, before, released)
        self._released -= outcome.judged
        await self._report_held(outcome, before)
        await self._report_orphans(decided.orphans, machines)

    def _revise(self, history: History, late: Collection[str]) -> History:
        """Return *history* without news of instances that changed during the plan: its observation is not about them."""
        streaks = dict(history.streaks)
        for id in late:
            streaks.pop(id, None)
            if id in self._history.streaks:
                streaks[id] = self._history.streaks[id]
        return msgspec.structs.replace(history, streaks=streaks)

    async def _remember(self, note: Raw) -> None:
        if note != self._records.notes.get(self._key, _EMPTY_MEMORY):
            await self._chronicle.commit("observed", Note(self._key, note))

    async def _carry_out(self, transitions: Sequence[Transition], silent: Collection[str]) -> None:
        """Make *transitions*, but not of instances that changed since the plan. Raise `StoreFailed`."""
        async for some in share(transitions, PORTION):
            current = [transition for transition in some if self._is_current(transition, silent)]
            changes = self._list_changes(current)
            if changes:
                await self._chronicle.commit("observed", *changes)
            for transition in current:
                if transition.event is Event.AGED:
                    self._jobs.start(transition.id)

    def _is_current(self, transition: Transition, silent: Collection[str]) -> bool:
        id = transition.id
        if id in self._changed or id not in self._records or (id in self._calls.called and id not in silent):
            return False
        return transition.event is not Event.HEALED or explain_unwanted(self._records[id], self._records) is None

    def _list_changes(self, transitions: Sequence[Transition]) -> list[Change]:
        changes: list[Change] = []
        ids_by_text: dict[str, list[str]] = {}
        for transition in transitions:
            record, event, reason = self._records[transition.id], transition.event, transition.reason
            # "missing from …" needs no event in front of it.
            text = reason if event is Event.MISSING else f"{event}: {reason or 'works again'}"
            ids_by_text.setdefault(text, []).append(record.id)
            if record.next_state(event) is None:
                changes.append(Drop(record.id, reason))
            else:
                changes.append(Put(record.after(event, time.time(), reason), front=event is Event.HEALED))
        for text, ids in ids_by_text.items():
            log.log(NOTICE, "%s: %s", ", ".join(ids), text)
        return changes

    async def _report_held(self, outcome: _Outcome, before: Mapping[str, Transition]) -> None:
        held = self.held
        if outcome.new:
            first = next(iter(held.values()))
            log.critical(
                "%d instances seem lost at once (%s, …: %s). They are held: InfraKit sees them as before, until they are"
                " observed working or `infrakit-instance confirm` confirms the loss",
                len(held),
                first.id,
                first.reason,
            )
        elif before and not held:
            log.log(NOTICE, "no losses are held any more")
        async for some in share(outcome.new):
            for id in some:
                self._chronicle.record(id, "held", "observed", held[id].reason)
        async for some in share(outcome.ended):
            for id in some:
                if id in self._records:
                    self._chronicle.record(id, "released", "observed", "it is not lost any more")

    async def _report_orphans(self, ids: Sequence[str], machines: Mapping[str, Machine]) -> None:
        # An operator may have adopted or destroyed an orphan meanwhile.
        before, orphans = self.orphans, dict[str, Machine]()
        async for some in share(ids):
            orphans.update((id, machines[id]) for id in some if id not in self._changed and id not in self._records)
        self.orphans = orphans
        new = [id for id in orphans if id not in before]
        for id in new[:MOST_NAMED]:
            self._chronicle.record(id, "orphan", "observed", "a machine with this plugin's mark, but without a record")
            log.warning(
                "%s: a machine with this plugin's mark, but without a record here; it is left alone:"
                " `infrakit-instance orphans` shows it",
                id,
            )
        if len(new) > MOST_NAMED:
            text = f"{len(new) - MOST_NAMED} more machines with this plugin's mark, but without a record"
            self._chronicle.record_plugin("orphans", "observed", text)
            log.warning("%s: `infrakit-instance orphans` shows them", text)
