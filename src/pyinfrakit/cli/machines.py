"""`machines`: show the pool."""

from pathlib import Path

import click
import msgspec

from pyinfrakit.cli.arguments import directory_option, plugin_argument, remote
from pyinfrakit.cli.table import table
from pyinfrakit.rpc.operator.types import PoolEntry


@click.command()
@plugin_argument
@directory_option
@click.option("-r", "--raw", is_flag=True, help="As JSON.")
def machines(name: str, directory: Path, raw: bool) -> None:
    """Show all machines of the provider's pool: how each is, and which instance has it. Not all providers have a pool."""
    with remote(name, directory) as plugin:
        found = plugin.machines()
    if raw:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
    else:
        click.echo(table([["MACHINE", "AT", "POWER", "HEALTH", "STATE", "INSTANCE", "REASON"], *map(_row, found)]))


def _row(machine: PoolEntry) -> list[str]:
    cells = (machine.Power, machine.Health, machine.State, machine.Instance, machine.Reason)
    return [machine.Name, machine.At, *(cell or "-" for cell in cells)]
