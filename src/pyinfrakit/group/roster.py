"""The members of one group, as they were last described, and what the controller remembers of each.

No I/O and no clock: the caller passes the time, in seconds of the clock that does not jump.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from msgspec import Struct

from pyinfrakit.group.flavors import Health
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.situation import Config, Member, MemberState

_STATES = {
    "": MemberState.RUNNING,
    "ready": MemberState.RUNNING,
    "provisioning": MemberState.CREATING,
    "non-functional": MemberState.FAILED,
    "destroying": MemberState.LEAVING,
}


class Track(Struct, gc=False):
    """A member as last described by plugin *pool*. Times are in seconds; *since* is in seconds since 1970.

    *seen* is when it was first described, *running* when it first ran, *healthy* since when it has been healthy.
    """

    description: Description
    pool: str
    seen: float
    since: float
    is_proven: bool
    is_excused: bool = False
    running: float | None = None
    healthy: float | None = None

    @property
    def state(self) -> MemberState:
        return _STATES.get(self.description.state, MemberState.RUNNING)


class Sight(Struct, frozen=True):
    """The difference that a description of one pool made.

    *new* members, those *missing* because they are no longer described, and those that have *failed* since.
    """

    new: tuple[str, ...]
    missing: tuple[str, ...]
    failed: tuple[str, ...]


def _is_failure(before: str, now: str) -> bool:
    """Return whether a change of state is a failure: an end of its work, or of its creation."""
    return now == "non-functional" or (before, now) == ("provisioning", "destroying")


class Roster:
    """All members of a group, by ID."""

    def __init__(self) -> None:
        self._tracks: dict[str, Track] = {}
        self._blind: dict[str, str] = {}
        self._seen: set[str] = set()

    def __contains__(self, id: object) -> bool:
        return id in self._tracks

    def __getitem__(self, id: str) -> Track:
        return self._tracks[id]

    def __iter__(self) -> Iterator[tuple[str, Track]]:
        return iter(self._tracks.items())

    def __len__(self) -> int:
        return len(self._tracks)

    def list_in(self, pool: str) -> list[str]:
        """Return the IDs of the members of a pool."""
        return [id for id, track in self._tracks.items() if track.pool == pool]

    def observe(self, pool: str, descriptions: Sequence[Description], now: float, wall: float) -> Sight:
        """Take in a description of all members of *pool*. *wall* is in seconds since 1970.

        Members that it lacks stay until `forget`, because only the caller knows if they may be gone. Those of the
        first description count as proven: the controller has not seen how they began.
        """
        is_first = pool not in self._seen
        self._seen.add(pool)
        self._blind.pop(pool, None)
        here = {each.id: each for each in descriptions}
        new = tuple(id for id in here if id not in self._tracks)
        failed = []
        for id, description in here.items():
            track = self._tracks.get(id)
            if track is None:
                track = self._tracks[id] = Track(description, pool, now, wall, is_first)
            elif track.description.state != description.state:
                if _is_failure(track.description.state, description.state):
                    failed.append(id)
                track.since = wall
            track.description = description
            if track.running is None and track.state is MemberState.RUNNING:
                track.running = now
        missing = tuple(id for id, track in self._tracks.items() if track.pool == pool and id not in here)
        return Sight(new, missing, tuple(failed))

    def expect(self, pool: str, id: str, logical_id: str | None, now: float, wall: float) -> None:
        """Add a member that an earlier run of the controller knew. It is missing until it is described."""
        self._tracks[id] = Track(Description(id, logical_id), pool, now, wall, True)

    def lose_sight(self, pool: str, reason: str) -> None:
        """Note that a pool can't be described now, and why."""
        self._blind[pool] = reason

    def find_unseen(self, pools: Collection[str]) -> str:
        """Return why one of *pools* was never described, or an empty string."""
        return next(
            (f"{pool}: {self._blind.get(pool, 'not described yet')}" for pool in pools if pool not in self._seen), ""
        )

    @property
    def blind(self) -> Mapping[str, str]:
        """The pools that can't be described now, with the reasons."""
        return self._blind

    def forget(self, id: str) -> Track | None:
        """Drop a member that is gone; return its track."""
        return self._tracks.pop(id, None)

    def excuse(self) -> None:
        """Excuse all members that have failed so far: they are no reason to stop an update."""
        for track in self._tracks.values():
            track.is_excused = not track.is_proven

    def judge(
        self,
        now: float,
        min_ready: float,
        read_health: Callable[[str], tuple[Health, str]],
        compare: Callable[[Track], Config],
        going: Mapping[str, str],
        ended: Collection[str],
        held: Mapping[str, str],
        protected: Collection[str],
        own: Collection[str],
    ) -> list[Member]:
        """Return the members for a plan.

        *going* are those that drain, and *held* those with a held loss, with reasons. *ended* are those that
        their plugin has accepted to destroy. *own* are the IDs of the host on which the controller runs.
        """
        members = []
        for id, track in self._tracks.items():
            health, reason = read_health(id)
            description, state = track.description, track.state
            blind = held.get(id) or self._blind.get(track.pool, "")
            if blind:
                state, health, reason = MemberState.LOST, Health.UNKNOWN, blind
            elif id in ended:
                state, reason = MemberState.LEAVING, going.get(id, "")
            elif id in going:
                state, reason = MemberState.DRAINING, going[id]
            elif state is not MemberState.RUNNING:
                health, reason = Health.UNKNOWN, description.reason
            healthy_for = self._prove(track, state, health, now, min_ready)
            members.append(
                Member(
                    id=id,
                    pool=track.pool,
                    logical_id=description.logical_id,
                    state=state,
                    health=health,
                    config=compare(track),
                    healthy_for=healthy_for,
                    age=now - track.seen,
                    is_proven=track.is_proven,
                    is_excused=track.is_excused,
                    is_protected=id in protected or description.tags.get(PROTECTED_TAG, "") not in ("", "false"),
                    is_own_host=id in own or description.logical_id in own,
                    is_by_hand=description.by_hand,
                    reason=reason,
                )
            )
        return members

    def _prove(self, track: Track, state: MemberState, health: Health, now: float, min_ready: float) -> float:
        """Note how long a member has been healthy; return the seconds."""
        if state is not MemberState.RUNNING or health is not Health.HEALTHY:
            if state is not MemberState.LOST:
                track.healthy = None
            return 0.0
        if track.healthy is None:
            track.healthy = now
        healthy_for = now - track.healthy
        if healthy_for >= min_ready:
            track.is_proven = True
        return healthy_for


PROTECTED_TAG = "infrakit.protected"
"""The tag of a member that the controller must not destroy, unless its value is empty or ``false``."""
