"""A daemon with sub-types: `python typed.py PROVIDER SUB-TYPE,SUB-TYPE --name NAME`, built as the command builds it.

All sub-types have the same provider, and so the same machines. Only the mark tells whose a machine is.
"""

import sys
from functools import partial

from pyinfrakit import loading, logs, paths
from pyinfrakit.daemon.build import run_daemon
from pyinfrakit.instance.plugin import Plugin


def main() -> None:
    provider, sub_types, name = loading.find_provider(sys.argv[1]), sys.argv[2].split(","), sys.argv[4]
    logs.configure(5)
    # Without the sub-type in its name, each of the providers has the same machines.
    providers = {sub_type: lambda _, folder: provider(name, folder) for sub_type in sub_types}
    run_daemon(name, providers, paths.plugins(), make_plugin=partial(Plugin, interval=0.1))


if __name__ == "__main__":
    main()
