"""All groups of a controller, and every call about them.

A call first checks everything, then makes the new record durable, then has the group's loop follow it. So
an invalid spec is never stored, and nothing is done that a restart would not know of. Calls about different
groups do not wait for each other.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence

from msgspec import Raw, Struct
from msgspec.structs import replace

from pyinfrakit.errors import InvalidSpec, PyInfrakitError, Refused, UnknownGroup, UnknownInstance, WrongCall
from pyinfrakit.events import EventLog
from pyinfrakit.group.commits import (
    check_member,
    check_spec,
    read_stored,
    reallocate,
    shrink,
    summarize_change,
    survey,
)
from pyinfrakit.group.controller import Controller
from pyinfrakit.group.course import describe_course
from pyinfrakit.group.flavors import FindFlavor
from pyinfrakit.group.health import HealthChecks
from pyinfrakit.group.plugins import FindPlugin, InstancePlugin
from pyinfrakit.group.record import GroupRecord, encode
from pyinfrakit.group.spec import GroupSpec, parse
from pyinfrakit.group.state import GroupStore
from pyinfrakit.group.status import Commit, GroupStatus, PlanReport
from pyinfrakit.group.threads import call_apart
from pyinfrakit.group.wishes import Wishes

log = logging.getLogger(__name__)

DESTROY_WAIT = 10.0
"""Seconds for which the destroy of a group waits for its end. InfraKit's clients time out after 15."""


class _Group(Struct):
    """A group's loop, the version of its stored record, and the lock for changes of it."""

    controller: Controller
    version: int
    lock: asyncio.Lock
    ended: asyncio.Event


class Groups:
    """The groups of a controller.

    Every method that takes a group's ID may raise `UnknownGroup`; only `commit` and `plan` create groups. A
    change is durable once its call returns. *poll* is in seconds; *max_members* limits all groups together;
    *own* are the IDs of the host on which this runs.
    """

    def __init__(
        self,
        store: GroupStore,
        find_plugin: FindPlugin,
        find_flavor: FindFlavor,
        events: EventLog,
        *,
        poll: float,
        max_members: int | None,
        own: Collection[str],
        always_healthy: Collection[str],
    ) -> None:
        self._store = store
        self._find_any_plugin = find_plugin
        self._find_flavor = find_flavor
        self._events = events
        self._poll = poll
        self._max_members = max_members
        self._own = own
        self._checks = HealthChecks(find_flavor, self._wake, poll, always_healthy)
        self._groups: dict[str, _Group] = {}
        self._followed: dict[InstancePlugin, Callable[[], None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- Life

    async def start(self, ending: Collection[str] = ()) -> None:
        """Resume all stored groups; destroy those of the IDs *ending*. Raise `Damaged` or `StoreFailed`."""
        records = {}
        for id, entry in self._store.load().items():
            if entry.value is not None:
                records[id] = read_stored(id, entry.value, self._store.locate(id)), entry.version
        for id, (record, version) in records.items():
            if id in ending and not record.destroying:
                # Stored before its loop begins: it must create nothing first.
                doomed = replace(record, destroying=True)
                self._add(id, doomed, (await self._store.put(id, encode(doomed), version)).version, is_known=True)
            else:
                self._add(id, record, version, is_known=True)

    async def wait_for_end(self, ids: Collection[str]) -> bool:
        """Wait until none of these groups is left, or until a stop. Return whether none is left."""
        await asyncio.gather(*(self._groups[id].ended.wait() for id in ids if id in self._groups))
        return not any(id in self._groups for id in ids)

    def stop_waiting(self) -> None:
        """Answer the calls that wait for the end of a group now."""
        for group in self._groups.values():
            group.ended.set()

    async def stop(self) -> None:
        """End all loops, and leave all members alone."""
        for end in self._followed.values():
            end()
        await asyncio.gather(*(group.controller.stop() for group in self._groups.values()))
        await self._checks.stop()
        for task in self._tasks:
            task.cancel()

    def _add(self, id: str, record: GroupRecord, version: int, is_known: bool) -> None:
        controller = Controller(
            id,
            record,
            find_plugin=self._find_plugin,
            find_flavor=self._find_flavor,
            checks=self._checks,
            events=self._events,
            save=self._save,
            ended=self._end,
            poll=self._poll,
            measure_room=self._measure_room,
            own=self._own,
            is_known=is_known,
        )
        self._groups[id] = _Group(controller, version, asyncio.Lock(), asyncio.Event())
        controller.start()

    async def _find_plugin(self, name: str) -> InstancePlugin:
        """Return a plugin, and follow the changes of its instances from now on."""
        plugin = await self._find_any_plugin(name)
        if plugin not in self._followed:
            self._followed[plugin] = plugin.follow(lambda group: self._refresh(group, name))
        return plugin

    def _refresh(self, id: str, plugin: str) -> None:
        if id in self._groups:
            self._groups[id].controller.refresh(plugin)

    def _wake(self, id: str) -> None:
        if id in self._groups:
            self._groups[id].controller.wake()

    def _measure_room(self) -> int | None:
        if self._max_members is None:
            return None
        return max(0, self._max_members - sum(group.controller.count_members() for group in self._groups.values()))

    # --- Records

    def _find(self, id: str) -> _Group:
        """Return a group that goes on; raise `UnknownGroup`."""
        group = self._groups.get(id)
        if group is None or group.controller.wishes.record.destroying:
            raise UnknownGroup(id)
        return group

    async def _change(self, id: str, change: Callable[[GroupRecord], GroupRecord]) -> None:
        """Make a change of a group's record durable, and have its loop follow it."""
        group = self._groups.get(id)
        if group is None:
            raise UnknownGroup(id)
        async with group.lock:
            if self._groups.get(id) is not group:
                raise UnknownGroup(id)
            record = change(group.controller.wishes.record)
            entry = await self._store.put(id, encode(record), group.version)
            group.version = entry.version
            group.controller.follow(record)

    async def _save(self, id: str, expected: GroupRecord, record: GroupRecord) -> None:
        def change(current: GroupRecord) -> GroupRecord:
            if current is not expected:
                raise Refused(id, "its record has changed meanwhile")
            return record

        await self._change(id, change)

    def _end(self, id: str) -> None:
        """Forget a group whose members are all destroyed."""
        task = asyncio.create_task(self._forget(id, "destroyed"))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forget(self, id: str, type: str) -> None:
        group = self._groups.get(id)
        if group is None:
            return
        async with group.lock:
            if self._groups.get(id) is not group:
                return
            try:
                await self._store.put(id, None, group.version)
            except PyInfrakitError as error:
                if type != "destroyed":
                    raise
                log.error("group %s: %s", id, error)  # the next round comes here again
                return
            del self._groups[id]
        self._events.record(f"group/{id}", type)
        await group.controller.stop()
        group.ended.set()

    # --- Calls

    async def commit(self, id: str, properties: Raw, pretend: bool, by: str) -> str:
        """Commit a group's properties, or with *pretend* only check them. Return InfraKit's text about the effect.

        *by* is who asks. Raise `InvalidSpec`, and change nothing then.
        """
        spec = await self._check(id, properties)
        details = self._summarize(spec)
        if not pretend:
            await self._commit(spec, by, "commit", details)
        return details

    async def plan(self, id: str, properties: Raw) -> PlanReport:
        """Return what a commit of these properties would do if nothing failed. Raise `InvalidSpec` or `TryAgain`."""
        spec = await self._check(id, properties)
        group = self._groups.get(id)
        record = GroupRecord(properties=properties) if group is None else group.controller.wishes.record
        wishes = Wishes(id, record.commit(id, properties, time.time(), "", "plan", ""))
        if group is None:
            now = await survey(wishes, self._find_any_plugin, self._measure_room(), self._own)
        else:
            now = group.controller.foresee(wishes)
        steps = await call_apart(lambda: describe_course(wishes, now))  # a large group takes seconds
        details = self._summarize(spec)
        is_noop = group is not None and (bytes(properties) == bytes(record.properties) or details == "Noop")
        return PlanReport(details, steps, spec.budget, not is_noop)

    async def free(self, id: str) -> None:
        """Forget a group, and leave its members alone."""
        self._find(id)
        await self._forget(id, "freed")

    async def destroy(self, id: str) -> None:
        """Have a group destroyed, with all its members.

        Return once that is durable, and its members are gone or `DESTROY_WAIT` has passed.
        """
        group = self._find(id)
        protected = [m.id for m in group.controller.describe().members if m.is_protected]
        if protected:
            raise Refused(id, f"members are protected: {', '.join(protected)}; unprotect them first")
        await self._change(id, lambda record: replace(record, destroying=True))
        self._events.record(f"group/{id}", "destroying", "operator")
        try:
            await asyncio.wait_for(group.ended.wait(), DESTROY_WAIT)
        except TimeoutError:
            return

    async def destroy_instances(self, id: str, ids: Sequence[str]) -> None:
        """Have members destroyed, and shrink the group by their number.

        Raise `UnknownInstance` if one is no member, and `Refused` if one is protected, has failed, or is on its way
        out, so that it does not count any more; nothing is changed then.
        """
        group = self._find(id)
        members = [
            check_member(each, group.controller.find_member(each), group.controller.wishes)
            for each in dict.fromkeys(ids)
        ]
        await self._change(id, lambda record: shrink(id, record, members, time.time()))

    async def set_size(self, id: str, size: int) -> None:
        """Change a group's size. Raise `WrongCall` if it has logical IDs instead."""
        spec = self._find(id).controller.wishes.spec
        if spec.properties.allocation.logical_ids:
            raise WrongCall("cannot set size if logic ids are explicitly set")
        resized = parse(id, reallocate(spec.raw, {"Size": size}))
        self._check_total(resized)
        await self._commit(resized, "", "scale", self._summarize(resized))

    def describe(self, id: str) -> GroupStatus:
        """Return a group's members, rollout and plan; also of a group that is being destroyed."""
        group = self._groups.get(id)
        if group is None:
            raise UnknownGroup(id)
        return group.controller.describe()

    def inspect(self) -> Sequence[tuple[str, Raw]]:
        """Return the ID of every group, with its properties as committed."""
        wishes = [(id, group.controller.wishes) for id, group in sorted(self._groups.items())]
        return [(id, each.spec.raw) for id, each in wishes if not each.record.destroying]

    def size(self, id: str) -> int:
        """Return the wanted number of members."""
        return self._find(id).controller.wishes.spec.size

    def history(self, id: str) -> Sequence[Commit]:
        """Return a group's commits, the oldest first."""
        return self._find(id).controller.wishes.record.history

    async def undo(self, id: str, number: int | None, by: str) -> str:
        """Commit the properties of an earlier commit again, by default the one before the last.

        During an update, the default is the last configuration that worked. Return InfraKit's text about the
        effect. Raise `WrongCall` if there is no such commit.
        """
        record = self._find(id).controller.wishes.record
        found = record.find_earlier(number)
        if found is None:
            known = ", ".join(str(each.number) for each in record.history)
            raise WrongCall(f"group {id} has no earlier commit{f' {number}' if number else ''}; it has {known}")
        spec = await self._check(id, found)
        details = self._summarize(spec)
        await self._commit(spec, by, "undo", details)
        return details

    async def pause(self, id: str, reason: str) -> None:
        """Pause a group's update."""
        self._find(id)
        await self._change(
            id, lambda record: record.enter(record.rollout.pause(id, reason or "paused by an operator", time.time()))
        )

    async def resume(self, id: str) -> None:
        """Resume an update that was paused, or that stopped."""
        self._find(id)
        await self._change(id, lambda record: record.enter(record.rollout.resume(id, time.time())))

    async def abort(self, id: str) -> None:
        """End an update, and keep the members as they are."""
        self._find(id)
        await self._change(
            id, lambda record: record.enter(record.rollout.abort(id, "aborted by an operator", time.time()))
        )

    async def protect(self, id: str, instance: str, on: bool) -> None:
        """Protect a member from being destroyed by the controller, or stop to. Raise `UnknownInstance`."""
        group = self._find(id)
        if on and instance not in group.controller.roster:
            raise UnknownInstance(instance, f"member of group {id}")

        def change(record: GroupRecord) -> GroupRecord:
            if not on and instance not in record.protected:
                raise UnknownInstance(instance, f"protected member of group {id}")
            changed = record.protected | {instance} if on else record.protected - {instance}
            return replace(record, protected=changed)

        await self._change(id, change)

    async def confirm(self, id: str) -> Sequence[str]:
        """Confirm held losses, so that the lost members are replaced; return their IDs."""
        group = self._find(id)
        held = sorted(group.controller.wishes.record.held)
        await self._change(id, lambda record: record.release(held))
        group.controller.release(held)
        return held

    # --- Checks

    async def _check(self, id: str, properties: Raw) -> GroupSpec:
        """Return a spec that the flavor and every plugin has accepted. Raise `InvalidSpec` or `Unreachable`."""
        group = self._groups.get(id)
        if group is not None and group.controller.wishes.record.destroying:
            raise Refused(id, "the group is being destroyed: wait until it is gone")
        spec = parse(id, properties)
        self._check_total(spec)
        await check_spec(spec, self._find_plugin, self._find_flavor)
        return spec

    def _check_total(self, spec: GroupSpec) -> None:
        """Raise `InvalidSpec` if all groups together would be larger than the fleet may be."""
        if self._max_members is None:
            return
        others = sum(group.controller.wishes.spec.size for id, group in self._groups.items() if id != spec.id)
        if others + spec.size > self._max_members:
            problem = (
                f"{spec.size} members, and {others} of other groups, are over the fleet's limit of {self._max_members}"
            )
            raise InvalidSpec("Properties.Allocation", problem)

    async def _commit(self, spec: GroupSpec, by: str, cause: str, details: str) -> None:
        now = time.time()
        if spec.id not in self._groups:
            record = GroupRecord(properties=spec.raw).commit(spec.id, spec.raw, now, by, cause, details)
            entry = await self._store.put(spec.id, encode(record), 0)
            self._add(spec.id, record, entry.version, is_known=False)
        else:
            await self._change(spec.id, lambda record: record.commit(spec.id, spec.raw, now, by, cause, details))
        self._events.record(f"group/{spec.id}", cause, by or "operator", details)

    def _summarize(self, spec: GroupSpec) -> str:
        """Return InfraKit's text about the effect of a commit."""
        group = self._groups.get(spec.id)
        if group is None:
            return f"Managing {spec.size} instances"
        return summarize_change(group.controller.wishes.spec.size, spec.size, group.controller.count_outdated(spec))
