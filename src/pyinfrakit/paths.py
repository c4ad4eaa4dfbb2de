"""Folders and names: how InfraKit's programs find each other, and which files root may trust."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pyinfrakit.errors import CannotStart

MAX_SOCKET_PATH = 103
"""Longest path of a unix socket, in bytes: 107 on Linux, 103 on macOS. Names should work on both."""


def home() -> Path:
    """Return InfraKit's home folder."""
    return Path(os.environ.get("INFRAKIT_HOME") or Path.home() / ".infrakit")


def plugins() -> Path:
    """Return the folder of sockets, as InfraKit's own programs find it."""
    return Path(os.environ.get("INFRAKIT_PLUGINS_DIR") or home() / "plugins")


def check_name(name: str) -> str:
    """Return *name*, or raise `CannotStart` if InfraKit or a file system would misread it as a file name."""
    if not name or name.startswith(".") or "/" in name or name.endswith((".listen", ".pid")) or not name.isprintable():
        raise CannotStart(f"name {name!r}: expected a file name that does not start with a dot, such as rack1")
    return name


def resolve(target: str, directory: Path) -> tuple[Path, str]:
    """Return the socket and the sub-type that a user means by *target*; the sub-type may be empty.

    A target is a name, ``name/sub-type``, or a path that starts with a slash or a dot. Raise
    `CannotStart` if it is none of these.
    """
    if target.startswith(("/", ".")):
        return Path(target), ""
    name, _, sub_type = target.partition("/")
    return directory / check_name(name), sub_type


def make_folder(folder: Path) -> None:
    """Make a folder for this user alone, unless it exists. Raise `CannotStart`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"folder {folder}: {error.strerror}") from None


def make_private(folder: Path) -> None:
    """Make a folder that nobody else can look into, or raise `CannotStart` if the one there is not private.

    As root, files in such a folder decide which processes get signals and which socket is served.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise CannotStart(f"folder {folder}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise CannotStart(f"folder {folder}: expected a folder of this user with mode 0700; remove it, or fix its mode")


def check_trusted(path: Path) -> None:
    """Raise `CannotStart` if this is root and another user can change the file at *path*.

    That takes more than the file's mode. Anyone who can write to a folder on the way can replace the file,
    and the owner of a link can redirect it. Sticky folders, such as /tmp, are the exception: others can add
    files there, but can neither rename nor remove root's. They can't have been there first, because
    everything on the way has to be root's.
    """
    if os.geteuid() != 0:
        return
    for each in _steps(path):
        if problem := _distrust(each.lstat()):
            raise CannotStart(f"{path}: {each} {problem}; files that root loads must be writable by root only")


def _distrust(status: os.stat_result) -> str:
    if status.st_uid != 0:
        return f"belongs to user {status.st_uid}"
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if stat.S_ISLNK(status.st_mode) or is_sticky or not status.st_mode & 0o022:
        return ""
    return f"may be written by others (mode {stat.S_IMODE(status.st_mode):04o})"


def _steps(path: Path) -> Iterator[Path]:
    """Yield every folder and link on the way to *path*, through the links, and *path* itself, which exists."""
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
