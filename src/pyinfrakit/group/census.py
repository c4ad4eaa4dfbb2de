"""The members of a group while a plan is drawn up: who counts, who works, and who may go. No I/O."""

from collections import Counter
from collections.abc import Iterable

from pyinfrakit.group.flavors import Health
from pyinfrakit.group.situation import Asked, Config, Member, MemberState, Situation
from pyinfrakit.group.spec import Pool
from pyinfrakit.group.status import Phase


class Census:
    """The members that are left after the steps planned so far.

    *present* are those that do their work, or may soon. *going* are those that count until their plugin has accepted
    their end. *failed* are those set aside. *asked* are those asked for, in this plan or before.
    """

    def __init__(self, now: Situation) -> None:
        self.now = now
        self.spec = now.spec
        self.size = now.spec.size
        self.budget = now.spec.budget
        here = (MemberState.CREATING, MemberState.RUNNING, MemberState.LOST)
        self._most_surge = min(now.spec.properties.updating.surge.of(self.size), self.size)
        self.present = {m.id: m for m in now.members if m.state in here}
        running = [m for m in now.members if m.state is MemberState.RUNNING]
        working = [m for m in running if m.health is not Health.UNHEALTHY]
        healthy = [m for m in working if m.health is Health.HEALTHY]
        self._available = {m.id for m in healthy if m.is_proven or m.healthy_for >= now.min_ready}
        self.going = [m for m in now.members if m.state is MemberState.DRAINING]
        self.failed = [m for m in now.members if m.state is MemberState.FAILED]
        self.asked: list[Asked] = list(now.asked)
        # Counted once: a group of thousands must not take a step for each pair of members.
        self.available, self.healthy, self.working = len(self._available), len(healthy), len(working)
        self.outdated = sum(m.config is Config.OUTDATED for m in self.present.values())
        self.pools = Counter(m.pool for m in [*self.present.values(), *self.going])
        self.pools.update(each.pool for each in self.asked)

    def remove(self, member: Member) -> None:
        """Count a member as going."""
        self.going.append(self.present.pop(member.id))
        self.available -= self.is_available(member)
        self.working -= may_work(member)
        self.healthy -= member.health is Health.HEALTHY and may_work(member)
        self.outdated -= member.config is Config.OUTDATED

    def add(self, asked: Asked) -> None:
        """Count a member as asked for."""
        self.asked.append(asked)
        self.pools[asked.pool] += 1

    def count_all(self) -> int:
        """Return the number of members that count: those that are here, those that drain, and those asked for."""
        return len(self.present) + len(self.going) + len(self.asked)

    def is_available(self, member: Member) -> bool:
        """Return whether a member does its work, and has for long enough if it is a replacement."""
        return member.id in self._available

    def count_under_way(self) -> int:
        """Return the number of replacements that are missing, asked for, or not available yet."""
        new = sum(m.config is not Config.OUTDATED and not self.is_available(m) for m in self.present.values())
        return new + max(len(self.asked), self.size - len(self.present))

    # --- Who may go

    def explain_guard(self, member: Member, floor: int) -> str:
        """Return why a member must not be destroyed now, or an empty string.

        At least *floor* members that work must be left. Of members whose health is unknown, each may be one that works.
        """
        if member.is_protected:
            return "it is protected"
        if member.state is MemberState.LOST:
            return explain("it can't be seen now", member.reason)
        if not may_work(member):
            return ""
        if member.health is Health.UNKNOWN:
            left, words = self.working, "may be healthy"
        else:
            left, words = (self.available if self.is_available(member) else self.healthy), "are healthy"
        return f"only {left} of {self.size} members {words}, and {floor} must stay so" if left - 1 < floor else ""

    def sort_victims(self, members: Iterable[Member]) -> list[Member]:
        """Return members in the order in which they go: unhealthy, outdated, then by ID; the own host last.

        If there are several pools, the last or the largest one comes before the ID.
        """
        ordered = sorted(members, key=lambda m: m.id, reverse=self.spec.properties.scale_in == "oldest")
        ranks = self._rank_by_pool(ordered)
        return sorted(
            ordered,
            key=lambda m: (
                m.is_own_host,
                m.health is not Health.UNHEALTHY,
                m.config is not Config.OUTDATED,
                -ranks.get(m.id, 0),
            ),
        )

    def _rank_by_pool(self, ordered: list[Member]) -> dict[str, int]:
        """Return a number per ID; members with higher ones go first."""
        if len(self.spec.pools) < 2:
            return {}
        if self.spec.properties.pools.order == "even":
            # A pool's first victim has the number of its members, the second one less, and so on: this levels them.
            left = Counter(m.pool for m in ordered)
            ranks = {}
            for member in ordered:
                ranks[member.id] = left[member.pool]
                left[member.pool] -= 1
            return ranks
        places = {pool.plugin: place for place, pool in enumerate(self.spec.pools)}
        return {m.id: places.get(m.pool, len(places)) for m in ordered if self.spec.properties.pools.return_}

    # --- Updates

    def list_outdated(self) -> list[Member]:
        """Return the members that an update replaces; an aborted update leaves them as they are."""
        if self.now.phase is Phase.ABORTED:
            return []
        return [m for m in self.present.values() if m.config is Config.OUTDATED]

    def find_surge(self) -> int:
        """Return how many members may exist beyond the size: one for each that can be replaced, up to the surge."""
        if not self._most_surge:
            return 0
        stale = sum(not m.is_protected and m.state is not MemberState.LOST for m in self.list_outdated())
        return self._limit_surge(stale or min(1, len(self.list_misplaced())))

    def find_surge_in_use(self) -> int:
        """Return how many members beyond the size are replacements of others that are still here."""
        if not self._most_surge:
            return 0
        stale = sum(not m.is_protected for m in self.list_outdated())
        if stale:
            return self._limit_surge(min(stale, len(self.present) - stale))
        return self._limit_surge(min(1, len(self.list_misplaced())))

    def _limit_surge(self, wanted: int) -> int:
        return min(wanted, self._most_surge)

    def find_canary_floor(self) -> int:
        """Return how many outdated members have to stay until the canaries are proven."""
        canaries = min(self.spec.properties.updating.canary.of(self.size), self.size)
        if not canaries:
            return 0
        proven = sum(m.config is Config.CURRENT and self.is_available(m) for m in self.present.values())
        return 0 if proven >= canaries else self.size - canaries

    # --- Pools

    def list_misplaced(self) -> list[Member]:
        """Return the members that are to return to an earlier pool: it has room again, or their places begin there."""
        order = self.spec.properties.pools
        is_calm = self.now.phase is Phase.ABORTED or (self.now.phase is Phase.IDLE and not self.outdated)
        if not (order.return_ and order.order == "first" and is_calm):
            return []
        names = [pool.plugin for pool in self.spec.pools]
        begun = set()
        if self.count_all() > self.size:
            begun = {m.pool for m in self.present.values() if not self.is_available(m)}
            begun |= {each.pool for each in self.asked}
        best = next(
            (
                place
                for place, pool in enumerate(self.spec.pools)
                if pool.plugin in begun or not self.explain_full(pool)
            ),
            len(names),
        )
        later = set(names[best + 1 :])
        movable = (m for m in self.present.values() if not m.is_protected and m.state is not MemberState.LOST)
        return [m for m in movable if m.pool in later]

    def choose_pool(self) -> Pool | None:
        """Return the pool for the next member, or None if none has room."""
        pools = [pool for pool in self.spec.pools if not self.explain_full(pool)]
        if self.spec.properties.pools.order == "even":
            return min(pools, key=lambda pool: self.pools[pool.plugin], default=None)
        return pools[0] if pools else None

    def explain_full(self, pool: Pool) -> str:
        """Return why a pool takes no more members, or an empty string."""
        if pool.max is not None and self.pools[pool.plugin] >= pool.max:
            return f"pool {pool.plugin} has its maximum of {pool.max}"
        return self.now.closed.get(pool.plugin, "")


def may_work(member: Member) -> bool:
    """Return whether a member may do its work, as far as is known."""
    return member.state is MemberState.RUNNING and member.health is not Health.UNHEALTHY


def explain(problem: str, reason: str) -> str:
    """Return a problem and its reason, if there is one."""
    return f"{problem}: {reason}" if reason else problem
