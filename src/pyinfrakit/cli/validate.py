"""`validate`: have a spec checked."""

from pathlib import Path

import click
from msgspec import UNSET, Raw

from pyinfrakit.cli.arguments import directory_option, plugin_argument, read_json, remote
from pyinfrakit.decoding import WrongShape
from pyinfrakit.spi import wire


@click.command()
@plugin_argument
@click.argument("file", metavar="FILE|-")
@directory_option
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="FILE is YAML.")
def validate(name: str, file: str, directory: Path, is_yaml: bool) -> None:
    """Have the plugin check a spec, in the form that `provision` takes, without provisioning anything."""
    try:
        spec = wire.read_spec(read_json(file, is_yaml))
    except WrongShape as error:
        raise click.ClickException(f"{file}: {error}") from None
    with remote(name, directory) as plugin:
        plugin.validate(Raw(b"{}") if spec.Properties is UNSET else spec.Properties)
    click.echo("validate:ok")
