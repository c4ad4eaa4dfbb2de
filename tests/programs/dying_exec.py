"""A daemon with executables that kills itself at one step: `python dying_exec.py STEP --name NAME EXECUTABLE`."""

import sys
import threading
from collections.abc import Mapping, Sequence

import dying
from pyinfrakit.errors import TryAgain
from pyinfrakit.provider import Machine
from pyinfrakit.providers.exec import Exec, Options
from pyinfrakit.record import Record, Spec


class DyingExec(Exec):
    def provision(self, id: str, spec: Spec) -> Machine:
        dying.die_at("provision: before the call")
        threading.Timer(0.2, dying.die_at, ["provision: in the call"]).start()
        machine = super().provision(id, spec)
        dying.die_at("provision: after the call")
        return machine

    def destroy(self, instances: Sequence[Record], reason: str) -> Mapping[str, TryAgain]:
        dying.die_at("destroy: before the call")
        threading.Timer(0.2, dying.die_at, ["destroy: in the call"]).start()
        errors = super().destroy(instances, reason)
        dying.die_at("destroy: after the call")
        return errors


if __name__ == "__main__":
    dying.main(DyingExec, Options(command=sys.argv[4], environment="MACHINES"))
