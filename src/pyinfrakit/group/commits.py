"""Before a commit: what only plugins and flavors can check of a spec, and the effect of a commit."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit.errors import Damaged, InvalidSpec, Refused, UnknownInstance
from pyinfrakit.group.flavors import FindFlavor, Health
from pyinfrakit.group.plugins import FindPlugin
from pyinfrakit.group.record import GroupRecord, decode
from pyinfrakit.group.roster import Roster
from pyinfrakit.group.situation import Member, MemberState, Situation
from pyinfrakit.group.spec import GroupSpec, parse
from pyinfrakit.group.templates import check_template
from pyinfrakit.group.wishes import Wishes


async def check_spec(spec: GroupSpec, find_plugin: FindPlugin, find_flavor: FindFlavor) -> None:
    """Have the flavor and each pool's plugin check their parts of a spec, all at once.

    Raise `InvalidSpec`, or `Unreachable` for a plugin that does not run.
    """
    _check_templates(spec)
    pools = (_check_pool(spec, number, find_plugin) for number in range(len(spec.pools)))
    await asyncio.gather(_check_flavor(spec, find_flavor), *pools)


async def _check_flavor(spec: GroupSpec, find_flavor: FindFlavor) -> None:
    wanted = spec.properties.flavor
    flavor = await find_flavor(wanted.plugin)
    try:
        await flavor.validate(wanted.properties, spec.properties.allocation)
    except InvalidSpec as error:
        raise InvalidSpec(f"Properties.Flavor.{error.field}", error.problem) from None


async def _check_pool(spec: GroupSpec, number: int, find_plugin: FindPlugin) -> None:
    pool = spec.pools[number]
    where = f"Properties.Instance[{number}]" if len(spec.pools) > 1 else "Properties.Instance"
    plugin = await find_plugin(pool.plugin)
    try:
        await plugin.validate(pool.properties)
    except InvalidSpec as error:
        raise InvalidSpec(f"{where}.{error.field}", error.problem) from None


async def survey(wishes: Wishes, find_plugin: FindPlugin, room: int | None, own: Collection[str]) -> Situation:
    """Return the situation of a group that is new here: plugins may have members of it, from another controller.

    Raise `Unreachable` for a plugin that does not run.
    """
    roster = Roster()
    for pool in wishes.plugins:
        plugin = await find_plugin(pool)
        roster.observe(pool, await plugin.describe(wishes.spec.id), 0.0, 0.0)
    members = roster.judge(0.0, 0.0, _know_no_health, wishes.compare, {}, (), {}, (), own)
    return Situation(spec=wishes.spec, members=members, room=room)


def _know_no_health(_: str) -> tuple[Health, str]:
    return Health.UNKNOWN, ""


def _check_templates(spec: GroupSpec) -> None:
    """Raise `InvalidSpec` for a text of a check or of the drain hook that names nothing of a member."""
    for number, check in enumerate(spec.properties.health):
        _check_texts(f"Properties.Health[{number}]", check.http, check.tcp, *(check.exec or ()))
    if (hook := spec.properties.drain) is not None:
        _check_texts("Properties.Drain", hook.http, *(hook.exec or ()))


def _check_texts(where: str, *texts: str | None) -> None:
    for text in filter(None, texts):
        try:
            check_template(text)
        except ValueError as error:
            raise InvalidSpec(where, str(error)) from None


def reallocate(properties: Raw, allocation: Mapping[str, object]) -> Raw:
    """Return properties with another allocation. Everything else stays, byte for byte."""
    fields = msgspec.json.decode(properties, type=dict[str, Raw])
    name = next((each for each in fields if each.lower() == "allocation"), "Allocation")
    return Raw(msgspec.json.encode({**fields, name: Raw(msgspec.json.encode(allocation))}))


def summarize_change(before: int, after: int, outdated: int) -> str:
    """Return InfraKit's text about a commit to a group of size *before*, whose size is *after* then.

    *outdated* members have another configuration than the commit's.
    """
    updated = min(outdated, before, after)
    update = f"erforming a rolling update on {updated} instances"
    if after > before:
        growth = f"dding {after - before} instances to increase the group size to {after}"
        return f"P{update}, then a{growth}" if updated else f"A{growth}"
    if after < before:
        cut = f"Terminating {before - after} instances to reduce the group size to {after}"
        return f"{cut}, then p{update}" if updated else cut
    return f"P{update}" if updated else "Noop"


def check_member(id: str, member: Member | None, wishes: Wishes) -> Member:
    """Return the member *id*, which is to be destroyed and so shrinks its group. Raise `UnknownInstance` or `Refused`."""
    if member is None:
        raise UnknownInstance(id, f"member of group {wishes.spec.id}")
    is_going = member.state in (MemberState.DRAINING, MemberState.LEAVING)
    if is_going or id in wishes.record.doomed:
        raise Refused(id, "it is being destroyed already")
    if member.state is MemberState.FAILED:
        raise Refused(id, "it has failed, and does not count as a member: use `infrakit instance destroy`")
    if member.is_protected:
        raise Refused(id, "it is protected; unprotect it first")
    return member


def shrink(id: str, record: GroupRecord, members: Sequence[Member], now: float) -> GroupRecord:
    """Return the record of group *id* without *members*, which are to be destroyed.

    Raise `Refused` if a group with logical IDs would have none left.
    """
    spec = parse(id, record.properties)
    logical_ids = spec.properties.allocation.logical_ids
    allocation: Mapping[str, object] = {"Size": max(0, spec.size - len(members))}
    if logical_ids:
        gone = {member.logical_id for member in members}
        left = [each for each in logical_ids if each not in gone]
        if not left:
            raise Refused(id, "no member would be left: destroy the group instead")
        allocation = {"LogicalIDs": left}
    details = f"Terminating {len(members)} instances"
    changed = record.commit(id, reallocate(record.properties, allocation), now, "", "destroy", details)
    return replace(changed, doomed=record.doomed | {member.id for member in members})


def read_stored(id: str, value: Raw, location: str) -> GroupRecord:
    """Return the record of group *id* that is stored at *location*. Raise `Damaged` if it or a spec makes no sense.

    Earlier specs count, too: the group may have members at their plugins.
    """
    record = decode(value, location)
    previous = record.rollout.previous
    earlier = {f"Value.History[{index}].Properties": commit.properties for index, commit in enumerate(record.history)}
    specs = {
        "Value.Properties": record.properties,
        **({} if previous is None else {"Value.Previous": previous}),
        **earlier,
    }
    for where, properties in specs.items():
        try:
            parse(id, properties)
        except InvalidSpec as error:
            place = where + error.field.removeprefix("Properties") if error.field != "ID" else "Key"
            advice = "it was left untouched; restore it from a copy, or correct it with the controller stopped"
            raise Damaged(location, place, error.problem, advice) from None
    return record
