"""The calls of operators, who know more than InfraKit: about broken and lost machines, orphans and pools."""

import time

import click

from pyinfrakit.cli.arguments import Tags, pass_plugin
from pyinfrakit.cli.output import format_table, format_tags, print_json, print_line
from pyinfrakit.record import CONFIG_TAGS, GROUP_TAG
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.operator.client import OperatorClient
from pyinfrakit.rpc.operator.types import Orphan

raw_option = click.option("-r", "--raw", is_flag=True, help="Print JSON.")


@click.command("set-aside")
@pass_plugin
@click.argument("id", metavar="ID")
@click.option("--reason", required=True, help="The reason, for the next person who looks at the instance.")
def set_aside(plugin: OperatorClient, id: str, reason: str) -> None:
    """Take an instance out of service. InfraKit replaces it; the plugin keeps it until you restore or destroy it."""
    plugin.set_aside(id, reason)
    print_line(f"set aside {id}")


@click.command()
@pass_plugin
@click.argument("id", metavar="ID")
@click.option("--force", is_flag=True, help="Even if it was replaced, or if its group has another configuration now.")
def restore(plugin: OperatorClient, id: str, force: bool) -> None:
    """Bring a non-functional instance back into service, at the front of the list."""
    plugin.restore(id, force)
    print_line(f"restored {id}")


@click.command()
@pass_plugin
def confirm(plugin: OperatorClient) -> None:
    """Confirm held losses, so that InfraKit replaces the instances. Losses are held if too many come at once."""
    ids = plugin.confirm()
    for line in [f"confirmed {id}" for id in ids] or ["nothing is held"]:
        print_line(line)


@click.command()
@pass_plugin
@click.option("--destroy", "doomed", metavar="ID", multiple=True, help="Destroy this orphan. Repeatable.")
@raw_option
def orphans(plugin: OperatorClient, doomed: tuple[str, ...], raw: bool) -> None:
    """Show orphans: machines with this plugin's mark, but no record. `adopt --orphans` makes records for them."""
    if doomed:
        plugin.destroy_orphans(doomed)
        for id in doomed:
            print_line(f"destroying {id}")
        return
    machines = plugin.orphans()
    if raw:
        print_json(machines)
    elif machines:
        click.echo(format_table([["ID", "HANDLE", "LOGICAL", "WORKS", "TAGS"], *map(_format_orphan, machines)]))
    else:
        click.echo("no orphans", err=True)


def _format_orphan(orphan: Orphan) -> list[str]:
    works = "yes" if orphan.Functional else f"no: {orphan.Reason}"
    return [orphan.ID, orphan.Handle or "-", orphan.LogicalID or "-", works, format_tags(orphan.Tags)]


@click.command()
@pass_plugin
@click.argument("handle", metavar="[HANDLE]", required=False)
@click.option("--orphans", "is_orphans", is_flag=True, help="Adopt all machines with this plugin's mark but no record.")
@click.option("--group", help="Add the machine to this group of InfraKit's.")
@click.option("--tags", type=Tags(), default="", show_default=False, help="Tags to add.")
@click.option("--logical-id", help="The logical ID of the machine.")
def adopt(
    plugin: OperatorClient,
    handle: str | None,
    is_orphans: bool,
    group: str | None,
    tags: dict[str, str],
    logical_id: str | None,
) -> None:
    """Adopt the existing machine that the provider calls HANDLE, or with --orphans all machines that lost their record."""
    if is_orphans == (handle is not None):
        raise click.UsageError("expected either a HANDLE or --orphans", click.get_current_context())
    if is_orphans and logical_id is not None:
        raise click.UsageError("--logical-id is for a HANDLE; orphans keep theirs", click.get_current_context())
    if group is not None:
        # InfraKit takes a machine with this configuration hash into a group as it is, without replacing it.
        # The user's own tags come last: they override these.
        tags = {GROUP_TAG: group, **dict.fromkeys(CONFIG_TAGS, "bootstrap"), **tags}
    ids = [plugin.adopt(handle, tags, logical_id)] if handle is not None else plugin.adopt_orphans(tags)
    for line in [f"adopted {id}" for id in ids] or ["no orphans"]:
        print_line(line, err=not ids)


@click.command()
@pass_plugin
@raw_option
def machines(plugin: OperatorClient, raw: bool) -> None:
    """Show all machines in the provider's pool, with their condition and instance. Not all providers have a pool."""
    pool = plugin.machines()
    if raw:
        print_json(pool)
    else:
        heads = ["MACHINE", "AT", "POWER", "HEALTH", "STATE", "INSTANCE", "REASON"]
        cells = [[m.Name, m.At, m.Power, m.Health, m.State, m.Instance, m.Reason] for m in pool]
        click.echo(format_table([heads, *([cell or "-" for cell in row] for row in cells)]))


@click.command()
@pass_plugin
@raw_option
def info(plugin: OperatorClient, raw: bool) -> None:
    """Show a plugin's version, interfaces and provider, and the state of its instances."""
    api = plugin.api()
    try:
        status = plugin.status()
    except RemoteError as error:
        if not error.is_unknown_method:
            raise
        status = None  # not pyinfrakit: such a plugin has no Operator interface
    if raw:
        print_json({"API": api, "Status": status})
        return
    print_line(f"plugin      {api.Vendor.Name} {api.Vendor.Version}")
    print_line(f"interfaces  {', '.join(f'{each.Name}/{each.Version}' for each in api.Implements)}")
    if status is None:
        return
    print_line(f"provider    {status.Provider}")
    print_line(f"instances   {', '.join(f'{count} {state}' for state, count in status.States.items())}")
    when = "not yet" if status.Observed is None else f"{max(0.0, time.time() - status.Observed):.0f} s ago"
    print_line(f"observed    {when}" + (f"; now: {status.Trouble}" if status.Trouble else ""))
    if status.Held:
        advice = "See `describe --all`; fix the cause, or confirm the loss."
        print_line(f"held        {len(status.Held)} instances seem lost at once. {advice}")
    for call in status.Late:
        print_line(f"late        {call}: the provider does not answer")
    for id in status.Orphans:
        print_line(f"orphan      {id}")
