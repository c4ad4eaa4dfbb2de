"""Logical instances, which exist in the state file only, as in the C demo."""

from collections.abc import Iterable, Sequence

from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec


class File(Provider):
    """Instances that exist from their record to their destruction. They never break."""

    example = {"note": "anything at all"}
    certain = True

    async def start(self) -> None:
        self._machines = {record.id: Machine(record.id, record.handle) for record in self.known}

    async def provision(self, id: str, spec: Spec) -> Machine:
        return self._machines.setdefault(id, Machine(id))

    async def destroy(self, instances: Sequence[Record], reason: str) -> None:
        for instance in instances:
            self._machines.pop(instance.id, None)

    async def observe(self) -> Iterable[Machine]:
        return list(self._machines.values())

    async def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        return self._machines.setdefault(id, Machine(id, handle))
