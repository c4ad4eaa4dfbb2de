"""The world as a plan sees it, and what a plan consists of. Frozen data; no I/O."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from pyinfrakit.group.flavors import Health
from pyinfrakit.group.spec import GroupSpec
from pyinfrakit.group.status import Phase, Step, Verb


class MemberState(StrEnum):
    """The state of a member.

    A failed one is set aside at its plugin. One that drains is about to be destroyed, and counts until its plugin
    has accepted that; then it is leaving. A lost one can't be seen now.
    """

    CREATING = "creating"
    RUNNING = "running"
    FAILED = "failed"
    DRAINING = "draining"
    LEAVING = "leaving"
    LOST = "lost"


class Config(StrEnum):
    """A member's configuration, compared with the committed one."""

    CURRENT = "current"
    OUTDATED = "outdated"
    TO_ADOPT = "to adopt"


class Member(Struct, frozen=True, kw_only=True, gc=False):
    """A member at the time of the plan.

    *pool* is the name of its plugin. *healthy_for* and *age* are in seconds; *age* counts from when the
    controller first saw it. *is_proven*: it was healthy for `Updating.MinReady` once, or is older than the
    controller's start. *is_excused*: its failure was known when an operator resumed the update. *is_own_host*: the
    controller runs on it. *is_by_hand*: an operator set it aside.
    """

    id: str
    pool: str
    logical_id: str | None = None
    state: MemberState = MemberState.RUNNING
    health: Health = Health.HEALTHY
    config: Config = Config.CURRENT
    healthy_for: float = 0.0
    age: float = 0.0
    is_proven: bool = True
    is_excused: bool = False
    is_protected: bool = False
    is_own_host: bool = False
    is_by_hand: bool = False
    reason: str = ""


class Asked(Struct, frozen=True, gc=False):
    """A member that was asked for, and that its plugin does not describe yet. It counts as there."""

    pool: str
    logical_id: str | None = None
    config: Config = Config.CURRENT


class Situation(Struct, frozen=True, kw_only=True):
    """Everything that a plan depends on.

    *closed* are the pools in which nothing can be created now, and *unlabeled* the members whose label failed lately,
    with the reasons. *rest* is why a crash loop
    backs off, or empty. *room* is how many more members the fleet allows, or None. *short_for* is for how many
    seconds the group has had fewer members than wanted, since the update began or was resumed. *failure* says how a
    replacement ended that was never proven and is gone now, such as ``x1 failed: exit status 1``, or is empty.
    *has_previous*: there is an earlier configuration that worked. All reasons are one line.
    """

    spec: GroupSpec
    members: Sequence[Member] = ()
    asked: Sequence[Asked] = ()
    phase: Phase = Phase.IDLE
    phase_reason: str = ""
    closed: Mapping[str, str] = {}
    unlabeled: Mapping[str, str] = {}
    rest: str = ""
    room: int | None = None
    min_ready: float = 0.0
    short_for: float = 0.0
    failure: str = ""
    has_previous: bool = False
    is_ending: bool = False


class Create(Struct, frozen=True):
    """Create a member in *pool*, with the committed configuration or the previous one.

    *is_ahead*: it takes the place of a member that goes later.
    """

    pool: str
    reason: str
    logical_id: str | None = None
    is_previous: bool = False
    is_ahead: bool = False


class Destroy(Struct, frozen=True):
    """Drain and destroy a member.

    *is_update*: to replace it with one of another configuration. *is_surplus*: no other takes its place.
    """

    id: str
    reason: str
    is_update: bool = False
    is_surplus: bool = False


class SetAside(Struct, frozen=True):
    """Take a failed member out of service, and keep it for diagnosis."""

    id: str
    reason: str


class Adopt(Struct, frozen=True):
    """Label a member with the current configuration."""

    id: str
    reason: str


Action = Create | Destroy | SetAside | Adopt


class Plan(Struct, frozen=True):
    """The actions to take now, and the steps that are held or awaited.

    *stop* says why the update has to stop, or is empty. *is_outdated*: a member has an outdated configuration, and
    is not about to go. *is_updated*: every member, of one or more, has the current configuration and is available.
    """

    actions: tuple[Action, ...] = ()
    holds: tuple[Step, ...] = ()
    stop: str = ""
    is_outdated: bool = False
    is_updated: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of it, with reasons, to show to people."""
        return tuple(map(_describe, self.actions)) + self.holds


_VERBS = {Create: Verb.CREATE, Destroy: Verb.DESTROY, SetAside: Verb.SET_ASIDE, Adopt: Verb.ADOPT}


def _describe(action: Action) -> Step:
    subject = (action.logical_id or action.pool) if isinstance(action, Create) else action.id
    return Step(_VERBS[type(action)], subject, action.reason)
