"""Providers with one fault each, and the contract for them. test_contract.py runs this file, and reads the failures."""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Raw, Struct

from pyinfrakit.provider import GiveUp, Machine, Provider, Record, Spec, TryAgain
from pyinfrakit.testing import ProviderContract


class Size(Struct, forbid_unknown_fields=True):
    units: int = 1


class Right(Provider):
    """A provider without a fault: each machine is a folder, in a folder for each mark."""

    Properties = Size
    example = {"units": 2}
    batch = 3

    def start(self) -> None:
        self.shelf = self.folder / "shelf" / self.mark
        self.shelf.mkdir(parents=True, exist_ok=True)

    def provision(self, id: str, spec: Spec) -> Any:
        (self.shelf / id).mkdir(exist_ok=True)
        return f"on the shelf: {id}"

    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        errors = {}
        for instance in instances:
            if (self.shelf / instance.id / "stuck").exists():
                errors[instance.id] = TryAgain("it is stuck")
            elif (self.shelf / instance.id).exists():
                shutil.rmtree(self.shelf / instance.id)
        return errors

    def observe(self) -> Any:
        for each in self.shelf.iterdir():
            handle = each / "handle"
            yield Machine(each.name, handle.read_text() if handle.exists() else f"on the shelf: {each.name}")

    def adopt(self, id: str, handle: str, spec: Spec) -> Any:
        stranger = self.folder / handle.removeprefix("on the floor: ")
        if not stranger.exists():
            raise GiveUp(f"there is no machine {handle}")
        stranger.rename(self.shelf / id)
        (self.shelf / id / "handle").write_text(handle)

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        if (self.shelf / instance.id).exists():
            (self.shelf / instance.id / "tags").write_text(str(tags))


class MakesASecond(Right):
    """`provision` does not check if the ID has a machine."""

    def provision(self, id: str, spec: Spec) -> str:
        copies = sum(each.name.startswith(id) for each in self.shelf.iterdir())
        (self.shelf / f"{id}.{copies}").mkdir()
        return f"on the shelf: {id}"

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        for instance in instances:
            for copy in self.shelf.glob(f"{instance.id}.*"):
                shutil.rmtree(copy)

    def observe(self) -> list[Machine]:
        return [Machine(each.stem) for each in self.shelf.iterdir()]

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        """Discard the tags."""


class OneForAll(Right):
    """All IDs share one machine."""

    def provision(self, id: str, spec: Spec) -> str:
        super().provision(id, spec)
        return "the big one"

    def observe(self) -> list[Machine]:
        return [Machine(each.name, "the big one") for each in self.shelf.iterdir()]


class MissesTheGone(Right):
    """`destroy` fails for a machine that is gone."""

    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        for instance in instances:
            if not (self.shelf / instance.id).exists():
                raise GiveUp(f"there is no {instance.id}")
        return super().destroy(instances, reason)


class DestroysTheFirst(Right):
    """`destroy` ignores all machines of a batch except the first."""

    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        return super().destroy(instances[:1], reason)


class IsSilentOnStuck(Right):
    """`destroy` does not report errors."""

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        super().destroy(instances, reason)


class ShowsAll(Right):
    """`observe` ignores marks."""

    def observe(self) -> list[Machine]:
        return [Machine(each.name) for each in self.shelf.parent.glob("*/*")]


class Forgets(Right):
    """Its machines are lost at a restart, because it keeps them in memory."""

    def start(self) -> None:
        self.machines: set[str] = set()

    def provision(self, id: str, spec: Spec) -> None:
        self.machines.add(id)

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        self.machines.difference_update(instance.id for instance in instances)

    def observe(self) -> list[Machine]:
        return [Machine(id) for id in self.machines]

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        """Discard the tags."""


class HasTenHands(Right):
    """`provision` does nothing while ten others are busy."""

    busy = 0

    def start(self) -> None:
        super().start()
        self.one_too_many = threading.Event()

    def provision(self, id: str, spec: Spec) -> Any:
        if self.busy == 10:
            self.one_too_many.set()
            return f"on the shelf: {id}"
        self.busy += 1
        self.one_too_many.wait(0.2 if self.busy == 1 else 5)
        self.busy -= 1
        return super().provision(id, spec)


class Revives(Right):
    """Destroyed machines move to the basement, and return at the next start."""

    def start(self) -> None:
        super().start()
        self.basement = self.folder / "basement" / self.mark
        self.basement.mkdir(parents=True, exist_ok=True)
        for each in self.basement.iterdir():
            each.rename(self.shelf / each.name)

    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        there = [instance.id for instance in instances if (self.shelf / instance.id).exists()]
        stuck = {id for id in there if (self.shelf / id / "stuck").exists()}
        for id in set(there) - stuck:
            (self.shelf / id).rename(self.basement / id)
        return {id: TryAgain("it is stuck") for id in stuck}


class LeavesHalf(Right):
    """`provision` can't continue after it was cancelled halfway."""

    async def provision(self, id: str, spec: Spec) -> Machine:
        half = self.shelf / f"{id}.half"
        if half.exists():
            raise GiveUp(f"{half.name} is in the way")
        half.mkdir()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (self.shelf / id).mkdir(exist_ok=True)
        half.rmdir()
        return Machine(id)


class LabelsTheGone(Right):
    """`label` makes a machine that is gone."""

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        (self.shelf / instance.id).mkdir(exist_ok=True)


class HangsOnTheGone(Right):
    """`label` waits for a machine that is gone."""

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        while not (self.shelf / instance.id).exists():
            time.sleep(0.1)


class AdoptsAnything(Right):
    """`adopt` does not check if the machine exists."""

    def adopt(self, id: str, handle: str, spec: Spec) -> None:
        (self.shelf / id).mkdir()
        (self.shelf / id / "handle").write_text(handle)


class RenamesTheAdopted(Right):
    """`adopt` returns another handle than that of the machine."""

    def adopt(self, id: str, handle: str, spec: Spec) -> Any:
        super().adopt(id, handle, spec)
        return f"on the shelf: {id}"


class TakesAnything(Right):
    """`validate` accepts all properties."""

    def validate(self, properties: Raw | None) -> None:
        """Accept all properties."""


@contextmanager
def _stuck(machine: Path) -> Iterator[None]:
    (machine / "stuck").touch()
    yield
    (machine / "stuck").unlink(missing_ok=True)


class Contract(ProviderContract):
    """The contract for one of these providers."""

    provider_class: ClassVar[type[Provider]]

    def provider(self, folder: Path) -> Provider:
        return self.provider_class("contract", folder)

    def stuck(self, provider: Provider, id: str) -> AbstractContextManager[None] | None:
        shelf = getattr(provider, "shelf", None)
        return _stuck(shelf / id) if shelf and (shelf / id).exists() else None

    def stranger(self, provider: Provider) -> str | None:
        if type(provider).observe is not Right.observe:
            return None
        (provider.folder / "it").mkdir()
        return "on the floor: it"


WRONG = [
    MakesASecond, OneForAll, MissesTheGone, DestroysTheFirst, IsSilentOnStuck, ShowsAll, Forgets, HasTenHands, Revives,
    LeavesHalf, LabelsTheGone, HangsOnTheGone, AdoptsAnything, RenamesTheAdopted, TakesAnything,
]  # fmt: skip
for wrong in (Right, *WRONG):
    globals()[f"Test{wrong.__name__}"] = type(f"Test{wrong.__name__}", (Contract,), {"provider_class": wrong})
TestHangsOnTheGone.patience = 5  # type: ignore[name-defined]  # noqa: F821 - set above
