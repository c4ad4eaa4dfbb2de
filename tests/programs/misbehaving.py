"""A provider that obeys the file ``mode`` beside the state file: behave, raise, hang, return nonsense, or lie."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyinfrakit.provider import Machine, Provider, Record, Spec


class Misbehaving(Provider):
    def provision(self, id: str, spec: Spec) -> Any:
        return self._answer(lambda: self._machine(id).touch())

    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        return self._answer(lambda: self._remove(instances))

    def observe(self) -> Any:
        return self._answer(lambda: [Machine(path.stem) for path in self.folder.glob("*.machine")])

    def _remove(self, instances: Sequence[Record]) -> None:
        for instance in instances:
            self._machine(instance.id).unlink(missing_ok=True)

    def _machine(self, id: str) -> Path:
        return self.folder / f"{id}.machine"

    def _answer(self, behave: Any) -> Any:
        match (self.folder / "mode").read_text():
            case "raise":
                raise RuntimeError("the fan stands still")
            case "exit":
                raise SystemExit(9)
            case "hang":
                threading.Event().wait()
            case "stay busy":
                while True:
                    time.sleep(0)
            case "talk nonsense":
                return [object(), 3.5]
            case "lie":
                return []
        return behave()
