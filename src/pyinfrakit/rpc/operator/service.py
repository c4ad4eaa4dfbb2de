"""Answer the Operator interface."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import PoolMachine
from pyinfrakit.record import Record, Spec
from pyinfrakit.rpc.instance.descriptions import FEW
from pyinfrakit.rpc.instance.service import P, Targets
from pyinfrakit.rpc.instance.types import OkResult, Params, require
from pyinfrakit.rpc.jsonrpc import Handler, Reply, enclose
from pyinfrakit.rpc.operator import types
from pyinfrakit.schema.decode import WrongShape
from pyinfrakit.turns import share

T = TypeVar("T")


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
        tags = (request.Tags or {}).items()
        records = plugin.records.narrow(request.Tags or {})
        if request.Instances is not None:
            records = list(filter(None, map(plugin.records.get, dict.fromkeys(request.Instances))))
        return _encode_list("Records", records, lambda r: _describe(plugin, r) if tags <= r.spec.tags.items() else None)

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
        return types.InstancesResult(await plugin.confirm_losses())

    async def _status(self, params: Raw) -> Any:
        _, plugin = self._read(params, Params)
        return types.StatusResult(
            Provider=type(plugin.provider).__name__,
            States=plugin.count_states(),
            Observed=plugin.observed,
            Trouble=plugin.trouble,
            Held=sorted(plugin.held),
            Orphans=list(plugin.orphans),
            Late=sorted(plugin.late_calls),
        )

    async def _orphans(self, params: Raw) -> Any:
        _, plugin = self._read(params, Params)
        return _encode_list(
            "Orphans",
            list(plugin.orphans.values()),
            lambda m: types.Orphan(
                m.id, plugin.redact_handle(m.id, m.handle), m.logical_id, m.functional, m.reason, dict(m.tags)
            ),
        )

    async def _adopt(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.AdoptParams)
        spec = Spec(tags=request.Tags or {}, logical_id=request.LogicalID or None)
        handle = require(request.Handle, "Handle", "the provider's name for a machine")
        return types.InstancesResult([await plugin.adoption.adopt(handle, spec)])

    async def _adopt_orphans(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.OrphansParams)
        return types.InstancesResult(await plugin.adoption.adopt_orphans(request.Instances or (), request.Tags or {}))

    async def _destroy_orphans(self, params: Raw) -> Any:
        request, plugin = self._read(params, types.OrphansParams)
        if not request.Instances:
            raise WrongShape("Instances", "expected the IDs of orphans, got none")
        await plugin.adoption.destroy_orphans(request.Instances)
        return OkResult(request.Type or "")

    async def _machines(self, params: Raw) -> Any:
        _, plugin = self._read(params, Params)
        return _encode_list("Machines", await plugin.list_pool(), lambda machine: _describe_machine(machine, plugin))

    def _read(self, params: Raw, shape: type[P]) -> tuple[P, Plugin]:
        request, sub_type = self._targets.read(params, shape)
        return request, self._targets.plugins[sub_type]


def _encode_list(key: str, items: Sequence[T], describe: Callable[[T], Any]) -> Reply:
    """Return the JSON of an object with a list under *key*: the descriptions of *items*, but for those that are None."""

    def encode(some: Sequence[T]) -> bytes:
        return msgspec.json.encode([each for each in map(describe, some) if each is not None])[1:-1]

    async def stream() -> AsyncIterator[bytes]:
        separator = b""
        async for some in share(items, FEW):
            if encoded := encode(some):
                yield separator + encoded
                separator = b","

    return enclose(b'{"%b":[' % key.encode(), [encode(items)] if len(items) <= FEW else stream(), b"]}")


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
