"""Decide what a group does next. Pure: no I/O, no clock, no state between calls.

The rules, in the order in which they apply. ``docs/decisions.md`` has an example for each; the tests run them.

| rule       | condition                                                    | then |
|------------|--------------------------------------------------------------|------|
| end        | the group is being destroyed                                 | destroy all members |
| adopt      | a member has the word ``bootstrap`` as its hash              | label it with the current one |
| stop       | during an update, a replacement fails, or is late            | stop the update |
| remediate  | a member is unhealthy                                        | replace it, within the budget |
| shrink     | more members than wanted, or unwanted logical IDs            | destroy: unhealthy, outdated, smallest ID first |
| replace    | a member is outdated, and the update goes on                 | replace it, within budget, surge and canary |
| return     | an earlier pool has room again, and members are to return    | the same, with surge only |
| grow       | fewer members than wanted, counting those that were asked for | create, in the first pool that has room |
| clean up   | a failed member is kept by nothing                           | destroy it, once the group is whole again |

What a rule wants, and something prevents, is a hold with its reason. Three guards apply to every rule:

- A protected member, and one that can't be seen now, is never destroyed.
- A healthy member is destroyed only if enough healthy ones are left: the size less the budget.
- Nothing is created beyond the size and the surge in use, the limits of group and fleet, or while a crash
  loop backs off.
"""

from collections.abc import Iterable, Iterator, Sequence

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
from pyinfrakit.group.spec import Pool
from pyinfrakit.group.status import Phase, Step, Verb


def plan(now: Situation) -> Plan:
    """Return the plan that follows from a situation."""
    planner = _Planner(now)
    if now.is_ending:
        planner.end()
    else:
        planner.decide()
    planner.wait()
    return Plan(tuple(planner.actions), tuple(planner.holds), planner.stop, planner.is_updated)


class _Planner:
    """The members that are left, and the plan so far. Each rule is a method that adds to it."""

    def __init__(self, now: Situation) -> None:
        self.now = now
        self.spec = now.spec
        self.actions: list[Action] = []
        self.holds: list[Step] = []
        self.stop = ""
        self.is_rolling = False
        self.is_updated = False
        self.size = now.spec.size
        self.budget = now.spec.budget
        self.surge = now.spec.properties.updating.surge.of(self.size)
        here = (MemberState.CREATING, MemberState.RUNNING, MemberState.LOST)
        self.present = {m.id: m for m in now.members if m.state in here}
        self.going = [m for m in now.members if m.state is MemberState.DRAINING]
        self.failed = [m for m in now.members if m.state is MemberState.FAILED]

    def decide(self) -> None:
        """Apply the rules to a group that goes on."""
        self.adopt()
        self.stop = self.find_failure() if self.now.phase is Phase.ROLLING else ""
        self.is_rolling = self.now.phase is Phase.ROLLING and not self.stop
        self.remediate()
        self.shrink()
        if self.is_rolling:
            self.replace()
        elif self.list_outdated():
            self.explain_rest_of_update()
        self.give_back()
        self.grow()
        self.clean_up()
        is_mixed = any(m.config is not Config.CURRENT for m in self.present.values())
        self.is_updated = not (is_mixed or self.going or self.now.asked) and self.count_available() >= self.size

    # --- Facts

    def is_available(self, member: Member) -> bool:
        """Return whether a member does its work, and has for long enough if it is a replacement."""
        is_ready = member.state is MemberState.RUNNING and member.health is Health.HEALTHY
        return is_ready and (member.is_proven or member.healthy_for >= self.now.min_ready)

    def count_available(self) -> int:
        return sum(map(self.is_available, self.present.values()))

    def count_all(self) -> int:
        """Return the number of members that count: those that are here, those that drain, and those asked for."""
        return len(self.present) + len(self.going) + len(self.now.asked)

    def list_outdated(self) -> list[Member]:
        """Return the members that an update replaces; an aborted update leaves them as they are."""
        if self.now.phase is Phase.ABORTED:
            return []
        return [m for m in self.present.values() if m.config is Config.OUTDATED]

    def list_misplaced(self) -> list[Member]:
        """Return the members that are to return to an earlier pool, because it has room again."""
        order = self.spec.properties.pools
        if not order.return_ or order.order != "first" or self.now.phase not in (Phase.IDLE, Phase.ABORTED):
            return []
        names = [pool.plugin for pool in self.spec.pools]
        best = next((rank for rank, pool in enumerate(self.spec.pools) if not self.explain_full(pool)), len(names))
        return [m for m in self.present.values() if m.pool in names and names.index(m.pool) > best]

    def sort_victims(self, members: Iterable[Member]) -> list[Member]:
        """Return members in the order in which they go: unhealthy, outdated, then by ID; the own host last."""
        ordered = sorted(members, key=lambda m: m.id, reverse=self.spec.properties.scale_in == "oldest")
        return sorted(
            ordered,
            key=lambda m: (m.is_own_host, m.health is not Health.UNHEALTHY, m.config is not Config.OUTDATED),
        )

    def explain_guard(self, member: Member, floor: int) -> str:
        """Return why a member must not be destroyed now, or an empty string. *floor*: healthy members that must be left."""
        if member.is_protected:
            return "it is protected"
        if member.state is MemberState.LOST:
            return f"it can't be seen now: {member.reason}"
        available = self.count_available()
        if self.is_available(member) and available - 1 < floor:
            return f"only {available} of {self.size} members are healthy, and {floor} must stay so"
        return ""

    # --- Rules

    def hold(self, subject: str, reason: str, verb: Verb = Verb.HOLD) -> None:
        self.holds.append(Step(verb, subject, reason))

    def destroy(self, member: Member, reason: str, is_update: bool = False) -> None:
        self.going.append(self.present.pop(member.id))
        self.actions.append(Destroy(member.id, reason, is_update))

    def end(self) -> None:
        """Destroy every member, also failed ones. Those that leave are waited for."""
        for member in [*self.present.values(), *self.failed]:
            if member.state is MemberState.LOST:
                self.hold(member.id, f"not destroyed: it can't be seen now: {member.reason}")
            else:
                self.actions.append(Destroy(member.id, "the group is being destroyed"))

    def adopt(self) -> None:
        """Label members that were handed over."""
        for member in self.present.values():
            if member.config is Config.TO_ADOPT and member.state is MemberState.RUNNING:
                self.actions.append(Adopt(member.id, "adopt the member, which has the hash bootstrap"))

    def find_failure(self) -> str:
        """Return why the update has to stop, or an empty string."""
        deadline = self.spec.properties.updating.deadline
        for member in [*self.present.values(), *self.failed]:
            if member.config is not Config.CURRENT or member.is_proven or member.is_excused:
                continue
            if member.state is MemberState.FAILED or member.health is Health.UNHEALTHY:
                return f"replacement {member.id} failed: {member.reason or member.health.name.lower()}"
            if member.age >= deadline and not self.is_available(member):
                return f"replacement {member.id} was not healthy after {deadline}: {member.reason or member.state}"
        if self.now.short_for >= deadline and not self.now.asked:
            reasons = "; ".join(dict.fromkeys(self.now.closed.values()))
            return f"no replacement could be created for {deadline}" + (f": {reasons}" if reasons else "")
        return ""

    def remediate(self) -> None:
        """Replace unhealthy members: at most the budget at once, and at least one."""
        sick = [m for m in self.present.values() if m.health is Health.UNHEALTHY and m.state is MemberState.RUNNING]
        settled = sum(m.is_proven and m.state is MemberState.RUNNING for m in self.present.values())
        left = max(1, self.budget) - max(0, self.size - settled)
        for member in self.sort_victims(sick):
            reason = f"unhealthy: {member.reason}" if member.reason else "unhealthy"
            if held := self.explain_kept(member, left):
                self.hold(member.id, f"{reason}; not replaced: {held}")
                continue
            left -= member.is_proven
            if len(self.failed) < self.spec.properties.keep:
                self.going.append(self.present.pop(member.id))
                self.failed.append(member)
                self.actions.append(SetAside(member.id, reason))
            else:
                self.destroy(member, reason)

    def explain_kept(self, member: Member, left: int) -> str:
        """Return why an unhealthy member stays, or an empty string. *left*: how many more the budget allows."""
        if not self.spec.properties.remediate:
            return "Remediate is off"
        if (self.stop or self.now.phase is Phase.STOPPED) and self.is_new(member):
            return "the update stopped on it"
        if member.is_proven and left <= 0:
            return f"the budget allows {max(1, self.budget)} at once"
        if self.now.rest and not member.is_proven:
            return self.now.rest
        return self.explain_guard(member, 0)

    def is_new(self, member: Member) -> bool:
        return member.config is Config.CURRENT and not member.is_proven

    def shrink(self) -> None:
        """Destroy members that are too many, or whose logical ID is unwanted or a duplicate."""
        surplus = self.list_surplus()
        excess = len(surplus)
        if not self.spec.properties.allocation.logical_ids:
            surplus = self.sort_victims(self.present.values())
            excess = len(surplus) - self.find_ceiling()
        held: list[tuple[Member, str]] = []
        for member in surplus:
            if excess <= 0:
                return
            if reason := self.explain_guard(member, self.size - self.budget):
                held.append((member, reason))
            else:
                self.destroy(member, self.explain_surplus(member))
                excess -= 1
        for member, reason in held[:excess]:
            self.hold(member.id, f"{self.explain_surplus(member)}; not destroyed: {reason}")

    def list_surplus(self) -> list[Member]:
        """Return the members whose logical ID is not wanted, or that another member has too: the better one stays."""
        wanted = set(self.spec.properties.allocation.logical_ids or ())
        surplus = []
        for member in reversed(self.sort_victims(self.present.values())):
            if member.logical_id in wanted:
                wanted.discard(member.logical_id)
            else:
                surplus.append(member)
        return surplus[::-1]

    def explain_surplus(self, member: Member) -> str:
        wanted = self.spec.properties.allocation.logical_ids
        if not wanted:
            return f"the group's size is {self.size}"
        if member.logical_id in wanted:
            return f"another member has logical ID {member.logical_id}"
        return f"logical ID {member.logical_id or '(none)'} is not wanted"

    def find_ceiling(self) -> int:
        """Return the most members that may exist now: the size, and the surge while members are replaced."""
        stale = len(self.list_outdated()) or len(self.list_misplaced())
        ceiling = self.size + min(self.surge, stale)
        limit = self.spec.properties.limits.max
        return ceiling if limit is None else min(ceiling, max(limit, self.size))

    def replace(self) -> None:
        """Destroy outdated members, one after the other, as far as budget, surge and canary allow."""
        updating = self.spec.properties.updating
        down = updating.unavailable.of(self.size) if updating.unavailable is not None else int(not self.surge)
        down = min(down, self.budget)
        outdated = self.list_outdated()
        at_least = self.find_canary_floor()
        for member in sorted(outdated, key=lambda m: (m.is_own_host, self.is_available(m), m.id)):
            under_way = self.count_under_way()
            if len(self.list_outdated()) <= at_least:
                held = "the canaries are not proven yet"
            elif under_way >= max(1, down + self.surge):
                held = f"{under_way} replacement{'s' if under_way > 1 else ''} under way"
            else:
                held = self.explain_guard(member, self.size - down)
            if held:
                self.hold(member.id, f"outdated; not replaced yet: {held}")
            else:
                self.destroy(member, "its configuration is outdated", is_update=True)

    def find_canary_floor(self) -> int:
        """Return how many outdated members have to stay until the canaries are proven."""
        canaries = self.spec.properties.updating.canary.of(self.size)
        proven = sum(m.config is Config.CURRENT and self.is_available(m) for m in self.present.values())
        return 0 if proven >= min(canaries, self.size) else max(0, self.size - canaries)

    def count_under_way(self) -> int:
        """Return the number of replacements that are missing, asked for, or not available yet."""
        new = sum(m.config is not Config.OUTDATED and not self.is_available(m) for m in self.present.values())
        missing = max(0, self.size - len(self.present) - len(self.now.asked))
        return new + missing + len(self.now.asked)

    def explain_rest_of_update(self) -> None:
        """Say why outdated members stay."""
        reason = self.stop or self.now.phase_reason or "the update is paused"
        for member in self.list_outdated():
            self.hold(member.id, f"outdated; not replaced: {reason}")

    def give_back(self) -> None:
        """Destroy a member of a later pool, once there is one more than wanted."""
        for member in self.sort_victims(self.list_misplaced()):
            if not self.explain_guard(member, self.size) and self.count_available() > self.size:
                self.destroy(member, "an earlier pool has room again")
                return

    def grow(self) -> None:
        """Create missing members: up to the size, and as surge while members are replaced."""
        counted = self.count_all()
        missing = self.size - counted
        if self.is_rolling or self.list_misplaced():
            missing = max(missing, min(self.find_ceiling() - counted, self.count_allowed_surge()))
        taken = list(self.now.asked)
        for logical_id in self.list_vacant(missing):
            if held := self.explain_limit(len(taken) - len(self.now.asked)):
                self.hold(logical_id or "", f"a member is missing; not created: {held}")
                return
            pool = self.choose_pool(taken)
            if pool is None:
                reasons = "; ".join(dict.fromkeys(map(self.explain_full, self.spec.pools)))
                self.hold(logical_id or "", f"a member is missing; not created: {reasons}")
                return
            reason = self.explain_growth(logical_id, counted + len(taken) - len(self.now.asked))
            taken.append(Asked(pool.plugin, logical_id))
            self.actions.append(Create(pool.plugin, reason, logical_id, self.uses_previous))

    @property
    def uses_previous(self) -> bool:
        """Whether new members get the previous configuration: the committed one has just failed."""
        return self.now.has_previous and (bool(self.stop) or self.now.phase is Phase.STOPPED)

    def count_allowed_surge(self) -> int:
        """Return how many replacements may be created beyond the missing ones."""
        if not self.list_outdated():
            return 1  # members that return to an earlier pool come one by one
        floor = self.find_canary_floor()
        current = sum(m.config is not Config.OUTDATED for m in self.present.values()) + len(self.now.asked)
        return self.surge if floor == 0 else max(0, self.size - floor - current)

    def list_vacant(self, missing: int) -> Iterator[str | None]:
        """Yield a logical ID, or None, for each of *missing* members."""
        wanted = self.spec.properties.allocation.logical_ids
        if not wanted:
            yield from [None] * max(0, missing)
            return
        here = {m.logical_id for m in [*self.present.values(), *self.going]}
        here |= {each.logical_id for each in self.now.asked}
        vacant = [each for each in wanted if each not in here]
        yield from vacant[: max(0, missing)]

    def explain_limit(self, new: int) -> str:
        """Return why no member beyond *new* ones can be created, or an empty string."""
        if self.now.rest:
            return self.now.rest
        limit = self.spec.properties.limits.max
        if limit is not None and self.count_all() + new >= limit:
            return f"the group's limit is {limit} members"
        if self.now.room is not None and new >= self.now.room:
            return "the fleet's limit is reached"
        return ""

    def choose_pool(self, taken: Sequence[Asked]) -> Pool | None:
        """Return the pool for the next member, or None if none has room."""
        pools = [pool for pool in self.spec.pools if not self.explain_full(pool, taken)]
        if self.spec.properties.pools.order == "even":
            return min(pools, key=lambda pool: self.count_in(pool, taken), default=None)
        return pools[0] if pools else None

    def count_in(self, pool: Pool, taken: Sequence[Asked]) -> int:
        members = sum(m.pool == pool.plugin for m in [*self.present.values(), *self.going])
        return members + sum(each.pool == pool.plugin for each in taken)

    def explain_full(self, pool: Pool, taken: Sequence[Asked] | None = None) -> str:
        """Return why a pool takes no more members, or an empty string."""
        if pool.max is not None and self.count_in(pool, self.now.asked if taken is None else taken) >= pool.max:
            return f"pool {pool.plugin} has its maximum of {pool.max}"
        return self.now.closed.get(pool.plugin, "")

    def explain_growth(self, logical_id: str | None, counted: int) -> str:
        if self.uses_previous:
            return "a member is missing; it gets the previous configuration, as the update stopped"
        if counted >= self.size:
            return "a replacement, before the outdated member goes"
        return f"logical ID {logical_id} has no member" if logical_id else "a member is missing"

    def clean_up(self) -> None:
        """Destroy failed members beyond those to keep: once the group is whole again, or if they are too many."""
        keep = self.spec.properties.keep
        is_whole = self.count_available() >= self.size
        newest = sorted((m for m in self.failed if m.state is MemberState.FAILED), key=lambda m: m.age)
        most = keep if is_whole else keep + max(1, self.size)
        for member in newest[most:]:
            if member.is_protected:
                self.hold(member.id, "failed; not destroyed: it is protected")
            elif self.spec.properties.remediate:
                self.actions.append(Destroy(member.id, f"failed: {member.reason}; {keep} are kept"))
        for member in newest[keep:most]:
            self.hold(member.id, f"failed: {member.reason}; kept until the group is whole again", Verb.WAIT)

    def wait(self) -> None:
        """Say what is under way."""
        for member in self.now.members:
            if member.state in (MemberState.LEAVING, MemberState.DRAINING):
                self.hold(member.id, f"being destroyed: {member.reason}".rstrip(": "), Verb.WAIT)
            elif member.id in self.present and member.state is MemberState.CREATING:
                self.hold(member.id, "being created", Verb.WAIT)
            elif member.id in self.present and member.state is MemberState.LOST:
                self.hold(member.id, f"it can't be seen now: {member.reason}", Verb.WAIT)
            elif member.id in self.present and not self.is_available(member) and member.health is not Health.UNHEALTHY:
                self.hold(member.id, f"not healthy yet: {member.reason or 'no check has said so'}", Verb.WAIT)
        for asked in self.now.asked:
            self.hold(asked.logical_id or asked.pool, "asked for, and not described yet", Verb.WAIT)
