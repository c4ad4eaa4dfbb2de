"""Open a state file: put together what is there, and see that it is as it should be before anything is added."""

import logging
import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from pyinfrakit.disk import Disk, unfinished
from pyinfrakit.errors import CannotStart
from pyinfrakit.logs import NOTICE
from pyinfrakit.record import Record
from pyinfrakit.store.file import document, recovery
from pyinfrakit.store.file.document import Content, Stamp
from pyinfrakit.store.file.recovery import Found, Pair, unfinished_journal
from pyinfrakit.store.file.writer import Writer

log = logging.getLogger(__name__)


def usable(path: Path) -> Path:
    """Resolve links, so that what they point to is replaced, not they. Raise `CannotStart`."""
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except FileNotFoundError:
        if not real.parent.is_dir():
            raise CannotStart(f"state file {path}: there is no folder {real.parent}") from None
        return real
    except OSError as error:
        raise CannotStart(f"state file {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise CannotStart(f"state file {path}: not a regular file")
    if not mode & 0o222 or not os.access(real, os.W_OK):
        raise CannotStart(f"state file {path}: read-only (mode {stat.S_IMODE(mode):04o})")
    return real


def opened(disk: Disk, path: Path, mark: str | None, types: Sequence[str]) -> tuple[Content, Writer]:
    """Give a state file's content, with a mark, and what writes to it from now on; *mark* replaces the file's.

    Raises `CannotStart`, also for a record that is of none of *types*, or OSError where it can't be written.
    """
    disk.sync_folder(path.parent)  # what an earlier process renamed just before it was killed may not be there for good
    pair = recovery.read(disk, path)
    found = recovery.assemble(pair)
    _check_types(path, found.content.records, types)
    if pair.journals:
        torn = f"; {found.torn} bytes at the end were never acknowledged" if found.torn else ""
        log.log(NOTICE, "state file %s: %d entries of its journal are replayed%s", path, found.replayed, torn)
    content = replace(found.content, mark=mark or found.content.mark or secrets.token_hex(8))
    stamp = found.stamp
    if stamp is None or pair.journals or content.mark != found.content.mark or not disk.is_private(path):
        stamp = _rewrite(disk, pair, found, content)
    for leftover in (unfinished(path), unfinished_journal(path)):
        disk.remove(leftover)
    return content, Writer(disk, path, secrets.token_hex(8), stamp.digest, found.sequence)


def _check_types(path: Path, records: Iterable[Record], types: Sequence[str]) -> None:
    """Raise `CannotStart` for a record that no plugin would look after."""
    stray = next((record for record in records if record.type not in types), None)
    if stray is None:
        return
    its = f"is of sub-type {stray.type!r}" if stray.type else "is of no sub-type"
    known = f"the sub-types {', '.join(types)}" if any(types) else "no sub-types"
    advice = "configure the plugin for it, or change the Type of its entry; the file was left untouched"
    raise CannotStart(f"state file {path}: instance {stray.id} {its}, and this plugin has {known}; {advice}")


def _rewrite(disk: Disk, pair: Pair, found: Found, content: Content) -> Stamp:
    """Write the state file anew, and remove its journals; give its stamp.

    It gets the journals' epoch: should a crash bring them back, they are known to be over. Journals that hold nothing new may
    be of another epoch; so they go first.
    """
    if not found.replayed:
        _remove_journals(disk, pair)
    data = b"".join(document.stamped(content, found.epoch or secrets.token_hex(8), found.sequence))
    disk.replace(pair.path, [data])
    if found.replayed:
        _remove_journals(disk, pair)
    stamp = document.stamp(data)
    assert stamp is not None
    return stamp


def _remove_journals(disk: Disk, pair: Pair) -> None:
    for path, _ in pair.journals:
        disk.remove(path)
    if pair.journals:
        disk.sync_folder(pair.path.parent)
