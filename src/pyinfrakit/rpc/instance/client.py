"""Call a plugin: the other end of `methods`, for our command line and for tests."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.instance import types
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

T = TypeVar("T")


class Remote:
    """A plugin, or one sub-type of it, behind a client. Every method may raise `RemoteError` or `Unreachable`."""

    def __init__(self, client: Client, kind: str = "") -> None:
        self._client = client
        self._kind = kind

    def validate(self, properties: msgspec.Raw) -> None:
        """Have the provider's own part of a spec checked."""
        self._call("Instance.Validate", {"Properties": properties}, types.Ok)

    def provision(self, spec: types.SpecParams) -> str:
        """Give the new instance's ID."""
        return self._call("Instance.Provision", {"Spec": spec}, types.Provisioned).ID

    def label(self, id: str, tags: Mapping[str, str]) -> None:
        """Add or replace tags of an instance."""
        self._call("Instance.Label", {"Instance": id, "Labels": tags}, types.Ok)

    def destroy(self, id: str, reason: str = "terminate") -> None:
        """Have an instance destroyed."""
        self._call("Instance.Destroy", {"Instance": id, "Context": {"Reason": reason}}, types.Ok)

    def describe(self, tags: Mapping[str, str], properties: bool = False) -> Sequence[types.Described]:
        """Give the instances that InfraKit sees and that have all of *tags*."""
        params = {"Tags": tags, "Properties": properties}
        return self._call("Instance.DescribeInstances", params, types.Descriptions).Descriptions

    def records(self, tags: Mapping[str, str], ids: Sequence[str] | None = None) -> Sequence[types.Kept]:
        """Give every record that has all of *tags*, in any state; with *ids*, only those."""
        return self._call("Operator.Records", {"Tags": tags, "Instances": ids}, types.KeptRecords).Records

    def set_aside(self, id: str, reason: str) -> None:
        """Take an instance out of service."""
        self._call("Operator.SetAside", {"Instance": id, "Reason": reason}, types.Ok)

    def restore(self, id: str, force: bool = False) -> None:
        """Bring an instance back into service."""
        self._call("Operator.Restore", {"Instance": id, "Force": force}, types.Ok)

    def confirm(self) -> Sequence[str]:
        """Let held losses happen; give the IDs."""
        return self._call("Operator.Confirm", {}, types.Released).Instances

    def orphans(self) -> Sequence[types.Orphan]:
        """Give the machines with the plugin's mark that no record is of."""
        return self._call("Operator.Orphans", {}, types.Orphans).Orphans

    def adopt(self, handle: str, tags: Mapping[str, str], logical_id: str | None = None) -> str:
        """Have a machine taken in that existed before; give its ID."""
        params = {"Handle": handle, "Tags": tags, "LogicalID": logical_id}
        return self._call("Operator.Adopt", params, types.Adopted).Instances[0]

    def adopt_orphans(self, tags: Mapping[str, str], ids: Sequence[str] = ()) -> Sequence[str]:
        """Have orphans taken in, all of them or those with *ids*; give their IDs."""
        return self._call("Operator.AdoptOrphans", {"Instances": ids, "Tags": tags}, types.Adopted).Instances

    def destroy_orphans(self, ids: Sequence[str]) -> None:
        """Have orphans destroyed."""
        self._call("Operator.DestroyOrphans", {"Instances": ids}, types.Ok)

    def machines(self) -> Sequence[types.PoolMachine]:
        """Give the machines of the provider's pool."""
        return self._call("Operator.Machines", {}, types.Pool).Machines

    def status(self) -> types.Status:
        """Give how the plugin is."""
        return self._call("Operator.Status", {}, types.Status)

    def api(self) -> types.API:
        """Give the interfaces that the plugin says it has."""
        return self._decoded(self._client.get("/info/api.json"), types.API)

    def _call(self, method: str, params: dict[str, Any], shape: type[T]) -> T:
        return self._decoded(self._client.call(method, {"Type": self._kind, **params}), shape)

    def _decoded(self, data: bytes | msgspec.Raw, shape: type[T]) -> T:
        try:
            return decode(bytes(data), shape, "reply")
        except (NotJSON, WrongShape) as error:
            raise Unreachable(f"{self._client.path} answered what no plugin should: {error}") from None
