"""Decide what a group does next. Pure: no I/O, no clock, no state between calls.

The rules, in the order in which they apply. ``docs/decisions.md`` has examples of each; the tests run them.

| rule       | condition                                                    | then |
|------------|--------------------------------------------------------------|------|
| end        | the group is being destroyed                                 | destroy all members |
| stop       | during an update, a replacement fails, or is late            | stop the update |
| remediate  | a member is unhealthy                                        | replace it, within the budget |
| shrink     | more members than wanted, or unwanted logical IDs            | destroy: unhealthy, outdated, smallest ID first |
| replace    | a member is outdated, and the update goes on                 | replace it, within budget, surge and canary |
| return     | an earlier pool has room again, and members are to return    | the same, with surge only |
| adopt      | a member that stays has the word ``bootstrap`` as its hash   | label it with the current one |
| grow       | fewer members than wanted, counting those that were asked for | create, in the first pool that has room |
| clean up   | a failed member is kept by nothing, also not by hand         | destroy it, once the group is whole again |

What a rule wants, and something prevents, is a hold with its reason. Three guards apply to every rule:

- A protected member, and one that can't be seen now, is never destroyed.
- A member that works is destroyed only if enough others do: the size less the budget, or the size if the member
  is one too many.
- Nothing is created beyond the size and the surge in use, the limits of group and fleet, or while a crash
  loop backs off.
"""

from collections.abc import Iterable, Iterator

from pyinfrakit.group.census import Census, explain
from pyinfrakit.group.flavors import Health
from pyinfrakit.group.situation import (
    Action,
    Adopt,
    Asked,
    Config,
    Create,
    Destroy,
    Member,
    MemberState,
    Plan,
    SetAside,
    Situation,
)
from pyinfrakit.group.status import Phase, Step, Verb


def plan(now: Situation) -> Plan:
    """Return the plan that follows from a situation."""
    planner = _Planner(now)
    if now.is_ending:
        planner.end()
    else:
        planner.decide()
    planner.wait()
    return Plan(
        actions=tuple(planner.actions),
        holds=tuple(planner.holds),
        stop=planner.stop,
        is_outdated=planner.census.outdated > 0,
        is_updated=planner.is_updated,
    )


class _Planner:
    """The plan so far. Each rule is a method that adds to it."""

    def __init__(self, now: Situation) -> None:
        self.now = now
        self.properties = now.spec.properties
        self.size = now.spec.size
        self.budget = now.spec.budget
        self.census = Census(now)
        self.actions: list[Action] = []
        self.holds: list[Step] = []
        self.stop = ""
        self.is_rolling = False
        self.is_updated = False

    def decide(self) -> None:
        """Apply the rules to a group that goes on."""
        if self.now.phase is Phase.ROLLING:
            self.stop = self.find_failure()
            self.is_rolling = not self.stop
        self.remediate()
        self.shrink()
        if self.is_rolling:
            self.replace()
        else:
            self.explain_rest_of_update()
        self.give_back()
        self.adopt()
        self.grow()
        self.clean_up()
        census = self.census
        is_mixed = any(m.config is not Config.CURRENT for m in [*census.present.values(), *census.going])
        # Without members, nothing has shown that the configuration works.
        self.is_updated = not is_mixed and census.available >= max(1, self.size) and not census.asked

    def hold(self, subject: str, reason: str, verb: Verb = Verb.HOLD) -> None:
        self.holds.append(Step(verb, subject, reason))

    def destroy(self, member: Member, reason: str, is_update: bool = False, is_surplus: bool = False) -> None:
        self.census.remove(member)
        self.actions.append(Destroy(member.id, reason, is_update, is_surplus))

    # --- Rules

    def end(self) -> None:
        """Destroy every member, also failed ones. Those that leave are waited for."""
        reason = "the group is being destroyed"
        for member in list(self.census.present.values()):
            if held := self.census.explain_guard(member, -self.size):
                self.hold(member.id, f"{reason}; not destroyed: {held}")
            else:
                self.destroy(member, reason, is_surplus=True)
        for member in self.census.failed:
            self.end_failed(member, reason)

    def end_failed(self, member: Member, reason: str) -> None:
        if member.is_protected:
            self.hold(member.id, f"{reason}; not destroyed: it is protected")
        else:
            self.actions.append(Destroy(member.id, reason, is_surplus=True))

    def find_failure(self) -> str:
        """Return why the update has to stop, or an empty string."""
        if self.now.failure:
            return f"replacement {self.now.failure}"
        deadline = self.properties.updating.deadline
        unproven = [m for m in [*self.census.present.values(), *self.census.failed] if not m.is_proven]
        for member in unproven:
            if not self.is_new(member) or member.is_excused or member.state is MemberState.LOST:
                continue
            if member.state is MemberState.FAILED or member.health is Health.UNHEALTHY:
                return explain(f"replacement {member.id} failed", member.reason)
            if member.age >= deadline and not self.census.is_available(member):
                return explain(f"replacement {member.id} was not healthy after {deadline}", member.reason)
        if self.now.short_for >= deadline and not self.now.asked:
            return explain(f"no replacement could be created for {deadline}", _join(self.now.closed.values()))
        return ""

    def is_new(self, member: Member) -> bool:
        return member.config is Config.CURRENT and not member.is_proven

    def is_evidence(self, member: Member) -> bool:
        """Return whether the update stopped on a member, which stays for a look at it."""
        return (bool(self.stop) or self.now.phase is Phase.STOPPED) and self.is_new(member)

    def remediate(self) -> None:
        """Replace unhealthy members: at most the budget at once, and at least one."""
        present = self.census.present.values()
        sick = [m for m in present if m.health is Health.UNHEALTHY and m.state is MemberState.RUNNING]
        settled = sum(m.is_proven and m.state is MemberState.RUNNING for m in present)
        left = max(1, self.budget) - max(0, self.size - settled)
        for member in self.census.sort_victims(sick):
            reason = explain("unhealthy", member.reason)
            if held := self.explain_unhealthy(member, left):
                self.hold(member.id, f"{reason}; not replaced: {held}")
                continue
            left -= member.is_proven
            if sum(not m.is_by_hand for m in self.census.failed) < self.properties.keep:
                self.census.remove(member)
                self.census.failed.append(member)
                self.actions.append(SetAside(member.id, reason))
            else:
                self.destroy(member, reason)

    def explain_unhealthy(self, member: Member, left: int) -> str:
        """Return why an unhealthy member stays, or an empty string. *left*: how many more the budget allows."""
        if not self.properties.remediate:
            return "Remediate is off"
        if self.is_evidence(member):
            return "the update stopped on it"
        if member.is_proven and left <= 0:
            return f"the budget allows {max(1, self.budget)} at once"
        if self.now.rest and not member.is_proven:
            return self.now.rest
        return self.census.explain_guard(member, 0)

    def shrink(self) -> None:
        """Destroy members that are too many, or whose logical ID is unwanted or a duplicate."""
        if self.properties.allocation.logical_ids:
            surplus, floor = self.list_surplus(), self.size - self.budget
            excess = len(surplus)
        else:
            excess, floor = len(self.census.present) - self.size - self.census.find_surge_in_use(), self.size
            surplus = self.census.sort_victims(self.census.present.values()) if excess > 0 else []
        held: list[tuple[Member, str]] = []
        for member in surplus:
            if excess <= 0:
                return
            if reason := self.census.explain_guard(member, floor):
                held.append((member, reason))
            else:
                self.destroy(member, self.explain_surplus(member), is_surplus=True)
                excess -= 1
        for member, reason in held[:excess]:
            self.hold(member.id, f"{self.explain_surplus(member)}; not destroyed: {reason}")

    def list_surplus(self) -> list[Member]:
        """Return the members whose logical ID is not wanted, or that a better member has too."""
        wanted = set(self.properties.allocation.logical_ids or ())
        best_first = self.census.sort_victims(self.census.present.values())[::-1]
        best_first.sort(key=lambda m: (not m.is_protected, not self.census.is_available(m)))
        surplus = set()
        for member in best_first:
            if member.logical_id in wanted:
                wanted.discard(member.logical_id)
            else:
                surplus.add(member.id)
        return [m for m in best_first[::-1] if m.id in surplus]

    def explain_surplus(self, member: Member) -> str:
        wanted = self.properties.allocation.logical_ids
        if not wanted:
            return f"the group's size is {self.size}"
        if member.logical_id in wanted:
            return f"another member has logical ID {member.logical_id}"
        return f"logical ID {member.logical_id or '(none)'} is not wanted"

    def replace(self) -> None:
        """Destroy outdated members, one after the other, as far as budget, surge and canary allow."""
        updating, census = self.properties.updating, self.census
        surge = updating.surge.of(self.size)
        down = updating.unavailable.of(self.size) if updating.unavailable is not None else int(not surge)
        down = min(down, self.budget)
        under_way, at_least = census.count_under_way(), census.find_canary_floor()
        for member in sorted(census.list_outdated(), key=lambda m: (m.is_own_host, census.is_available(m), m.id)):
            if census.outdated <= at_least:
                held = "the canaries are not proven yet"
            elif under_way >= max(1, down + surge):
                held = f"{under_way} replacement{'s' if under_way > 1 else ''} under way"
            else:
                held = census.explain_guard(member, self.size - down)
            if held:
                self.hold(member.id, f"outdated; not replaced yet: {held}")
            else:
                missing = max(len(census.asked), self.size - len(census.present))
                self.destroy(member, "its configuration is outdated", is_update=True)
                under_way += max(len(census.asked), self.size - len(census.present)) - missing

    def explain_rest_of_update(self) -> None:
        """Say why outdated members stay."""
        is_begun = self.now.phase is not Phase.IDLE
        reason = f"the update is {self.now.phase}" if is_begun else "no update has begun"
        reason = self.stop or self.now.phase_reason or reason
        for member in self.census.list_outdated():
            self.hold(member.id, f"outdated; not replaced: {reason}")

    def give_back(self) -> None:
        """Destroy a member of a later pool, once there is one more than wanted."""
        for member in self.census.sort_victims(self.census.list_misplaced()):
            if len(self.census.present) > self.size and not self.census.explain_guard(member, self.size):
                self.destroy(member, "an earlier pool has room again")
                return

    def adopt(self) -> None:
        """Label members that were handed over."""
        for member in self.census.present.values():
            if member.config is not Config.TO_ADOPT or member.state is not MemberState.RUNNING:
                continue
            if problem := self.now.unlabeled.get(member.id):
                self.hold(member.id, f"to be adopted; not labeled: {problem}")
            else:
                self.actions.append(Adopt(member.id, "adopt the member, which has the hash bootstrap"))

    def grow(self) -> None:
        """Create missing members: up to the size, and as surge while members are replaced."""
        counted = self.census.count_all()
        missing = self.size - counted
        if self.is_rolling:
            missing = max(missing, min(self.size + self.census.find_surge() - counted, self.count_allowed_surge()))
        elif self.census.list_misplaced():
            missing = max(missing, self.size + self.census.find_surge() - counted)
        for new, logical_id in enumerate(self.list_vacant(missing)):
            is_ahead = self.census.count_all() >= self.size
            if is_ahead and not self.is_rolling and not self.census.list_misplaced():
                return  # the members before it have taken the last places of the earlier pool
            reason = self.explain_growth(logical_id, is_ahead)
            pool = self.census.choose_pool()
            if held := self.explain_limit(new):
                self.hold(logical_id or "", f"{reason}; not created: {held}")
                return
            if pool is None:
                full = _join(map(self.census.explain_full, self.now.spec.pools))
                self.hold(logical_id or "", f"{reason}; not created: {full}")
                return
            config = Config.OUTDATED if self.uses_previous else Config.CURRENT
            self.census.add(Asked(pool.plugin, logical_id, config))
            self.actions.append(Create(pool.plugin, reason, logical_id, self.uses_previous, is_ahead))

    @property
    def uses_previous(self) -> bool:
        """Whether new members get the previous configuration: the committed one failed, or was given up."""
        is_over = bool(self.stop) or self.now.phase in (Phase.STOPPED, Phase.ABORTED)
        return self.now.has_previous and is_over

    def count_allowed_surge(self) -> int:
        """Return how many replacements may be created beyond the missing ones, because of the canaries."""
        floor = self.census.find_canary_floor()
        if not floor:
            return self.size
        current = len(self.census.present) - self.census.outdated
        current += sum(each.config is not Config.OUTDATED for each in self.census.asked)
        return max(0, self.size - floor - current)

    def list_vacant(self, missing: int) -> Iterator[str | None]:
        """Yield a logical ID, or None, for each of *missing* members."""
        wanted = self.properties.allocation.logical_ids
        if not wanted:
            yield from [None] * max(0, missing)
            return
        here = {m.logical_id for m in [*self.census.present.values(), *self.census.going]}
        here |= {each.logical_id for each in self.census.asked}
        vacant = [each for each in wanted if each not in here]
        yield from vacant[: max(0, missing)]

    def explain_limit(self, new: int) -> str:
        """Return why no member beyond *new* ones can be created, or an empty string."""
        if self.now.rest:
            return self.now.rest
        limit = self.properties.limits.max
        if limit is not None and self.census.count_all() >= limit:
            return f"the group's limit is {limit} members"
        if self.now.room is not None and new >= self.now.room:
            return "the fleet's limit is reached"
        return ""

    def explain_growth(self, logical_id: str | None, is_ahead: bool) -> str:
        if is_ahead:
            stays = "outdated member" if self.census.outdated else "member of a later pool"
            return f"a replacement, before the {stays} goes"
        missing = f"logical ID {logical_id} has no member" if logical_id else "a member is missing"
        return f"{missing}; it gets the previous configuration" if self.uses_previous else missing

    def clean_up(self) -> None:
        """Destroy failed members beyond those to keep: once the group is whole again, or if they are too many."""
        keep = self.properties.keep
        is_whole = self.census.available >= self.size
        for member in self.census.failed:
            if member.is_by_hand:
                reason = explain("set aside by hand", member.reason)
                self.hold(member.id, f"{reason}; kept until an operator restores or destroys it")
        failed = [m for m in self.census.failed if m.state is MemberState.FAILED and not m.is_by_hand]
        failed.sort(key=lambda m: (m.age, m.id))
        for place, member in enumerate(failed[keep:]):
            reason = explain("failed", member.reason)
            if held := self.explain_failed(member):
                self.hold(member.id, f"{reason}; not destroyed: {held}")
            elif is_whole or place >= max(1, self.size):
                self.actions.append(Destroy(member.id, f"{reason}; {keep} are kept", is_surplus=True))
            else:
                self.hold(member.id, f"{reason}; kept until the group is whole again", Verb.WAIT)

    def explain_failed(self, member: Member) -> str:
        """Return why a failed member stays, or an empty string."""
        if member.is_protected:
            return "it is protected"
        if not self.properties.remediate:
            return "Remediate is off"
        return "the update stopped on it" if self.is_evidence(member) else ""

    def wait(self) -> None:
        """Say what is under way."""
        for member in self.now.members:
            if not self.census.is_available(member) and (waited := self.explain_wait(member)):
                self.hold(member.id, waited, Verb.WAIT)
        for asked in self.now.asked:
            self.hold(asked.logical_id or asked.pool, "asked for, and not described yet", Verb.WAIT)

    def explain_wait(self, member: Member) -> str:
        """Return what a member is about to become, or an empty string."""
        if member.state in (MemberState.LEAVING, MemberState.DRAINING):
            return explain("being destroyed", member.reason)
        if member.id not in self.census.present:
            return ""
        if member.state is MemberState.LOST:
            return explain("it can't be seen now", member.reason)
        if member.state is MemberState.CREATING:
            return "being created"
        if member.health is Health.UNKNOWN:
            return explain("not healthy yet", member.reason or "no check has said so")
        if member.health is Health.HEALTHY:
            return f"healthy for {member.healthy_for:g}s of {self.now.min_ready:g}s"
        return ""


def _join(reasons: Iterable[str]) -> str:
    """Return different reasons in one line."""
    return "; ".join(dict.fromkeys(reasons))
