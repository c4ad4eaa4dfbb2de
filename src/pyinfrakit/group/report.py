"""Describe a group to people and programs, as its controller last saw it."""

from collections.abc import Sequence

from msgspec import Raw

from pyinfrakit.group.flavors import Health
from pyinfrakit.group.roster import Track
from pyinfrakit.group.situation import Config, Member, MemberState
from pyinfrakit.group.status import GroupStatus, MemberStatus, Step
from pyinfrakit.group.wishes import Wishes


def describe_group(
    id: str, wishes: Wishes, members: Sequence[tuple[Member, Track]], steps: Sequence[Step], trouble: str
) -> GroupStatus:
    """Return the status of group *id*. *steps* are those of its last plan; *trouble* is why it can't be judged."""
    present = [m for m, _ in members if m.state not in (MemberState.FAILED, MemberState.LEAVING)]
    return GroupStatus(
        id=id,
        size=wishes.spec.size,
        healthy=sum(m.health is Health.HEALTHY and m.state is MemberState.RUNNING for m in present),
        outdated=sum(m.config is Config.OUTDATED for m in present),
        phase=wishes.record.rollout.phase,
        phase_reason=wishes.record.rollout.reason,
        trouble=trouble,
        members=[_describe_member(member, track) for member, track in members],
        steps=steps,
    )


def _describe_member(member: Member, track: Track) -> MemberStatus:
    description = track.description
    return MemberStatus(
        id=member.id,
        logical_id=description.logical_id,
        tags=description.tags,
        properties=description.properties or Raw(b"null"),
        plugin=member.pool,
        state=description.state or member.state,
        health=member.health.name.lower(),
        config=member.config,
        is_protected=member.is_protected,
        reason=member.reason,
        since=track.since,
    )
