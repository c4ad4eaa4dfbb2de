"""`adopt`: take in machines that exist."""

from pathlib import Path

import click

from pyinfrakit.cli.arguments import Tags, directory_option, plugin_argument, remote
from pyinfrakit.record import CONFIG_TAGS, GROUP_TAG

BOOTSTRAP = "bootstrap"
"""The configuration hash of what InfraKit is to make a member of a group, and not replace."""


@click.command()
@plugin_argument
@click.argument("handle", metavar="[HANDLE]", required=False)
@directory_option
@click.option("--orphans", is_flag=True, help="All machines with this plugin's mark of which it has no record.")
@click.option("--group", help="Make it a member of this group of InfraKit's.")
@click.option("--tags", type=Tags(), default="", show_default=False, help="Tags that it is to have.")
@click.option("--logical-id", help="The logical ID that it is to have.")
def adopt(
    name: str,
    handle: str | None,
    directory: Path,
    orphans: bool,
    group: str | None,
    tags: dict[str, str],
    logical_id: str | None,
) -> None:
    """Take in the machine that the provider calls HANDLE, which existed before, or with --orphans those that were lost."""
    if orphans == (handle is not None):
        raise click.UsageError("expected a HANDLE, or else --orphans", click.get_current_context())
    if orphans and logical_id is not None:
        raise click.UsageError("--logical-id is for one machine; orphans have theirs", click.get_current_context())
    tags = _membership(group) | tags
    with remote(name, directory) as plugin:
        ids = [plugin.adopt(handle, tags, logical_id)] if handle is not None else plugin.adopt_orphans(tags)
    click.echo("\n".join(f"adopted {id}" for id in ids) or "no orphans", err=not ids)


def _membership(group: str | None) -> dict[str, str]:
    return {} if group is None else {GROUP_TAG: group, **dict.fromkeys(CONFIG_TAGS, BOOTSTRAP)}
