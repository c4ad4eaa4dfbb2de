"""The load, in a process of its own: rounds of requests over several connections. `python -m benchmarks.load`.

It reads orders, JSON, from its standard input, a line each, and answers each with a line when the round is done.
"""

import asyncio
import re
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import uvloop

from benchmarks.connection import Connection
from benchmarks.order import Done, Order

_PROVISIONED = re.compile(rb'\{"jsonrpc": ?"2.0", ?"result": ?\{"Type": ?"", ?"ID": ?"([^"]+)"')

ACCEPTED = 0.05
"""Seconds in which a server accepts all connections: they are open for the client before."""


class Round:
    """Requests as fast as the replies come, on connections that are open before it begins."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._requests = order.requests
        self._over = asyncio.get_running_loop().create_future()
        self._sent = 0
        self._in_flight = 0
        self._end = 0.0
        self._ids: list[str] = []
        self._latencies: list[float] = []

    async def run(self) -> Done:
        """Do it; raise `RuntimeError` where a reply is an error, or none comes."""
        connections = await asyncio.gather(*(self._connect() for _ in range(self._order.connections)))
        await asyncio.sleep(ACCEPTED)
        busy, began = _cpu(), time.perf_counter()
        self._end = began + self._order.seconds
        self._begin(connections)
        await self._over
        seconds, busy = time.perf_counter() - began, _cpu() - busy
        for connection in connections:
            connection.close()
        received = sum(connection.received for connection in connections)
        return Done(self._sent, seconds, received, busy / seconds, self._ids, self._latencies)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(lambda: Connection(self._replied, self._failed), self._order.socket))[
            1
        ]

    def _begin(self, connections: Sequence[Connection]) -> None:
        for connection in connections:
            self._next(connection)

    def _next(self, connection: Connection) -> None:
        if self._sent < self._order.count and time.perf_counter() < self._end:
            self._send(connection)
        else:
            self._end_when_idle()

    def _send(self, connection: Connection) -> None:
        connection.send(self._requests[self._sent % len(self._requests)])
        self._sent += 1
        self._in_flight += 1

    def _replied(self, connection: Connection, start: bytes) -> None:
        self._in_flight -= 1
        if (provisioned := _PROVISIONED.match(start)) is not None:
            self._ids.append(provisioned[1].decode())
        self._next(connection)

    def _end_when_idle(self) -> None:
        if self._in_flight == 0 and not self._over.done():
            self._over.set_result(None)

    def _failed(self, message: str) -> None:
        if not self._over.done():
            self._over.set_exception(RuntimeError(message))


class Paced(Round):
    """Requests at a steady pace, each timed from when it was due: one that found no free connection has waited, too."""

    def __init__(self, order: Order, pace: float) -> None:
        super().__init__(order)
        self._pace = pace
        self._free: list[Connection] = []
        self._due: deque[float] = deque()
        self._began: dict[Connection, float] = {}

    def _begin(self, connections: Sequence[Connection]) -> None:
        self._free.extend(connections)
        self._tick()

    def _tick(self) -> None:
        now = time.perf_counter()
        if now >= self._end:
            self._end_when_idle()
            return
        asyncio.get_running_loop().call_later(self._pace, self._tick)
        self._due.append(now)
        if self._free:
            self._next(self._free.pop())

    def _next(self, connection: Connection) -> None:
        if self._due:
            self._began[connection] = self._due.popleft()
            self._send(connection)
            return
        self._free.append(connection)
        if time.perf_counter() >= self._end:
            self._end_when_idle()

    def _replied(self, connection: Connection, start: bytes) -> None:
        self._latencies.append(time.perf_counter() - self._began[connection])
        super()._replied(connection, start)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _perform(order: Order) -> Done:
    return await (Round(order) if order.pace is None else Paced(order, order.pace)).run()


def main() -> None:
    """Perform orders until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for whoever started this, and ends it
    with open(sys.stdout.fileno(), "wb", closefd=False) as answers:  # buffered whatever Python was told: writes all
        for line in sys.stdin.buffer:
            answers.write(msgspec.json.encode(_done(msgspec.json.decode(line, type=Order))) + b"\n")
            answers.flush()


def _done(order: Order) -> Done:
    try:
        return uvloop.run(_perform(order))
    except (OSError, RuntimeError) as error:
        sys.exit(f"the load: {error}")


if __name__ == "__main__":
    main()
