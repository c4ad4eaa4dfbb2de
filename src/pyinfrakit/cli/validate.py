"""`validate`: have a spec checked."""

from pathlib import Path

import click
from msgspec import UNSET, Raw

from pyinfrakit.cli.arguments import directory_option, plugin_argument, read_spec, remote


@click.command()
@plugin_argument
@click.argument("file", metavar="FILE|-")
@directory_option
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="FILE is YAML.")
def validate(name: str, file: str, directory: Path, is_yaml: bool) -> None:
    """Have the plugin check a spec, in the form that `provision` takes, without provisioning anything."""
    spec = read_spec(file, is_yaml)
    with remote(name, directory) as plugin:
        plugin.validate(Raw(b"{}") if spec.Properties is UNSET else spec.Properties)
    click.echo("validate:ok")
