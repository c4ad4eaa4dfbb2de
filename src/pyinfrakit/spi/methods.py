"""Answer calls: the handshakes of all generations, the Instance interface, and our own for operators."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from pyinfrakit import rpc
from pyinfrakit.decoding import WrongShape
from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.instance import Record, Spec, State
from pyinfrakit.plugin import Plugin
from pyinfrakit.spi import wire
from pyinfrakit.spi.descriptions import NOTHING, Descriptions

log = logging.getLogger(__name__)

T = TypeVar("T", bound=wire.Typed)

Handler = Callable[[Raw], Awaitable[Any]]
"""Gives what is to be encoded; or a list, pieces of JSON."""


class Methods:
    """A plugin's methods, by the names that they have on the wire."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._descriptions = Descriptions(plugin.records)
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
        }

    async def answer(self, call: rpc.Call | rpc.Rejected) -> rpc.Pieces | None:
        """Do a call, and give the reply; None for a notification. This is where a call's exceptions end."""
        if isinstance(call, rpc.Rejected):
            return None if call.id is None else rpc.failure(call.id, call.fault)
        log.debug("%s is called", call.method)
        try:
            result = await self._method(call.method)(call.params)
        except rpc.Fault as error:
            fault = error
        except WrongShape as error:
            fault = rpc.Fault(rpc.INVALID_PARAMS, str(error))
        except PyInfrakitError as error:
            log.info("%s: %s", call.method, error)
            fault = rpc.Fault(rpc.APPLICATION_ERROR, str(error))
        except Exception as error:
            log.exception("%s: a bug", call.method)
            fault = rpc.Fault(rpc.INTERNAL_ERROR, f"a bug in the plugin ({type(error).__name__}): see its log")
        else:
            pieces = result if isinstance(result, list) else [msgspec.json.encode(result)]
            return None if call.id is None else rpc.success(call.id, pieces)
        return None if call.id is None else rpc.failure(call.id, fault)

    def _method(self, name: str) -> Handler:
        try:
            return self._methods[name]
        except KeyError:
            raise rpc.Fault(rpc.METHOD_NOT_FOUND, f"no method {name!r}") from None

    async def _implements(self, params: Raw) -> Any:
        return {"APIs": [{"Name": "Instance", "Version": version} for version in wire.VERSIONS]}

    async def _types(self, params: Raw) -> Any:
        return {"Types": {f"Instance/{version}": [wire.ONLY_TYPE] for version in wire.TYPES_VERSIONS}}

    async def _hello(self, params: Raw) -> Any:
        objects = [{"Name": wire.ONLY_TYPE, "ProxyFor": ""}]
        return {"Objects": {f"Instance/{version}": objects for version in wire.HELLO_VERSIONS}}

    async def _meta(self, params: Raw) -> Any:
        return {}

    async def _validate(self, params: Raw) -> Any:
        asked = self._read(params, wire.ValidateParams)
        await self._plugin.validate(wire.given(asked.Properties))
        return wire.Ok(asked.Type or "")

    async def _provision(self, params: Raw) -> Any:
        asked = self._read(params, wire.ProvisionParams)
        id = await self._plugin.provision((asked.Spec or wire.SpecParams()).spec())
        return wire.Provisioned(asked.Type or "", id)

    async def _label(self, params: Raw) -> Any:
        asked = self._read(params, wire.LabelParams)
        await self._plugin.label(wire.required(asked.Instance, "Instance"), asked.Labels or {})
        return wire.Ok(asked.Type or "")

    async def _destroy(self, params: Raw) -> Any:
        asked = self._read(params, wire.DestroyParams)
        reason = (asked.Context.Reason if asked.Context else None) or "terminate"
        await self._plugin.destroy(wire.required(asked.Instance, "Instance"), reason)
        return wire.Ok(asked.Type or "")

    async def _describe(self, params: Raw) -> Any:
        asked = self._read(params, wire.DescribeParams)
        return self._descriptions.reply(asked.Type or "", asked.Tags or {}, bool(asked.Properties))

    async def _records(self, params: Raw) -> Any:
        asked = self._read(params, wire.KeptParams)
        records = self._plugin.records.tagged(asked.Tags or {})
        wanted = None if asked.Instances is None else set(asked.Instances)
        return wire.KeptRecords([self._kept(r) for r in records if wanted is None or r.id in wanted])

    def _kept(self, record: Record) -> wire.Kept:
        held = self._plugin.watch.held.get(record.id)
        return wire.Kept(
            ID=record.id,
            LogicalID=record.spec.logical_id,
            Tags=dict(record.spec.tags),
            Properties=self._plugin.records.properties(record) or NOTHING,
            State=record.state,
            Reason=record.reason,
            Since=record.since,
            ByHand=record.by_hand,
            Handle=record.handle,
            Held=held.reason if held else "",
        )

    async def _set_aside(self, params: Raw) -> Any:
        asked = self._read(params, wire.SetAsideParams)
        await self._plugin.set_aside(wire.required(asked.Instance, "Instance"), asked.Reason or "")
        return wire.Ok(asked.Type or "")

    async def _restore(self, params: Raw) -> Any:
        asked = self._read(params, wire.RestoreParams)
        await self._plugin.restore(wire.required(asked.Instance, "Instance"), bool(asked.Force))
        return wire.Ok(asked.Type or "")

    async def _confirm(self, params: Raw) -> Any:
        self._read(params, wire.Typed)
        return wire.Released(self._plugin.watch.release())

    async def _status(self, params: Raw) -> Any:
        self._read(params, wire.Typed)
        watch = self._plugin.watch
        states = {state.value: 0 for state in State}
        for record in self._plugin.records:
            states[record.state] += 1
        return wire.Status(
            Provider=type(self._plugin.provider).__name__,
            States=states,
            Observed=watch.observed,
            Trouble=watch.trouble,
            Held=sorted(watch.held),
            Orphans=sorted(self._plugin.adoption.orphans()),
            Late=sorted(self._plugin.calls.late),
        )

    async def _orphans(self, params: Raw) -> Any:
        self._read(params, wire.Typed)
        orphans = self._plugin.adoption.orphans().values()
        return wire.Orphans([wire.Orphan(m.id, m.handle, m.logical_id, m.functional, m.reason, dict(m.tags)) for m in orphans])

    async def _adopt(self, params: Raw) -> Any:
        asked = self._read(params, wire.AdoptParams)
        spec = Spec(tags=asked.Tags or {}, logical_id=asked.LogicalID or None)
        handle = wire.required(asked.Handle, "Handle", "what the provider calls a machine")
        return wire.Adopted([await self._plugin.adoption.adopt(handle, spec)])

    async def _adopt_orphans(self, params: Raw) -> Any:
        asked = self._read(params, wire.OrphansParams)
        return wire.Adopted(await self._plugin.adoption.adopt_orphans(asked.Instances or (), asked.Tags or {}))

    async def _destroy_orphans(self, params: Raw) -> Any:
        asked = self._read(params, wire.OrphansParams)
        if not asked.Instances:
            raise WrongShape("Instances", "expected the IDs of orphans, got none")
        await self._plugin.adoption.destroy_orphans(asked.Instances)
        return wire.Ok(asked.Type or "")

    def _read(self, params: Raw, shape: type[T]) -> T:
        asked = wire.read(params, shape)
        if asked.Type not in (None, "", wire.ONLY_TYPE):
            raise rpc.Fault(rpc.APPLICATION_ERROR, wire.UNKNOWN_TYPE.format(asked.Type))
        return asked
