"""Your machines: three places to fill in, marked with numbers.

As it stands, a machine is a small file in the folder `machines`, beside the plugin's state file. Change one to
`"works": false` and the plugin sets it aside; remove one and it is gone.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated

from msgspec import Meta, Struct
from pyinfrakit.provider import Machine, Provider, Record, Spec


class Size(Struct, forbid_unknown_fields=True):
    """What a spec's properties may be. All else is refused, with an error that names the field."""

    cpus: Annotated[int, Meta(ge=1, le=64)] = 1


class YourMachines(Provider):
    """Machines that outlive the plugin. The methods run in threads, several at once."""

    Properties = Size
    example = {"cpus": 2}

    def start(self) -> None:
        self.machines = self.folder / "machines"
        self.machines.mkdir(parents=True, exist_ok=True)

    def provision(self, id: str, spec: Spec) -> str:
        # 1. Make a machine, with `self.mark` and the ID on it, and return what it is called. After a crash this is called
        #    again for the same ID: give the machine that it has. Raise `GiveUp` where it can't be made, ever.
        size: Size = self.parse(spec.properties)
        file = self.machines / f"{id}.json"
        if not file.exists():
            draft = file.with_suffix(".draft")
            draft.write_text(json.dumps({"mark": self.mark, "cpus": size.cpus, "works": True}))
            draft.rename(file)  # there as a whole, or not at all
        return file.name

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        # 2. Destroy these machines. One that is gone already, or never was, is fine.
        for instance in instances:
            (self.machines / f"{instance.id}.json").unlink(missing_ok=True)

    def observe(self) -> Iterator[Machine]:
        # 3. Give every machine with this plugin's mark, and whether it works. Raise where you can't tell for all of them:
        #    what is left out is taken to be gone.
        for file in self.machines.glob("*.json"):
            with suppress(FileNotFoundError):  # destroyed since
                machine = json.loads(file.read_text())
                if machine["mark"] == self.mark:
                    works = machine["works"]
                    yield Machine(file.stem, file.name, works, "" if works else "its file says so")
