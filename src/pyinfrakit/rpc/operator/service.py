"""Answer the Operator interface."""

from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import PoolMachine
from pyinfrakit.record import Record, Spec
from pyinfrakit.rpc.instance.service import P, Targets
from pyinfrakit.rpc.instance.types import OkResult, Params, require
from pyinfrakit.rpc.jsonrpc import Handler
from pyinfrakit.rpc.operator import types
from pyinfrakit.schema.decode import WrongShape


class OperatorService:
    """The Operator interface of a daemon's plugins."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    @property
    def methods(self) -> Mapping[str, Handler]:
        return {
            "Operator.Records": self._records,
            "Operator.SetAside": self._set_aside,
            "Operator.Restore": self._restore,
            "Operator.Confirm": self._confirm,
            "Operator.Status": self._status,
            "Operator.Orphans": self._orphans,
            "Operator.Adopt": self._adopt,
            "Operator.AdoptOrphans": self._adopt_orphans,
            "Operator.DestroyOrphans": self._destroy_orphans,
            "Operator.Machines": self._machines,
        }

    async def _records(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.RecordsParams)
        wanted = None if request.Instances is None else set(request.Instances)
        records = plugin.records.find_tagged(request.Tags or {})
        return types.RecordsResult([_describe(plugin, each) for each in records if wanted is None or each.id in wanted])

    async def _set_aside(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.SetAsideParams)
        await plugin.set_aside(require(request.Instance, "Instance"), request.Reason or "")
        return OkResult(request.Type or "")

    async def _restore(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.RestoreParams)
        await plugin.restore(require(request.Instance, "Instance"), bool(request.Force))
        return OkResult(request.Type or "")

    async def _confirm(self, params: Raw) -> Any:
        _, plugin = self._read(params, Params)
        return types.InstancesResult(plugin.confirm_losses())

    async def _status(self, params: Raw) -> Any:
        _, plugin = self._read(params, Params)
        return types.StatusResult(
            Provider=type(plugin.provider).__name__,
            States=plugin.count_states(),
            Observed=plugin.observed,
            Trouble=plugin.trouble,
            Held=sorted(plugin.held),
            Orphans=sorted(plugin.orphans),
            Late=sorted(plugin.late_calls),
        )

    async def _orphans(self, params: Raw) -> Any:
        _, plugin = self._read(params, Params)
        orphans = plugin.orphans.values()
        return types.OrphansResult(
            [
                types.Orphan(
                    m.id, plugin.redact_handle(m.id, m.handle), m.logical_id, m.functional, m.reason, dict(m.tags)
                )
                for m in orphans
            ]
        )

    async def _adopt(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.AdoptParams)
        spec = Spec(tags=request.Tags or {}, logical_id=request.LogicalID or None)
        handle = require(request.Handle, "Handle", "the provider's name for a machine")
        return types.InstancesResult([await plugin.adopt(handle, spec)])

    async def _adopt_orphans(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.OrphansParams)
        return types.InstancesResult(await plugin.adopt_orphans(request.Instances or (), request.Tags or {}))

    async def _destroy_orphans(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.OrphansParams)
        if not request.Instances:
            raise WrongShape("Instances", "expected the IDs of orphans, got none")
        await plugin.destroy_orphans(request.Instances)
        return OkResult(request.Type or "")

    async def _machines(self, params: Raw) -> Any:
        _, plugin = self._read(params, Params)
        return types.MachinesResult([_describe_machine(each, plugin) for each in await plugin.list_pool()])

    def _read(self, params: Raw, shape: type[P]) -> tuple[P, Plugin]:
        request, sub_type = self._targets.read(params, shape)
        return request, self._targets.plugins[sub_type]


def _describe(plugin: Plugin, record: Record) -> types.RecordDescription:
    held = plugin.held.get(record.id)
    return types.RecordDescription(
        ID=record.id,
        LogicalID=record.spec.logical_id,
        Tags=dict(record.spec.tags),
        Properties=plugin.redact(record),
        State=record.state,
        Reason="; ".join(filter(None, [record.reason, plugin.last_failure(record.id)])),
        Since=record.since,
        ByHand=record.by_hand,
        Handle=plugin.redact_handle(record.id, record.handle),
        Held=held.reason if held else "",
    )


def _describe_machine(machine: PoolMachine, plugin: Plugin) -> types.PoolEntry:
    record = None if machine.id is None else plugin.records.get(machine.id)
    free = "free" if machine.is_free else "not free"
    return types.PoolEntry(
        Name=machine.name,
        At=machine.at,
        Power=machine.power,
        Health=machine.health,
        Free=machine.is_free,
        Instance=machine.id,
        State=record.state if record else "orphan" if machine.id else free,
        Reason=(record.reason or plugin.last_failure(record.id)) if record else machine.reason,
    )
