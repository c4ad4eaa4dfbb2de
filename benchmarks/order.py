"""What a load process is told to do, and what it answers."""

import sys

from msgspec import Struct


class Order(Struct, frozen=True):
    """A round: *requests* over *connections*, each of which sends the next one when it has its reply.

    It is over after *seconds*, or *count* requests, whichever is first; what is in flight then is waited for. Where the
    count is larger than the list, that starts over again. *pace*: send one every so many seconds instead, whatever the
    replies take, on any connection that is free.
    """

    socket: str
    connections: int
    requests: list[bytes]
    seconds: float
    count: int = sys.maxsize
    pace: float | None = None


class Done(Struct, frozen=True):
    """What came of a round.

    *received*: bytes of all replies' bodies. *busy*: the share of the time that the load itself had the CPU. *ids*: of
    what was provisioned. *latencies*: in seconds, of a paced round.
    """

    count: int
    seconds: float
    received: int
    busy: float
    ids: list[str] = []
    latencies: list[float] = []

    @property
    def rate(self) -> float:
        return self.count / self.seconds
