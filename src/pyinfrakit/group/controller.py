"""The loop of one group: observe the members, plan, carry out the plan, and wait for news.

A round begins when a plugin reports a change, when an action has ended, when something becomes due, and at
the latest after the poll interval. Rounds of different groups are independent: a plugin that hangs makes
its own groups wait, and no others.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from msgspec.structs import replace

from pyinfrakit.errors import GiveUp, PyInfrakitError, TryAgain
from pyinfrakit.events import EventLog
from pyinfrakit.group import losses
from pyinfrakit.group.backoff import CRASH_TIME, Setbacks
from pyinfrakit.group.flavors import FindFlavor, Health
from pyinfrakit.group.health import HealthChecks
from pyinfrakit.group.holds import Holds, summarize
from pyinfrakit.group.plan import plan
from pyinfrakit.group.plugins import FindPlugin
from pyinfrakit.group.record import GroupRecord
from pyinfrakit.group.report import describe_group
from pyinfrakit.group.roster import Roster, Sight
from pyinfrakit.group.situation import Adopt, Config, Create, Destroy, Member, MemberState, Plan, SetAside, Situation
from pyinfrakit.group.spec import GroupSpec
from pyinfrakit.group.status import GroupStatus, Phase, Step, Verb
from pyinfrakit.group.wishes import Wishes
from pyinfrakit.group.work import Work
from pyinfrakit.turns import wait_turn

log = logging.getLogger(__name__)

SOON = 1.0
"""Seconds between plans while a group waits for something that only time brings."""

SETTLE_TIME = 15.0
"""Seconds after a start in which nothing is created at a plugin that keeps no records.

A provision of an earlier run may still be under way there; InfraKit's clients wait for so long.
"""

Save = Callable[[str, GroupRecord, GroupRecord], Awaitable[None]]
"""Replace the record of a group, make the new one durable, and have its controller follow it.

Raise `Refused` if another one than the expected one is stored, or `StoreFailed`.
"""


class Controller:
    """The loop of a group.

    *poll* is in seconds. *measure_room* returns how many more members the fleet allows, or None. *own* are the
    instance and logical IDs of the host on which this runs. *is_known*: the group existed before this start.
    *ended* is called once a group that is being destroyed has no members left.
    """

    def __init__(
        self,
        id: str,
        record: GroupRecord,
        *,
        find_plugin: FindPlugin,
        find_flavor: FindFlavor,
        checks: HealthChecks,
        events: EventLog,
        save: Save,
        ended: Callable[[str], None],
        poll: float,
        measure_room: Callable[[], int | None],
        own: Collection[str],
        is_known: bool,
    ) -> None:
        self.id = id
        self.wishes = Wishes(id, record)
        self.roster = Roster()
        self.work = Work(id, self.roster, find_plugin, find_flavor, events, self.refresh)
        self.plan = Plan()
        self.trouble = "its members are not observed yet"
        self._find_plugin = find_plugin
        self._checks = checks
        self._events = events
        self._save = save
        self._ended = ended
        self._poll = poll
        self._measure_room = measure_room
        self._own = own
        self._started = time.monotonic() if is_known else -SETTLE_TIME
        self._uncertain: set[str] = set()
        self._refreshed: dict[str, float] = {}
        self._setbacks = Setbacks()
        self._members: Sequence[Member] = ()
        self._holds = Holds()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        now, wall = time.monotonic(), time.time()
        for pool, members in record.known.items():
            for member, logical_id in members.items():
                self.roster.expect(pool, member, logical_id, now, wall)

    # --- Life

    def start(self) -> None:
        """Begin with the rounds."""
        self._task = asyncio.create_task(self._run(), name=f"group {self.id}")
        self._task.add_done_callback(self._report_end)

    async def stop(self) -> None:
        """End the rounds, and leave all members alone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1)
        await self.work.stop()
        self._checks.forget(self.id)

    def _report_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.trouble = "a bug ended its loop: see the log"
            log.critical("group %s: a bug ended its loop", self.id, exc_info=error)

    def wake(self) -> None:
        """Plan again now, with the members as they are known."""
        self._news.set()

    def refresh(self, pool: str = "") -> None:
        """Observe *pool*, or all, again now."""
        for each in [pool] if pool else list(self._refreshed):
            self._refreshed.pop(each, None)
        self._news.set()

    def follow(self, record: GroupRecord) -> None:
        """Go on with a changed record."""
        before, self.wishes = self.wishes, Wishes(self.id, record)
        # The last plan is of the record before: nobody must take it for the end of what this one asks for.
        self.plan = Plan(holds=(Step(Verb.WAIT, "", "the group is about to be planned again"),))
        old = before.record
        is_new = bytes(record.properties) != bytes(old.properties)
        if is_new or record.rollout.phase is not old.rollout.phase:
            self.work.reopen()
            self._setbacks.settle(time.monotonic())
        if is_new or old.rollout.phase is Phase.STOPPED:
            self.roster.excuse()
        self._news.set()

    # --- Rounds

    async def _run(self) -> None:
        while True:
            await wait_turn(is_bulk=True)  # a thousand groups may have news at the same moment
            self._news.clear()
            await self._observe()
            await self._decide()
            # Many groups that start together must not stay in step.
            delay = self._poll * random.uniform(0.9, 1.1)
            if self.plan.steps or self.work.asked or self.work.going:
                delay = min(SOON, delay)
            try:
                await asyncio.wait_for(self._news.wait(), delay)
            except TimeoutError:
                continue

    async def _observe(self) -> None:
        """Describe each plugin that has news, or was not asked for a poll interval."""
        now = time.monotonic()
        due = [name for name in self.wishes.plugins if now >= self._refreshed.get(name, 0.0) + self._poll]
        if len(due) == 1:
            await self._describe(due[0])
        elif due:
            await asyncio.gather(*map(self._describe, due))
        if due:
            self._checks.update(self.wishes.spec, [track.description for _, track in self.roster])

    async def _describe(self, pool: str) -> None:
        self._refreshed[pool] = time.monotonic()
        try:
            plugin = await self._find_plugin(pool)
            descriptions = await plugin.describe(self.id)
        except PyInfrakitError as error:
            if pool not in self.roster.blind:
                self._record("plugin unavailable", f"{pool}: {error}")
            self.roster.lose_sight(pool, str(error))
            return
        if pool in self.roster.blind:
            self._record("plugin available", pool)
        if plugin.is_certain:
            self._uncertain.discard(pool)
        else:
            self._uncertain.add(pool)
        now = time.monotonic()
        sight = self.roster.observe(pool, descriptions, now, time.time())
        missing = await self._judge_missing(pool, sight, now)
        self.work.settle(pool, sight.new, missing, now)
        for id in sight.failed:
            self._note_end(id, now)

    async def _judge_missing(self, pool: str, sight: Sight, now: float) -> tuple[str, ...]:
        """Forget the members that are gone; hold back mass losses if the plugin does not. Return the gone ones."""
        expected = {
            id for id in sight.missing if self.work.is_ended(id) or self.roster[id].state is MemberState.LEAVING
        }
        lost = gone = set(sight.missing) - expected
        if pool in self._uncertain:
            record = self.wishes.record
            known = self.roster.list_in(pool)
            verdict = losses.judge_losses(lost, len(known), record.losses, record.held, time.time())
            gone = set(verdict.gone)
            await self._remember(pool, verdict, expected | gone)
        for id in gone:
            self._note_end(id, now)
            self._record("gone", "its plugin no longer describes it", id)
        for id in expected | gone:
            self.roster.forget(id)
        return tuple(expected | gone)

    async def _remember(self, pool: str, verdict: losses.Verdict, gone: Collection[str]) -> None:
        """Keep what a restart must not forget of a plugin that has no rule for mass losses of its own."""
        record = self.wishes.record
        here = [id for id in self.roster.list_in(pool) if id not in gone]
        known = {id: self.roster[id].description.logical_id for id in sorted(here)}
        elsewhere = {id: reason for id, reason in record.held.items() if id in self.roster and id not in here}
        held = elsewhere | dict.fromkeys(sorted(verdict.held), losses.HELD)
        pools = {**record.known, pool: known}
        changed = replace(record, held=held, losses=verdict.recent, known=pools)
        if changed != record:
            await self._put(changed)
            if new := sorted(held.keys() - record.held.keys()):
                subject, reason = summarize(losses.HELD, new)
                self._record("held", reason, subject)

    def _note_end(self, id: str, now: float) -> None:
        """Take note of a member that failed by itself: its creation failed, or it may be in a crash loop."""
        track = self.roster[id]
        if id in self.work.going:
            return
        if not (track.is_proven or track.is_excused) and self.wishes.compare(track) is Config.CURRENT:
            self._setbacks.failure = f"{id} failed: {track.description.reason or 'it is gone'}"
        if track.running is None:
            reason = track.description.reason or "it vanished while it was created"
            self.work.fail(track.pool, GiveUp(f"{id}: {reason}"))
        elif now - track.running < CRASH_TIME:
            self._setbacks.note_crash(id, now, random.random())

    # --- Decisions

    async def _decide(self) -> None:
        """Plan, and begin to carry out the plan."""
        wishes = self.wishes
        needed = {pool.plugin for spec in (wishes.spec, wishes.previous) if spec for pool in spec.pools}
        self.trouble = self.roster.find_unseen(needed)
        if self.trouble:
            self.plan = Plan()
            return
        await self._destroy_doomed(wishes.record)
        wishes = self.wishes  # a call may have changed it meanwhile
        situation = self._assess(wishes)
        self._members = situation.members
        decided = plan(situation)
        if (turn := wishes.advance(decided, time.time())) is not None:
            if turn.type:
                self._record(turn.type, turn.reason)
            await self._put(turn.record)
            self._news.set()  # plan again, under the new phase
            return
        self.plan = decided
        count = sum(m.state not in (MemberState.FAILED, MemberState.LEAVING) for m in situation.members)
        self._setbacks.note_shortness(count < situation.spec.size, time.monotonic())
        for member, reason in self._holds.note(decided.holds, self.roster):
            self._record("held", reason, member)
        self._carry_out(situation, decided)
        if wishes.record.destroying and not len(self.roster) and not self.work.asked:
            self._ended(self.id)

    async def _destroy_doomed(self, record: GroupRecord) -> None:
        """Destroy the members that an operator named, before a plan chooses others."""
        for id in record.doomed:
            if id in self.roster and id not in self.work.going:
                self.work.destroy(Destroy(id, "an operator destroyed it"), self.wishes.spec)
        here = frozenset(id for id in record.doomed if id in self.roster)
        if here != record.doomed:
            await self._put(replace(record, doomed=here))

    def _assess(self, wishes: Wishes) -> Situation:
        now = time.monotonic()
        record = wishes.record
        min_ready = wishes.spec.properties.updating.find_min_ready(self._poll)
        members = self.roster.judge(
            now,
            min_ready,
            lambda id: self._checks.health(self.id, id)[:2],
            wishes.compare,
            self.work.going,
            self.work.ended,
            record.held,
            record.protected,
            self._own,
        )
        return Situation(
            spec=wishes.spec,
            members=members,
            asked=self.work.asked,
            phase=record.rollout.phase,
            phase_reason=record.rollout.reason,
            closed={**self.work.explain_closed(now), **self._explain_unready(now)},
            unlabeled=self.work.explain_unlabeled(now),
            rest=self._setbacks.explain_rest(now),
            room=self._measure_room(),
            min_ready=min_ready,
            short_for=self._setbacks.measure_shortness(now),
            failure=self._setbacks.failure or self.work.refusal,
            has_previous=wishes.previous is not None,
            is_ending=record.destroying,
        )

    def _explain_unready(self, now: float) -> Mapping[str, str]:
        """Return the pools that can't be seen now, or that were seen too short a time, with the reasons."""
        left = math.ceil(self._started + SETTLE_TIME - now)
        reason = f"calls of an earlier run may still be under way; again in {left} s"
        return {**(dict.fromkeys(self._uncertain, reason) if left > 0 else {}), **self.roster.blind}

    def _carry_out(self, situation: Situation, decided: Plan) -> None:
        """Begin the actions of a plan, as many as may run at once. The next plan has the others."""
        spec = self.wishes.spec
        members = {m.id: m for m in situation.members}
        for action in decided.actions[: self.work.free]:
            match action:
                case Create(is_previous=True) if self.wishes.previous is not None:
                    self.work.create(action, self.wishes.previous)
                case Create():
                    self.work.create(action, spec)
                case Destroy(id=id):
                    self._note_crash(members[id])
                    self.work.destroy(action, spec)
                case SetAside(id=id):
                    self._note_crash(members[id])
                    self.work.set_aside(action, spec)
                case Adopt():
                    self.work.adopt(action, spec)
        self.work.retry(spec, time.monotonic())

    def _note_crash(self, member: Member) -> None:
        if member.health is Health.UNHEALTHY and not member.is_proven:
            self._setbacks.note_crash(member.id, time.monotonic(), random.random())

    async def _put(self, record: GroupRecord) -> None:
        """Make a change of the record durable. Raise nothing: what could not be written is decided again."""
        try:
            await self._save(self.id, self.wishes.record, record)
        except PyInfrakitError as error:
            log.error("group %s: %s", self.id, error)
            await asyncio.sleep(SOON)

    def _record(self, type: str, reason: str, member: str = "") -> None:
        subject = f"group/{self.id}/{member}" if member else f"group/{self.id}"
        self._events.record(subject, type, "controller", reason)

    # --- Calls

    def count_members(self) -> int:
        """Return the number of members that exist or were asked for."""
        return len(self.roster) + len(self.work.asked)

    def count_outdated(self, spec: GroupSpec) -> int:
        """Return how many members would be outdated under another spec."""
        wishes = Wishes(self.id, replace(self.wishes.record, properties=spec.raw))
        working = (MemberState.CREATING, MemberState.RUNNING)
        return sum(t.state in working and wishes.compare(t) is Config.OUTDATED for _, t in self.roster)

    def foresee(self, wishes: Wishes) -> Situation:
        """Return the situation right after a commit of *wishes*. Raise `TryAgain` if the group can't be judged now."""
        if self.trouble:
            raise TryAgain(f"group {self.id} can't be planned now: {self.trouble}")
        members = [replace(m, config=wishes.compare(self.roster[m.id])) for m in self._members if m.id in self.roster]
        return Situation(
            spec=wishes.spec,
            members=members,
            asked=self.work.asked,
            closed=self.roster.blind,
            room=self._measure_room(),
            min_ready=wishes.spec.properties.updating.find_min_ready(self._poll),
        )

    def release(self, ids: Collection[str]) -> None:
        """Forget members whose loss an operator confirmed."""
        for id in ids:
            self.roster.forget(id)
        self._news.set()

    def find_member(self, id: str) -> Member | None:
        """Return a member as it was last seen; None if there is none of this ID."""
        return next((m for m in self._members if m.id == id and id in self.roster), None)

    def describe(self) -> GroupStatus:
        """Return the group as it was last seen."""
        members = [(m, self.roster[m.id]) for m in self._members if m.id in self.roster]
        return describe_group(self.id, self.wishes, members, self.plan.steps, self.trouble)
