"""The health of members: each check, and the flavor, judges each member at its interval.

A group that has something to check has one task, which starts the checks as they fall due. Members that have
nothing to be checked cost nothing but their entry.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.group.commands import shorten
from pyinfrakit.group.flavors import FindFlavor, Health
from pyinfrakit.group.judgment import Outcome, Streak, Thresholds, is_checked, judge
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.probes import probe
from pyinfrakit.group.schedule import Schedule
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

_UNSEEN = Description("", state="unseen")

Kind = Check | PluginSpec
"""A way to judge a member: a check, or the group's flavor."""

CheckMember = Callable[[Kind, Description], Awaitable[tuple[Outcome, str]]]


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
        kinds: list[Kind] = list(spec.properties.health)
        if flavor.plugin and flavor.plugin not in self._always_healthy:
            kinds.append(flavor)
        group = self._groups.get(spec.id)
        if group is None:
            group = _Group(self._room, self._flavor_interval, self._check, partial(self._on_change, spec.id))
            self._groups[spec.id] = group
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

    async def _check(self, kind: Kind, member: Description) -> tuple[Outcome, str]:
        if isinstance(kind, Check):
            return await probe(kind, member)
        try:
            async with asyncio.timeout(FLAVOR_TIMEOUT):
                flavor = await self._find_flavor(kind.plugin)
                health = await flavor.healthy(kind.properties, member)
        except TimeoutError:
            return Outcome.UNKNOWN, f"flavor {kind.plugin}: no answer within {FLAVOR_TIMEOUT:g} s"
        except PyInfrakitError as error:
            return Outcome.UNKNOWN, shorten(f"flavor {kind.plugin}: {error}")
        return _OUTCOMES[health], f"flavor {kind.plugin} finds it {health.name.lower()}"


class _Member:
    """A member as it was described last, and its health. Times are on the monotonic clock."""

    __slots__ = ("description", "health", "ready_since", "reason", "since", "watches")

    def __init__(self) -> None:
        self.description = _UNSEEN
        self.watches: Sequence[_Watch] = ()
        self.health = Health.UNKNOWN
        self.reason = ""
        self.since = self.ready_since = time.monotonic()

    def describe(self, description: Description) -> bool:
        """Keep a description. Return whether the plugin's view of the member changed."""
        before, self.description = self.description, description
        if is_checked(description.state) and not is_checked(before.state):
            self.ready_since = time.monotonic()
        return description.state != before.state or description.reason != before.reason

    def judge(self) -> bool:
        """Judge the health anew. Return whether it changed."""
        description = self.description
        streaks = [watch.streak for watch in self.watches]
        health, self.reason = judge(description.state, description.reason, streaks)
        if health is self.health:
            return False
        self.health, self.since = health, time.monotonic()
        return True

    def watch(self, kinds: Sequence[Kind]) -> "Sequence[_Watch]":
        """Have the member checked in these ways, and go on with those that it is checked in. Return the new watches."""
        before = self.watches
        same = [next((watch for watch in before if watch.kind == kind), None) for kind in kinds]
        self.watches = [watch or _Watch(kind, self) for watch, kind in zip(same, kinds, strict=True)]
        for watch in before:
            watch.is_over = watch not in self.watches
        return [watch for watch in self.watches if watch not in before]


class _Watch:
    """A check of a member, or its flavor's judgment, until it is over."""

    __slots__ = ("is_over", "kind", "member", "streak")

    def __init__(self, kind: Kind, member: _Member) -> None:
        self.kind = kind
        self.member = member
        self.streak = Streak()
        self.is_over = False

    def add(self, outcome: Outcome, reason: str, begin: float) -> None:
        """Add the outcome of a check that began at *begin*, on the monotonic clock."""
        kind, thresholds, in_grace = self.kind, FLAVOR_THRESHOLDS, False
        if isinstance(kind, Check):
            thresholds = Thresholds(kind.healthy, kind.unhealthy)
            in_grace = begin < self.member.ready_since + kind.grace
        self.streak = self.streak.after(outcome, reason, thresholds, in_grace=in_grace)


class _Group:
    """The members of one group, and the schedule of their checks."""

    def __init__(
        self, room: asyncio.Semaphore, flavor_interval: float, check: CheckMember, on_change: Callable[[], None]
    ) -> None:
        self.members: dict[str, _Member] = {}
        self._schedule = Schedule(AT_ONCE_PER_GROUP, room)
        self.close = self._schedule.close
        self._flavor_interval = flavor_interval
        self._check = check
        self._on_change = on_change
        self._kinds: Sequence[Kind] = ()

    def update(self, kinds: Sequence[Kind], descriptions: Sequence[Description]) -> None:
        has_changed = kinds != self._kinds
        self._kinds = kinds
        before, self.members = self.members, {}
        new: list[_Watch] = []
        for id, description in {each.id: each for each in descriptions}.items():
            member = self.members[id] = before.pop(id) if id in before else _Member()
            if member.describe(description) or has_changed:
                new.extend(member.watch(kinds if is_checked(description.state) else ()))
                member.judge()
        for member in before.values():
            member.watch(())
        self._start(new)

    def _start(self, watches: Sequence[_Watch]) -> None:
        """Schedule first checks, and spread them: members that began together would be checked together forever."""
        for watch in watches:
            delay = random.uniform(0, min(len(watches) / NEW_PER_SECOND, self._find_interval(watch.kind)))
            self._schedule.add(delay, partial(self._run, watch))

    async def _run(self, watch: _Watch) -> None:
        if watch.is_over:
            return
        begin = time.monotonic()
        outcome, reason = await self._check(watch.kind, watch.member.description)
        if watch.is_over:
            return
        watch.add(outcome, reason, begin)
        interval = self._find_interval(watch.kind) * random.uniform(1 - JITTER, 1 + JITTER)
        self._schedule.add(begin + interval - time.monotonic(), partial(self._run, watch))
        if watch.member.judge():
            self._on_change()

    def _find_interval(self, kind: Kind) -> float:
        return kind.interval if isinstance(kind, Check) else self._flavor_interval
