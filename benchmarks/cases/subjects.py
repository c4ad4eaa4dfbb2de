"""The subjects whose rates are compared: plugins, constant replies, and the disk."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from benchmarks.cases.workspace import Workspace
from benchmarks.load import calls
from benchmarks.load.calls import Operation, build_changes, build_describes, build_provisions
from benchmarks.load.generator import Generator, Load
from benchmarks.report.comparison import Subject, Trial
from benchmarks.servers.fleet import Fleet
from benchmarks.servers.process import Daemon, Server
from benchmarks.servers.stack import measure_append_rate


class Plugin:
    """A server with instances: the daemon, or the C demo's method. It destroys all instances that it provisioned.

    *settle* waits until destroyed instances are gone; None if a destroy has no further work.
    """

    def __init__(self, load: Load, fleet: Fleet, batch: int, settle: Callable[[], None] | None = None) -> None:
        self._load = load
        self._fleet = fleet
        self._batch = batch
        self._settle = settle
        self._describes = build_describes(fleet)
        self._new_ids: list[str] = []

    def __call__(self, operation: Operation) -> float:
        match operation:
            case Operation.PROVISION:
                return self._provision()
            case Operation.LABEL:
                return self._label()
            case Operation.DESTROY:
                return self._destroy()
        return self._load.run(self._describes[operation]).rate

    def _provision(self) -> float:
        result = self._load.run(list(build_provisions(self._batch)), self._batch)
        self._new_ids += result.ids
        return result.rate

    def _label(self) -> float:
        ids = random.choices(self._fleet.ids or self._new_ids, k=self._batch)
        return self._load.run([calls.label(id) for id in ids], self._batch).rate

    def _destroy(self) -> float:
        requests = [calls.destroy(id) for id in self._new_ids]
        result = self._load.run(requests, len(requests))
        # Each round starts with the same number of instances: the rest is destroyed outside the measured time.
        self._load.send_all(requests[result.count :])
        if self._settle is not None:
            self._settle()
        self._new_ids.clear()
        return result.rate


class ConstantReply:
    """A server of constant replies, which are as long as the daemon's replies to the same requests."""

    def __init__(
        self, load: Load, requests: Mapping[Operation, Sequence[bytes]], lengths: Mapping[Operation, int]
    ) -> None:
        self._load = load
        self._requests = {
            operation: calls.set_reply_length(lengths[operation], each) for operation, each in requests.items()
        }

    def __call__(self, operation: Operation) -> float | None:
        return self._load.run(self._requests[operation]).rate if operation in self._requests else None


class Disk:
    """The disk's durable appends, which limit the rate of provisions."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds

    def __call__(self, operation: Operation) -> float | None:
        return measure_append_rate(self._folder, self._seconds) if operation is Operation.PROVISION else None


def measure_describe_lengths(generator: Generator, daemon: Daemon) -> Mapping[Operation, int]:
    """Return the bytes of the daemon's replies when it describes all instances and a group."""
    load = Load(generator, daemon)
    return {
        operation: load.run(requests[:1], 1).received for operation, requests in build_describes(daemon.fleet).items()
    }


def measure_change_lengths(generator: Generator, daemon: Daemon) -> Mapping[Operation, int]:
    """Return the bytes of the daemon's replies to a provision, a label, and a destroy."""
    load = Load(generator, daemon)
    provision = load.run(list(build_provisions(1)), 1)
    id = provision.ids[0]
    label = load.run([calls.label(id)], 1)
    destroy = load.run([calls.destroy(id)], 1)
    daemon.settle()
    return {
        Operation.PROVISION: provision.received,
        Operation.LABEL: label.received,
        Operation.DESTROY: destroy.received,
    }


class Testbed:
    """A daemon of each size, its baselines, and a load generator, all of which run while this context is open."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._scale = workspace.scale
        self._cleanup = ExitStack()
        self._generator = Generator()
        self._constant = workspace.create_constant()
        self._synced = workspace.create_synced()
        sizes = {*self._scale.sizes, self._scale.few}
        self._daemons: Mapping[int, Daemon] = {size: workspace.create_daemon(size) for size in sizes}
        self._demo = workspace.create_demo()
        self._demo_states = {size: workspace.copy_state(size) for size in self._scale.sizes}

    def __enter__(self) -> Self:
        servers: Sequence[Server] = (self._constant, self._synced, self._demo, *self._daemons.values())
        with ExitStack() as cleanup:
            cleanup.enter_context(self._generator)
            for server in servers:
                cleanup.push(server)
                server.start()
            for server in servers:
                server.wait()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleanup.close()

    def build_describe_trials(self, connections: int) -> Mapping[Subject, Trial]:
        """Return the trials of describes. Each daemon has its own constant reply, as their replies differ in length."""
        load = self._build_load(self._constant, connections)
        constants: Mapping[Subject, Trial] = {
            Subject("constant", size): ConstantReply(
                load, build_describes(daemon.fleet), measure_describe_lengths(self._generator, daemon)
            )
            for size, daemon in self._daemons.items()
        }
        return {**self._plugin_trials(connections), **constants}

    def build_change_trials(self, connections: int) -> Mapping[Subject, Trial]:
        """Return the trials of changes. The daemons share one constant reply, as their replies have the same lengths."""
        requests = build_changes(self._batch_size(connections))
        provisions = {Operation.PROVISION: requests[Operation.PROVISION]}
        lengths = measure_change_lengths(self._generator, self._daemons[0])
        return {
            **self._plugin_trials(connections),
            Subject("constant"): ConstantReply(self._build_load(self._constant, connections), requests, lengths),
            Subject("synced"): ConstantReply(self._build_load(self._synced, connections), provisions, lengths),
            Subject("disk"): Disk(self._workspace.folder, self._scale.round_seconds),
        }

    def _plugin_trials(self, connections: int) -> Mapping[Subject, Trial]:
        batch = self._batch_size(connections)
        trials: dict[Subject, Trial] = {
            Subject("daemon", size): Plugin(self._build_load(daemon, connections), daemon.fleet, batch, daemon.settle)
            for size, daemon in self._daemons.items()
        }
        # The C demo handles one call after the other, so more connections would only queue.
        if connections == 1:
            for size, state in self._demo_states.items():
                load = replace(self._build_load(self._demo, 1), path=f"/{state.name}")
                trials[Subject("demo", size)] = Plugin(load, self._workspace.fleet(size), batch)
        return trials

    def _batch_size(self, connections: int) -> int:
        return self._scale.serial_batch if connections == 1 else self._scale.parallel_batch

    def _build_load(self, server: Server, connections: int) -> Load:
        return Load(self._generator, server, connections, self._scale.round_seconds)
