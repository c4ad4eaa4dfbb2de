"""Judge a member's health from the outcomes of its checks. Pure: no I/O, no clock.

Each check of a member, and its flavor, has a streak:

| judged    | outcome                  | consecutive | then |
|-----------|--------------------------|-------------|------|
| unknown   | success                  | `healthy`   | healthy |
| unknown   | failure                  | `unhealthy` | unhealthy |
| healthy   | failure                  | `unhealthy` | unhealthy |
| unhealthy | success                  | `healthy`   | healthy |
| any       | failure within the grace |             | as before: it ends a streak of successes, and counts for nothing |
| any       | unknown                  | `unhealthy` | unknown, and counting starts again: old news is no news |
| any       | else                     |             | as before |

Unknown is the outcome of a check that can't be made. It neither counts as a success or a failure nor ends their
streak, and it never makes a member unhealthy.

| any streak | all streaks | the plugin's state for the member | the member is |
|------------|-------------|-----------------------------------|---------------|
|            |             | non-functional                    | unhealthy |
|            |             | any but ready or none             | unknown |
| unhealthy  |             | ready or none                     | unhealthy |
|            | healthy     | ready or none                     | healthy |
| unknown    |             | ready or none                     | unknown |
"""

from collections.abc import Collection
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit.group.flavors import Health
from pyinfrakit.record import State


class Outcome(Enum):
    """The outcome of one check."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


class Thresholds(Struct, frozen=True):
    """How many consecutive successes make a member healthy, and how many failures unhealthy."""

    healthy: int
    unhealthy: int


class Streak(Struct, frozen=True, gc=False):
    """The judged health by one check. *count* is positive for consecutive successes, negative for failures.

    *unknowns* are the consecutive unknown outcomes; *reason* belongs to the last outcome that was no success.
    """

    health: Health = Health.UNKNOWN
    count: int = 0
    unknowns: int = 0
    reason: str = "not checked yet"

    def after(self, outcome: Outcome, reason: str, thresholds: Thresholds, *, in_grace: bool = False) -> "Streak":
        """Return the streak after another outcome, by the table above."""
        if outcome is Outcome.UNKNOWN:
            return self._after_unknown(reason, thresholds)
        if outcome is Outcome.SUCCESS:
            count = max(self.count, 0) + 1
            health = Health.HEALTHY if count >= thresholds.healthy else self.health
            text = "" if health is Health.HEALTHY else f"{count} of {thresholds.healthy} successes so far"
            return Streak(health, count, 0, text)
        if in_grace:
            return Streak(self.health, min(self.count, 0), 0, f"{reason} (in its grace)")
        count = min(self.count, 0) - 1
        health = Health.UNHEALTHY if -count >= thresholds.unhealthy else self.health
        text = f"{reason} ({-count} of {thresholds.unhealthy} failures so far)"
        return Streak(health, count, 0, reason if health is Health.UNHEALTHY else text)

    def _after_unknown(self, reason: str, thresholds: Thresholds) -> "Streak":
        unknowns = self.unknowns + 1
        is_stale = unknowns >= thresholds.unhealthy
        if self.health is not Health.UNKNOWN and not is_stale:
            return replace(self, unknowns=unknowns)
        return Streak(Health.UNKNOWN, 0 if is_stale else self.count, unknowns, reason)


def judge(state: str, state_reason: str, streaks: Collection[Streak]) -> tuple[Health, str]:
    """Return a member's health and the reason for it. *state* is its plugin's word for it, or empty."""
    if state == State.NON_FUNCTIONAL:
        return Health.UNHEALTHY, state_reason or "its plugin reports that it does not work"
    if not is_checked(state):
        return Health.UNKNOWN, "being provisioned" if state == State.PROVISIONING else f"its plugin calls it {state}"
    for health in (Health.UNHEALTHY, Health.UNKNOWN):
        for streak in streaks:
            if streak.health is health:
                return health, streak.reason
    return Health.HEALTHY, next((streak.reason for streak in streaks if streak.reason), "")


def is_checked(state: str) -> bool:
    """Return whether a member in this state can be checked: only one that its plugin has finished."""
    return state in ("", State.READY)
