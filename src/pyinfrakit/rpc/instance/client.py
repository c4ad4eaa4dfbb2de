"""Call the Instance interface of any plugin."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Raw

from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.instance import types
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

T = TypeVar("T")


class InstanceClient:
    """A plugin, or one sub-type of it, behind a client. Every method may raise `RemoteError` or `Unreachable`."""

    def __init__(self, client: Client, sub_type: str = "") -> None:
        self._client = client
        self._sub_type = sub_type

    def validate(self, properties: Raw) -> None:
        """Have the provider check its own part of a spec."""
        self._call("Instance.Validate", {"Properties": properties}, types.OkResult)

    def provision(self, spec: types.SpecParams) -> str:
        """Ask for an instance; return its ID."""
        return self._call("Instance.Provision", {"Spec": spec}, types.ProvisionResult).ID

    def label(self, id: str, tags: Mapping[str, str]) -> None:
        """Add or replace tags of an instance."""
        self._call("Instance.Label", {"Instance": id, "Labels": tags}, types.OkResult)

    def destroy(self, id: str, reason: str = "terminate") -> None:
        """Have an instance destroyed."""
        self._call("Instance.Destroy", {"Instance": id, "Context": {"Reason": reason}}, types.OkResult)

    def describe(self, tags: Mapping[str, str], properties: bool = False) -> Sequence[types.Description]:
        """Return the instances that InfraKit sees and that have all of *tags*."""
        params = {"Tags": tags, "Properties": properties}
        return self._call("Instance.DescribeInstances", params, types.DescribeResult).Descriptions

    def api(self) -> types.API:
        """Return the interfaces that the plugin claims to have."""
        return self._decode(self._client.get("/info/api.json"), types.API)

    def _call(self, method: str, params: dict[str, Any], shape: type[T]) -> T:
        return self._decode(self._client.call(method, {"Type": self._sub_type, **params}), shape)

    def _decode(self, data: bytes | Raw, shape: type[T]) -> T:
        try:
            return decode(bytes(data), shape, "reply")
        except (NotJSON, WrongShape) as error:
            raise Unreachable(f"{self._client.path} sent an invalid reply: {error}") from None
