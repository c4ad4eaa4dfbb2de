"""Logical instances, which exist in the state file alone, as in the C demo."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pyinfrakit.instance import Record, Spec
from pyinfrakit.provider import Machine, Provider


class File(Provider):
    """An instance is there from the moment it is recorded until it is destroyed; it never breaks by itself."""

    example = {"note": "anything at all"}

    def __init__(self, name: str, folder: Path, options: Mapping[str, str]) -> None:
        super().__init__(name, folder, options)
        self._machines: dict[str, Machine] = {}

    async def start(self, mark: str, known: Iterable[Record]) -> None:
        self._machines = {record.id: Machine(record.id) for record in known}

    async def provision(self, id: str, spec: Spec) -> Machine:
        return self._machines.setdefault(id, Machine(id))

    async def destroy(self, record: Record, reason: str) -> None:
        self._machines.pop(record.id, None)

    async def observe(self) -> Iterable[Machine]:
        return list(self._machines.values())
