"""A daemon with the provider `process` that dies at one step: `python dying_process.py STEP --name NAME --mark MARK`."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence

import dying
from dying import die_at
from pyinfrakit.errors import TryAgain
from pyinfrakit.provider import Machine
from pyinfrakit.providers.process.place import Place
from pyinfrakit.providers.process.provider import Process, Settings
from pyinfrakit.providers.process.starting import Work
from pyinfrakit.record import Record, Spec

USER = "nobody"

INSIDE_PROVISION = ("before the start", "after the start")
INSIDE_DESTROY = ("with all ended", "after the removal")


def die_later(step: str) -> None:
    threading.Timer(0.2, die_at, [step]).start()


class DyingProcess(Process):
    def provision(self, id: str, spec: Spec) -> Machine:
        die_at("provision: before the call")
        die_later("provision: in the call")
        machine = super().provision(id, spec)
        die_at("provision: after the call")
        return machine

    def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, TryAgain]:
        die_at("destroy: before the call")
        die_later("destroy: in the call")
        left = super().destroy(instances, reason)
        die_at("destroy: after the call")
        return left

    def _start(self, place: Place, lock: int, work: Work) -> None:
        die_at("provision: before the start")
        super()._start(place, lock, work)
        die_at("provision: after the start")

    def _ended(self, places: Iterable[Place], gone: Callable[[Place], bool]) -> dict[str, TryAgain]:
        def dying_gone(place: Place) -> bool:
            die_at("destroy: with all ended")
            done = gone(place)
            die_at("destroy: after the removal")
            return done

        return super()._ended(places, dying_gone)


if __name__ == "__main__":
    dying.main(DyingProcess, Settings(user=USER if os.geteuid() == 0 else None, grace=1))
