"""A daemon with the provider `process` that dies at one step: `python dying_process.py STEP --name NAME --mark MARK`."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence

import dying
from dying import die_at
from pyinfrakit.errors import TryAgain
from pyinfrakit.provider import Machine
from pyinfrakit.providers.process.folder import InstanceFolder
from pyinfrakit.providers.process.options import Options
from pyinfrakit.providers.process.provider import Process
from pyinfrakit.providers.process.shell import Launch
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

    def _start(self, folder: InstanceFolder, lock: int, launch: Launch) -> None:
        die_at("provision: before the start")
        super()._start(folder, lock, launch)
        die_at("provision: after the start")

    def _end(self, folders: Iterable[InstanceFolder], finish: Callable[[InstanceFolder], bool]) -> dict[str, TryAgain]:
        def finish_or_die(folder: InstanceFolder) -> bool:
            die_at("destroy: with all ended")
            is_done = finish(folder)
            die_at("destroy: after the removal")
            return is_done

        return super()._end(folders, finish_or_die)


if __name__ == "__main__":
    dying.main(DyingProcess, Options(user=USER if os.geteuid() == 0 else None, grace=1))
