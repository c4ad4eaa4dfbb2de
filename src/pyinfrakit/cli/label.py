"""`label`: add or replace tags."""

from pathlib import Path

import click

from pyinfrakit.cli.arguments import Tags, directory_option, plugin_argument, remote


@click.command()
@plugin_argument
@click.argument("id", metavar="ID")
@click.argument("tags", metavar="k=v...", nargs=-1, required=True, type=Tags())
@directory_option
def label(name: str, id: str, tags: tuple[dict[str, str], ...], directory: Path) -> None:
    """Add tags to an instance, or replace them; it keeps its others."""
    with remote(name, directory) as plugin:
        plugin.label(id, {key: value for some in tags for key, value in some.items()})
    click.echo(f"labelled {id}")
