"""The update of a group, while it is under way."""

import click

from pyinfrakit.cli.group import id_argument, pass_groups
from pyinfrakit.rpc.group.client import GroupClient


@click.command()
@pass_groups
@id_argument
@click.option("--reason", default="by hand", show_default=True, help="The reason, for the next person who looks.")
def pause(groups: GroupClient, id: str, reason: str) -> None:
    """Pause an update: no further member is replaced by it until you resume it."""
    groups.pause(id, reason)
    click.echo(f"paused {id}")


@click.command()
@pass_groups
@id_argument
def resume(groups: GroupClient, id: str) -> None:
    """Resume an update that was paused, or that stopped because a replacement did not become healthy."""
    groups.resume(id)
    click.echo(f"resumed {id}")


@click.command()
@pass_groups
@id_argument
def abort(groups: GroupClient, id: str) -> None:
    """End an update, and keep the members as they are now. `undo` takes back the commit as well."""
    groups.abort(id)
    click.echo(f"aborted {id}")
