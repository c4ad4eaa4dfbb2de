"""An instance plugin in this process, for the controller."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from msgspec import Raw

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.group.failures import restore
from pyinfrakit.group.plugins import BY_CONTROLLER, Description, InstancePlugin
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.record import Record, Spec


class LocalPlugin(InstancePlugin):
    """A plugin in this process. Its event loop is that of the plugin."""

    is_certain = True

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._callbacks: list[Callable[[str], None]] = []
        self._changed: dict[str, None] = {}
        self._is_subscribed = False

    async def validate(self, properties: Raw | None) -> None:
        await self._plugin.validate(properties)

    async def provision(self, spec: Spec) -> str:
        try:
            return await self._plugin.provision(spec)
        except PyInfrakitError as error:
            raise restore(error.kind, str(error)) or error from None

    async def destroy(self, id: str, reason: str) -> None:
        await self._plugin.destroy(id, reason)

    async def label(self, id: str, tags: Mapping[str, str]) -> None:
        await self._plugin.label(id, tags)

    async def describe(self, group: str) -> Sequence[Description]:
        return [self._describe(record) for record in self._plugin.records.find_members(group)]

    async def set_aside(self, id: str, reason: str) -> None:
        await self._plugin.set_aside(id, reason)

    def follow(self, callback: Callable[[str], None]) -> Callable[[], None]:
        if not self._is_subscribed:
            self._is_subscribed = True
            self._plugin.records.subscribe(self._note)
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def _describe(self, record: Record) -> Description:
        held = self._plugin.held.get(record.id)
        reasons = (record.reason, self._plugin.last_failure(record.id), held.reason if held else "")
        return Description(
            id=record.id,
            logical_id=record.spec.logical_id,
            tags=record.spec.tags,
            properties=self._plugin.records.live(record.id) or record.spec.properties,
            state=record.state,
            reason="; ".join(filter(None, reasons)),
            by_hand=record.by_hand and not record.reason.startswith(BY_CONTROLLER),
        )

    def _note(self, old: Record | None, new: Record | None) -> None:
        """Note whose members changed. This is on the path of every change: all that happens at once is one call."""
        groups = [record.spec.group for record in (old, new) if record is not None and record.spec.group]
        if groups and self._callbacks:
            if not self._changed:
                asyncio.get_running_loop().call_soon(self._call_back)
            self._changed.update(dict.fromkeys(groups))

    def _call_back(self) -> None:
        changed, self._changed = self._changed, {}
        for group in changed:
            for callback in tuple(self._callbacks):
                callback(group)
