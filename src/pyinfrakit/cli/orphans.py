"""`orphans`: show machines that no record is of, and have them destroyed."""

from pathlib import Path

import click
import msgspec

from pyinfrakit.cli.arguments import directory_option, plugin_argument, remote
from pyinfrakit.cli.table import table
from pyinfrakit.rpc.operator.types import Orphan


@click.command()
@plugin_argument
@directory_option
@click.option("--destroy", "doomed", metavar="ID", multiple=True, help="Have this one destroyed; may be repeated.")
@click.option("-r", "--raw", is_flag=True, help="As JSON.")
def orphans(name: str, directory: Path, doomed: tuple[str, ...], raw: bool) -> None:
    """Show the machines with this plugin's mark of which it has no record; `adopt --orphans` makes records of them."""
    with remote(name, directory) as plugin:
        if doomed:
            plugin.destroy_orphans(doomed)
        found = plugin.orphans()
    if doomed:
        click.echo("\n".join(f"destroying {id}" for id in doomed))
    elif raw:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
    elif found:
        click.echo(table([["ID", "HANDLE", "LOGICAL", "WORKS", "TAGS"], *map(_row, found)]))
    else:
        click.echo("no orphans", err=True)


def _row(orphan: Orphan) -> list[str]:
    works = "yes" if orphan.Functional else f"no: {orphan.Reason}"
    tags = ",".join(f"{key}={value}" for key, value in sorted(orphan.Tags.items()))
    return [orphan.ID, orphan.Handle or "-", orphan.LogicalID or "-", works, tags]
