"""What operators want of a group: its record, all that follows from it, and how it goes on. No I/O."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from msgspec import Struct

from pyinfrakit.group.hash import ConfigHash, hash_configuration, is_to_adopt
from pyinfrakit.group.record import GroupRecord
from pyinfrakit.group.roster import Track
from pyinfrakit.group.situation import Config, Plan
from pyinfrakit.group.spec import GroupSpec, parse
from pyinfrakit.group.status import Phase


class RolloutTurn(Struct, frozen=True):
    """A turn of a group's update: the record after it, and the event to record, whose *type* may be empty."""

    record: GroupRecord
    type: str
    reason: str


class Wishes:
    """A group's record, and all that follows from it: its specs, and the hashes of their configurations."""

    def __init__(self, id: str, record: GroupRecord) -> None:
        """Raise `InvalidSpec` if a stored spec makes no sense."""
        self.record = record
        self.spec = parse(id, record.properties)
        self.previous = None if record.previous is None else parse(id, record.previous)
        self._id = id
        self._hashes = _hash_pools(self.spec)

    @cached_property
    def plugins(self) -> Sequence[str]:
        """All plugins that the group may have members at, those of the committed spec first."""
        earlier = [parse(self._id, commit.properties) for commit in self.record.history]
        specs = [self.spec, *([self.previous] if self.previous else []), *earlier]
        return tuple(dict.fromkeys(pool.plugin for spec in specs for pool in spec.pools))

    def compare(self, track: Track) -> Config:
        """Return how a member's configuration compares with the committed one."""
        tags = track.description.tags
        if is_to_adopt(tags):
            return Config.TO_ADOPT
        hash = self._hashes.get(track.pool)
        return Config.CURRENT if hash is not None and hash.matches(tags) else Config.OUTDATED

    def advance(self, decided: Plan, now: float) -> RolloutTurn | None:
        """Return the next turn of the update after a plan, or None if its phase stays. *now* is in seconds since 1970."""
        record, rollout = self.record, self.record.rollout
        if record.destroying:
            return None
        if rollout.phase is Phase.IDLE and decided.is_outdated:
            return self._begin_update(now)
        if decided.is_updated and (rollout.phase is not Phase.IDLE or rollout.previous != record.properties):
            event = "" if rollout.phase is Phase.IDLE else "updated"
            finished = record.enter(rollout.finish(self._id, record.properties, now))
            return RolloutTurn(finished, event, "every member has the committed configuration, and is healthy")
        if not decided.stop:
            return None
        if self.spec.properties.updating.on_failure == "undo" and record.previous is not None:
            undone = record.commit(self._id, record.previous, now, "controller", "undo", decided.stop)
            return RolloutTurn(undone, "update stopped", f"{decided.stop}; it is undone")
        reason = f"{decided.stop}; resume, undo or abort the update"
        return RolloutTurn(record.enter(rollout.stop(self._id, reason, now)), "update stopped", decided.stop)

    def _begin_update(self, now: float) -> RolloutTurn:
        rolling = self.record.rollout.begin(self._id, None, now)
        if len(self.record.history) > 1:
            reason = "members have another configuration than the committed one"
            return RolloutTurn(self.record.enter(rolling), "update", reason)
        # A group may be taken over with a spec that is not quite right: nothing must be replaced by that alone.
        reason = "members had another configuration before the first commit: resume to replace them"
        return RolloutTurn(self.record.enter(rolling.pause(self._id, reason, now)), "update paused", reason)


def _hash_pools(spec: GroupSpec) -> Mapping[str, ConfigHash]:
    return {pool.plugin: hash_configuration(pool, spec.properties.flavor) for pool in spec.pools}
