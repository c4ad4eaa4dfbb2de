"""A group of commands that are imported when they run: to import all takes longer than most of them."""

import importlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click


class LazyGroup(click.Group):
    """The commands of *families*, which are named by their modules in `pyinfrakit.cli`.

    *aliases* are further names of commands, which help does not show.
    """

    def __init__(
        self,
        *arguments: Any,
        families: Mapping[str, Sequence[str]],
        aliases: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self._modules = {command: module for module, commands in families.items() for command in commands}
        self._aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self._aliases.get(cmd_name, cmd_name)
        if name not in self._modules:
            return None
        module = importlib.import_module(f"pyinfrakit.cli.{self._modules[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)
