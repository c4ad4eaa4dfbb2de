"""The health of members: each check, and the flavor, judges each member at its interval.

A group that has something to check has one task, which starts the checks as they fall due. Members that have
nothing to be checked cost nothing but their entry.
"""

import asyncio
import contextlib
import heapq
import itertools
import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.group.commands import shorten
from pyinfrakit.group.flavors import Flavor, Health
from pyinfrakit.group.judgment import Outcome, Streak, Thresholds, is_checked, judge
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.probes import probe
from pyinfrakit.group.spec import Check, GroupSpec, PluginSpec

AT_ONCE = 100
"""The most checks at once, of all groups."""

AT_ONCE_PER_GROUP = 25
"""The same for one group: if its members or its flavor hang, the other groups go on."""

NEW_PER_SECOND = 100
"""New members of a group whose first checks begin within a second."""

JITTER = 0.1
"""The share of its interval by which a check is earlier or later."""

FLAVOR_TIMEOUT = 10.0
"""Seconds before a flavor's answer counts as missing."""

FLAVOR_THRESHOLDS = Thresholds(healthy=1, unhealthy=3)
"""How often in a row a flavor must say so, because its answers have no thresholds of their own."""

_OUTCOMES = {
    Health.UNKNOWN: Outcome.UNKNOWN,
    Health.HEALTHY: Outcome.SUCCESS,
    Health.UNHEALTHY: Outcome.FAILURE,
}


class FindFlavor(Protocol):
    """Return the flavor of a name; raise `Unreachable`."""

    async def __call__(self, name: str) -> Flavor: ...


class HealthChecks:
    """The checks of all groups. *on_change* gets the ID of a group if a check changed the health of a member.

    Flavors judge members every *flavor_interval* seconds, except those named in *always_healthy*, which find every
    member healthy.
    """

    def __init__(
        self,
        find_flavor: FindFlavor,
        on_change: Callable[[str], None],
        flavor_interval: float,
        always_healthy: Collection[str],
    ) -> None:
        self._find_flavor = find_flavor
        self._on_change = on_change
        self._flavor_interval = flavor_interval
        self._always_healthy = always_healthy
        self._room = asyncio.Semaphore(AT_ONCE)
        self._groups: dict[str, _Group] = {}

    def update(self, spec: GroupSpec, members: Sequence[Description]) -> None:
        """Check these members of a group, as *spec* says. Checks that are the same as before go on.

        What changes by this alone, such as a member that is ready now, is not reported to *on_change*.
        """
        flavor = spec.properties.flavor
        kinds: list[Check | PluginSpec] = list(spec.properties.health)
        if flavor.plugin and flavor.plugin not in self._always_healthy:
            kinds.append(flavor)
        group = self._groups.get(spec.id)
        if group is None:
            group = self._groups[spec.id] = _Group(self._room, self._check, lambda: self._on_change(spec.id))
        group.update(kinds, members)

    def health(self, group: str, id: str) -> tuple[Health, str, float]:
        """Return the health of a group's member, the reason, and since when, on the monotonic clock."""
        known = self._groups.get(group)
        member = known.members.get(id) if known is not None else None
        if member is None:
            return Health.UNKNOWN, "not seen yet", time.monotonic()
        return member.health, member.reason, member.since

    def forget(self, group: str) -> None:
        """Check a group's members no longer."""
        if group in self._groups:
            self._groups.pop(group).close()

    async def stop(self) -> None:
        """End all checks."""
        tasks = [task for group in self._groups.values() for task in group.close()]
        self._groups.clear()
        if tasks:
            await asyncio.wait(tasks)

    async def _check(self, watch: "_Watch") -> float:
        """Make a check, and add its outcome to the streak. Return the seconds until the next one."""
        kind, member = watch.kind, watch.member
        begin = time.monotonic()
        if isinstance(kind, Check):
            outcome, reason = await probe(kind, member.description)
            thresholds = Thresholds(kind.healthy, kind.unhealthy)
            in_grace, interval = begin < member.ready_since + kind.grace, float(kind.interval)
        else:
            outcome, reason = await self._ask_flavor(kind, member.description)
            thresholds, in_grace, interval = FLAVOR_THRESHOLDS, False, self._flavor_interval
        watch.streak = watch.streak.after(outcome, reason, thresholds, in_grace=in_grace)
        return begin + interval * random.uniform(1 - JITTER, 1 + JITTER) - time.monotonic()

    async def _ask_flavor(self, spec: PluginSpec, member: Description) -> tuple[Outcome, str]:
        try:
            async with asyncio.timeout(FLAVOR_TIMEOUT):
                flavor = await self._find_flavor(spec.plugin)
                health = await flavor.healthy(spec.properties, member)
        except TimeoutError:
            return Outcome.UNKNOWN, f"flavor {spec.plugin}: no answer within {FLAVOR_TIMEOUT:g} s"
        except PyInfrakitError as error:
            return Outcome.UNKNOWN, shorten(f"flavor {spec.plugin}: {error}")
        return _OUTCOMES[health], f"flavor {spec.plugin} finds it {health.name.lower()}"


class _Member:
    """A member as it was described last, and its health. *ready_since* is on the monotonic clock."""

    __slots__ = ("description", "health", "ready_since", "reason", "since", "watches")

    def __init__(self, description: Description, now: float) -> None:
        self.description = description
        self.ready_since = now
        self.watches: Sequence[_Watch] = ()
        self.health = Health.UNKNOWN
        self.reason = ""
        self.since = now

    def judge(self) -> bool:
        """Judge the health anew. Return whether it changed."""
        streaks = [watch.streak for watch in self.watches]
        health, self.reason = judge(self.description.state, self.description.reason, streaks)
        if health is self.health:
            return False
        self.health, self.since = health, time.monotonic()
        return True


class _Watch:
    """One check of one member, or its flavor's judgment."""

    __slots__ = ("is_over", "kind", "member", "streak")

    def __init__(self, kind: Check | PluginSpec, member: _Member) -> None:
        self.kind = kind
        self.member = member
        self.streak = Streak()
        self.is_over = False


class _Group:
    """The members of one group, and the task that starts their checks."""

    def __init__(
        self, room: asyncio.Semaphore, check: Callable[[_Watch], "asyncio._CoroutineLike[float]"], on_change: Callable[[], None]
    ) -> None:
        self.members: dict[str, _Member] = {}
        self._kinds: Sequence[Check | PluginSpec] = []
        self._check = check
        self._on_change = on_change
        self._rooms = (asyncio.Semaphore(AT_ONCE_PER_GROUP), room)
        self._due: list[tuple[float, int, _Watch]] = []
        self._numbers = itertools.count()
        self._is_earlier = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starter: asyncio.Task[None] | None = None
