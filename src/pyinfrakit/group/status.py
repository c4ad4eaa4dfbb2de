"""What a group shows of itself: its members, its rollout, and the steps that its plan takes or holds, with reasons."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from msgspec import Raw, Struct


class Verb(StrEnum):
    """What a step does. Only a course has REPLACE: a plan destroys and creates."""

    CREATE = "create"
    DESTROY = "destroy"
    REPLACE = "replace"
    ADOPT = "adopt"
    SET_ASIDE = "set aside"
    HOLD = "hold"
    WAIT = "wait"


def _spell(field: str) -> str:
    """Return a field's name on the wire: in Pascal case, as all of InfraKit's."""
    return "".join("ID" if word == "id" else word.capitalize() for word in field.split("_"))


class _Shown(Struct, frozen=True, rename=_spell):
    """What clients get to see."""


class Step(_Shown, frozen=True, gc=False):
    """A step of a plan, and its reason. *subject* is a member's ID, a logical ID, a pool, or empty for the group.

    HOLD is a step that a rule or an operator prevents; WAIT is one that follows something under way.
    """

    verb: Verb
    subject: str
    reason: str


class Phase(StrEnum):
    """The phase of a group's rollout."""

    IDLE = "idle"
    ROLLING = "rolling"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABORTED = "aborted"


class MemberStatus(_Shown, frozen=True):
    """A member. *properties* are JSON, null if there are none.

    *state* is the plugin's word for it, *health* is `healthy`, `unhealthy` or `unknown`, and *config* is
    `current`, `outdated` or `to adopt`. *since* is when its state began to show here, in seconds since 1970.
    """

    id: str
    logical_id: str | None
    tags: Mapping[str, str]
    properties: Raw
    plugin: str
    state: str
    health: str
    config: str
    is_protected: bool
    reason: str
    since: float


class Commit(_Shown, frozen=True):
    """An entry of a group's history. *number* counts from 1; *at* is in seconds since 1970; *cause* says what it was."""

    number: int
    at: float
    by: str
    cause: str
    details: str
    properties: Raw


class GroupStatus(_Shown, frozen=True):
    """A group: its wanted *size*, the numbers of members that are healthy, outdated and in all, and its plan.

    *trouble* says why the group can't be judged now, such as a plugin that does not answer; else it is empty.
    """

    id: str
    size: int
    healthy: int
    outdated: int
    phase: Phase
    phase_reason: str
    trouble: str
    members: Sequence[MemberStatus]
    steps: Sequence[Step]

    @property
    def is_converged(self) -> bool:
        """Whether nothing is left to do."""
        return not self.steps and not self.trouble


class CourseStep(_Shown, frozen=True):
    """A step of the course that a commit takes.

    Steps of one *number* begin together; 0 is for what is left alone. *subject* is a member's ID, or empty if none goes.
    *new* is the logical ID or pool of the member that is created, or empty.
    """

    number: int
    verb: Verb
    subject: str
    new: str
    reason: str


class PlanReport(_Shown, frozen=True):
    """What a commit would do: InfraKit's text, and all that follows if nothing fails. *budget* is in members."""

    details: str
    steps: Sequence[CourseStep]
    budget: int
    has_changes: bool
