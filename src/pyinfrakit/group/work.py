"""Carry out the actions of a group's plans: every call to plugins and flavors that changes something.

Each action runs as a task of its own, and one member has at most one. A call that fails is repeated after a
back-off, by the next plans. What was asked for counts as a member until it is described, its call has failed,
or, if nobody knows how the call ended, a deadline has passed.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from msgspec import Struct

from pyinfrakit.errors import GiveUp, InvalidSpec, PyInfrakitError, UnknownInstance, Unreachable
from pyinfrakit.events import EventLog
from pyinfrakit.group.backoff import Backoff
from pyinfrakit.group.drain import drain, find_bound
from pyinfrakit.group.flavors import FindFlavor, Index
from pyinfrakit.group.hash import hash_configuration, tag_configuration, tag_member
from pyinfrakit.group.plugins import BY_CONTROLLER, Description, FindPlugin, InstancePlugin
from pyinfrakit.group.roster import Roster
from pyinfrakit.group.situation import Adopt, Asked, Config, Create, Destroy, MemberState, SetAside
from pyinfrakit.group.spec import GroupSpec
from pyinfrakit.record import Spec

log = logging.getLogger(__name__)

MOST = 64
"""Most actions of one group at a time. The rest follows with the next plans."""

UNKNOWN_TIME = 60.0
"""Seconds for which a request with an unknown outcome counts: far longer than any client of InfraKit waits."""


class _Request(Struct, eq=False):
    """A member that was asked for: its ID, once the plugin has answered, and when it no longer counts.

    Requests for equal members stay different ones.
    """

    asked: Asked
    id: str = ""
    until: float | None = None


class _Going(Struct):
    """A member that drains, or whose destroy failed and is repeated after *until*."""

    reason: str
    until: float = 0.0
    failures: int = 0


class Work:
    """The actions of group *id* that are under way, and the failures of recent ones.

    *changed* is called with the plugin's name after each action.
    """

    def __init__(
        self,
        id: str,
        roster: Roster,
        find_plugin: FindPlugin,
        find_flavor: FindFlavor,
        events: EventLog,
        changed: Callable[[str], None],
    ) -> None:
        self._id = id
        self._roster = roster
        self._find_plugin = find_plugin
        self._find_flavor = find_flavor
        self._events = events
        self._changed = changed
        self._requests: list[_Request] = []
        self._strangers: dict[str, set[str]] = {}
        self._going: dict[str, _Going] = {}
        self._ended: dict[str, float] = {}
        self._pools: dict[str, Backoff] = {}
        self._labels: dict[str, Backoff] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[str] = set()
        self.refusal = ""
        """Why the committed spec was refused when a member was created, or empty."""

    # --- What a plan needs to know

    @property
    def asked(self) -> list[Asked]:
        """The members that were asked for, and are not described yet."""
        return [request.asked for request in self._requests]

    @property
    def going(self) -> dict[str, str]:
        """The members that drain, or whose destroy is about to be repeated, with the reasons."""
        return {id: each.reason for id, each in self._going.items()}

    @property
    def ended(self) -> Collection[str]:
        """The members that their plugin has accepted to destroy."""
        return self._ended.keys()

    def is_ended(self, id: str) -> bool:
        """Return whether the plugin has accepted a member's destroy."""
        return id in self._ended

    def explain_closed(self, now: float) -> dict[str, str]:
        """Return the pools in which nothing is created now, with the reasons."""
        reasons = {pool: backoff.explain(now) for pool, backoff in self._pools.items()}
        return {pool: reason for pool, reason in reasons.items() if reason}

    def explain_unlabeled(self, now: float) -> dict[str, str]:
        """Return the members whose label failed, and is not repeated yet, with the reasons."""
        reasons = {id: backoff.explain(now) for id, backoff in self._labels.items() if id in self._roster}
        return {id: reason for id, reason in reasons.items() if reason}

    def settle(self, pool: str, new: tuple[str, ...], missing: tuple[str, ...], now: float) -> None:
        """Match requests with a description of *pool*: its *new* members, and those that it lacks."""
        strangers = self._strangers.pop(pool, set()) | set(new)
        strangers.difference_update(missing)
        for request in [each for each in self._requests if each.asked.pool == pool]:
            strangers.discard(request.id)
            if request.id in self._roster or (request.until is not None and now >= request.until):
                self._requests.remove(request)
        # A call that broke off may have made a member all the same: one that no answer has named is it. While calls
        # are under way, it may be theirs.
        left = [each for each in self._requests if each.asked.pool == pool and not each.id]
        if any(each.until is None for each in left):
            self._strangers[pool] = strangers
        else:
            for request in left[: len(strangers)]:
                self._requests.remove(request)
        self._forget_ended(missing, now)

    def _forget_ended(self, missing: Collection[str], now: float) -> None:
        """Forget members that are gone, and those that live on although their plugin has accepted their destroy."""
        for id in {*missing, *self._ended}:
            is_here = id not in missing and id in self._roster
            if is_here and (self._is_leaving(id) or now < self._ended[id] + UNKNOWN_TIME):
                continue
            self._ended.pop(id, None)
            self._going.pop(id, None)

    def _is_leaving(self, id: str) -> bool:
        return self._roster[id].state is MemberState.LEAVING

    def fail(self, pool: str, error: PyInfrakitError) -> None:
        """Note that a pool could not create a member."""
        backoff = self._pools.get(pool, Backoff())
        self._pools[pool] = backoff.fail(error, time.monotonic(), random.random())

    def reopen(self) -> None:
        """Forget the failures: the spec has changed, or an operator asks to go on."""
        self._pools.clear()
        self._labels.clear()
        self.refusal = ""

    # --- Actions

    def create(self, action: Create, spec: GroupSpec) -> None:
        """Create a member with the configuration in *spec*."""
        config = Config.OUTDATED if action.is_previous else Config.CURRENT
        request = _Request(Asked(action.pool, action.logical_id, config))
        self._requests.append(request)
        self._record("", "create", action.reason)
        self._start(self._create(request, spec), action.pool)

    def destroy(self, action: Destroy, spec: GroupSpec) -> None:
        """Drain and destroy a member."""
        track = self._roster[action.id]
        going = self._going.setdefault(action.id, _Going(action.reason))
        if action.id not in self._busy:
            self._busy.add(action.id)
            self._record(action.id, "destroy", action.reason)
            self._start(self._destroy(action, going, track.pool, track.description, spec), track.pool, action.id)

    def retry(self, spec: GroupSpec, now: float) -> None:
        """Repeat the destroys that failed."""
        for id, going in list(self._going.items()):
            if id not in self._busy and id in self._roster and id not in self._ended and now >= going.until:
                self.destroy(Destroy(id, going.reason), spec)

    def set_aside(self, action: SetAside, spec: GroupSpec) -> None:
        """Set a failed member aside; if its plugin can't, destroy it."""
        track = self._roster[action.id]
        going = self._going[action.id] = _Going(action.reason)
        self._busy.add(action.id)
        self._record(action.id, "set aside", action.reason)
        work = self._set_aside(action, going, track.pool, track.description, spec)
        self._start(work, track.pool, action.id)

    def adopt(self, action: Adopt, spec: GroupSpec) -> None:
        """Label a member with the committed configuration."""
        track = self._roster[action.id]
        if action.id not in self._busy:
            self._busy.add(action.id)
            self._record(action.id, "adopt", action.reason)
            self._start(self._adopt(action.id, track.pool, spec), track.pool, action.id)

    @property
    def free(self) -> int:
        """The number of further actions that may start now."""
        return max(0, MOST - len(self._tasks))

    async def stop(self) -> None:
        """Cancel what is under way. Plugins go on with what they have accepted."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    def _start(self, work: Coroutine[Any, Any, None], pool: str, id: str = "") -> None:
        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._busy.discard(id)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.critical("group %s: a bug", self._id, exc_info=error)
                self.fail(pool, GiveUp(f"a bug ({type(error).__name__}): see the log"))
            self._changed(pool)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(end)

    async def _create(self, request: _Request, spec: GroupSpec) -> None:
        pool_name, logical_id = request.asked.pool, request.asked.logical_id
        is_sent = may_exist = False
        try:
            prepared = await self._prepare(pool_name, logical_id, spec)
            plugin = await self._find_plugin(pool_name)
            is_sent = True
            request.id = await plugin.provision(prepared)
            may_exist = True
            self._pools.pop(pool_name, None)
            self._record(request.id, "asked for", "")
        except PyInfrakitError as error:
            may_exist = is_sent and isinstance(error, Unreachable)
            self.fail(pool_name, error)
            self._record("", "create failed", str(error))
            if isinstance(error, InvalidSpec) and request.asked.config is Config.CURRENT:
                self.refusal = f"was refused: {error}"
        finally:
            if may_exist:
                request.until = time.monotonic() + UNKNOWN_TIME
            else:
                self._requests.remove(request)

    async def _prepare(self, pool_name: str, logical_id: str | None, spec: GroupSpec) -> Spec:
        """Return the spec of a new member, as the flavor has prepared it."""
        pool, properties = spec.find_pool(pool_name), spec.properties
        present = [track.description.tags for _, track in self._roster]
        tags = tag_member(hash_configuration(pool, properties.flavor), spec.id, logical_id, present)
        blank = Spec(properties=pool.properties, tags=tags, logical_id=logical_id)
        flavor = await self._find_flavor(properties.flavor.plugin)
        index = Index(spec.id, spec.size)
        prepared = await flavor.prepare(properties.flavor.properties, blank, properties.allocation, index)
        # A flavor must not lead a member out of its group.
        return Spec(
            properties=prepared.properties,
            tags={**prepared.tags, **tags},
            init=prepared.init,
            logical_id=logical_id,
            attachments=prepared.attachments,
        )

    async def _destroy(
        self, action: Destroy, going: _Going, pool: str, description: Description, spec: GroupSpec
    ) -> None:
        try:
            plugin = await self._find_plugin(pool)
            if going.failures == 0 and self._is_running(action.id):
                flavor = await self._find_flavor(spec.properties.flavor.plugin)
                going.reason = f"{action.reason}; it drains, for at most {find_bound(spec.properties.drain):g} s"
                if problem := await drain(spec.properties.drain, flavor, spec, description):
                    self._record(action.id, "drain failed", problem)
                going.reason = action.reason
            await plugin.destroy(action.id, _choose_reason(plugin, action))
        except UnknownInstance:
            pass  # it is gone already
        except PyInfrakitError as error:
            going.failures += 1
            seconds = min(60.0, 2.0**going.failures)
            going.until = time.monotonic() + seconds
            going.reason = f"{action.reason.split('; destroy failed')[0]}; destroy failed: {error}"
            self._record(action.id, "destroy failed", str(error))
            return
        self._ended[action.id] = time.monotonic()

    def _is_running(self, id: str) -> bool:
        return id in self._roster and self._roster[id].state is MemberState.RUNNING

    async def _set_aside(
        self, action: SetAside, going: _Going, pool: str, description: Description, spec: GroupSpec
    ) -> None:
        try:
            plugin = await self._find_plugin(pool)
            await plugin.set_aside(action.id, f"{BY_CONTROLLER}{action.reason}")
        except GiveUp:
            await self._destroy(Destroy(action.id, action.reason), going, pool, description, spec)
            return
        except PyInfrakitError as error:
            self._record(action.id, "set aside failed", str(error))
        self._going.pop(action.id, None)

    async def _adopt(self, id: str, pool_name: str, spec: GroupSpec) -> None:
        pool = spec.find_pool(pool_name)
        others = [track.description.tags for _, track in self._roster]
        tags = tag_configuration(hash_configuration(pool, spec.properties.flavor), others)
        try:
            plugin = await self._find_plugin(pool_name)
            await plugin.label(id, tags)
        except PyInfrakitError as error:
            self._labels[id] = self._labels.get(id, Backoff()).fail(error, time.monotonic(), random.random())
            self._record(id, "adopt failed", str(error))
            return
        self._labels.pop(id, None)

    def _record(self, member: str, type: str, reason: str) -> None:
        subject = f"group/{self._id}/{member}" if member else f"group/{self._id}"
        self._events.record(subject, type, "controller", reason)


def _choose_reason(plugin: InstancePlugin, action: Destroy) -> str:
    """Return the reason to send: in words to plugins that keep it, and InfraKit's own one to others.

    Our plugins pace a destroy with InfraKit's word for updates, for controllers that can't pace. This one can.
    """
    if plugin.is_certain:
        return action.reason
    return "rolling_update" if action.is_update else "terminate"
