"""TCP ports for instances. An instance has its ports from before its start until its folder is gone."""

import contextlib
import os
import socket
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from pyinfrakit.errors import NoCapacity, TryAgain
from pyinfrakit.locks import acquire
from pyinfrakit.providers.process.folder import METADATA, InstanceFolder, Metadata
from pyinfrakit.providers.process.proc import pauses
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

LOCK_TIME = 5.0
"""Seconds to wait while another daemon assigns ports."""

ADDRESS = "127.0.0.1"
"""The address of all instances, which they listen on."""


class Ports:
    """The ports in *numbers*, for instances whose folders are in *path*.

    Daemons with folders ``NAME.processes`` beside each other never assign one port to two instances.
    """

    def __init__(self, numbers: range, path: Path) -> None:
        self._numbers = numbers
        self._path = path
        self._assigned: dict[str, Sequence[int]] = {}
        """By instance folder, as of the last look: ports never change, so that no file with ports is read twice."""

    def assign(self, folder: InstanceFolder, metadata: Metadata, names: Sequence[str]) -> Metadata:
        """Return *metadata* with a free port for each name, and write it; raise `NoCapacity`.

        Another program may take a port before the instance does. Then the instance can't listen, and says so itself.
        """
        with self._lock():
            self._assigned = {path: self._assigned.get(path) or _read_ports(path) for path in self._list_folders()}
            taken = {port for ports in self._assigned.values() for port in ports}
            free = (port for port in self._order(folder.id) if port not in taken and _is_free(port))
            ports = dict(zip(names, free, strict=False))
            if len(ports) < len(names):
                numbers = f"{self._numbers[0]}-{self._numbers[-1]}"
                raise NoCapacity(f"no free port for {names[len(ports)]}: all of {numbers} are assigned or in use")
            assigned = replace(metadata, ports=ports)
            folder.write_metadata(assigned)
            return assigned

    def _order(self, id: str) -> Iterable[int]:
        """Return all ports, from another one on for each instance.

        A port that has just become free is thus rarely assigned at once: clients may still look for its old owner.
        """
        start = zlib.crc32(id.encode()) % len(self._numbers)
        return (*self._numbers[start:], *self._numbers[:start])

    def _list_folders(self) -> Iterator[str]:
        """Yield the paths of all instances' folders, also those of this user's daemons beside this one."""
        for path in {self._path, *self._path.parent.glob("*.processes")}:
            with contextlib.suppress(OSError):  # it is gone
                if path.lstat().st_uid == os.geteuid():
                    yield from (f"{path}/{name}" for name in os.listdir(path) if not name.startswith("."))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        fd = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._wait_for(fd)
            yield
        finally:
            os.close(fd)

    def _wait_for(self, fd: int) -> None:
        """Lock the folder. Another user may be able to do so too, and to keep it: then raise `TryAgain`."""
        for pause in pauses(LOCK_TIME, longest=0.05):
            if acquire(fd):
                return
            time.sleep(pause)
        raise TryAgain(f"folder {self._path.parent}: another program has locked it for {LOCK_TIME:g} s")


def name_variables(ports: Mapping[str, object]) -> dict[str, str]:
    """Return the environment variables that hold an instance's ports; ``PORT`` is the first one."""
    variables = {f"PORT_{name.upper()}": str(port) for name, port in ports.items()}
    return {"PORT": next(iter(variables.values())), **variables} if variables else {}


def _read_ports(folder: str) -> Sequence[int]:
    """Return the ports of an instance; none if they can't be read, because they are still seen if they are in use."""
    try:
        return tuple(decode(Path(folder, METADATA).read_bytes(), Metadata).ports.values())
    except (OSError, NotJSON, WrongShape):
        return ()


def _is_free(port: int) -> bool:
    """Return whether a process of this user could listen on a port, on any address."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
