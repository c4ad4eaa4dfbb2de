"""A group's rollout: how a configuration reaches the members, and how that is paused, stopped and given up. Pure."""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Raw, Struct
from msgspec.structs import replace

from pyinfrakit.errors import Refused
from pyinfrakit.group.status import Phase


class Turn(StrEnum):
    """A turn that a rollout takes."""

    BEGIN = "begun"
    PAUSE = "paused"
    RESUME = "resumed"
    STOP = "stopped"
    ABORT = "aborted"
    FINISH = "finished"


# All transitions. A group starts as `idle`. A commit that leaves members outdated begins an update, also in the
# middle of another one: that goes on from what is there. The plan stops an update whose replacement fails, and an
# operator pauses, resumes or aborts it. An update is finished once every member has the committed configuration
# and works, however that came about: an operator may have repaired the last one while the update was stopped.
TURNS: Mapping[tuple[Phase, Turn], Phase] = {
    (Phase.IDLE, Turn.BEGIN): Phase.ROLLING,
    (Phase.IDLE, Turn.FINISH): Phase.IDLE,
    (Phase.ROLLING, Turn.BEGIN): Phase.ROLLING,
    (Phase.ROLLING, Turn.PAUSE): Phase.PAUSED,
    (Phase.ROLLING, Turn.STOP): Phase.STOPPED,
    (Phase.ROLLING, Turn.ABORT): Phase.ABORTED,
    (Phase.ROLLING, Turn.FINISH): Phase.IDLE,
    (Phase.PAUSED, Turn.BEGIN): Phase.ROLLING,
    (Phase.PAUSED, Turn.PAUSE): Phase.PAUSED,
    (Phase.PAUSED, Turn.RESUME): Phase.ROLLING,
    (Phase.PAUSED, Turn.ABORT): Phase.ABORTED,
    (Phase.PAUSED, Turn.FINISH): Phase.IDLE,
    (Phase.STOPPED, Turn.BEGIN): Phase.ROLLING,
    (Phase.STOPPED, Turn.RESUME): Phase.ROLLING,
    (Phase.STOPPED, Turn.ABORT): Phase.ABORTED,
    (Phase.STOPPED, Turn.FINISH): Phase.IDLE,
    (Phase.ABORTED, Turn.BEGIN): Phase.ROLLING,
    (Phase.ABORTED, Turn.ABORT): Phase.ABORTED,
    (Phase.ABORTED, Turn.FINISH): Phase.IDLE,
}

_NO_UPDATE = "no update is under way"
_PROBLEMS: Mapping[tuple[Phase, Turn], str] = {
    (Phase.IDLE, Turn.PAUSE): _NO_UPDATE,
    (Phase.IDLE, Turn.RESUME): _NO_UPDATE,
    (Phase.IDLE, Turn.ABORT): _NO_UPDATE,
    (Phase.ROLLING, Turn.RESUME): "the update is neither paused nor stopped: it goes on",
    (Phase.STOPPED, Turn.PAUSE): "the update has stopped already: resume, undo or abort it",
    (Phase.ABORTED, Turn.PAUSE): "the update was aborted: commit a configuration to begin another",
    (Phase.ABORTED, Turn.RESUME): "the update was aborted: commit a configuration to begin another",
}


class Rollout(Struct, frozen=True, kw_only=True):
    """A group's rollout, as it is stored.

    *previous* are the properties that last worked: every member had them, and worked. *since* is when the phase
    began, in seconds since 1970.
    """

    phase: Phase = Phase.IDLE
    reason: str = ""
    previous: Raw | None = None
    since: float = 0.0

    def begin(self, id: str, worked: Raw | None, now: float) -> "Rollout":
        """Return the rollout after a commit. *worked* are the properties before it, if they worked, or None.

        In the middle of an update these have not worked yet: what worked before it stays the way back.
        """
        previous = self.previous if self.phase is not Phase.IDLE or worked is None else worked
        return replace(self._turn(id, Turn.BEGIN, "", now), previous=previous)

    def pause(self, id: str, reason: str, now: float) -> "Rollout":
        """Return the rollout after an operator paused it. Raise `Refused` if no update goes on."""
        return self._turn(id, Turn.PAUSE, reason, now)

    def resume(self, id: str, now: float) -> "Rollout":
        """Return the rollout as it goes on. Raise `Refused` if it is neither paused nor stopped."""
        return self._turn(id, Turn.RESUME, "", now)

    def stop(self, id: str, reason: str, now: float) -> "Rollout":
        """Return the rollout after it stopped by itself, for a plan's reason."""
        return self._turn(id, Turn.STOP, reason, now)

    def abort(self, id: str, reason: str, now: float) -> "Rollout":
        """Return the rollout after an operator gave it up: members stay as they are. Raise `Refused` without one."""
        return self._turn(id, Turn.ABORT, reason, now)

    def finish(self, id: str, properties: Raw, now: float) -> "Rollout":
        """Return the rollout once every member has *properties*, and works."""
        finished = self._turn(id, Turn.FINISH, "", now)
        return finished if finished.previous == properties else replace(finished, previous=properties)

    def _turn(self, id: str, turn: Turn, reason: str, now: float) -> "Rollout":
        phase = TURNS.get((self.phase, turn))
        if phase is None:
            raise Refused(id, _PROBLEMS.get((self.phase, turn), f"is {self.phase}, so it can't be {turn}"))
        # Repeats keep the reason and the time of the first one; a commit is never a repeat.
        if phase is self.phase and turn is not Turn.BEGIN:
            return self
        return replace(self, phase=phase, reason=reason, since=now)
