"""Call the Operator interface, which our own plugins have beside the Instance interface."""

from collections.abc import Mapping, Sequence

from pyinfrakit.rpc.instance.client import InstanceClient
from pyinfrakit.rpc.instance.types import OkResult
from pyinfrakit.rpc.operator import types


class OperatorClient(InstanceClient):
    """Both interfaces of a plugin, or of one sub-type of it. Every method may raise `RemoteError` or `Unreachable`."""

    def records(self, tags: Mapping[str, str], ids: Sequence[str] | None = None) -> Sequence[types.RecordDescription]:
        """Return every record that has all of *tags*, in any state; with *ids*, only these."""
        return self._call("Operator.Records", {"Tags": tags, "Instances": ids}, types.RecordsResult).Records

    def set_aside(self, id: str, reason: str) -> None:
        """Take an instance out of service."""
        self._call("Operator.SetAside", {"Instance": id, "Reason": reason}, OkResult)

    def restore(self, id: str, force: bool = False) -> None:
        """Bring an instance back into service."""
        self._call("Operator.Restore", {"Instance": id, "Force": force}, OkResult)

    def confirm(self) -> Sequence[str]:
        """Confirm the held losses; return the IDs of the lost instances."""
        return self._call("Operator.Confirm", {}, types.InstancesResult).Instances

    def orphans(self) -> Sequence[types.Orphan]:
        """Return the machines with the plugin's mark and no record."""
        return self._call("Operator.Orphans", {}, types.OrphansResult).Orphans

    def adopt(self, handle: str, tags: Mapping[str, str], logical_id: str | None = None) -> str:
        """Adopt a machine that exists; return its ID."""
        params = {"Handle": handle, "Tags": tags, "LogicalID": logical_id}
        return self._call("Operator.Adopt", params, types.InstancesResult).Instances[0]

    def adopt_orphans(self, tags: Mapping[str, str], ids: Sequence[str] = ()) -> Sequence[str]:
        """Adopt orphans, all of them or those with *ids*; return their IDs."""
        return self._call("Operator.AdoptOrphans", {"Instances": ids, "Tags": tags}, types.InstancesResult).Instances

    def destroy_orphans(self, ids: Sequence[str]) -> None:
        """Have orphans destroyed."""
        self._call("Operator.DestroyOrphans", {"Instances": ids}, OkResult)

    def machines(self) -> Sequence[types.PoolEntry]:
        """Return the machines of the provider's pool."""
        return self._call("Operator.Machines", {}, types.MachinesResult).Machines

    def status(self) -> types.StatusResult:
        """Return the state of the plugin."""
        return self._call("Operator.Status", {}, types.StatusResult)

    def events(self, topic: str = "", since: float = 0.0, after: int = 0) -> types.EventsResult:
        """Return the logged events on *topic*, not before *since* (seconds since 1970), with numbers above *after*."""
        return self._call("Operator.Events", {"Topic": topic, "Since": since, "After": after}, types.EventsResult)
