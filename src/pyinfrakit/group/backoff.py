"""When to try again: back-off of pools by the kind of their errors, and of groups whose members keep failing.

No I/O: the caller passes the time, in seconds of a clock that does not jump, and the jitter, from 0 to 1.
"""

import math
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit.errors import InvalidSpec, NoCapacity, PyInfrakitError

FIRST, LONGEST = 1.0, 300.0
"""Seconds after the first failure of a pool, and at most. Each further failure doubles them."""

FIRST_NO_CAPACITY, LONGEST_NO_CAPACITY = 30.0, 600.0
"""The same for a pool that has no room: that takes longer to change."""

CRASH_TIME = 60.0
"""Seconds of life within which a member's failure counts as a crash."""

FORGET_TIME = 600.0
"""Seconds without a crash after which earlier ones are forgotten."""


class Backoff(Struct, frozen=True):
    """A pool's recent failures in a row. Nothing is created there before *until*."""

    failures: int = 0
    until: float = 0.0
    reason: str = ""

    def fail(self, error: PyInfrakitError, now: float, jitter: float) -> "Backoff":
        """Return the back-off after *error*. *jitter* is from 0 to 1."""
        failures = self.failures + 1
        if isinstance(error, InvalidSpec):
            return Backoff(failures, math.inf, f"wrong spec: {error}; commit a corrected one")
        first, longest = (FIRST_NO_CAPACITY, LONGEST_NO_CAPACITY) if isinstance(error, NoCapacity) else (FIRST, LONGEST)
        seconds = min(longest, first * 2 ** min(failures - 1, 20)) * (0.75 + jitter / 2)
        return Backoff(failures, now + seconds, str(error))

    def explain(self, now: float) -> str:
        """Return why nothing is created now, or an empty string."""
        if now >= self.until:
            return ""
        again = "" if math.isinf(self.until) else f"; again in {math.ceil(self.until - now)} s"
        return f"{self.reason}{again}"


class CrashLoop(Struct, frozen=True):
    """Members of a group that failed soon after they ran. The first is replaced at once, later ones ever later."""

    crashes: int = 0
    last: float = -math.inf
    until: float = 0.0
    counted: Mapping[str, float] = {}

    def add(self, id: str, now: float, jitter: float) -> "CrashLoop":
        """Return the loop after the crash of a member, which counts once. *jitter* is from 0 to 1."""
        if id in self.counted:
            return self
        crashes = 1 if now - self.last > FORGET_TIME else self.crashes + 1
        counted = {other: at for other, at in self.counted.items() if now - at < FORGET_TIME} | {id: now}
        seconds = 0.0 if crashes == 1 else min(LONGEST, FIRST * 2 ** min(crashes - 2, 20)) * (0.75 + jitter / 2)
        return CrashLoop(crashes, now, now + seconds, counted)

    def settle(self, now: float) -> "CrashLoop":
        """Return the loop without the wait: an operator has changed something."""
        return replace(self, crashes=0, until=now)

    def explain(self, now: float) -> str:
        """Return why nothing is replaced now, or an empty string."""
        if now >= self.until:
            return ""
        return f"{self.crashes} members failed soon after their start; again in {math.ceil(self.until - now)} s"


class Setbacks:
    """What went wrong in a group since its spec or the phase of its update changed.

    *failure* says how a replacement ended that was never proven, or is empty.
    """

    def __init__(self) -> None:
        self.failure = ""
        self._crashes = CrashLoop()
        self._short_since: float | None = None

    def settle(self, now: float) -> None:
        """Begin anew: an operator has changed something."""
        self.failure = ""
        self._crashes = self._crashes.settle(now)
        self._short_since = None

    def note_crash(self, id: str, now: float, jitter: float) -> None:
        """Count a member that failed soon after its start."""
        self._crashes = self._crashes.add(id, now, jitter)

    def note_shortness(self, is_short: bool, now: float) -> None:
        """Note whether members are missing."""
        if not is_short:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now

    def measure_shortness(self, now: float) -> float:
        """Return for how many seconds members have been missing."""
        return 0.0 if self._short_since is None else now - self._short_since

    def explain_rest(self, now: float) -> str:
        """Return why nothing is created now, or an empty string."""
        return self._crashes.explain(now)
