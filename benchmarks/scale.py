"""How much is measured: all of it, or a short look."""

from msgspec import Struct

CONNECTIONS = (1, 8, 64)


class Scale(Struct, frozen=True, kw_only=True):
    """Sizes of fleets and lengths of rounds. *few* is one group; *patience*: for how long one that is slow has more rounds."""

    few: int
    small: int
    middle: int
    large: int
    rounds: int
    seconds: float
    patience: float
    batch_alone: int
    """Instances that one connection provisions in a round."""
    batch: int
    """Instances that several do."""
    writing: float
    """Seconds of provisions while bytes are counted."""
    starts: int
    requests: int
    """Over which memory should stay flat."""
    probing: float
    """Seconds of a round in which latencies are probed."""
    probes: int
    """Rounds of these."""
    slow: int
    """Instances that a slow provider is asked for at once."""
    processes: int
    bmcs: int
    behind: int
    """Machines behind each BMC."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return (0, self.small, self.middle, self.large)


FULL = Scale(
    few=10,
    small=1_000,
    middle=10_000,
    large=100_000,
    rounds=9,
    seconds=0.2,
    patience=6,
    batch_alone=200,
    batch=2_000,
    writing=2,
    starts=5,
    requests=1_000_000,
    probing=3,
    probes=5,
    slow=1_000,
    processes=500,
    bmcs=20,
    behind=10,
)

QUICK = Scale(
    few=10,
    small=10,
    middle=200,
    large=1_000,
    rounds=1,
    seconds=0.05,
    patience=0.3,
    batch_alone=10,
    batch=100,
    writing=0.1,
    starts=1,
    requests=4_000,
    probing=0.3,
    probes=1,
    slow=100,
    processes=20,
    bmcs=2,
    behind=2,
)
