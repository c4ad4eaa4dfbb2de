"""Call the Group interface of any controller, and the further calls of our own."""

from collections.abc import Sequence
from typing import Any, TypeVar

from msgspec import Raw, Struct

from pyinfrakit.errors import Unreachable
from pyinfrakit.group.status import Commit, GroupStatus, PlanReport
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.group import types
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

T = TypeVar("T")


class _Details(Struct):
    Details: str = ""


class _Description(Struct):
    Description: types.GroupDescription


class _Groups(Struct):
    Groups: list[types.Group] | None = None


class _Size(Struct):
    Size: int


class GroupClient:
    """A group controller behind a client. Every method may raise `RemoteError` or `Unreachable`.

    *address* is what the user typed, such as ``group`` or ``group/workers``.
    """

    def __init__(self, client: Client, address: str = "") -> None:
        self._client = client
        self._address = address

    def commit(self, id: str, properties: Raw, pretend: bool, by: str) -> str:
        """Commit a group's properties, or with *pretend* only check them. Return InfraKit's text about the effect."""
        params = {"Spec": {"ID": id, "Properties": properties}, "Pretend": pretend, "By": by}
        return self._call("Group.CommitGroup", params, _Details).Details

    def free(self, id: str) -> None:
        """Have a group forgotten; its members stay."""
        self._call("Group.FreeGroup", {"ID": id}, Raw)

    def destroy(self, id: str) -> None:
        """Have a group destroyed, with all its members."""
        self._call("Group.DestroyGroup", {"ID": id}, Raw)

    def describe(self, id: str) -> types.GroupDescription:
        """Return the members of a group that InfraKit sees."""
        return self._call("Group.DescribeGroup", {"ID": id}, _Description).Description

    def inspect(self) -> Sequence[types.Group]:
        """Return all groups, with their properties."""
        return self._call("Group.InspectGroups", {"ID": ""}, _Groups).Groups or []

    def destroy_instances(self, id: str, instances: Sequence[str]) -> None:
        """Have members destroyed, and shrink the group by their number."""
        self._call("Group.DestroyInstances", {"ID": id, "Instances": instances}, Raw)

    def size(self, id: str) -> int:
        """Return the wanted number of members."""
        return self._call("Group.Size", {"ID": id}, _Size).Size

    def set_size(self, id: str, size: int) -> None:
        """Change the wanted number of members."""
        self._call("Group.SetSize", {"ID": id, "Size": size}, Raw)

    def plan(self, id: str, properties: Raw) -> PlanReport:
        """Return what a commit of these properties would do."""
        return self._call("Groups.Plan", {"ID": id, "Properties": properties}, PlanReport)

    def status(self, id: str) -> GroupStatus:
        """Return a group's members, rollout and plan."""
        return self._call("Groups.Status", {"ID": id}, GroupStatus)

    def list(self) -> Sequence[types.Summary]:
        """Return a summary of every group."""
        return self._call("Groups.List", {}, types.ListResult).Groups

    def history(self, id: str) -> Sequence[Commit]:
        """Return a group's commits, the oldest first."""
        return self._call("Groups.History", {"ID": id}, types.HistoryResult).Commits

    def undo(self, id: str, number: int | None, by: str) -> str:
        """Commit an earlier commit again, by default the one before the last. Return InfraKit's text about the effect."""
        return self._call("Groups.Undo", {"ID": id, "Number": number, "By": by}, _Details).Details

    def pause(self, id: str, reason: str) -> None:
        """Pause a group's update."""
        self._call("Groups.Pause", {"ID": id, "Reason": reason}, Raw)

    def resume(self, id: str) -> None:
        """Resume an update that was paused, or that stopped."""
        self._call("Groups.Resume", {"ID": id}, Raw)

    def abort(self, id: str) -> None:
        """End an update, and keep the members as they are."""
        self._call("Groups.Abort", {"ID": id}, Raw)

    def protect(self, id: str, instance: str, on: bool) -> None:
        """Protect a member from being destroyed, or stop to."""
        self._call("Groups.Protect", {"ID": id, "Instance": instance, "Protected": on}, Raw)

    def confirm(self, id: str) -> Sequence[str]:
        """Confirm held losses; return the IDs of the lost members."""
        return self._call("Groups.Confirm", {"ID": id}, types.InstancesResult).Instances

    def _call(self, method: str, params: dict[str, Any], shape: type[T]) -> T:
        reply = self._client.call(method, {"Name": self._address, **params})
        try:
            return decode(bytes(reply), shape, "reply")
        except (NotJSON, WrongShape) as error:
            raise Unreachable(f"{self._client.path} sent an invalid reply: {error}") from None
