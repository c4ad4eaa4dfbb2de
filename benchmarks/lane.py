"""A load's way to a server."""

import sys
from collections.abc import Sequence

from msgspec import Struct

from benchmarks.generator import Generator
from benchmarks.order import Done, Order
from benchmarks.scale import CONNECTIONS
from benchmarks.servers import Server

LONG = 3600.0
"""Seconds: as long as it takes."""


class Lane(Struct, frozen=True):
    """Where rounds go, over how many connections, and how many seconds one is."""

    generator: Generator
    server: Server
    connections: int = 1
    seconds: float = LONG

    def order(self, requests: Sequence[bytes], most: int = sys.maxsize) -> Order:
        """Send the requests, over and over, until the time is over, or *most* are sent."""
        return Order(str(self.server.socket), self.connections, list(requests), self.seconds, most)

    def perform(self, requests: Sequence[bytes], most: int = sys.maxsize) -> Done:
        """Have an `order` done."""
        return self.generator.perform(self.order(requests, most))

    def send_all(self, requests: Sequence[bytes]) -> None:
        """Send each of the requests once, as fast as can be, however long that takes."""
        if requests:
            Lane(self.generator, self.server, max(CONNECTIONS)).perform(requests, len(requests))
