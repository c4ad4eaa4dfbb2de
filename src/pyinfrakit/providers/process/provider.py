"""Local processes as instances. They outlive the daemon: a later one finds them again.

Each instance has a folder in ``NAME.processes`` (see `folder.py`) and a shell (see `shell.py`), which records how the
command ended, whether a daemon runs or not.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyinfrakit.errors import CannotStart, GiveUp, TryAgain
from pyinfrakit.paths import check_trusted, make_private
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.providers.process import proc, shell
from pyinfrakit.providers.process.cgroup import remove_empty_groups
from pyinfrakit.providers.process.folder import InstanceFolder, InstanceFolders, Life, Metadata
from pyinfrakit.providers.process.options import Options as ProcessOptions
from pyinfrakit.providers.process.options import Properties as ProcessProperties
from pyinfrakit.providers.process.options import find_account, parse_ports
from pyinfrakit.providers.process.ports import ADDRESS, Ports
from pyinfrakit.providers.process.proc import ProcessTable, pauses
from pyinfrakit.providers.process.shell import Launch
from pyinfrakit.providers.process.termination import Termination
from pyinfrakit.providers.process.watch import Watch
from pyinfrakit.record import Record, Spec


class Process(Provider):
    """Local processes."""

    Properties = ProcessProperties
    Options = ProcessOptions
    example = {"command": "sleep", "arguments": ["600"]}
    batch = 100
    certain = True
    options: ProcessOptions

    def __init__(self, name: str, folder: Path, options: ProcessOptions | None = None) -> None:
        super().__init__(name, folder, options)
        self._folders = InstanceFolders(Path(self.options.folder or folder / f"{name}.processes").absolute())
        self._children: set[int] = set()
        self._children_lock = threading.Lock()

    async def start(self) -> None:
        if not hasattr(os, "pidfd_open"):
            raise CannotStart("provider process: expected Linux 5.4 or newer")
        await asyncio.to_thread(self._prepare)
        self._watch = Watch(self.changed)

    async def stop(self) -> None:
        self._watch.stop()

    def _prepare(self) -> None:
        self._account = find_account(self.options.user)
        self._ports = Ports(parse_ports(self.options.ports), self._folders.path)
        self._boot, _ = proc.read_boot()
        make_private(self._folders.path)
        check_trusted(self._folders.path)
        remove_empty_groups(self.mark)
        self._folders.clean()
        self._check_folders()
        _close_on_exec()

    def _check_folders(self) -> None:
        """Raise `CannotStart` if the folders of instances are missing whose processes run: they are elsewhere, not gone."""
        missing = {record.id for record in self.known if not self._folders.has(record.id)}
        if missing and (running := missing & ProcessTable(self.mark, self._account.uid).ids):
            problem = f"folder {self._folders.path} lacks {min(running)}, which runs"
            raise CannotStart(f"{problem}: set the option folder to the folder of the instances")

    def provision(self, id: str, spec: Spec) -> Machine:
        properties: ProcessProperties = self.parse(spec.properties)
        with _disk_errors():
            folder, metadata = self._folders.make(id, Metadata(self.mark, spec.logical_id, dict(spec.tags)))
            if properties.ports and not metadata.ports:
                metadata = self._ports.assign(folder, metadata, properties.ports)
            launch = Launch(self._account, id, self.mark, properties, spec.init, metadata.ports)
            life = self._begin(folder, launch)
            if life.main is None:
                raise GiveUp(shell.describe_failure(folder, life.failure, launch))
            self._watch.add(id, life.shell, life.main)
            return self._describe(folder, metadata, life)

    def _begin(self, folder: InstanceFolder, launch: Launch) -> Life:
        """Start the shell, unless an earlier call did. Return the life once the command runs or can't."""
        has_started = False
        for pause in pauses(self.options.init_timeout, longest=0.02):
            with folder.lock() as lock:
                # The shell settles the life before it unlocks the file. An unlocked file without a command
                # therefore means that no shell is at work: none ever was, or it was killed.
                life = folder.read_life()
                if life.main is not None or life.failure:
                    return life
                if lock is not None and has_started:
                    raise TryAgain("the start was interrupted: somebody killed the shell, or the disk is full")
                if lock is not None:
                    self._start(folder, lock, launch)
                    has_started = True
            time.sleep(pause)
        raise GiveUp(f"Init timed out after {self.options.init_timeout:g} s")

    def _start(self, folder: InstanceFolder, lock: int, launch: Launch) -> None:
        """Start the shell. First end all processes of an earlier start that was interrupted."""
        if folder.read_life().boot and (errors := self._end([folder], lambda folder: True)):
            raise errors[folder.id]
        with self._children_lock:
            self._children.add(shell.start(folder, lock, launch))

    def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, TryAgain]:
        for each in instances:
            self._watch.forget(each.id)
        folders = [self._folders.get(each.id, self.mark) for each in instances]
        errors = self._end([folder for folder in folders if folder is not None], _remove)
        self._reap()
        return errors

    def _end(self, folders: Iterable[InstanceFolder], finish: Callable[[InstanceFolder], bool]) -> dict[str, TryAgain]:
        """End all processes of instances. Return errors by ID. *finish* is called for an instance without processes."""
        with _disk_errors():
            return Termination(self.mark, self._account, self._boot, self.options.grace).end(folders, finish)

    def observe(self) -> list[Machine]:
        self._reap()
        end = time.monotonic() + 0.2  # for shells to record how their commands ended
        with _disk_errors():
            pairs = self._folders.find(self.mark)
            machines = [(folder, self._observe(folder, metadata, end)) for folder, metadata in pairs]
            # A destroy may have removed a folder while it was read.
            return [machine for folder, machine in machines if folder.exists()]

    def _observe(self, folder: InstanceFolder, metadata: Metadata, end: float) -> Machine:
        folder.trim(self.options.log_size)
        life = folder.read_life()
        # The shell is at work, but not the command: the shell has yet to start it, or to record its status.
        while life.status is None and life.find_problem(self._boot) and folder.is_busy():
            if life.main is None:
                return Machine(folder.id, None, False, "starting", None, metadata.tags, metadata.logical_id)
            # The shell itself may be stopped; and all instances of one observation share this time.
            if time.monotonic() >= end:
                break
            time.sleep(0.01)
            life = folder.read_life()
        machine = self._describe(folder, metadata, life)
        if machine.functional:
            # The shell first: when it ends, the exit status is on file. Without it, the command's own end has to do.
            self._watch.add(folder.id, life.shell, life.main)
        return machine

    def _describe(self, folder: InstanceFolder, metadata: Metadata, life: Life) -> Machine:
        problem = life.find_problem(self._boot)
        handle, properties = None, dict[str, Any]()
        if life.main is not None:
            handle = str(life.main.pid)
            started = datetime.fromtimestamp(life.boot_time + life.main.start // proc.TICKS, UTC)
            text = started.isoformat().replace("+00:00", "Z")
            properties = {"pid": life.main.pid, "started": text, "status": problem or "running", "address": ADDRESS}
            if metadata.ports:
                properties |= {"port": next(iter(metadata.ports.values())), "ports": metadata.ports}
        return Machine(folder.id, handle, not problem, problem, properties, metadata.tags, metadata.logical_id)

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        with _disk_errors():
            if (folder := self._folders.get(instance.id, self.mark)) is not None:
                folder.label(tags)

    def _reap(self) -> None:
        """Wait for the shells of this daemon that have ended. They stay zombies until then."""
        with self._children_lock:
            for pid in list(self._children):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0] == 0:
                        continue
                self._children.remove(pid)


def _remove(folder: InstanceFolder) -> bool:
    """Remove a folder, unless somebody starts a process there right now. Return whether it is gone."""
    try:
        with folder.lock() as lock:
            if lock is not None:
                if (group := folder.read_group()) is not None:
                    group.remove()
                folder.remove()
            return lock is not None
    except OSError:
        return not folder.exists()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise `TryAgain` with the path and the problem, such as a full disk, for an OSError."""
    try:
        yield
    except OSError as error:
        raise TryAgain(f"{error.filename or 'the provider'}: {error.strerror}") from None


def _close_on_exec() -> None:
    """Keep processes from inheriting the daemon's own inherited files. Python protects all others."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the descriptor of this very listing is closed by now
                os.set_inheritable(int(name), False)
