"""`describe`: show instances."""

import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from pyinfrakit.cli.arguments import directory_option, plugin_argument, remote, tags_option
from pyinfrakit.cli.table import table
from pyinfrakit.errors import UnknownInstance
from pyinfrakit.rpc.instance.types import Description
from pyinfrakit.rpc.operator.types import RecordDescription


@click.command()
@plugin_argument
@click.argument("ids", metavar="[ID]...", nargs=-1)
@directory_option
@tags_option
@click.option("-q", "--quiet", is_flag=True, help="IDs only.")
@click.option("-r", "--raw", is_flag=True, help="As JSON.")
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="As YAML.")
@click.option("-p", "--properties", is_flag=True, help="With properties.")
@click.option("--all", "everything", is_flag=True, help="Every record, in any state, with its state and reason.")
def describe(
    name: str,
    ids: tuple[str, ...],
    directory: Path,
    tags: dict[str, str],
    quiet: bool,
    raw: bool,
    is_yaml: bool,
    properties: bool,
    everything: bool,
) -> None:
    """Show instances, sorted by ID: as InfraKit sees them, or with --all as the plugin does."""
    found: Sequence[Description]
    with remote(name, directory) as plugin:
        found = plugin.records(tags) if everything else plugin.describe(tags, properties)
    found = sorted(found, key=lambda each: each.ID)
    for id in ids:
        if id not in {each.ID for each in found}:
            raise UnknownInstance(id)
    if ids:
        found = [each for each in found if each.ID in ids]
    if not properties:
        found = [msgspec.structs.replace(each, Properties=msgspec.UNSET) for each in found]
    if quiet:
        click.echo("".join(f"{each.ID}\n" for each in found), nl=False)
    elif raw:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
    elif is_yaml:
        click.echo(msgspec.yaml.encode(msgspec.json.decode(msgspec.json.encode(found))), nl=False)
    else:
        click.echo(table([_heads(everything, properties), *(_row(each, properties) for each in found)]))


def _heads(everything: bool, properties: bool) -> list[str]:
    heads = ["ID", "LOGICAL", *(["STATE", "SINCE", "REASON"] if everything else []), "TAGS"]
    return [*heads, "PROPERTIES"] if properties else heads


def _row(each: Description, properties: bool) -> list[str]:
    cells = [each.ID, each.LogicalID or "-"]
    if isinstance(each, RecordDescription):
        held = f"held: {each.Held}" if each.Held else ""
        by_hand = "by hand: " if each.ByHand else ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.Since)) if each.Since else "-"
        cells += [each.State, since, held or by_hand + each.Reason or "-"]
    cells.append(",".join(f"{key}={value}" for key, value in sorted((each.Tags or {}).items())))
    if properties:
        cells.append(bytes(each.Properties or b"{}").decode())
    return cells
