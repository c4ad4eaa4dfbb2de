"""Tell people the course of a commit: each member that is created, replaced or destroyed, in order, and why. Pure."""

from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from pyinfrakit.group.forecast import forecast
from pyinfrakit.group.situation import Adopt, Create, Destroy, MemberState, SetAside, Situation
from pyinfrakit.group.status import CourseStep, Verb
from pyinfrakit.group.wishes import Wishes


def describe_course(wishes: Wishes, now: Situation) -> Sequence[CourseStep]:
    """Return the numbered steps that follow from the situation right after a commit, then all that is left alone."""
    future = forecast(wishes, now)
    drafts = _Drafts(now)
    for number, each in enumerate(future.rounds):
        for action in each.actions:
            drafts.add(number, action, each.is_canary)
    places = {number: place for place, number in enumerate(sorted({draft.round for draft in drafts.all}), 1)}
    steps = [CourseStep(places[d.round], d.verb, d.subject, d.new, d.reason) for d in drafts.all]
    return [*steps, *(CourseStep(0, hold.verb, hold.subject, "", hold.reason) for hold in future.holds)]


class _Draft(Struct, eq=False):
    """A step. It may turn out to be the first half of a replacement."""

    round: int
    verb: Verb
    subject: str
    reason: str
    logical_id: str | None = None
    new: str = ""
    is_canary: bool = False

    def replace(self, subject: str, new: str, *reasons: str) -> None:
        self.verb, self.subject, self.new = Verb.REPLACE, subject, new
        canary = "a canary: the others wait for it" if self.is_canary else ""
        self.reason = "; ".join(filter(None, [*reasons, canary]))


class _Drafts:
    """The steps so far. A replacement is one step, with the number of its first half."""

    def __init__(self, now: Situation) -> None:
        self.all: list[_Draft] = []
        self._members = {m.id: m for m in now.members}
        here = (MemberState.CREATING, MemberState.RUNNING, MemberState.LOST)
        # Members beyond the size take the place of others already: nothing follows the first ones that go.
        self._spare = sum(m.state in here for m in now.members) + len(now.asked) - now.spec.size
        self._ahead: deque[_Draft] = deque()
        self._gone: list[_Draft] = []

    def add(self, round: int, action: Create | Destroy | SetAside | Adopt, is_canary: bool) -> None:
        match action:
            case Create():
                new = action.logical_id or action.pool
                self._create(action, _Draft(round, Verb.CREATE, "", action.reason, action.logical_id, new, is_canary))
            case Destroy():
                self._destroy(action, self._draft(round, Verb.DESTROY, action, is_canary))
            case SetAside():
                draft = self._draft(round, Verb.SET_ASIDE, action, False)
                self.all.append(draft)
                self._gone.append(draft)
            case Adopt():
                self.all.append(self._draft(round, Verb.ADOPT, action, False))

    def _draft(self, round: int, verb: Verb, action: Destroy | SetAside | Adopt, is_canary: bool) -> _Draft:
        member = self._members.get(action.id)
        if member is None:
            return _Draft(round, verb, "a new member", action.reason)
        is_last = member.is_own_host and verb is Verb.DESTROY
        reason = f"{action.reason}; last, because the controller runs on it" if is_last else action.reason
        return _Draft(round, verb, action.id, reason, member.logical_id, "", is_canary)

    def _create(self, action: Create, draft: _Draft) -> None:
        victim = next((each for each in self._gone if action.logical_id in (None, each.logical_id)), None)
        if victim is None:
            self.all.append(draft)
            if action.is_ahead:
                self._ahead.append(draft)
            return
        self._gone.remove(victim)
        if victim.verb is Verb.SET_ASIDE:
            victim.new = draft.new
        else:
            victim.replace(victim.subject, draft.new, victim.reason, "it goes first")

    def _destroy(self, action: Destroy, draft: _Draft) -> None:
        if self._ahead and not action.is_surplus:
            earlier = self._ahead.popleft()
            earlier.replace(draft.subject, earlier.new, draft.reason, "its replacement comes first")
            return
        self.all.append(draft)
        if self._spare > 0:
            self._spare -= 1
        elif not action.is_surplus:
            self._gone.append(draft)
