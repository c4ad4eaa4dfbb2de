"""Answer the Group interface, its handshakes in all InfraKit generations, and the calls of our own command line."""

import asyncio
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, Raw, UnsetType

from pyinfrakit.errors import UnknownGroup
from pyinfrakit.group.groups import Groups
from pyinfrakit.group.status import MemberStatus
from pyinfrakit.record import State
from pyinfrakit.rpc import jsonrpc
from pyinfrakit.rpc.group import types
from pyinfrakit.rpc.handshake import answer_handshakes
from pyinfrakit.rpc.instance.types import ONLY_OBJECT, Description, own, read, require
from pyinfrakit.schema.decode import WrongShape

SOMEBODY = "an InfraKit client"
"""Who asks for a commit, if the request does not tell."""

_SEEN = ("", *(state for state in State if state.described))
"""States of the members that InfraKit sees. A plugin that tells no states describes no others."""


class GroupService:
    """The Group interface of a controller."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    @property
    def methods(self) -> Mapping[str, jsonrpc.Handler]:
        return {
            **answer_handshakes("Group", types.VERSIONS, types.VERSIONS, types.VERSIONS, self._list_objects),
            "Group.CommitGroup": self._commit,
            "Group.FreeGroup": self._free,
            "Group.DescribeGroup": self._describe,
            "Group.DestroyGroup": self._destroy,
            "Group.InspectGroups": self._inspect,
            "Group.DestroyInstances": self._destroy_instances,
            "Group.Size": self._size,
            "Group.SetSize": self._set_size,
            "Groups.Plan": self._plan,
            "Groups.Status": self._status,
            "Groups.List": self._list,
            "Groups.History": self._history,
            "Groups.Undo": self._undo,
            "Groups.Pause": self._pause,
            "Groups.Resume": self._resume,
            "Groups.Abort": self._abort,
            "Groups.Protect": self._protect,
            "Groups.Confirm": self._confirm,
        }

    def _list_objects(self) -> list[str]:
        """Return the objects of the controller: all groups, by the name of both kinds of controllers, and each group."""
        return [ONLY_OBJECT, types.ALL_GROUPS, *(id for id, _ in self._groups.inspect())]

    async def _commit(self, params: Raw) -> Any:
        request = read(params, types.CommitParams)
        spec = request.Spec or types.SpecParams()
        id = spec.ID or ""
        by, pretend = request.By or SOMEBODY, bool(request.Pretend)
        details = await self._groups.commit(id, _own(spec.Properties), pretend, by)
        return types.CommitResult(request.Name or "", id, details)

    async def _free(self, params: Raw) -> Any:
        request = read(params, types.Params)
        await self._groups.free(_find_id(request))
        return _accept(request)

    async def _describe(self, params: Raw) -> Any:
        request = read(params, types.Params)
        id = _find_id(request)
        status = self._groups.describe(id)
        members = [_describe_member(each) for each in status.members if each.state in _SEEN]
        description = types.GroupDescription(members, status.is_converged)
        return types.DescribeResult(request.Name or "", id, description)

    async def _destroy(self, params: Raw) -> Any:
        request = read(params, types.Params)
        await self._groups.destroy(_find_id(request))
        return _accept(request)

    async def _inspect(self, params: Raw) -> Any:
        request = read(params, types.Params)
        groups = [types.Group(id, types.complete(properties)) for id, properties in self._groups.inspect()]
        return types.InspectResult(request.Name or "", request.ID or "", groups or None)

    async def _destroy_instances(self, params: Raw) -> Any:
        request = read(params, types.InstancesParams)
        if not request.Instances:
            raise WrongShape("Instances", "expected the IDs of members, got none")
        await self._groups.destroy_instances(_find_id(request), request.Instances)
        return _accept(request)

    async def _size(self, params: Raw) -> Any:
        request = read(params, types.Params)
        id = _find_id(request)
        try:
            return types.SizeResult(request.Name or "", id, self._groups.size(id))
        except UnknownGroup:  # InfraKit has a text of its own for it here
            raise jsonrpc.Fault(jsonrpc.APPLICATION_ERROR, f"group {id} not found") from None

    async def _set_size(self, params: Raw) -> Any:
        request = read(params, types.SizeParams)
        if request.Size is None:
            raise WrongShape("Size", "expected a number of members, got nothing")
        await self._groups.set_size(_find_id(request), request.Size)
        return _accept(request)

    async def _plan(self, params: Raw) -> Any:
        request = read(params, types.PlanParams)
        return await self._groups.plan(request.ID or "", _own(request.Properties))

    async def _status(self, params: Raw) -> Any:
        return self._groups.describe(_find_id(read(params, types.Params)))

    async def _list(self, params: Raw) -> Any:
        summaries = []
        for id, _ in self._groups.inspect():
            await asyncio.sleep(0)  # others have their turn: there may be a thousand groups
            try:
                summaries.append(self._summarize(id))
            except UnknownGroup:
                continue  # it went in the meantime
        return types.ListResult(summaries)

    def _summarize(self, id: str) -> types.Summary:
        status = self._groups.describe(id)
        return types.Summary(id, status.size, status.healthy, status.outdated, status.phase, status.trouble)

    async def _history(self, params: Raw) -> Any:
        return types.HistoryResult(list(self._groups.history(_find_id(read(params, types.Params)))))

    async def _undo(self, params: Raw) -> Any:
        request = read(params, types.UndoParams)
        id = _find_id(request)
        details = await self._groups.undo(id, request.Number, request.By or SOMEBODY)
        return types.CommitResult(request.Name or "", id, details)

    async def _pause(self, params: Raw) -> Any:
        request = read(params, types.PauseParams)
        await self._groups.pause(_find_id(request), request.Reason or "")
        return _accept(request)

    async def _resume(self, params: Raw) -> Any:
        request = read(params, types.Params)
        await self._groups.resume(_find_id(request))
        return _accept(request)

    async def _abort(self, params: Raw) -> Any:
        request = read(params, types.Params)
        await self._groups.abort(_find_id(request))
        return _accept(request)

    async def _protect(self, params: Raw) -> Any:
        request = read(params, types.ProtectParams)
        instance = require(request.Instance, "Instance")
        await self._groups.protect(_find_id(request), instance, request.Protected is not False)
        return _accept(request)

    async def _confirm(self, params: Raw) -> Any:
        return types.InstancesResult(list(await self._groups.confirm(_find_id(read(params, types.Params)))))


def _find_id(request: types.Params) -> str:
    """Return the ID of the group that a request is about. The address ``group/workers`` names one, too."""
    _, _, name = (request.Name or "").partition("/")
    return require(request.ID or (name if name != types.ALL_GROUPS else ""), "ID", "a group's ID")


def _accept(request: types.Params) -> types.OkResult:
    return types.OkResult(request.Name or "", _find_id(request))


def _describe_member(member: MemberStatus) -> Description:
    return Description(member.id, member.logical_id, dict(member.tags), own(member.properties) or UNSET)


def _own(properties: Raw | UnsetType) -> Raw:
    return own(properties) or Raw(b"{}")
