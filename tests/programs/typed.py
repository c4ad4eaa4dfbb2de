"""A daemon with sub-types: `python typed.py PROVIDER TYPE,TYPE --name NAME`, put together as the command does it.

All have the same provider, and so the same machines: what is whose they tell by its mark alone.
"""

import sys

from pyinfrakit import loading, logs, paths
from pyinfrakit.daemon import run
from pyinfrakit.daemon.listener import Listener
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.store.file import FileStore


def main() -> None:
    provider, types, name = loading.provider_class(sys.argv[1]), sys.argv[2].split(","), sys.argv[4]
    logs.set_up(5)
    state = paths.default_state(name)
    paths.make_folder(state.parent)
    with Listener(paths.plugins(), name) as listener, FileStore(state, name, types=types) as store:
        plugins = {type: Plugin(store.part(type), provider(name, state.parent), interval=0.1) for type in types}
        run.run(plugins, store, listener)


if __name__ == "__main__":
    main()
