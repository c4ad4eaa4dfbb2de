"""Any instance plugin behind a socket, for the controller."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.errors import GiveUp, Unreachable
from pyinfrakit.group.plugins import BY_CONTROLLER, Description, InstancePlugin
from pyinfrakit.record import GROUP_TAG, Spec
from pyinfrakit.rpc.channel import Channel
from pyinfrakit.rpc.endpoint import Endpoint
from pyinfrakit.rpc.handshake import Handshake
from pyinfrakit.rpc.instance.changes import Changes
from pyinfrakit.rpc.instance.types import VERSIONS, encode_spec, own

LABEL_SINCE = (0, 3, 0)
PROPERTIES_SINCE = (0, 5, 0)
REASON_SINCE = (0, 6, 0)
"""Versions of the Instance interface that brought what the names say."""


class _Done(Struct, frozen=True):
    """The result of a call whose success says all."""


class _Provisioned(Struct, frozen=True, forbid_unknown_fields=True):
    ID: str
    Type: str | None = None


class _Description(Struct, frozen=True, forbid_unknown_fields=True):
    """An instance in a reply: the fields of all versions, and those that our own plugins add."""

    ID: str
    LogicalID: str | None = None
    Tags: dict[str, str] | None = None
    Properties: Raw | UnsetType = UNSET
    State: str | None = None
    Reason: str | None = None
    Held: str | None = None
    ByHand: bool | None = None


class _Descriptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Go writes null for an empty list. A reply without the list says nothing, and is refused."""

    Descriptions: list[_Description] | None
    Type: str | None = None


class _Records(Struct, frozen=True):
    Records: list[_Description]


class RemotePlugin(InstancePlugin):
    """The plugin at the other end of *channel*, or one sub-type of it.

    Our own plugins have the Operator interface beside InfraKit's. From such a plugin, `describe` returns every
    record, and *is_certain* is true once it was described.
    """

    def __init__(self, channel: Channel, sub_type: str = "") -> None:
        self._channel = channel
        self._endpoint = Endpoint(channel, "Instance", VERSIONS, sub_type)
        self._ours: tuple[Handshake, bool] | None = None
        self._changes = Changes(channel, self._find_groups)

    @property
    def is_certain(self) -> bool:  # type: ignore[override]
        return self._ours is not None and self._ours[1]

    async def greet(self) -> None:
        """Raise `Unreachable` or `GiveUp` unless the plugin answers, and has the interface and the sub-type."""
        await self._endpoint.shake_hands()

    async def close(self) -> None:
        """Stop to follow the plugin. The caller closes the channel."""
        await self._changes.close()

    async def validate(self, properties: Raw | None) -> None:
        await self._endpoint.ask("Instance.Validate", {"Properties": properties}, _Done)

    async def provision(self, spec: Spec) -> str:
        params = {"Spec": encode_spec(spec)}
        provisioned = await self._endpoint.change("Instance.Provision", params, _Provisioned, spec.logical_id or "")
        if not provisioned.ID:
            raise Unreachable(f"{self._channel.path} sent an invalid reply: ID: expected an instance's ID, got nothing")
        return provisioned.ID

    async def destroy(self, id: str, reason: str) -> None:
        handshake = await self._endpoint.shake_hands()
        context = {"Context": {"Reason": reason}} if handshake.version >= REASON_SINCE else {}
        await self._endpoint.change("Instance.Destroy", {"Instance": id, **context}, _Done, id)

    async def label(self, id: str, tags: Mapping[str, str]) -> None:
        handshake = await self._endpoint.shake_hands()
        if handshake.version < LABEL_SINCE:
            raise GiveUp(f"{id} can't be labeled: plugin {self._endpoint.name} is older than Instance/0.3.0")
        await self._endpoint.change("Instance.Label", {"Instance": id, "Labels": dict(tags)}, _Done, id)

    async def set_aside(self, id: str, reason: str) -> None:
        if not await self._is_ours():
            raise GiveUp(f"{id} can't be set aside: plugin {self._endpoint.name} has no Operator interface")
        await self._endpoint.change("Operator.SetAside", {"Instance": id, "Reason": reason}, _Done, id)

    async def describe(self, group: str) -> Sequence[Description]:
        tags = {GROUP_TAG: group}
        if await self._is_ours():
            seen = (await self._endpoint.ask("Operator.Records", {"Tags": tags}, _Records)).Records
        else:
            handshake = await self._endpoint.shake_hands()
            properties = {"Properties": True} if handshake.version >= PROPERTIES_SINCE else {}
            params = {"Tags": tags, **properties}
            seen = (await self._endpoint.ask("Instance.DescribeInstances", params, _Descriptions)).Descriptions or []
        self._check(seen, group)
        self._changes.note(group, [each.ID for each in seen])
        return [_describe(each) for each in seen]

    def follow(self, callback: Callable[[str], None]) -> Callable[[], None]:
        return self._changes.follow(callback)

    def _check(self, seen: Sequence[_Description], group: str) -> None:
        """Raise `Unreachable` for a reply that can't be true. What is wrong in one place is not trusted in others."""
        problem, ids = "", set()
        for each in seen:
            if not each.ID or each.ID in ids:
                problem = f"it has the ID {each.ID!r} twice" if each.ID else "it has an empty ID"
            elif (each.Tags or {}).get(GROUP_TAG) != group:
                problem = f"{each.ID} does not have the tag {GROUP_TAG}={group} that was asked for"
            ids.add(each.ID)
        if problem:
            raise Unreachable(f"{self._channel.path} sent a wrong description of group {group}: {problem}")

    async def _is_ours(self) -> bool:
        """Return whether the plugin has the Operator interface. It is asked once per handshake."""
        handshake = await self._endpoint.shake_hands()
        if self._ours is None or self._ours[0] is not handshake:
            self._ours = handshake, await self._endpoint.has("Operator.Records", {"Tags": {}, "Instances": []})
        return self._ours[1]

    async def _find_groups(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the groups of instances that no description had yet, by ID."""
        params = {"Tags": {}, "Instances": ids}
        found = (await self._endpoint.ask("Operator.Records", params, _Records)).Records
        return {each.ID: (each.Tags or {}).get(GROUP_TAG, "") for each in found}


def _describe(seen: _Description) -> Description:
    return Description(
        id=seen.ID,
        logical_id=seen.LogicalID or None,
        tags=seen.Tags or {},
        properties=own(seen.Properties),
        state=seen.State or "",
        reason="; ".join(filter(None, (seen.Reason, seen.Held))),
        by_hand=bool(seen.ByHand) and not (seen.Reason or "").startswith(BY_CONTROLLER),
    )
