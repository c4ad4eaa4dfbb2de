"""Which groups' members changed at a plugin, from its stream of events.

An event has the ID of an instance, but not its group. The last descriptions tell most IDs' groups, and the
plugin tells the others'. Events may be lost, and many plugins have none: the controller polls anyhow.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.events import LOST
from pyinfrakit.rpc.channel import Channel
from pyinfrakit.rpc.events import read_frames

PAUSE = 0.05
"""Seconds for which events are gathered: one call back, then, for all changes of a group."""

BACK_OFF = 0.5
MAX_BACK_OFF = 30.0
"""Seconds before the plugin is asked for events again: at first, and at most."""

Callback = Callable[[str], None]

FindGroups = Callable[[Sequence[str]], Awaitable[Mapping[str, str]]]
"""Return the groups of instances, by ID. Raise a `PyInfrakitError` if the plugin can't be asked."""


class Changes:
    """The changes of one plugin's instances. *find_groups* asks the plugin for those of unknown IDs."""

    def __init__(self, channel: Channel, find_groups: FindGroups) -> None:
        self._channel = channel
        self._find_groups = find_groups
        self._callbacks: list[Callback] = []
        self._groups: dict[str, str] = {}
        self._members: dict[str, set[str]] = {}
        self._changed: set[str] = set()
        self._all_changed = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def note(self, group: str, ids: Sequence[str]) -> None:
        """Remember the members of a group, as they were described."""
        for id in self._members.pop(group, set()).difference(ids):
            self._groups.pop(id, None)
        self._members[group] = set(ids)
        self._groups.update(dict.fromkeys(ids, group))

    def follow(self, callback: Callback) -> Callable[[], None]:
        """Call *callback* with a group after its members changed. Return how to stop."""
        self._callbacks.append(callback)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"events of {self._channel.path.name}")
        return lambda: self._unfollow(callback)

    async def close(self) -> None:
        """Stop, and wait for the end."""
        self._callbacks.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def _unfollow(self, callback: Callback) -> None:
        if callback in self._callbacks:
            self._callbacks.remove(callback)
        if not self._callbacks and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive())
            tasks.create_task(self._call_back())

    async def _receive(self) -> None:
        wait = BACK_OFF
        while True:
            try:
                async for line in self._channel.read_lines(f"/events?topic=instance/{self._channel.path.name}/"):
                    for event in read_frames([line]):
                        wait = BACK_OFF
                        self._note_change("" if event.type == LOST else event.subject.rpartition("/")[2])
                    if not line:
                        self._note_change("")  # nobody knows what changed before the stream began
            except PyInfrakitError:
                pass  # the plugin has no events, or is down: the controller finds out by itself
            await asyncio.sleep(wait)
            wait = min(wait * 2, MAX_BACK_OFF)

    def _note_change(self, id: str) -> None:
        """Note a change of an instance, or of any if the ID is empty."""
        if id:
            self._changed.add(id)
        else:
            self._all_changed = True
        self._wake.set()

    async def _call_back(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(PAUSE)
            self._wake.clear()
            for group in await self._take_groups():
                for callback in tuple(self._callbacks):
                    callback(group)

    async def _take_groups(self) -> Sequence[str]:
        """Return the groups that changed since the last time; all, if the plugin does not tell which."""
        changed, self._changed = self._changed, set()
        is_any, self._all_changed = self._all_changed, False
        groups = {self._groups[id] for id in changed if id in self._groups}
        unknown = [id for id in changed if id not in self._groups]
        if unknown and not is_any:
            try:
                groups.update((await self._find_groups(unknown)).values())
            except PyInfrakitError:
                is_any = True
        return [*self._members] if is_any else sorted(groups - {""})
