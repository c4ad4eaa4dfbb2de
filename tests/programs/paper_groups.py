"""A group controller whose members exist on paper only: the Group interface and the command line without plugins.

A commit makes all members at once, and each of the calls of operators is what `describe` shows next.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit.daemon.http import Server, serve_calls, serve_document
from pyinfrakit.daemon.listener import Listener
from pyinfrakit.errors import UnknownGroup, UnknownInstance, WrongCall
from pyinfrakit.group.groups import Groups
from pyinfrakit.group.spec import GroupSpec, parse
from pyinfrakit.group.status import Commit, CourseStep, GroupStatus, MemberStatus, Phase, PlanReport, Step, Verb
from pyinfrakit.rpc import info
from pyinfrakit.rpc.group.service import GroupService
from pyinfrakit.rpc.jsonrpc import Dispatcher


class PaperGroups(Groups):
    """Groups that are always as they should be. A member with the logical ID ``lost`` is a held loss."""

    def __init__(self) -> None:
        self._specs: dict[str, GroupSpec] = {}
        self._status: dict[str, GroupStatus] = {}
        self._history: dict[str, list[Commit]] = {}

    async def commit(self, id: str, properties: Raw, pretend: bool, by: str) -> str:
        spec = parse(id, properties.copy())
        details = self._explain(spec)
        if not pretend:
            self._put(spec, by, "commit", details)
        return details

    async def plan(self, id: str, properties: Raw) -> PlanReport:
        spec = parse(id, properties.copy())
        have = len(self._status[id].members) if id in self._status else 0
        missing = range(have, spec.size)
        steps = [CourseStep(1, Verb.CREATE, "", "", f"member {number} of {spec.size} is missing") for number in missing]
        return PlanReport(self._explain(spec), steps, spec.budget, bool(steps))

    async def free(self, id: str) -> None:
        self.describe(id)
        for table in (self._specs, self._status, self._history):
            table.pop(id)

    async def destroy(self, id: str) -> None:
        await self.free(id)

    async def destroy_instances(self, id: str, ids: Sequence[str]) -> None:
        members = {member.id: member for member in self.describe(id).members}
        for each in ids:
            if each not in members:
                raise UnknownInstance(each, "member")
            del members[each]
        self._status[id] = replace(self._status[id], size=len(members), members=list(members.values()))

    async def set_size(self, id: str, size: int) -> None:
        if self.describe(id).members and self._specs[id].properties.allocation.logical_ids:
            raise WrongCall("cannot set size if logic ids are explicitly set")
        raw = b'{"Allocation":{"Size":%d},"Instance":{"Plugin":"rack1"}}' % size
        self._put(parse(id, Raw(raw)), "", "size", f"size {size}")

    def describe(self, id: str) -> GroupStatus:
        try:
            return self._status[id]
        except KeyError:
            raise UnknownGroup(id) from None

    def inspect(self) -> Sequence[tuple[str, Raw]]:
        return [(id, spec.raw) for id, spec in self._specs.items()]

    def size(self, id: str) -> int:
        return self.describe(id).size

    def history(self, id: str) -> Sequence[Commit]:
        self.describe(id)
        return self._history[id]

    async def undo(self, id: str, number: int | None, by: str) -> str:
        history = self.history(id)
        number = len(history) - 1 if number is None else number
        if not 1 <= number <= len(history):
            raise WrongCall(f"group {id} has no commit {number}")
        spec = parse(id, history[number - 1].properties)
        details = self._explain(spec)
        self._put(spec, by, f"undo to {number}", details)
        return details

    async def pause(self, id: str, reason: str) -> None:
        self._turn(id, Phase.PAUSED, reason)

    async def resume(self, id: str) -> None:
        self._turn(id, Phase.ROLLING, "")

    async def abort(self, id: str) -> None:
        self._turn(id, Phase.ABORTED, "")

    async def protect(self, id: str, instance: str, on: bool) -> None:
        members = self.describe(id).members
        if instance not in (member.id for member in members):
            raise UnknownInstance(instance, "member")
        changed = [replace(each, is_protected=on) if each.id == instance else each for each in members]
        self._status[id] = replace(self._status[id], members=changed)

    async def confirm(self, id: str) -> Sequence[str]:
        status = self.describe(id)
        self._status[id] = replace(status, steps=[])
        return [step.subject for step in status.steps if step.verb is Verb.HOLD]

    def _explain(self, spec: GroupSpec) -> str:
        if spec.id not in self._specs:
            return f"Managing {spec.size} instances"
        more = spec.size - self.size(spec.id)
        return f"Adding {more} instances to increase the group size to {spec.size}" if more > 0 else "Noop"

    def _put(self, spec: GroupSpec, by: str, cause: str, details: str) -> None:
        history = self._history.setdefault(spec.id, [])
        history.append(Commit(len(history) + 1, time.time(), by, cause, details, spec.raw))
        self._specs[spec.id] = spec
        names: Sequence[str | None] = spec.properties.allocation.logical_ids or [None] * spec.size
        members = [_member(spec.id, number, name) for number, name in enumerate(names)]
        held = [Step(Verb.HOLD, each.id, "it seems lost") for each in members if each.logical_id == "lost"]
        self._status[spec.id] = GroupStatus(
            spec.id, len(members), len(members) - len(held), 0, Phase.IDLE, "", "", members, held
        )

    def _turn(self, id: str, phase: Phase, reason: str) -> None:
        self._status[id] = replace(self.describe(id), phase=phase, phase_reason=reason)


def _member(group: str, number: int, logical_id: str | None) -> MemberStatus:
    is_lost = logical_id == "lost"
    return MemberStatus(
        id=f"{group}-{number}",
        logical_id=logical_id,
        tags={"infrakit.group": group, "tier": "web"},
        properties=Raw(b'{"address":"10.0.0.%d"}' % number),
        plugin="rack1",
        state="non-functional" if is_lost else "ready",
        health="unknown" if is_lost else "healthy",
        config="current",
        is_protected=False,
        reason="it seems lost" if is_lost else "",
        since=1_800_000_000.0,
    )


async def serve(listener: Listener, name: str) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    dispatcher = Dispatcher(GroupService(PaperGroups()).methods)
    api = serve_document(info.encode_group_api(name))
    server = Server({"/": serve_calls(dispatcher.answer), "/info/api.json": api})
    await server.start(listener.listen())
    await stop.wait()
    listener.remove()
    await server.stop(1)


if __name__ == "__main__":
    NAME = sys.argv[sys.argv.index("--name") + 1]
    with Listener(Path(os.environ["INFRAKIT_HOME"]) / "plugins", NAME) as OWN:
        asyncio.run(serve(OWN, NAME))
