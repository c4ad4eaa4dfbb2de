"""`provision`: ask for an instance."""

from pathlib import Path

import click

from pyinfrakit.cli.arguments import directory_option, plugin_argument, read_spec, remote


@click.command()
@plugin_argument
@click.argument("file", metavar="FILE|-")
@directory_option
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="FILE is YAML.")
def provision(name: str, file: str, directory: Path, is_yaml: bool) -> None:
    """Ask for an instance, and print its ID.

    FILE has Properties, Tags, Init, LogicalID and Attachments. It may be a file, - for standard input, or a file:// or
    http(s):// address.
    """
    spec = read_spec(file, is_yaml)
    with remote(name, directory) as plugin:
        click.echo(plugin.provision(spec))
