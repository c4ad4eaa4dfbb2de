"""The calls that InfraKit makes too: describe, provision, validate, destroy and label instances."""

import time
from collections.abc import Sequence

import click
import msgspec
from msgspec import UNSET, Raw

from pyinfrakit.cli.arguments import Tags, decode_spec, in_infrakit_form, pass_plugin, read_json, read_spec
from pyinfrakit.cli.output import format_member, format_row, format_table, format_tags, print_json, print_line
from pyinfrakit.errors import PyInfrakitError, TryAgain, UnknownInstance
from pyinfrakit.group.plugins import BY_CONTROLLER
from pyinfrakit.logs import escape
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.instance.types import Description
from pyinfrakit.rpc.operator.client import OperatorClient
from pyinfrakit.rpc.operator.types import RecordDescription

POLL_INTERVAL = 0.2
"""Seconds between two looks at an instance that is being destroyed."""


@click.command()
@pass_plugin
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--tags", type=Tags(), default="", show_default=False, help="Only instances with all of these tags.")
@click.option("-q", "--quiet", is_flag=True, help="Print only IDs.")
@click.option("-r", "--raw", is_flag=True, help="Print JSON.")
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="Print YAML.")
@click.option("-p", "--properties", is_flag=True, help="Include properties.")
@click.option("--all", "everything", is_flag=True, help="All records in any state, with state and reason.")
def describe(
    plugin: OperatorClient,
    ids: tuple[str, ...],
    tags: dict[str, str],
    quiet: bool,
    raw: bool,
    is_yaml: bool,
    properties: bool,
    everything: bool,
) -> None:
    """Show instances, sorted by ID: as InfraKit sees them, or with --all as the plugin does."""
    instances: Sequence[Description] = plugin.records(tags) if everything else plugin.describe(tags, properties)
    if unknown := sorted(set(ids) - {each.ID for each in instances}):
        raise UnknownInstance(unknown[0])
    instances = sorted((each for each in instances if not ids or each.ID in ids), key=lambda each: each.ID)
    if not properties:
        # Other plugins, and records, may include them although nobody asked: they can be long.
        instances = [msgspec.structs.replace(each, Properties=UNSET) for each in instances]
    if in_infrakit_form() and not (raw or is_yaml or everything or properties):
        heads = [] if quiet else [format_row("ID", "LOGICAL", "TAGS")]
        click.echo("".join(f"{line}\n" for line in [*heads, *map(format_member, instances)]), nl=False)
    elif quiet:
        click.echo("".join(f"{escape(each.ID)}\n" for each in instances), nl=False)
    elif raw:
        print_json(instances)
    elif is_yaml:
        import json  # it has numbers that 64 bits can't hold

        click.echo(msgspec.yaml.encode(json.loads(msgspec.json.encode(instances))), nl=False)
    else:
        heads = ["ID", "LOGICAL", *(["STATE", "SINCE", "REASON"] if everything else []), "TAGS"]
        heads += ["PROPERTIES"] if properties else []
        click.echo(format_table([heads, *(_format_instance(each, properties) for each in instances)]))


def _format_instance(instance: Description, properties: bool) -> list[str]:
    cells = [instance.ID, instance.LogicalID or "-"]
    if isinstance(instance, RecordDescription):
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(instance.Since)) if instance.Since else "-"
        is_by_hand = instance.ByHand and not instance.Reason.startswith(BY_CONTROLLER)
        reason = f"by hand: {instance.Reason}" if is_by_hand else instance.Reason or "-"
        cells += [instance.State, since, f"held: {instance.Held}" if instance.Held else reason]
    cells.append(format_tags(instance.Tags or {}))
    if properties:
        cells.append(bytes(instance.Properties or b"{}").decode())
    return cells


@click.command()
@pass_plugin
@click.argument("file", metavar="FILE|-")
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="FILE is YAML.")
def provision(plugin: OperatorClient, file: str, is_yaml: bool) -> None:
    """Request an instance, and print its ID.

    FILE is a spec with Properties, Tags, Init, LogicalID and Attachments. It is a file, - for standard input, or a
    file:// or http(s):// URL.
    """
    print_line(plugin.provision(read_spec(file, is_yaml)))


@click.command()
@pass_plugin
@click.argument("file", metavar="FILE|-")
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="FILE is YAML.")
def validate(plugin: OperatorClient, file: str, is_yaml: bool) -> None:
    """Have the plugin check a spec, without provisioning anything. FILE has the same form as for `provision`."""
    plugin.validate(_read_properties(file, is_yaml))
    click.echo("validate:ok")


def _read_properties(file: str, is_yaml: bool) -> Raw:
    """Return the properties of the spec in a file. In InfraKit's own form, the file may have properties alone."""
    data = read_json(file, is_yaml)
    if in_infrakit_form() and b'"Properties"' not in bytes(data):
        return data
    spec = decode_spec(data, file)
    return Raw(b"{}") if spec.Properties is UNSET else spec.Properties


@click.command()
@pass_plugin
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--wait/--no-wait", default=True, help="Wait until the instances are gone.")
@click.option("--timeout", type=click.FloatRange(0), default=300.0, show_default=True, help="Maximum seconds to wait.")
def destroy(plugin: OperatorClient, ids: tuple[str, ...], wait: bool, timeout: float) -> None:
    """Destroy instances, and wait until they are gone. An error for one instance does not stop the others."""
    end = time.monotonic() + timeout
    problems: dict[str, PyInfrakitError] = {}
    for id in ids:
        try:
            plugin.destroy(id)
        except RemoteError as error:
            problems[id] = error
    for id in [each for each in ids if each not in problems]:
        try:
            if wait:
                _wait(plugin, id, end)
            print_line(f"destroyed {id}")
        except TryAgain as error:
            problems[id] = error
    if problems:
        raise click.ClickException("; ".join(map(str, problems.values())))


def _wait(plugin: OperatorClient, id: str, end: float) -> None:
    """Wait until the instance is gone. Raise `TryAgain` at *end*, on the monotonic clock."""
    while True:
        try:
            records = plugin.records({}, [id])
        except RemoteError as error:
            if error.is_unknown_method:  # not pyinfrakit: such a plugin reports no more than an accepted destroy
                return
            raise
        if not records:
            return
        if time.monotonic() >= end:
            reason = records[0].Reason or "destroying"
            raise TryAgain(f"{id}: not yet destroyed ({reason}); the plugin keeps trying")
        time.sleep(POLL_INTERVAL)


@click.command()
@pass_plugin
@click.argument("id", metavar="ID")
@click.argument("tags", metavar="k=v...", nargs=-1, required=True, type=Tags())
def label(plugin: OperatorClient, id: str, tags: tuple[dict[str, str], ...]) -> None:
    """Add tags to an instance, or replace their values. Its other tags stay."""
    plugin.label(id, {key: value for some in tags for key, value in some.items()})
    print_line(f"labeled {id}")
