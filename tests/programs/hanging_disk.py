"""A daemon whose disk hangs: `python hanging_disk.py FILE --name NAME`. Once FILE exists, no sync ends."""

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pyinfrakit import disk, logs, paths
from pyinfrakit.config import ProviderChoice
from pyinfrakit.daemon.build import run_daemon
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.providers.simulator import Simulator
from pyinfrakit.store import Store
from pyinfrakit.store.file import FileStore, default_path

sync = disk.sync


def hang(fd: int) -> None:
    while Path(sys.argv[1]).exists():
        time.sleep(0.1)
    sync(fd)


def open_store(url: str | None, name: str, mark: str | None = None, sub_types: Sequence[str] = ("",)) -> Store:
    path = default_path(name)
    paths.make_folder(path.parent)
    return FileStore(path, name, mark, sub_types)


def main() -> None:
    disk.sync = hang
    name = sys.argv[3]
    logs.configure(5)
    choice = ProviderChoice(Simulator, None)
    run_daemon(
        name, {"": choice.make}, paths.plugins(), make_plugin=partial(Plugin, interval=0.1), open_store=open_store
    )


if __name__ == "__main__":
    main()
