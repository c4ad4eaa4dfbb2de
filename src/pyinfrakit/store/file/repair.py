"""Put what can be saved of a damaged state file in its place, and keep what was there."""

import contextlib
import itertools
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart
from pyinfrakit.store.file import document, journal
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.file.journal import Entry
from pyinfrakit.store.file.recovery import Pair


def replace(disk: Disk, pair: Pair, content: Content) -> Sequence[Path]:
    """Make *content* the state file, and give where its old files are kept now. Raise `CannotStart` where that fails.

    Wherever this is broken off, either the old files are in their place or the new one is. Journals that are then still
    beside the new one are known to be over.
    """
    try:
        kept = _keep(disk, pair)
        disk.replace(pair.path, document.dump_stamped(content, *_end(pair)))
        for path, _ in pair.journals:
            disk.remove(path)
        disk.remove(journal.unfinished_journal(pair.path))
        disk.sync_folder(pair.path.parent)
    except OSError as error:
        raise CannotStart(f"state file {pair.path} can't be repaired: {error.strerror or error}") from None
    return kept


def _keep(disk: Disk, pair: Pair) -> Sequence[Path]:
    """Copy a pair's files to names that are free; leave no copy where that fails."""
    found = [(pair.path, pair.file), *pair.journals]
    files = [(path, data) for path, data in found if data is not None]
    end = _free_end(disk, pair.path)
    kept = [path.with_name(path.name + end) for path, _ in files]
    try:
        for path, (_, data) in zip(kept, files, strict=True):
            disk.replace(path, [data])
    except OSError:
        with contextlib.suppress(OSError):  # a full disk gets its room back
            for path in kept:
                disk.remove(path)
        raise
    return kept


def _free_end(disk: Disk, path: Path) -> str:
    """Give an end of names that none beside *path* has."""
    end = time.strftime(".damaged-%Y%m%d-%H%M%S")
    taken = disk.names(path.parent)
    ends = itertools.chain([end], (f"{end}-{number}" for number in itertools.count(2)))
    return next(each for each in ends if not any(name.endswith(each) for name in taken))


def _end(pair: Pair) -> tuple[str, int]:
    """Give the epoch and the number of a pair's last change."""
    entries = [each for _, data in pair.journals for each in journal.scan(data) if isinstance(each, Entry)]
    numbers = [each.sequence for each in entries] + [journal.after(path) for path, _ in pair.journals]
    return entries[-1].epoch if entries else secrets.token_hex(8), max(numbers, default=0)
