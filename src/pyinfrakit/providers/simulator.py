"""Simulated machines in a *world*: a JSON file that outlives the daemon, and that anyone may edit meanwhile.

    {"delay": 0, "failure_rate": 0, "capacity": null, "unreachable": false,
     "machines": {"ID": {"functional": true, "reason": "", …}}}

A machine that is removed from ``machines`` has vanished. It is broken while its ``functional`` is false. While
``unreachable`` is true, observations fail. An edit that coincides with one of the daemon's may be lost, unless
it is made through `World`, which locks the file.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart, GiveUp, NoCapacity, TryAgain
from pyinfrakit.locks import acquire
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

Seconds = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Time = Seconds | None


class Properties(Struct, forbid_unknown_fields=True):
    """The behavior of a machine. Times count from the moment when it first works."""

    delay: Annotated[Time, Meta(description="seconds that its provision takes; default: the world's", examples=[2])] = (
        None
    )
    destroy_delay: Annotated[Seconds, Meta(description="seconds that its destruction takes")] = 0
    failure_rate: Annotated[
        Share | None, Meta(description="probability that its provision fails, halfway; default: the world's")
    ] = None
    breaks_after: Annotated[Time, Meta(description="seconds until it breaks; default: never", examples=[3600])] = None
    heals_after: Annotated[Time, Meta(description="seconds from breaking until it works again; default: never")] = None
    dies_after: Annotated[Time, Meta(description="seconds until it vanishes; default: never")] = None


class Options(Struct, forbid_unknown_fields=True):
    """The options of the provider."""

    world: Annotated[
        str | None,
        Meta(description="path of the world; default: NAME.world beside the state file", examples=["/srv/rack1.world"]),
    ] = None


class SimulatedMachine(Struct, omit_defaults=True):
    """A machine in the world. Times are in seconds since 1970; it works from *works_at* on.

    A *stuck* machine can't be destroyed. *handle* is the name from before its adoption, or None.
    """

    mark: str = ""
    works_at: float = 0
    destroy_delay: float = 0
    functional: bool = True
    reason: str = ""
    stuck: bool = False
    handle: str | None = None
    logical_id: str | None = None
    tags: dict[str, str] = {}
    breaks_at: float | None = None
    heals_at: float | None = None
    dies_at: float | None = None

    def problem(self, now: float) -> str:
        """Return why the machine does not work, or an empty string."""
        if not self.functional:
            return self.reason or "broken in the simulator's world"
        if now < self.works_at:
            return "starting"
        is_healed = self.heals_at is not None and now >= self.heals_at
        is_broken = self.breaks_at is not None and now >= self.breaks_at and not is_healed
        return "broke as its properties say" if is_broken else ""


class Scene(Struct):
    """The content of the world's file. *capacity* is the number of machines that fit; None means any number."""

    delay: Seconds = 0
    failure_rate: Share = 0
    capacity: int | None = None
    unreachable: bool = False
    machines: dict[str, SimulatedMachine] = {}


class World:
    """The world's file, and the safe way to change it. All methods raise `TryAgain` if the file can't be used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def look(self) -> Scene:
        with self._lock():
            return self._read()

    @contextmanager
    def change(self) -> Iterator[Scene]:
        """Yield the world, and write it back at the end, except after an exception."""
        with self._lock():
            scene = self._read()
            yield scene
            Disk().replace(self.path, [msgspec.json.format(msgspec.json.encode(scene)), b"\n"])

    def _read(self) -> Scene:
        try:
            scene = decode(self.path.read_bytes(), Scene)
        except FileNotFoundError:
            return Scene()
        except (NotJSON, WrongShape) as error:
            raise TryAgain(f"the simulator's world {self.path}: {error}") from None
        now = time.time()
        scene.machines = {id: m for id, m in scene.machines.items() if m.dies_at is None or now < m.dies_at}
        return scene

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # A file of its own, because each change replaces the world's.
        path = self.path.with_name(f"{self.path.name}.lock")
        try:
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as file:
                acquire(file.fileno(), wait=True)
                yield
        except OSError as error:
            raise TryAgain(f"the simulator's world {self.path}: {error.strerror}") from None


class Simulator(Provider):
    """Simulated machines, which can be slow, fail to start, break, heal and vanish."""

    Properties = Properties
    Options = Options
    batch = 20

    def __init__(self, name: str, folder: Path, options: Any = None) -> None:
        super().__init__(name, folder, options)
        self.world = World(Path(self.options.world or folder / f"{name}.world"))

    def start(self) -> None:
        try:
            self.world.look()
        except TryAgain as error:
            raise CannotStart(str(error)) from None

    async def provision(self, id: str, spec: Spec) -> Machine:
        machine, fails = await asyncio.to_thread(self._create, id, spec)
        wait = max(0.0, machine.works_at - time.time())
        if fails:
            # The machine stays: a provision that fails halfway leaves something for `destroy`.
            await asyncio.sleep(wait / 2)
            raise GiveUp("the simulator's failure rate struck")
        await asyncio.sleep(wait)
        return Machine(id, machine.handle or f"sim-{id}")

    def _create(self, id: str, spec: Spec) -> tuple[SimulatedMachine, bool]:
        """Return the machine, which may exist from before a crash, and whether its provision fails."""
        properties: Properties = self.parse(spec.properties)
        with self.world.change() as scene:
            if id in scene.machines:
                return scene.machines[id], False
            if scene.capacity is not None and len(scene.machines) >= scene.capacity:
                count = len(scene.machines)
                raise NoCapacity(f"no room: the world's capacity is {scene.capacity}, and {count} machines exist")
            rate = scene.failure_rate if properties.failure_rate is None else properties.failure_rate
            start = time.time() + (scene.delay if properties.delay is None else properties.delay)
            breaks = _add(start, properties.breaks_after)
            scene.machines[id] = SimulatedMachine(
                mark=self.mark,
                works_at=start,
                destroy_delay=properties.destroy_delay,
                logical_id=spec.logical_id,
                tags=dict(spec.tags),
                breaks_at=breaks,
                heals_at=_add(breaks, properties.heals_after),
                dies_at=_add(start, properties.dies_after),
            )
            return scene.machines[id], random.random() < rate

    async def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, TryAgain]:
        machines = (await asyncio.to_thread(self.world.look)).machines
        ids = [instance.id for instance in instances if instance.id in machines]
        stuck = {id: TryAgain("it is stuck, as the world says") for id in ids if machines[id].stuck}
        if left := [id for id in ids if id not in stuck]:
            await asyncio.sleep(max(machines[id].destroy_delay for id in left))
            await asyncio.to_thread(self._remove, left)
        return stuck

    def _remove(self, ids: Iterable[str]) -> None:
        with self.world.change() as scene:
            for id in ids:
                scene.machines.pop(id, None)

    def observe(self) -> Iterable[Machine]:
        scene = self.world.look()
        if scene.unreachable:
            raise TryAgain("the simulator's world is unreachable")
        now = time.time()
        return [
            Machine(id, each.handle or f"sim-{id}", not problem, problem, tags=each.tags, logical_id=each.logical_id)
            for id, each in scene.machines.items()
            if each.mark == self.mark
            for problem in [each.problem(now)]
        ]

    def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        with self.world.change() as scene:
            machine = scene.machines.get(handle)
            if machine is None:
                raise GiveUp(f"no machine {handle!r} in the simulator's world")
            if machine.mark:
                raise GiveUp(f"machine {handle!r} already belongs to a plugin, by mark {machine.mark}")
            del scene.machines[handle]
            machine.mark, machine.handle = self.mark, handle
            machine.tags, machine.logical_id = dict(spec.tags), spec.logical_id
            scene.machines[id] = machine
        return Machine(id, handle)

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        with self.world.change() as scene:
            if instance.id in scene.machines:
                scene.machines[instance.id].tags = dict(tags)


def _add(start: float | None, seconds: float | None) -> float | None:
    return None if start is None or seconds is None else start + seconds
