"""A provider whose machines are what a file says, all at once: well, broken or gone, or joined by orphans."""

# The daemon loads this module, so it imports only modules that the daemon loads anyhow.

import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from pyinfrakit.provider import Machine
from pyinfrakit.providers.file import File
from pyinfrakit.record import Spec

SLOW_TAG = "slow"
"""An instance with this tag is provisioned for `SLOW` seconds."""

SLOW = 3.0


class World(StrEnum):
    """The state of all machines."""

    WELL = "well"
    NEWS = "news"
    BROKEN = "broken"
    GONE = "gone"
    ORPHANS = "orphans"


def set_world(folder: Path, world: World) -> None:
    """Change the state of all machines of the daemon whose state file is in *folder*."""
    _find_file(folder).write_text(world)


def _find_file(folder: Path) -> Path:
    return folder / "world"


class Unsteady(File):
    """Observes what the file says. It is not certain, so that losses are held until they are confirmed."""

    certain = False

    def provision(self, id: str, spec: Spec) -> Machine:  # type: ignore[override]
        time.sleep(SLOW if SLOW_TAG in spec.tags else 0)
        return self._machines.setdefault(id, Machine(id))

    def observe(self) -> Iterable[Machine]:  # type: ignore[override]
        # Plain, so that it runs in a thread: in an async method, to make all these machines would hold the event loop.
        return list(self._list_machines(World(_find_file(self.folder).read_text())))

    def _list_machines(self, world: World) -> Iterator[Machine]:
        for id, machine in self._machines.copy().items():
            match world:
                case World.BROKEN:
                    yield Machine(id, functional=False, reason="no ping")
                case World.NEWS:
                    yield Machine(id, properties={"now": time.time()})
                case World.WELL | World.ORPHANS:
                    yield machine
        if world is World.ORPHANS:
            yield from (Machine(f"orphan-{number}") for number in range(len(self._machines)))
