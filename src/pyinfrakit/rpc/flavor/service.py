"""Answer the Flavor interface, and the handshakes of all InfraKit generations."""

from collections.abc import Mapping
from typing import Any, TypeVar

from msgspec import Raw

from pyinfrakit.group.flavors import Flavor
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Allocation
from pyinfrakit.record import Spec
from pyinfrakit.rpc import jsonrpc
from pyinfrakit.rpc.flavor import types
from pyinfrakit.rpc.handshake import answer_handshakes
from pyinfrakit.rpc.instance.types import ONLY_OBJECT, OkResult, Params, encode_spec, own, read, require

P = TypeVar("P", bound=Params)


class FlavorService:
    """The Flavor interface of one flavor, which has no sub-types."""

    def __init__(self, flavor: Flavor) -> None:
        self._flavor = flavor

    @property
    def methods(self) -> Mapping[str, jsonrpc.Handler]:
        return {
            **answer_handshakes("Flavor", types.VERSIONS, types.VERSIONS, types.VERSIONS, lambda: [ONLY_OBJECT]),
            "Flavor.Validate": self._validate,
            "Flavor.Prepare": self._prepare,
            "Flavor.Healthy": self._healthy,
            "Flavor.Drain": self._drain,
        }

    async def _validate(self, params: Raw) -> Any:
        request = _read(params, types.CheckParams)
        await self._flavor.validate(own(request.Properties), _read_allocation(request))
        return OkResult(request.Type or "")

    async def _prepare(self, params: Raw) -> Any:
        request = _read(params, types.PrepareParams)
        spec = Spec() if request.Spec is None else request.Spec.to_spec()
        index = (request.Index or types.IndexParams()).to_index()
        prepared = await self._flavor.prepare(own(request.Properties), spec, _read_allocation(request), index)
        return {"Type": request.Type or "", "Spec": encode_spec(prepared)}

    async def _healthy(self, params: Raw) -> Any:
        request = _read(params, types.MemberParams)
        health = await self._flavor.healthy(own(request.Properties), _read_member(request))
        return {"Type": request.Type or "", "Health": health}

    async def _drain(self, params: Raw) -> Any:
        request = _read(params, types.MemberParams)
        await self._flavor.drain(own(request.Properties), _read_member(request))
        return OkResult(request.Type or "")


def _read(params: Raw, shape: type[P]) -> P:
    """Decode a call's parameters. Raise `Fault` for a sub-type, in InfraKit's words, or `WrongShape`."""
    request = read(params, shape)
    if request.Type not in (None, "", ONLY_OBJECT):
        raise jsonrpc.Fault(jsonrpc.APPLICATION_ERROR, f"no-plugin:{request.Type}")
    return request


def _read_allocation(request: types.CheckParams) -> Allocation:
    return (request.Allocation or types.AllocationParams()).to_allocation()


def _read_member(request: types.MemberParams) -> Description:
    member = request.Instance or types.InstanceParams()
    require(member.ID, "Instance.ID")
    return member.to_description()
