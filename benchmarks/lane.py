"""A load's way to a server."""

import sys
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from benchmarks import calls
from benchmarks.generator import Generator
from benchmarks.order import Done, Order
from benchmarks.scale import CONNECTIONS
from benchmarks.servers import Server

LONG = 3600.0
"""Seconds: as long as it takes."""


class Lane(Struct, frozen=True):
    """Where rounds go, over how many connections, and how many seconds one is. *path*: None for those of the requests."""

    generator: Generator
    server: Server
    connections: int = 1
    seconds: float = LONG
    path: str | None = None

    def order(self, requests: Sequence[bytes], most: int = sys.maxsize) -> Order:
        """Send the requests, over and over, until the time is over, or *most* are sent."""
        directed = list(requests) if self.path is None else calls.to(self.path, requests)
        return Order(str(self.server.socket), self.connections, directed, self.seconds, most)

    def perform(self, requests: Sequence[bytes], most: int = sys.maxsize) -> Done:
        """Have an `order` done."""
        return self.generator.perform(self.order(requests, most))

    def send_all(self, requests: Sequence[bytes]) -> None:
        """Send each of the requests once, as fast as can be, however long that takes."""
        if requests:
            replace(self, connections=max(CONNECTIONS), seconds=LONG).perform(requests, len(requests))
