"""Answer the Instance interface, and the handshakes of all InfraKit generations."""

from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from pyinfrakit.rpc.dispatcher import Handler, Targets
from pyinfrakit.rpc.instance import types
from pyinfrakit.rpc.instance.descriptions import Descriptions
from pyinfrakit.rpc.params import own, require


class InstanceService:
    """The Instance interface of a daemon's plugins."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._plugins = targets.plugins
        self._descriptions = {
            sub_type: Descriptions(plugin.records, plugin.redact) for sub_type, plugin in targets.plugins.items()
        }

    @property
    def methods(self) -> Mapping[str, Handler]:
        return {
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
        }

    async def _implements(self, params: Raw) -> Any:
        return {"APIs": [{"Name": "Instance", "Version": version} for version in types.VERSIONS]}

    async def _types(self, params: Raw) -> Any:
        return {"Types": {f"Instance/{version}": self._targets.objects for version in types.TYPES_VERSIONS}}

    async def _hello(self, params: Raw) -> Any:
        objects = [{"Name": name, "ProxyFor": ""} for name in self._targets.objects]
        return {"Objects": {f"Instance/{version}": objects for version in types.HELLO_VERSIONS}}

    async def _meta(self, params: Raw) -> Any:
        return {}

    async def _validate(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.ValidateParams)
        await self._plugins[sub_type].validate(own(request.Properties))
        return types.OkResult(request.Type or "")

    async def _provision(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.ProvisionParams)
        id = await self._plugins[sub_type].provision((request.Spec or types.SpecParams()).to_spec())
        return types.ProvisionResult(request.Type or "", id)

    async def _label(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.LabelParams)
        await self._plugins[sub_type].label(require(request.Instance, "Instance"), request.Labels or {})
        return types.OkResult(request.Type or "")

    async def _destroy(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.DestroyParams)
        reason = (request.Context.Reason if request.Context else None) or "terminate"
        await self._plugins[sub_type].destroy(require(request.Instance, "Instance"), reason)
        return types.OkResult(request.Type or "")

    async def _describe(self, params: Raw) -> Any:
        request, sub_type = self._targets.read(params, types.DescribeParams)
        # InfraKit's own plugins leave Type empty in their replies about a sub-type, as the recordings show.
        name = "" if sub_type else request.Type or ""
        return self._descriptions[sub_type].reply(name, request.Tags or {}, bool(request.Properties))
