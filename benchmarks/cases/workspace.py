"""The scale of a run, and the workspace on disk that its servers run in."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from benchmarks.servers.fleet import Fleet, write_fleet
from benchmarks.servers.groups import Controller, GroupFleet
from benchmarks.servers.process import Daemon, Server


class Scale(Struct, frozen=True, kw_only=True):
    """The sizes of fleets and the lengths of rounds. Durations are in seconds."""

    few: int
    """Instances of a fleet of one group."""
    small: int
    middle: int
    large: int
    rounds: int
    round_seconds: float
    max_subject_seconds: float
    """Time after which a slow subject has no further rounds."""
    serial_batch: int
    """Instances that one connection provisions in a round."""
    parallel_batch: int
    """Instances that several connections provision in a round."""
    write_seconds: float
    """Time to provision while bytes are counted."""
    repetitions: int
    """Repetitions of each measurement that needs no load in rounds: starts, observations, and slow provisions."""
    memory_requests: int
    """Requests over which memory should not grow."""
    probe_seconds: float
    """Time to probe latencies in a round."""
    probe_rounds: int
    slow_provisions: int
    """Concurrent provisions with a slow provider."""
    processes: int
    bmcs: int
    machines_per_bmc: int
    groups: int
    members: int
    """Members of each group."""
    window: float
    """Time in which the CPU time and the latency of groups are measured."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return (0, self.small, self.middle, self.large)


FULL = Scale(
    few=10,
    small=1_000,
    middle=10_000,
    large=100_000,
    rounds=9,
    round_seconds=0.2,
    max_subject_seconds=6,
    serial_batch=200,
    parallel_batch=2_000,
    write_seconds=2,
    repetitions=5,
    memory_requests=1_000_000,
    probe_seconds=3,
    probe_rounds=5,
    slow_provisions=1_000,
    processes=500,
    bmcs=20,
    machines_per_bmc=10,
    groups=1_000,
    members=100,
    window=10,
)

QUICK = Scale(
    few=10,
    small=10,
    middle=200,
    large=1_000,
    rounds=1,
    round_seconds=0.05,
    max_subject_seconds=0.3,
    serial_batch=10,
    parallel_batch=100,
    write_seconds=0.1,
    repetitions=1,
    memory_requests=4_000,
    probe_seconds=0.3,
    probe_rounds=1,
    slow_provisions=100,
    processes=20,
    bmcs=2,
    machines_per_bmc=2,
    groups=20,
    members=5,
    window=1,
)


class Workspace:
    """Creates servers whose files are in *folder*, which should be on a real disk."""

    def __init__(self, scale: Scale, folder: Path, sockets: Path) -> None:
        self.scale = scale
        self.folder = folder
        self._sockets = sockets
        self._fleets: dict[int, Fleet] = {}
        self._numbers = count()

    def fleet(self, size: int) -> Fleet:
        """Return the fleet of *size* instances. The first call writes its state file."""
        if size not in self._fleets:
            self._fleets[size] = write_fleet(self.folder / f"fleet-{size}.json", size)
        return self._fleets[size]

    def copy_state(self, size: int) -> Path:
        """Return a new copy of a fleet's state file."""
        path = self.folder / f"{self._pick_name('state')}.json"
        with self.fleet(size).path.open("rb") as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())  # otherwise the kernel would write it back during a measurement
        return path

    # The servers below are not started yet: entering one starts it.

    def create_daemon(self, size: int, provider: str = "file", *flags: str) -> Daemon:
        """Return a daemon with *size* instances."""
        return Daemon(
            self._sockets / self._pick_name("daemon"), self.copy_state(size), self.fleet(size), provider, flags
        )

    def create_controller(self, fleet: GroupFleet) -> Controller:
        """Return a controller of groups, whose members exist."""
        return Controller(self.folder / self._pick_name("groups"), self._sockets / self._pick_name("controller"), fleet)

    def create_group_plugin(self, fleet: GroupFleet) -> Daemon:
        """Return a daemon that has the members of groups, and no controller."""
        state = self.folder / f"{self._pick_name('state')}.json"
        members = fleet.write_state(state)
        return Daemon(self._sockets / self._pick_name("daemon"), state, members, "file", ())

    def create_constant(self) -> Server:
        """Return a server of constant replies. The path of a request is the reply's length."""
        return self._create_server("constant", "stack")

    def create_synced(self) -> Server:
        """Return a server of constant replies, each after a durable append."""
        return self._create_server("synced", "stack", str(self.folder / self._pick_name("appends")))

    def create_demo(self) -> Server:
        """Return a server that uses the C demo's method. The path of a request is the name of a state file in `folder`."""
        return self._create_server("demo", "demo", str(self.folder))

    def _create_server(self, kind: str, module: str, *arguments: str) -> Server:
        name = self._pick_name(kind)
        socket = self._sockets / name
        return Server(socket, (f"benchmarks.servers.{module}", str(socket), *arguments), self.folder / f"{name}.log")

    def _pick_name(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"


@contextmanager
def open_workspace(scale: Scale, folder: Path) -> Iterator[Workspace]:
    """Yield a workspace in a temporary folder below *folder*."""
    with (
        TemporaryDirectory(prefix=".benchmarks-", dir=folder) as files,
        # Sockets are elsewhere, as the path of a socket is limited to about 100 bytes.
        TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as sockets,
    ):
        yield Workspace(scale, Path(files), Path(sockets))
