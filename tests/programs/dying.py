"""A daemon that dies at one step of its work: `python dying.py STEP --name NAME`.

It has the parts of the real command, except for subclasses of the store, the provider and the plugin that kill
their own process at the step.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from pyinfrakit import logs, paths
from pyinfrakit.config import ProviderChoice
from pyinfrakit.daemon.build import run_daemon
from pyinfrakit.errors import TryAgain
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.providers.simulator import Simulator
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store import Store
from pyinfrakit.store.file import FileStore, default_path
from pyinfrakit.store.records import Change, Put

STEPS = (
    "before the record",
    "after the record",
    "before the call",
    "in the call",
    "after the call",
    "before the reply",
)


def die_at(step: str) -> None:
    if step == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)


def operation(changes: Iterable[Change]) -> str:
    """Return the operation that changes record: "provision", "destroy", or nothing."""
    names = {State.PROVISIONING: "provision", State.DESTROYING: "destroy"}
    return "".join(names.get(change.record.state, "") for change in changes if isinstance(change, Put))


class DyingStore(FileStore):
    def commit(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        doing = operation(changes)
        die_at(f"{doing}: before the record")
        written = super().commit(*changes, urgent=urgent)
        written.add_done_callback(lambda _: die_at(f"{doing}: after the record"))
        return written


class DyingSimulator(Simulator):
    async def provision(self, id: str, spec: Spec) -> Machine:
        die_at("provision: before the call")
        asyncio.get_running_loop().call_later(0.2, die_at, "provision: in the call")
        machine = await super().provision(id, spec)
        die_at("provision: after the call")
        return machine

    async def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, TryAgain]:
        die_at("destroy: before the call")
        asyncio.get_running_loop().call_later(0.2, die_at, "destroy: in the call")
        stuck = await super().destroy(instances, reason)
        die_at("destroy: after the call")
        return stuck


class DyingPlugin(Plugin):
    async def provision(self, spec: Spec) -> str:
        id = await super().provision(spec)
        die_at("provision: before the reply")
        return id

    async def destroy(self, id: str, reason: str) -> None:
        await super().destroy(id, reason)
        die_at("destroy: before the reply")


def open_dying(url: str | None, name: str, mark: str | None, sub_types: Sequence[str]) -> Store:
    path = default_path(name)
    paths.make_folder(path.parent)
    return DyingStore(path, name, mark, sub_types)


def main(provider: type[Provider] = DyingSimulator, options: Any = None) -> None:
    name = sys.argv[3]
    mark = sys.argv[5] if len(sys.argv) > 5 else None
    logs.configure(5)
    providers = {"": ProviderChoice(provider, options).make}
    make_plugin = partial(DyingPlugin, interval=0.1)
    run_daemon(name, providers, paths.plugins(), None, mark, make_plugin, open_dying)


if __name__ == "__main__":
    main()
