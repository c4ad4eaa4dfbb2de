"""Where things are measured: a folder on the disk, and what is started there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks import fleet
from benchmarks.fleet import Fleet
from benchmarks.scale import Scale
from benchmarks.servers import Daemon, Server


class Bench:
    """Files are in *folder*, which should be on a real disk; sockets elsewhere, as their paths must be short."""

    def __init__(self, scale: Scale, folder: Path, sockets: Path) -> None:
        self.scale = scale
        self.folder = folder
        self._sockets = sockets
        self._fleets: dict[int, Fleet] = {}
        self._names = count()

    def fleet(self, size: int) -> Fleet:
        """Give a fleet; its state file is written once."""
        if size not in self._fleets:
            self._fleets[size] = fleet.write(self.folder / f"fleet-{size}.json", size)
        return self._fleets[size]

    def daemon(self, size: int, provider: str = "file", *flags: str) -> Daemon:
        """Give a daemon, not yet started, with as many instances."""
        return Daemon(self._sockets / self._name("daemon"), self.state(size), self.fleet(size), provider, flags)

    def constant(self) -> Server:
        """Give a server of constant replies, not yet started."""
        name = self._name("constant")
        at = self._sockets / name
        return Server(at, ("benchmarks.constant", str(at)), self.folder / f"{name}.log")

    def synced(self) -> Server:
        """Give a server of constant replies that syncs before each, not yet started."""
        name = self._name("synced")
        at = self._sockets / name
        return Server(at, ("benchmarks.synced", str(at), str(self.folder / name)), self.folder / f"{name}.log")

    def demo(self) -> Server:
        """Give a server that goes about it in the C demo's way, not yet started. Paths are names of `state` files."""
        name = self._name("demo")
        at = self._sockets / name
        return Server(at, ("benchmarks.demo", str(at), str(self.folder)), self.folder / f"{name}.log")

    def state(self, size: int) -> Path:
        """Give a new state file with as many instances, synced: the disk should be at rest."""
        path = self.folder / f"{self._name('state')}.json"
        with self.fleet(size).path.open("rb") as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        return path

    def _name(self, kind: str) -> str:
        return f"{kind}-{next(self._names)}"


@contextmanager
def bench(scale: Scale, folder: Path) -> Iterator[Bench]:
    """Give a bench, in temporary folders of its own."""
    with (
        TemporaryDirectory(prefix=".benchmarks-", dir=folder) as files,
        TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as sockets,
    ):
        yield Bench(scale, Path(files), Path(sockets))


def say(progress: str) -> None:
    """Tell the person who waits."""
    click.echo(progress, err=True)
