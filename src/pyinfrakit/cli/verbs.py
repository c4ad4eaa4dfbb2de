"""The commands, each in a module of its own that is imported when it is wanted: to import all takes longer than most take."""

import importlib

import click

VERBS = (
    "version",
    "describe",
    "provision",
    "validate",
    "destroy",
    "label",
    "set-aside",
    "restore",
    "confirm",
    "orphans",
    "adopt",
    "machines",
    "info",
    "provider",
    "conformance",
    "export",
    "fsck",
    "new",
)


class Verbs(click.Group):
    """A group that has all of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return verb(cmd_name) if cmd_name in VERBS else None


def verb(name: str) -> click.Command:
    """Import one of `VERBS`."""
    module = name.replace("-", "_")
    command = getattr(importlib.import_module(f"{__package__}.{module}"), module)
    assert isinstance(command, click.Command)
    return command
