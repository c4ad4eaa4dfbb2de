"""Run a group's plan ahead: all that a commit leads to if every action succeeds at once. Pure: no I/O, no clock.

There is one way to decide: each round is what `plan` returns for the situation that the rounds before it leave.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit.group.census import Census
from pyinfrakit.group.flavors import Health
from pyinfrakit.group.plan import plan
from pyinfrakit.group.situation import (
    Action,
    Adopt,
    Asked,
    Config,
    Create,
    Destroy,
    Member,
    MemberState,
    SetAside,
    Situation,
)
from pyinfrakit.group.status import Phase, Step, Verb
from pyinfrakit.group.wishes import Wishes

MOST_WORK = 10_000_000
"""Members that all plans of a forecast look at together, at most: enough for 2,000 members, one after the other."""


class Round(Struct, frozen=True):
    """Actions that begin together. *is_canary*: all further replacements wait until the new members are proven."""

    actions: Sequence[Action]
    is_canary: bool


class Forecast(Struct, frozen=True):
    """The rounds that follow from a situation, and the steps that are held or awaited after them."""

    rounds: Sequence[Round]
    holds: Sequence[Step]


def forecast(wishes: Wishes, now: Situation) -> Forecast:
    """Return all that follows from the situation right after a commit of *wishes*, as far as `MOST_WORK` reaches."""
    world = _World(wishes, now)
    rounds: list[Round] = []
    work = 0
    while (work := work + 1 + len(world.members)) <= MOST_WORK:
        now = world.assess()
        decided = plan(now)
        if decided.stop:
            return Forecast(rounds, (Step(Verb.HOLD, "", decided.stop), *decided.holds))
        if (turn := world.wishes.advance(decided, 0.0)) is not None:
            world.wishes = Wishes(now.spec.id, turn.record)
            continue
        if decided.actions:
            rounds.append(Round(decided.actions, _tests_canaries(now)))
        if not world.go_on(decided.actions):
            return Forecast(rounds, decided.holds)
    return Forecast(rounds, (Step(Verb.HOLD, "", "the rest of this large group is not foretold"),))


def _tests_canaries(now: Situation) -> bool:
    has_canaries = now.spec.properties.updating.canary.of(now.spec.size) > 0
    return has_canaries and now.phase is Phase.ROLLING and Census(now).find_canary_floor() > 0


class _World:
    """A group in which nothing fails, and time passes as fast as the plan can follow."""

    def __init__(self, wishes: Wishes, now: Situation) -> None:
        self.wishes = wishes
        # As after each commit, members that have failed so far are no reason to stop the update.
        self.members = {m.id: replace(m, is_excused=not m.is_proven) for m in now.members}
        self._begin = now
        self._asked = now.asked
        self._under_way = list(self.members)
        self._created = 0

    def assess(self) -> Situation:
        """Return the situation as the controller would see it."""
        begin, wishes = self._begin, self.wishes
        here, first = len(self.members) + len(self._asked), len(begin.members) + len(begin.asked)
        return replace(
            begin,
            members=list(self.members.values()),
            asked=self._asked,
            phase=wishes.record.rollout.phase,
            phase_reason=wishes.record.rollout.reason,
            room=None if begin.room is None else begin.room + first - here,
            has_previous=wishes.previous is not None,
        )

    def go_on(self, actions: Sequence[Action]) -> bool:
        """Let *actions* succeed, and all that is under way. Return whether anything changes by that."""
        is_changed = self._end_what_is_under_way() or bool(actions)
        for action in actions:
            match action:
                case Create(pool, _, logical_id, is_previous):
                    self._add(Asked(pool, logical_id, Config.OUTDATED if is_previous else Config.CURRENT))
                case Destroy(id):
                    del self.members[id]
                case SetAside(id):
                    self.members[id] = replace(self.members[id], state=MemberState.FAILED)
                case Adopt(id):
                    self.members[id] = replace(self.members[id], config=Config.CURRENT)
        return is_changed

    def _end_what_is_under_way(self) -> bool:
        is_changed = bool(self._asked)
        for asked in self._asked:
            self._add(asked)
        self._asked = ()
        for id in self._under_way:
            before = self.members[id]
            if before.state in (MemberState.DRAINING, MemberState.LEAVING):
                del self.members[id]
            elif before.state in (MemberState.CREATING, MemberState.RUNNING) and before.health is not Health.UNHEALTHY:
                self.members[id] = replace(before, state=MemberState.RUNNING, health=Health.HEALTHY, is_proven=True)
            is_changed |= self.members.get(id) != before
        self._under_way = []
        return is_changed

    def _add(self, asked: Asked) -> None:
        self._created += 1
        # As our plugins mint them: each sorts before all earlier ones. No plugin's own ID begins with a space.
        id = f" {10**9 - self._created}"
        self.members[id] = Member(id=id, pool=asked.pool, logical_id=asked.logical_id, config=asked.config)
