"""The process that sends the load: `python -m benchmarks.load.worker`.

It reads rounds from standard input, one line of JSON each, and writes a line of JSON with the result of each.
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
from msgspec import Struct

from benchmarks.load.connection import Connection

_NEW_ID = re.compile(rb'\{"jsonrpc": ?"2.0", ?"result": ?\{"Type": ?"", ?"ID": ?"([^"]+)"')

ACCEPT_SECONDS = 0.05
"""Seconds for a server to accept all connections. A client sees them open before the server accepts them."""


class Round(Struct, frozen=True):
    """A round of load: *requests* over a number of *connections* to a unix *socket*.

    A connection sends the next request when it has the reply to the last one. With a *pace*, one request is due every *pace*
    seconds instead, on any free connection. The list of requests repeats if it is shorter than the round. The round ends after
    *seconds* or *count* requests, whichever comes first, and then waits for the replies that are still in flight.
    """

    socket: str
    connections: int
    requests: list[bytes]
    seconds: float
    count: int = sys.maxsize
    pace: float | None = None


class Result(Struct, frozen=True):
    """The result of a round of *count* requests that took *seconds*.

    *received* is the bytes of all replies' bodies, *busy* the worker's CPU time as a share of the round, *ids* the new
    instances' IDs. *latencies* are in seconds, and present only if the round has a pace.
    """

    count: int
    seconds: float
    received: int
    busy: float
    ids: list[str] = []
    latencies: list[float] = []

    @property
    def rate(self) -> float:
        """Return the requests per second."""
        return self.count / self.seconds


class ClosedLoop:
    """Sends each request as soon as the reply to the last one is there. Measures rates."""

    def __init__(self, round: Round) -> None:
        self._round = round
        self._requests = round.requests
        self._end = asyncio.get_running_loop().create_future()
        self._sent = 0
        self._in_flight = 0
        self._deadline = 0.0
        self._ids: list[str] = []
        self._latencies: list[float] = []

    async def run(self) -> Result:
        """Return the round's result. Raise `RuntimeError` if a reply is an error or a connection closes."""
        connections = await asyncio.gather(*(self._connect() for _ in range(self._round.connections)))
        # The round begins with all connections open: the time to connect does not count.
        await asyncio.sleep(ACCEPT_SECONDS)
        busy, began = _cpu_seconds(), time.perf_counter()
        self._deadline = began + self._round.seconds
        self._start(connections)
        await self._end
        seconds, busy = time.perf_counter() - began, _cpu_seconds() - busy
        for connection in connections:
            connection.close()
        received = sum(connection.received for connection in connections)
        return Result(self._sent, seconds, received, busy / seconds, self._ids, self._latencies)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        return (
            await loop.create_unix_connection(lambda: Connection(self._on_reply, self._on_failure), self._round.socket)
        )[1]

    def _start(self, connections: Sequence[Connection]) -> None:
        for connection in connections:
            self._continue(connection)

    def _continue(self, connection: Connection) -> None:
        if self._sent < self._round.count and time.perf_counter() < self._deadline:
            self._send(connection)
        else:
            self._end_if_idle()

    def _send(self, connection: Connection) -> None:
        connection.send(self._requests[self._sent % len(self._requests)])
        self._sent += 1
        self._in_flight += 1

    def _on_reply(self, connection: Connection, start: bytes) -> None:
        self._in_flight -= 1
        if (new := _NEW_ID.match(start)) is not None:
            self._ids.append(new[1].decode())
        self._continue(connection)

    def _end_if_idle(self) -> None:
        if self._in_flight == 0 and not self._end.done():
            self._end.set_result(None)

    def _on_failure(self, message: str) -> None:
        if not self._end.done():
            self._end.set_exception(RuntimeError(message))


class OpenLoop(ClosedLoop):
    """Sends requests at a steady pace, whatever the replies take. Measures latencies."""

    # A latency counts from the moment that the request was due, so it includes the wait for a free connection. A client that
    # paused with a stalled server would miss the very requests that the stall delays ("coordinated omission").

    def __init__(self, round: Round, pace: float) -> None:
        super().__init__(round)
        self._pace = pace
        self._free: list[Connection] = []
        self._due: deque[float] = deque()
        self._due_of: dict[Connection, float] = {}

    def _start(self, connections: Sequence[Connection]) -> None:
        self._free.extend(connections)
        self._tick()

    def _tick(self) -> None:
        now = time.perf_counter()
        if now >= self._deadline:
            self._end_if_idle()
            return
        asyncio.get_running_loop().call_later(self._pace, self._tick)
        self._due.append(now)
        if self._free:
            self._continue(self._free.pop())

    def _continue(self, connection: Connection) -> None:
        if self._due:
            self._due_of[connection] = self._due.popleft()
            self._send(connection)
            return
        self._free.append(connection)
        if time.perf_counter() >= self._deadline:
            self._end_if_idle()

    def _on_reply(self, connection: Connection, start: bytes) -> None:
        self._latencies.append(time.perf_counter() - self._due_of[connection])
        super()._on_reply(connection, start)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _run_loop(round: Round) -> Result:
    return await (ClosedLoop(round) if round.pace is None else OpenLoop(round, round.pace)).run()


def _run_round(round: Round) -> Result:
    try:
        return uvloop.run(_run_loop(round))
    except (OSError, RuntimeError) as error:
        sys.exit(f"load generator: {error}")


def main() -> None:
    """Run rounds until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the parent, too, which kills this process
    # A file of its own is buffered even if PYTHONUNBUFFERED is set. An unbuffered write may be partial.
    with open(sys.stdout.fileno(), "wb", closefd=False) as results:
        for line in sys.stdin.buffer:
            results.write(msgspec.json.encode(_run_round(msgspec.json.decode(line, type=Round))) + b"\n")
            results.flush()


if __name__ == "__main__":
    main()
