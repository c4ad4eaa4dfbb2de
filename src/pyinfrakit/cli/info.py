"""`info`: what a plugin is, and how it is."""

import time
from pathlib import Path

import click
import msgspec

from pyinfrakit.cli.arguments import directory_option, plugin_argument, remote
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.operator.types import StatusResult


@click.command()
@plugin_argument
@directory_option
@click.option("-r", "--raw", is_flag=True, help="As JSON.")
def info(name: str, directory: Path, raw: bool) -> None:
    """Show what a plugin is, which interfaces it has, and how its instances are."""
    with remote(name, directory) as plugin:
        api = plugin.api()
        try:
            status = plugin.status()
        except RemoteError as error:
            if not error.is_unknown_method:
                raise
            status = None
    if raw:
        click.echo(msgspec.json.format(msgspec.json.encode({"API": api, "Status": status})))
        return
    click.echo(f"plugin      {api.Vendor.Name} {api.Vendor.Version}")
    click.echo(f"interfaces  {', '.join(f'{each.Name}/{each.Version}' for each in api.Implements)}")
    if status is not None:
        _show(status)


def _show(status: StatusResult) -> None:
    click.echo(f"provider    {status.Provider}")
    click.echo(f"instances   {', '.join(f'{count} {state}' for state, count in status.States.items())}")
    when = "not yet" if status.Observed is None else f"{max(0.0, time.time() - status.Observed):.0f} s ago"
    click.echo(f"observed    {when}" + (f"; now: {status.Trouble}" if status.Trouble else ""))
    if status.Held:
        click.echo(
            f"held        {len(status.Held)} seem lost at once: see describe --all, then confirm, or mend the cause"
        )
    for call in status.Late:
        click.echo(f"late        {call}: the provider does not answer")
    for id in status.Orphans:
        click.echo(f"orphan      {id}")
