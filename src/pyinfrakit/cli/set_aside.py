"""`set-aside`: take an instance out of service."""

from pathlib import Path

import click

from pyinfrakit.cli.arguments import directory_option, plugin_argument, remote


@click.command("set-aside")
@plugin_argument
@click.argument("id", metavar="ID")
@directory_option
@click.option("--reason", required=True, help="Why, for whoever looks at it next.")
def set_aside(name: str, id: str, directory: Path, reason: str) -> None:
    """Take an instance out of service, so that InfraKit replaces it; it is kept until restored or destroyed."""
    with remote(name, directory) as plugin:
        plugin.set_aside(id, reason)
    click.echo(f"set aside {id}")
