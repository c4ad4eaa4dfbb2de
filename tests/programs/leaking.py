"""A provider that shows the text in the file ``leak`` beside the state file, at the place that the file ``way`` names."""

import logging
from collections.abc import Sequence
from threading import Thread
from typing import Any

from msgspec import Raw, Struct

from pyinfrakit.provider import GiveUp, Machine, Provider, Record, Secret, Spec, TryAgain

log = logging.getLogger("leaking")


class Properties(Struct):
    password: Secret


class Leaking(Provider):
    Properties = Properties
    example = {"password": "x"}

    def start(self) -> None:
        self.machines: dict[str, str] = {}

    def validate(self, properties: Raw | None) -> None:
        super().validate(properties)
        if self._way == "refuse":
            raise ValueError(self._leak)

    def provision(self, id: str, spec: Spec) -> Any:
        leak = self._leak
        self.machines[id] = leak
        match self._way:
            case "raise":
                raise ValueError(leak)
            case "give up":
                try:
                    raise ValueError(leak)
                except ValueError:
                    raise GiveUp(f"no: {leak}") from None
            case "return nonsense":
                return {"password": leak, leak: [leak]}
            case "handle":
                return f"at {leak}"
            case "thread":
                Thread(target=self._work).start()
            case "log":
                log.warning("logging in with %s", leak)
                log.error(f"{leak}\n2026-11-25 00:00:00,000 CRITICAL forged")
                log.error("wrong %d", leak)
        return Machine(id, properties={"note": f"see {leak}", leak: {"deep": [1, leak]}})

    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        if self._way == "can't destroy":
            return {instance.id: TryAgain(self._leak) for instance in instances}
        for instance in instances:
            self.machines.pop(instance.id, None)
        return None

    def observe(self) -> Any:
        if self._way == "can't observe":
            raise RuntimeError(self._leak)
        works = self._way != "broken"
        machines = self.machines.items()
        return [Machine(id, f"at {leak}", works, "" if works else leak, {leak: f"({leak})"}) for id, leak in machines]

    def _work(self) -> None:
        log.warning("a thread logs in with %s", self._leak)
        raise ValueError(self._leak)

    @property
    def _way(self) -> str:
        return (self.folder / "way").read_text()

    @property
    def _leak(self) -> str:
        return (self.folder / "leak").read_text()
