"""`group`: the groups of a running controller."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate

import click

from pyinfrakit import paths
from pyinfrakit.cli.arguments import pop_option
from pyinfrakit.cli.lazy import LazyGroup
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.group.client import GroupClient
from pyinfrakit.rpc.group.types import ALL_GROUPS

FAMILIES = {
    "commits": ("commit", "plan", "inspect", "free", "destroy", "history", "undo", "pause", "resume", "abort"),
    "members": ("ls", "describe", "why", "scale", "destroy-instance", "protect", "unprotect", "confirm"),
}
"""The commands in each module of `pyinfrakit.cli`."""

ALIASES = {
    "commit-group": "commit",
    "free-group": "free",
    "destroy-group": "destroy",
    "destroy-instances": "destroy-instance",
    "groups": "ls",
}
"""The names of commands in InfraKit's last release."""

_WITHOUT_ID = ("commit", "plan", "ls")


class _Group(LazyGroup):
    """The commands. As in InfraKit, their options --name and --dir come before or after the verb.

    The address ``group/workers`` stands for the group's ID, too.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb, command, rest = super().resolve_command(ctx, args)
        for option, parameter in (("--name", "name"), ("--dir", "directory")):
            value, rest = pop_option(rest, option)
            ctx.params[parameter] = ctx.params[parameter] if value is None else value
        _, _, id = ctx.params["name"].partition("/")
        if id not in ("", ALL_GROUPS, *rest[:1]) and command is not None and command.name not in _WITHOUT_ID:
            rest = [id, *rest]
        return verb, command, rest


@click.group(cls=_Group, families=FAMILIES, aliases=ALIASES, no_args_is_help=False)
@click.option("--name", default="group", help="The controller's name, also NAME/GROUP.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=paths.plugins,
    envvar="INFRAKIT_GROUP_DIR",
    show_default="INFRAKIT_PLUGINS_DIR, or plugins in INFRAKIT_HOME",
    help="The folder of the plugins' sockets.",
)
def group(name: str, directory: Path) -> None:
    """See and change the groups of a running controller."""


def pass_groups(command: Callable[Concatenate[GroupClient, ...], int | None]) -> Callable[..., int | None]:
    """Pass *command* a client of the controller as the first argument. The client connects at its first call."""

    @click.pass_context
    @functools.wraps(command)
    def run(context: click.Context, /, **arguments: Any) -> int | None:
        assert context.parent is not None
        name, directory = context.parent.params["name"], Path(context.parent.params["directory"])
        address = Path(name).name if name.startswith(("/", ".")) else name
        path, _ = paths.resolve(name, directory)
        with Client(path) as client:
            return command(GroupClient(client, address), **arguments)

    return run


id_argument = click.argument("id", metavar="ID")
