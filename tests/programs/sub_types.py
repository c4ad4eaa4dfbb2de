"""Start a daemon with sub-types as the command does: `python sub_types.py PROVIDER SUB-TYPE,SUB-TYPE --name NAME`.

All sub-types share one provider and its machines. Only the mark shows which sub-type owns a machine.
"""

import sys
from functools import partial

from pyinfrakit import loading, logs, paths
from pyinfrakit.daemon.build import run_daemon
from pyinfrakit.instance.plugin import Plugin


def main() -> None:
    provider, sub_types, name = loading.find_provider(sys.argv[1]), sys.argv[2].split(","), sys.argv[4]
    logs.configure(5)
    # Every provider gets the plugin's name without a sub-type, so that all of them see the same machines.
    providers = {sub_type: lambda _, folder: provider(name, folder) for sub_type in sub_types}
    run_daemon(name, providers, paths.plugins(), make_plugin=partial(Plugin, interval=0.1))


if __name__ == "__main__":
    main()
