"""Any flavor plugin behind a socket, for the controller."""

from typing import Any

from msgspec import Raw, Struct

from pyinfrakit.errors import Unreachable
from pyinfrakit.group.flavors import Flavor, Health, Index
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Allocation
from pyinfrakit.record import Spec
from pyinfrakit.rpc.channel import Channel
from pyinfrakit.rpc.endpoint import Endpoint
from pyinfrakit.rpc.flavor import types
from pyinfrakit.rpc.handshake import HELLO, TYPES
from pyinfrakit.rpc.instance.types import encode_spec


class _Done(Struct, frozen=True):
    """The result of a call whose success says all."""


class RemoteFlavor(Flavor):
    """The flavor plugin at the other end of *channel*, or one sub-type of it."""

    def __init__(self, channel: Channel, sub_type: str = "") -> None:
        self._channel = channel
        self._endpoint = Endpoint(channel, "Flavor", types.VERSIONS, sub_type)

    async def greet(self) -> None:
        """Raise `Unreachable` or `GiveUp` unless the plugin answers, and has the interface and the sub-type."""
        await self._endpoint.shake_hands()

    async def validate(self, properties: Raw | None, allocation: Allocation) -> None:
        params = {"Properties": properties, "Allocation": _encode_allocation(allocation)}
        await self._endpoint.ask("Flavor.Validate", params, _Done)

    async def prepare(self, properties: Raw | None, spec: Spec, allocation: Allocation, index: Index) -> Spec:
        handshake = await self._endpoint.shake_hands()
        params = {
            "Properties": properties,
            "Spec": encode_spec(spec),
            "Allocation": _encode_allocation(allocation),
        }
        if handshake.method in (HELLO, TYPES):  # since InfraKit 0.5
            params["Index"] = {"Group": index.group, "Sequence": index.sequence}
        # A flavor may hand out something for each call, such as an address: so this is no mere question.
        result = await self._endpoint.change("Flavor.Prepare", params, types.PrepareResult)
        if result.Spec is None:
            raise self._reject("Spec: expected a spec, got nothing")
        return result.Spec.to_spec()

    async def healthy(self, properties: Raw | None, member: Description) -> Health:
        params = {"Properties": properties, "Instance": _encode_member(member)}
        health = (await self._endpoint.ask("Flavor.Healthy", params, types.HealthyResult)).Health
        if health not in list(Health):
            raise self._reject(f"Health: expected 0, 1 or 2, got {health}")
        return Health(health)

    async def drain(self, properties: Raw | None, member: Description) -> None:
        params = {"Properties": properties, "Instance": _encode_member(member)}
        await self._endpoint.change("Flavor.Drain", params, _Done, member.id)

    def _reject(self, problem: str) -> Unreachable:
        return Unreachable(f"{self._channel.path} sent an invalid reply: {problem}")


def _encode_allocation(allocation: Allocation) -> dict[str, Any]:
    """Return an allocation as Go's clients write it."""
    return {"Size": allocation.size or 0, "LogicalIDs": allocation.logical_ids}


def _encode_member(member: Description) -> dict[str, Any]:
    encoded = {"ID": member.id, "LogicalID": member.logical_id, "Tags": dict(member.tags)}
    return encoded if member.properties is None else {**encoded, "Properties": member.properties}
