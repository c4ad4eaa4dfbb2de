"""`version`, which all programs have."""

import click

from pyinfrakit import __version__


@click.command()
@click.pass_context
def version(context: click.Context) -> None:
    """Print the version."""
    click.echo(f"{context.find_root().info_name} {__version__}")
