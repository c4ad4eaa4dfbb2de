"""All that takes part in races: a daemon of each size, what they are compared with, and the load."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from msgspec.structs import replace

from benchmarks import lengths
from benchmarks.bench import Bench
from benchmarks.contenders import Constant, Disk, Keeper, Synced, changing, describing
from benchmarks.generator import Generator
from benchmarks.lane import Lane
from benchmarks.race import Contender, Name
from benchmarks.servers import Daemon, Server


class Field:
    """Servers and a load that run while this is entered."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._scale = bench.scale
        self._running = ExitStack()
        self._generator = Generator()
        self._constant = bench.constant()
        self._synced = bench.synced()
        self._daemons: Mapping[int, Daemon] = {
            size: bench.daemon(size) for size in {*bench.scale.sizes, bench.scale.few}
        }
        self._demo = bench.demo()
        self._demo_states = {size: bench.state(size) for size in bench.scale.sizes}

    def __enter__(self) -> Self:
        servers: Sequence[Server] = (self._constant, self._synced, self._demo, *self._daemons.values())
        with ExitStack() as starting:
            starting.enter_context(self._generator)
            for server in servers:
                starting.push(server)
                server.start()
            for server in servers:
                server.wait()
            self._running = starting.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()

    def describers(self, connections: int) -> Mapping[Name, Contender]:
        """Give those who describe: each daemon has a constant of its own, as their replies differ in length."""
        lane = self._lane(self._constant, connections)
        constants: Mapping[Name, Contender] = {
            Name("constant", size): Constant(
                lane, describing(daemon.fleet), lengths.of_describes(self._generator, daemon)
            )
            for size, daemon in self._daemons.items()
        }
        return {**self._keepers(connections), **constants}

    def changers(self, connections: int) -> Mapping[Name, Contender]:
        """Give those who change things: one constant does for all, as all replies are the same."""
        requests = changing(self._batch(connections))
        replies = lengths.of_changes(self._generator, self._daemons[0])
        return {
            **self._keepers(connections),
            Name("constant"): Constant(self._lane(self._constant, connections), requests, replies),
            Name("synced"): Synced(self._lane(self._synced, connections), requests, replies),
            Name("disk"): Disk(self._bench.folder, self._scale.seconds),
        }

    def _keepers(self, connections: int) -> Mapping[Name, Contender]:
        """Give the daemons and, for one connection, the C demo's way: that has one call after the other in any case."""
        batch = self._batch(connections)
        keepers: dict[Name, Contender] = {
            Name("daemon", size): Keeper(self._lane(daemon, connections), daemon.fleet, batch, daemon.settle)
            for size, daemon in self._daemons.items()
        }
        if connections == 1:
            for size, state in self._demo_states.items():
                lane = replace(self._lane(self._demo, 1), path=f"/{state.name}")
                keepers[Name("demo", size)] = Keeper(lane, self._bench.fleet(size), batch)
        return keepers

    def _batch(self, connections: int) -> int:
        return self._scale.batch_alone if connections == 1 else self._scale.batch

    def _lane(self, server: Server, connections: int) -> Lane:
        return Lane(self._generator, server, connections, self._scale.seconds)
