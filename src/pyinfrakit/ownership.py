"""Who may change a file: what root runs, or is told to run by, must be root's own.

That takes more than the file's mode. Whoever may write to a folder on the way can put another one in its place, and whoever
owns a link can have it lead elsewhere. A sticky folder, such as /tmp, is the exception: there others can add, but can neither
rename nor remove what is root's; and as what is on the way must be root's, all the way, they can't have been there first.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pyinfrakit.errors import CannotStart

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
