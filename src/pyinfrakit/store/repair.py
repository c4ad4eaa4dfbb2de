"""Put what can be saved of a damaged state file in its place, and keep what was there."""

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from pyinfrakit.durable import Disk
from pyinfrakit.errors import CannotStart
from pyinfrakit.store import document
from pyinfrakit.store.document import Content
from pyinfrakit.store.recovery import Pair


def replace(disk: Disk, pair: Pair, content: Content) -> Sequence[Path]:
    """Make *content* the state file, and give where its old files are kept now. Raise `CannotStart` where that fails.

    Wherever this is broken off, either the old files are in their place or the new one is.
    """
    end = time.strftime("damaged-%Y%m%d-%H%M%S")
    found = [(pair.path, pair.file), *pair.journals]
    kept = [(path.with_name(f"{path.name}.{end}"), data) for path, data in found if data is not None]
    try:
        for path, data in kept:
            disk.replace(path, [data])
        disk.replace(pair.path, document.stamped(content, secrets.token_hex(8), 0))
        for path, _ in pair.journals:
            disk.remove(path)
        disk.sync_folder(pair.path.parent)
    except OSError as error:
        raise CannotStart(f"state file {pair.path} can't be repaired: {error.strerror or error}") from None
    return [path for path, _ in kept]
