"""Control groups, version 2: one for each instance, if this process may make them. The kernel kills one as a whole."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class ControlGroup:
    """The control group of an instance, and those that its processes made within. It may be gone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> int:
        """Return a descriptor by which a process enters the group: it writes ``0``."""
        return os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def list_pids(self) -> set[int]:
        """Return the processes in the group, zombies excluded."""
        pids = set[int]()
        for folder in self._walk():
            with suppress(OSError):  # it is gone, or holds single threads of processes that are listed above it
                pids |= {int(line) for line in (folder / "cgroup.procs").read_text().split()}
        return pids

    def is_empty(self) -> bool:
        """Return whether no process is left, also in groups within."""
        try:
            return "populated 0" in (self.path / "cgroup.events").read_text().splitlines()
        except FileNotFoundError:
            return True

    def kill(self) -> None:
        """Kill all processes at once, also those that start meanwhile."""
        with suppress(FileNotFoundError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Remove the group. Raise OSError if a process is left."""
        for folder in reversed(list(self._walk())):
            folder.rmdir()

    def _walk(self) -> Iterator[Path]:
        """Yield the folders of the group, and of those within, parents first."""
        for folder, _, _ in os.walk(self.path):
            yield Path(folder)


def make_group(mark: str, id: str) -> ControlGroup | None:
    """Return an instance's control group within this process's own; None if there can't be one, or it can't be killed.

    Within its own, limits of this process and of all instances together stay in force.
    """
    parent = _find_own()
    if parent is None or not os.access(parent / "cgroup.procs", os.W_OK):  # else no process may leave for the new one
        return None
    group = ControlGroup(parent / f"pyinfrakit-{id}-{_shorten(mark)}")
    try:
        group.path.mkdir(exist_ok=True)
        if (group.path / "cgroup.kill").exists() and (group.path / "cgroup.type").read_text() == "domain\n":
            return group
        group.path.rmdir()
    except OSError:
        pass
    return None


def remove_empty_groups(mark: str) -> None:
    """Remove the groups of instances that were lost, not destroyed, and have no process."""
    if parent := _find_own():
        for path in parent.glob(f"pyinfrakit-*-{_shorten(mark)}"):
            with suppress(OSError):  # it has a process
                ControlGroup(path).remove()


def _shorten(mark: str) -> str:
    return hashlib.sha256(mark.encode()).hexdigest()[:16]


def _find_own() -> Path | None:
    """Return the folder of this process's control group; None if it has none, or can't see it."""
    try:
        mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except FileNotFoundError:  # the kernel has no control groups
        return None
    mount = next((fields for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"), None)
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if mount is None or own is None:
        return None
    root, folder = mount[3], mount[4]
    try:
        return Path(folder) / Path(own).relative_to(root)
    except ValueError:  # the mount shows another part of the tree
        return None
