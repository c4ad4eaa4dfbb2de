"""The group controller's daemon: `infrakit-group`."""

from pathlib import Path
from typing import Any

import click

from pyinfrakit import paths
from pyinfrakit.cli.arguments import log_option
from pyinfrakit.group.spec import Duration


class Interval(click.ParamType[float]):
    """A duration, as a number of seconds or as Go writes it, and as InfraKit's controller takes it."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = Duration.parse(float(value) if str(value).replace(".", "", 1).isdecimal() else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"expected more than 0 seconds, got {value}", param, ctx)
        return seconds


@click.command(
    "infrakit-group",
    context_settings={
        "auto_envvar_prefix": "INFRAKIT_GROUP",
        "show_default": True,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
    },
    epilog="Every flag has an environment variable, such as INFRAKIT_GROUP_POLL_INTERVAL for --poll-interval.",
)
@click.option("--name", default="group", help="The controller's name, which is also its socket's file name.")
@log_option(default=4)
@click.option(
    "--state", metavar="PATH|URL", help="The state file, or the URL of another store.  [default: in InfraKit's home]"
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=paths.plugins,
    envvar="INFRAKIT_GROUP_DIR",
    show_default="INFRAKIT_PLUGINS_DIR, or plugins in INFRAKIT_HOME",
    help="The folder of the plugins' sockets.",
)
@click.option(
    "--poll-interval", type=Interval(), default="10s", help="Time between two descriptions by a plugin without events."
)
def controller(name: str, log: int, state: str | None, directory: Path, poll_interval: float) -> None:
    """Keep groups of instances as they are described.

    `infrakit group` talks to a running controller.
    """
    # Imported here: these modules load slowly, and --help does not need them.
    from pyinfrakit import logs
    from pyinfrakit.daemon.build import run_controller

    logs.configure(log)
    run_controller(name, directory, state, poll_interval)
