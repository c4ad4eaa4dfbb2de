"""Where InfraKit's programs look for each other: a folder with a socket per plugin."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pyinfrakit.errors import CannotStart

MAX_SOCKET_PATH = 103
"""Bytes that a unix socket's path may have: 107 on Linux, 103 on macOS; names should work on both."""


def home(environment: Mapping[str, str] = os.environ) -> Path:
    """InfraKit's home folder."""
    return Path(environment.get("INFRAKIT_HOME") or Path.home() / ".infrakit")


def plugins(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of sockets, as InfraKit's own programs find it."""
    return Path(environment.get("INFRAKIT_PLUGINS_DIR") or home(environment) / "plugins")


def default_state(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the plugin *name* keeps its state unless told otherwise."""
    return home(environment) / "state" / f"{name}.json"


def make_folder(folder: Path) -> None:
    """Make a folder for this user alone, unless it is there; raise `CannotStart`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"folder {folder}: {error.strerror}") from None


def check_name(name: str) -> str:
    """Refuse names that InfraKit or a file system would take for something else; raise `CannotStart`."""
    if not name or name.startswith(".") or "/" in name or name.endswith((".listen", ".pid")) or not name.isprintable():
        raise CannotStart(f"name {name!r}: expected a file name that does not start with a dot, such as rack1")
    return name


def socket(target: str, directory: Path) -> tuple[Path, str]:
    """Give the socket, and the sub-type, that a user means by *target*: a name, ``name/type``, or a path with a ``/`` first.

    A path may also start with a dot. The sub-type is empty where none was named. Raise `CannotStart` for what is no name.
    """
    if target.startswith(("/", ".")):
        return Path(target), ""
    name, _, kind = target.partition("/")
    return directory / check_name(name), kind


# ==== Who may change a file: what root runs, or is told to run by, must be root's own.
OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check(path: Path) -> None:
    """Make sure, when this is root, that nobody else can change what is at *path*; raise `CannotStart`."""
    if os.geteuid() != 0:
        return
    for each in _way(path):
        if problem := _problem(each.lstat()):
            raise CannotStart(f"{path}: {each} {problem}; what root runs, or is set up by, must be root's alone to change")


def _problem(status: os.stat_result) -> str:
    if status.st_uid != 0:
        return f"belongs to user {status.st_uid}"
    if stat.S_ISLNK(status.st_mode) or not status.st_mode & OTHERS:
        return ""
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return ""
    return f"may be written by others (mode {stat.S_IMODE(status.st_mode):04o})"


def _way(path: Path) -> Iterator[Path]:
    """Give all that leads to *path*, which exists: folders and links, through the links, and itself."""
    here = Path("/")
    left = list(reversed(path.absolute().parts))
    while left:
        part = left.pop()
        if part == "..":
            here = here.parent
            continue
        step = here / part
        yield step
        if step.is_symlink():
            left.extend(reversed(step.readlink().parts))
        else:
            here = step
