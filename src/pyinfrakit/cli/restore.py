"""`restore`: bring an instance back into service."""

from pathlib import Path

import click

from pyinfrakit.cli.arguments import directory_option, plugin_argument, remote


@click.command()
@plugin_argument
@click.argument("id", metavar="ID")
@directory_option
@click.option(
    "--force", is_flag=True, help="Also one that has been replaced, or has another configuration than its group."
)
def restore(name: str, id: str, directory: Path, force: bool) -> None:
    """Bring a non-functional instance back into service, to the front."""
    with remote(name, directory) as plugin:
        plugin.restore(id, force)
    click.echo(f"restored {id}")
