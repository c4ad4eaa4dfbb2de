"""Instances in a world of their own: a JSON file, which outlives the daemon and may be edited behind its back.

    {"delay": 0, "failure_rate": 0, "capacity": null, "unreachable": false,
     "machines": {"ID": {"functional": true, "reason": "", …}}}

Take a machine out of ``machines`` and it has vanished; set its ``functional`` to false and it is broken, to true and it works
again; set ``unreachable`` and the world can't be observed. A change that is made while the daemon makes one too may be lost,
unless it is made through `World`, which locks the file.
"""

import asyncio
import fcntl
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart, GiveUp, TryAgain
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

Seconds = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Behaviour(Struct, forbid_unknown_fields=True):
    """How a machine behaves; times count from when it works first. What is not given is as the world says, or never."""

    delay: Annotated[
        Seconds | None, Meta(description="seconds that its provision takes; else as the world says", examples=[2])
    ] = None
    destroy_delay: Annotated[Seconds, Meta(description="seconds that its destruction takes")] = 0
    failure_rate: Annotated[
        Share | None, Meta(description="how likely its provision fails, half-way; else as the world says")
    ] = None
    breaks_after: Annotated[
        Seconds | None, Meta(description="seconds until it breaks; else never", examples=[3600])
    ] = None
    heals_after: Annotated[
        Seconds | None, Meta(description="seconds, once broken, until it works again; else never")
    ] = None
    dies_after: Annotated[Seconds | None, Meta(description="seconds until it vanishes; else never")] = None


class Settings(Struct, forbid_unknown_fields=True):
    """Where the world is."""

    world: Annotated[
        str | None,
        Meta(
            description="path of the world's file; else NAME.world beside the state file", examples=["/srv/rack1.world"]
        ),
    ] = None


class SimulatedMachine(Struct, omit_defaults=True):
    """A machine in the world. *works_at* is when it is up, in seconds since 1970.

    *stuck*: it can't be destroyed. *handle*: what it was called before it was adopted; else it is called by its ID.
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

    def condition(self, now: float) -> tuple[bool, str]:
        """Does it work, and if not, why?"""
        if not self.functional:
            return False, self.reason or "broken in the simulator's world"
        if now < self.works_at:
            return False, "starting"
        healed = self.heals_at is not None and now >= self.heals_at
        if self.breaks_at is not None and now >= self.breaks_at and not healed:
            return False, "broke as its properties say"
        return True, ""


class Scene(Struct):
    """What the world's file holds. *capacity* is how many machines fit; None: any number."""

    delay: Seconds = 0
    failure_rate: Share = 0
    capacity: int | None = None
    unreachable: bool = False
    machines: dict[str, SimulatedMachine] = {}


class World:
    """The file, and the way to change it safely."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def look(self) -> Scene:
        """Give the world as it is now."""
        with self._locked():
            return self._read()

    @contextmanager
    def change(self) -> Iterator[Scene]:
        """Give the world to be changed; it is written back at the end, unless that is by an exception."""
        with self._locked():
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
    def _locked(self) -> Iterator[None]:
        try:
            fd = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise TryAgain(f"the simulator's world {self.path}: {error.strerror}") from None


class Simulator(Provider):
    """Simulated machines, which can be slow, fail to start, break, heal and vanish."""

    Properties = Behaviour
    Options = Settings
    batch = 20
    options: Settings

    def __init__(self, name: str, folder: Path, options: Settings | None = None) -> None:
        super().__init__(name, folder, options)
        self.world = World(Path(self.options.world or folder / f"{name}.world"))

    async def start(self) -> None:
        try:
            self.world.look()
        except TryAgain as error:
            raise CannotStart(str(error)) from None

    async def provision(self, id: str, spec: Spec) -> Machine:
        properties: Behaviour = self.parse(spec.properties)
        machine, fails = await asyncio.to_thread(self._make, id, spec, properties)
        wait = max(0.0, machine.works_at - time.time())
        if fails:
            await asyncio.sleep(wait / 2)
            raise GiveUp("the simulator's failure rate struck")
        await asyncio.sleep(wait)
        return Machine(id, machine.handle or f"sim-{id}")

    def _make(self, id: str, spec: Spec, properties: Behaviour) -> tuple[SimulatedMachine, bool]:
        with self.world.change() as scene:
            if id in scene.machines:
                return scene.machines[id], False
            if scene.capacity is not None and len(scene.machines) >= scene.capacity:
                raise GiveUp(
                    f"no room: the world's capacity is {scene.capacity}, and {len(scene.machines)} machines are there"
                )
            delay = scene.delay if properties.delay is None else properties.delay
            rate = scene.failure_rate if properties.failure_rate is None else properties.failure_rate
            start = time.time() + delay
            breaks = None if properties.breaks_after is None else start + properties.breaks_after
            scene.machines[id] = SimulatedMachine(
                mark=self.mark,
                works_at=start,
                destroy_delay=properties.destroy_delay,
                logical_id=spec.logical_id,
                tags=dict(spec.tags),
                breaks_at=breaks,
                heals_at=None if breaks is None or properties.heals_after is None else breaks + properties.heals_after,
                dies_at=None if properties.dies_after is None else start + properties.dies_after,
            )
            return scene.machines[id], random.random() < rate

    async def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, TryAgain]:
        scene = await asyncio.to_thread(self.world.look)
        there = [instance.id for instance in instances if instance.id in scene.machines]
        stuck = {id: TryAgain("it is stuck, as the world says") for id in there if scene.machines[id].stuck}
        gone = [id for id in there if id not in stuck]
        if gone:
            await asyncio.sleep(max(scene.machines[id].destroy_delay for id in gone))
            await asyncio.to_thread(self._remove, gone)
        return stuck

    def _remove(self, ids: Iterable[str]) -> None:
        with self.world.change() as scene:
            for id in ids:
                scene.machines.pop(id, None)

    async def observe(self) -> Iterable[Machine]:
        scene = await asyncio.to_thread(self.world.look)
        if scene.unreachable:
            raise TryAgain("the simulator's world is unreachable")
        return [self._seen(id, machine) for id, machine in scene.machines.items() if machine.mark == self.mark]

    def _seen(self, id: str, machine: SimulatedMachine) -> Machine:
        functional, reason = machine.condition(time.time())
        return Machine(
            id, machine.handle or f"sim-{id}", functional, reason, tags=machine.tags, logical_id=machine.logical_id
        )

    async def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        await asyncio.to_thread(self._adopt, id, handle, spec)
        return Machine(id, handle)

    def _adopt(self, id: str, handle: str, spec: Spec) -> None:
        with self.world.change() as scene:
            machine = scene.machines.get(handle)
            if machine is None:
                raise GiveUp(f"no machine {handle!r} in the simulator's world")
            if machine.mark:
                raise GiveUp(f"machine {handle!r} belongs to a plugin already, by mark {machine.mark}")
            del scene.machines[handle]
            machine.mark, machine.handle, machine.tags, machine.logical_id = (
                self.mark,
                handle,
                dict(spec.tags),
                spec.logical_id,
            )
            scene.machines[id] = machine

    async def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._label, instance.id, tags)

    def _label(self, id: str, tags: Mapping[str, str]) -> None:
        with self.world.change() as scene:
            if id in scene.machines:
                scene.machines[id].tags = dict(tags)
