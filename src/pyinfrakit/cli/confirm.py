"""`confirm`: let held losses happen."""

from pathlib import Path

import click

from pyinfrakit.cli.arguments import directory_option, plugin_argument, remote


@click.command()
@plugin_argument
@directory_option
def confirm(name: str, directory: Path) -> None:
    """Say that instances which seem lost, too many at once to be believed, really are; InfraKit then replaces them."""
    with remote(name, directory) as plugin:
        ids = plugin.confirm()
    for id in ids:
        click.echo(f"confirmed {id}")
    if not ids:
        click.echo("nothing is held")
