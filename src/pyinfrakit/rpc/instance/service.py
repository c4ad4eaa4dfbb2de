"""Answer the Instance interface, and the handshakes of all InfraKit generations."""

from collections.abc import Mapping
from typing import Any, TypeVar

from msgspec import Raw

from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.rpc import jsonrpc
from pyinfrakit.rpc.handshake import answer_handshakes
from pyinfrakit.rpc.instance import types
from pyinfrakit.rpc.instance.descriptions import Descriptions

P = TypeVar("P", bound=types.Params)


class Targets:
    """The plugins of a daemon, by the names that requests have for them."""

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        """Take *plugins* by sub-type; the only one of a daemon without sub-types has the empty name."""
        self.plugins = plugins
        self.sub_types = [sub_type for sub_type in plugins if sub_type]
        self._by_name: dict[str | None, str] = {sub_type: sub_type for sub_type in plugins}
        if "" in plugins:
            self._by_name[None] = self._by_name[types.ONLY_OBJECT] = ""

    @property
    def objects(self) -> list[str]:
        """The names of the plugins in InfraKit's handshakes."""
        return self.sub_types or [types.ONLY_OBJECT]

    def read(self, params: Raw, shape: type[P]) -> tuple[P, str]:
        """Decode a call's parameters; return them with the sub-type that they ask for. Raise `Fault` or `WrongShape`."""
        request = types.read(params, shape)
        sub_type = self._by_name.get(request.Type)
        if sub_type is None:
            raise jsonrpc.Fault(jsonrpc.APPLICATION_ERROR, self._explain_unknown(request.Type))
        return request, sub_type

    def _explain_unknown(self, name: str | None) -> str:
        # The prefix is InfraKit's own: its clients look for it.
        if name in (None, "", types.ONLY_OBJECT):
            return f"no-plugin: use {' or '.join(f'NAME/{each}' for each in self.sub_types)}"
        return f"no-plugin:{name}"


class InstanceService:
    """The Instance interface of a daemon's plugins."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._plugins = targets.plugins
        self._descriptions = {
            sub_type: Descriptions(plugin.records, plugin.redact) for sub_type, plugin in targets.plugins.items()
        }

    @property
    def methods(self) -> Mapping[str, jsonrpc.Handler]:
        return {
            **answer_handshakes(
                "Instance", types.VERSIONS, types.TYPES_VERSIONS, types.HELLO_VERSIONS, lambda: self._targets.objects
            ),
            "Instance.Meta": self._meta,
            "Instance.Validate": self._validate,
            "Instance.Provision": self._provision,
            "Instance.Label": self._label,
            "Instance.Destroy": self._destroy,
            "Instance.DescribeInstances": self._describe,
        }

    async def _meta(self, params: Raw) -> Any:
        return {}

    async def _validate(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.ValidateParams)
        await self._plugins[sub_type].validate(types.own(request.Properties))
        return types.OkResult(request.Type or "")

    async def _provision(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.ProvisionParams)
        id = await self._plugins[sub_type].provision((request.Spec or types.SpecParams()).to_spec())
        return types.ProvisionResult(request.Type or "", id)

    async def _label(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.LabelParams)
        await self._plugins[sub_type].label(types.require(request.Instance, "Instance"), request.Labels or {})
        return types.OkResult(request.Type or "")

    async def _destroy(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.DestroyParams)
        reason = (request.Context.Reason if request.Context else None) or "terminate"
        await self._plugins[sub_type].destroy(types.require(request.Instance, "Instance"), reason)
        return types.OkResult(request.Type or "")

    async def _describe(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.DescribeParams)
        # InfraKit's own plugins leave Type empty in their replies about a sub-type, as the recordings show.
        name = "" if sub_type else request.Type or ""
        return await self._descriptions[sub_type].reply(name, request.Tags or {}, bool(request.Properties))
