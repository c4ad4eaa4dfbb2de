"""`version`: print the version."""

import click

from pyinfrakit import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"infrakit-instance {__version__}")
