"""Answer calls: the handshakes of all generations, the Instance interface, and our own for operators."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import PoolMachine
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.rpc import jsonrpc
from pyinfrakit.rpc.instance import types
from pyinfrakit.rpc.instance.descriptions import Descriptions
from pyinfrakit.schema.decode import WrongShape

log = logging.getLogger(__name__)

T = TypeVar("T", bound=types.Typed)

Handler = Callable[[Raw], Awaitable[Any]]
"""Gives what is to be encoded; or a list, pieces of JSON."""


class _Served:
    """A plugin, and the descriptions of its instances."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.descriptions = Descriptions(plugin.records, plugin.shown)


class Methods:
    """A daemon's methods, by the names that they have on the wire; each request's type says which plugin is meant."""

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        """Serve *plugins*, by sub-type; the only one of a daemon without sub-types has the empty name."""
        self._sub_types = [type for type in plugins if type]
        self._objects = self._sub_types or [types.ONLY_TYPE]
        self._served: dict[str | None, _Served] = {type: _Served(plugin) for type, plugin in plugins.items()}
        if "" in self._served:
            self._served[None] = self._served[types.ONLY_TYPE] = self._served[""]
        self._methods: Mapping[str, Handler] = {
            "Plugin.Implements": self._implements,
            "Handshake.Implements": self._implements,
            "Handshake.Types": self._types,
            "Handshake.Hello": self._hello,
            "Instance.Meta": self._meta,
            "Instance.Validate": self._validate,
            "Instance.Provision": self._provision,
            "Instance.Label": self._label,
            "Instance.Destroy": self._destroy,
            "Instance.DescribeInstances": self._describe,
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

    async def answer(self, call: jsonrpc.Call | jsonrpc.Rejected) -> jsonrpc.Pieces | None:
        """Do a call, and give the reply; None for a notification. This is where a call's exceptions end."""
        if isinstance(call, jsonrpc.Rejected):
            return None if call.id is None else jsonrpc.failure(call.id, call.fault)
        log.debug("%s is called", call.method)
        try:
            result = await self._method(call.method)(call.params)
        except jsonrpc.Fault as error:
            fault = error
        except WrongShape as error:
            fault = jsonrpc.Fault(jsonrpc.INVALID_PARAMS, str(error))
        except PyInfrakitError as error:
            log.info("%s: %s", call.method, error)
            fault = jsonrpc.Fault(jsonrpc.APPLICATION_ERROR, str(error))
        except Exception as error:
            log.exception("%s: a bug", call.method)
            fault = jsonrpc.Fault(jsonrpc.INTERNAL_ERROR, f"a bug in the plugin ({type(error).__name__}): see its log")
        else:
            pieces = result if isinstance(result, list) else [msgspec.json.encode(result)]
            return None if call.id is None else jsonrpc.success(call.id, pieces)
        return None if call.id is None else jsonrpc.failure(call.id, fault)

    def _method(self, name: str) -> Handler:
        try:
            return self._methods[name]
        except KeyError:
            raise jsonrpc.Fault(jsonrpc.METHOD_NOT_FOUND, f"no method {name!r}") from None

    async def _implements(self, params: Raw) -> Any:
        return {"APIs": [{"Name": "Instance", "Version": version} for version in types.VERSIONS]}

    async def _types(self, params: Raw) -> Any:
        return {"Types": {f"Instance/{version}": self._objects for version in types.TYPES_VERSIONS}}

    async def _hello(self, params: Raw) -> Any:
        objects = [{"Name": type, "ProxyFor": ""} for type in self._objects]
        return {"Objects": {f"Instance/{version}": objects for version in types.HELLO_VERSIONS}}

    async def _meta(self, params: Raw) -> Any:
        return {}

    async def _validate(self, params: Raw) -> Any:
        asked, served = self._read(params, types.ValidateParams)
        await served.plugin.validate(types.given(asked.Properties))
        return types.Ok(asked.Type or "")

    async def _provision(self, params: Raw) -> Any:
        asked, served = self._read(params, types.ProvisionParams)
        id = await served.plugin.provision((asked.Spec or types.SpecParams()).spec())
        return types.Provisioned(asked.Type or "", id)

    async def _label(self, params: Raw) -> Any:
        asked, served = self._read(params, types.LabelParams)
        await served.plugin.label(types.required(asked.Instance, "Instance"), asked.Labels or {})
        return types.Ok(asked.Type or "")

    async def _destroy(self, params: Raw) -> Any:
        asked, served = self._read(params, types.DestroyParams)
        reason = (asked.Context.Reason if asked.Context else None) or "terminate"
        await served.plugin.destroy(types.required(asked.Instance, "Instance"), reason)
        return types.Ok(asked.Type or "")

    async def _describe(self, params: Raw) -> Any:
        asked, served = self._read(params, types.DescribeParams)
        type = "" if asked.Type in self._sub_types else asked.Type or ""  # as InfraKit's clients were answered
        return served.descriptions.reply(type, asked.Tags or {}, bool(asked.Properties))

    async def _records(self, params: Raw) -> Any:
        asked, served = self._read(params, types.KeptParams)
        records = served.plugin.records.tagged(asked.Tags or {})
        wanted = None if asked.Instances is None else set(asked.Instances)
        return types.KeptRecords([_kept(served.plugin, r) for r in records if wanted is None or r.id in wanted])

    async def _set_aside(self, params: Raw) -> Any:
        asked, served = self._read(params, types.SetAsideParams)
        await served.plugin.set_aside(types.required(asked.Instance, "Instance"), asked.Reason or "")
        return types.Ok(asked.Type or "")

    async def _restore(self, params: Raw) -> Any:
        asked, served = self._read(params, types.RestoreParams)
        await served.plugin.restore(types.required(asked.Instance, "Instance"), bool(asked.Force))
        return types.Ok(asked.Type or "")

    async def _confirm(self, params: Raw) -> Any:
        _, served = self._read(params, types.Typed)
        return types.Released(served.plugin.watch.release())

    async def _status(self, params: Raw) -> Any:
        _, served = self._read(params, types.Typed)
        watch = served.plugin.watch
        states = {state.value: 0 for state in State}
        for record in served.plugin.records:
            states[record.state] += 1
        return types.Status(
            Provider=type(served.plugin.provider).__name__,
            States=states,
            Observed=watch.observed,
            Trouble=watch.trouble,
            Held=sorted(watch.held),
            Orphans=sorted(served.plugin.adoption.orphans()),
            Late=sorted(served.plugin.calls.late),
        )

    async def _orphans(self, params: Raw) -> Any:
        _, served = self._read(params, types.Typed)
        orphans = served.plugin.adoption.orphans().values()
        return types.Orphans([types.Orphan(m.id, m.handle, m.logical_id, m.functional, m.reason, dict(m.tags)) for m in orphans])

    async def _adopt(self, params: Raw) -> Any:
        asked, served = self._read(params, types.AdoptParams)
        spec = Spec(tags=asked.Tags or {}, logical_id=asked.LogicalID or None)
        handle = types.required(asked.Handle, "Handle", "what the provider calls a machine")
        return types.Adopted([await served.plugin.adoption.adopt(handle, spec)])

    async def _adopt_orphans(self, params: Raw) -> Any:
        asked, served = self._read(params, types.OrphansParams)
        return types.Adopted(await served.plugin.adoption.adopt_orphans(asked.Instances or (), asked.Tags or {}))

    async def _destroy_orphans(self, params: Raw) -> Any:
        asked, served = self._read(params, types.OrphansParams)
        if not asked.Instances:
            raise WrongShape("Instances", "expected the IDs of orphans, got none")
        await served.plugin.adoption.destroy_orphans(asked.Instances)
        return types.Ok(asked.Type or "")

    async def _machines(self, params: Raw) -> Any:
        _, served = self._read(params, types.Typed)
        machines = await served.plugin.calls.pool()
        return types.Pool([_of_pool(machine, served.plugin) for machine in machines])

    def _read(self, params: Raw, shape: type[T]) -> tuple[T, _Served]:
        asked = types.read(params, shape)
        served = self._served.get(asked.Type)
        if served is None:
            raise jsonrpc.Fault(jsonrpc.APPLICATION_ERROR, self._no_plugin(asked.Type))
        return asked, served

    def _no_plugin(self, type: str | None) -> str:
        if type in (None, "", types.ONLY_TYPE):
            return types.UNKNOWN_TYPE.format(f" say {' or '.join(f'NAME/{each}' for each in self._sub_types)}")
        return types.UNKNOWN_TYPE.format(type)


def _kept(plugin: Plugin, record: Record) -> types.Kept:
    held = plugin.watch.held.get(record.id)
    return types.Kept(
        ID=record.id,
        LogicalID=record.spec.logical_id,
        Tags=dict(record.spec.tags),
        Properties=plugin.shown(record),
        State=record.state,
        Reason="; ".join(filter(None, [record.reason, plugin.trouble(record.id)])),
        Since=record.since,
        ByHand=record.by_hand,
        Handle=record.handle,
        Held=held.reason if held else "",
    )


def _of_pool(machine: PoolMachine, plugin: Plugin) -> types.PoolMachine:
    record = None if machine.id is None else plugin.records.get(machine.id)
    return types.PoolMachine(
        Name=machine.name,
        At=machine.at,
        Power=machine.power,
        Health=machine.health,
        Free=machine.is_free,
        Instance=machine.id,
        State=record.state if record else "orphan" if machine.id else "free" if machine.is_free else "not free",
        Reason=(record.reason or plugin.trouble(record.id)) if record else machine.reason,
    )
