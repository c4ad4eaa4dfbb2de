"""Your machines: fill in the three methods with numbered comments.

Until then, each machine is a small file in the folder `machines`, beside the plugin's state file. If you change a file
to `"works": false`, the plugin sets its instance aside. If you remove a file, its machine is gone.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated

from msgspec import Meta, Struct
from pyinfrakit.provider import Machine, Provider, Record, Spec


class Size(Struct, forbid_unknown_fields=True):
    """The properties of a spec. The plugin refuses all others, with an error that names the field."""

    cpus: Annotated[int, Meta(ge=1, le=64)] = 1


class YourMachines(Provider):
    """Machines that outlive the plugin. The methods run in several threads at once."""

    Properties = Size
    example = {"cpus": 2}

    def start(self) -> None:
        self.machines = self.folder / "machines"
        self.machines.mkdir(parents=True, exist_ok=True)

    def provision(self, id: str, spec: Spec) -> str:
        # 1. Make a machine, put `self.mark` and the ID on it, and return its handle. After a crash, the plugin calls this
        #    again for the same ID: return its machine. Raise `GiveUp` if the machine can never be made.
        size: Size = self.parse(spec.properties)
        file = self.machines / f"{id}.json"
        if not file.exists():
            draft = file.with_suffix(".draft")
            draft.write_text(json.dumps({"mark": self.mark, "cpus": size.cpus, "works": True}))
            draft.rename(file)  # a crash leaves a whole file, or none
        return file.name

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        # 2. Destroy these machines. Succeed if a machine is already gone, or never existed.
        for instance in instances:
            (self.machines / f"{instance.id}.json").unlink(missing_ok=True)

    def observe(self) -> Iterator[Machine]:
        # 3. Return every machine with this plugin's mark, and whether it works. Raise if you can't see all of them:
        #    the plugin takes a missing machine for gone.
        for file in self.machines.glob("*.json"):
            with suppress(FileNotFoundError):  # another call destroyed it
                machine = json.loads(file.read_text())
                if machine["mark"] == self.mark:
                    works = machine["works"]
                    yield Machine(file.stem, file.name, works, "" if works else "its file says so")
