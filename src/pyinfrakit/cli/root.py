"""`infrakit`: all that there is, in one command."""

from pathlib import Path

import click

from pyinfrakit import paths
from pyinfrakit.cli.lazy import LazyGroup
from pyinfrakit.errors import CannotStart, Unreachable
from pyinfrakit.rpc.client import Client, RemoteError
from pyinfrakit.rpc.instance.client import InstanceClient

FAMILIES = {
    "group": ("group",),
    "serve": ("instance",),
    "up": ("up", "down"),
    "events": ("events",),
    "flavor": ("flavor",),
    "plugins": ("plugin",),
    "version": ("version",),
}
"""The commands in each module of `pyinfrakit.cli`."""

_KINDS = {"Group": "group", "Instance": "instance"}
"""The command for each interface."""


class _Root(LazyGroup):
    """The commands, and InfraKit's later forms of them: ``infrakit NAME VERB`` and ``infrakit local NAME VERB``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "local" and len(args) > 1:
            args = args[1:]
        if self.get_command(ctx, args[0]) is None and (kind := _find_kind(args[0])):
            args = [kind, "--name", *args]
        return super().resolve_command(ctx, args)


def _find_kind(name: str) -> str | None:
    """Return the command for the running plugin *name*, or None if there is no such plugin."""
    try:
        path, sub_type = paths.resolve(name, paths.plugins())
        if not Path(path).is_socket():
            return None
        with Client(path) as client:
            interfaces = InstanceClient(client, sub_type).api().Implements
    except (CannotStart, Unreachable, RemoteError):
        return None
    return next((_KINDS[each.Name] for each in interfaces if each.Name in _KINDS), None)


@click.group(
    "infrakit",
    cls=_Root,
    families=FAMILIES,
    invoke_without_command=True,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--log", hidden=True, expose_value=False, help="InfraKit's log level. The commands do not log.")
@click.pass_context
def infrakit(context: click.Context) -> None:
    """Groups that heal themselves, made of whatever machines you have."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
