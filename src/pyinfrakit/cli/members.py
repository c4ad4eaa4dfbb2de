"""The members of groups: see them and why they are as they are; change their number."""

import time

import click

from pyinfrakit.cli.group import id_argument, pass_groups
from pyinfrakit.cli.output import format_member, format_row, format_table, format_tags, print_json, print_line
from pyinfrakit.errors import UnknownInstance
from pyinfrakit.group.spec import MAX_SIZE
from pyinfrakit.group.status import GroupStatus, MemberStatus
from pyinfrakit.logs import escape
from pyinfrakit.rpc.group.client import GroupClient

quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print rows without column headers.")
wide_option = click.option("-w", "wide", is_flag=True, help="The same as -o wide.")


@click.command()
@pass_groups
@click.argument("id", metavar="[ID]", required=False)
@quiet_option
@click.option("-o", "--output", type=click.Choice(["wide", "json"]), help="Show sizes and phases, or print JSON.")
@wide_option
def ls(groups: GroupClient, id: str | None, quiet: bool, output: str | None, wide: bool) -> None:
    """List the groups, or with ID the members of a group."""
    if id is not None:
        _show_members(groups, id, quiet, output, wide)
    elif output == "json":
        print_json(groups.list())
    elif wide or output:
        rows = [
            [each.ID, str(each.Size), str(each.Healthy), str(each.Outdated), each.Phase, each.Trouble or "-"]
            for each in groups.list()
        ]
        _print_table(["ID", "SIZE", "HEALTHY", "OUTDATED", "PHASE", "TROUBLE"], rows, quiet)
    else:
        ids = [each.ID for each in groups.inspect()]
        click.echo("".join(f"{escape(line)}\n" for line in [*([] if quiet else ["ID"]), *ids]), nl=False)


@click.command()
@pass_groups
@id_argument
@quiet_option
@click.option("-o", "--output", type=click.Choice(["wide", "json"]), help="Show state and health, or print JSON.")
@wide_option
def describe(groups: GroupClient, id: str, quiet: bool, output: str | None, wide: bool) -> None:
    """Show the members of a group: as InfraKit does, or with -w all of them, with state, health and reason."""
    _show_members(groups, id, quiet, output, wide)


def _show_members(groups: GroupClient, id: str, quiet: bool, output: str | None, wide: bool) -> None:
    if output == "json":
        print_json(groups.status(id))
    elif wide or output:
        heads = ["ID", "LOGICAL", "STATE", "HEALTH", "CONFIG", "SINCE", "REASON", "TAGS"]
        _print_table(heads, [_format_status(each) for each in groups.status(id).members], quiet)
    else:
        lines = [] if quiet else [format_row("ID", "LOGICAL", "TAGS")]
        lines += map(format_member, groups.describe(id).Instances or ())
        click.echo("".join(f"{line}\n" for line in lines), nl=False)


def _print_table(heads: list[str], rows: list[list[str]], quiet: bool) -> None:
    table = [*([] if quiet else [heads]), *rows]
    if table:
        click.echo(format_table(table))


def _format_status(member: MemberStatus) -> list[str]:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(member.since))
    reason = "; ".join(filter(None, ["protected" if member.is_protected else "", member.reason])) or "-"
    state, logical_id = member.state or "-", member.logical_id or "-"
    return [member.id, logical_id, state, member.health, member.config, since, reason, format_tags(member.tags)]


@click.command()
@pass_groups
@id_argument
@click.argument("instance", metavar="[INSTANCE]", required=False)
@click.option("-o", "--output", type=click.Choice(["json"]), help="Print JSON.")
def why(groups: GroupClient, id: str, instance: str | None, output: str | None) -> None:
    """Say what the controller does for a group or a member now, what it waits for, and what is held; each with its reason."""
    status = groups.status(id)
    steps = [step for step in status.steps if instance is None or step.subject in _find_names(status, instance)]
    if output:
        print_json(steps)
        return
    click.echo(_summarize(status) if instance is None else _format_member(_find_member(status, instance)))
    rows = [[step.verb.value, step.subject or "-", step.reason] for step in steps]
    click.echo(format_table([["STEP", "MEMBER", "REASON"], *rows]) if rows else "nothing to do")


def _summarize(status: GroupStatus) -> str:
    phase = f"{status.phase.value}: {status.phase_reason}" if status.phase_reason else status.phase.value
    lines = [
        f"group    {status.id}",
        f"members  {len(status.members)} of {status.size}: {status.healthy} healthy, {status.outdated} outdated",
        f"update   {phase}",
    ]
    return "\n".join(map(escape, [*lines, f"trouble  {status.trouble}"] if status.trouble else lines))


def _find_member(status: GroupStatus, instance: str) -> MemberStatus:
    for member in status.members:
        if instance in (member.id, member.logical_id):
            return member
    raise UnknownInstance(instance, f"member of {status.id}")


def _find_names(status: GroupStatus, instance: str) -> tuple[str | None, ...]:
    """Return the names that steps may have for a member."""
    member = _find_member(status, instance)
    return member.id, member.logical_id


def _format_member(member: MemberStatus) -> str:
    _, _, state, health, config, since, reason, _ = _format_status(member)
    return format_table(
        [["member", member.id], ["state", f"{state} since {since}"], ["health", health], ["config", config]]
        + [["reason", reason]] * (reason != "-")
    )


@click.command()
@pass_groups
@id_argument
@click.argument("size", metavar="[N]", type=click.IntRange(0, MAX_SIZE), required=False)
def scale(groups: GroupClient, id: str, size: int | None) -> None:
    """Print a group's size, or set it to N."""
    text = f"Group {id} at {groups.size(id)} instances"
    if size is not None:
        groups.set_size(id, size)
        text += f", scale to {size}"
    print_line(text)


@click.command("destroy-instance")
@pass_groups
@id_argument
@click.argument("instances", metavar="INSTANCE...", nargs=-1, required=True)
def destroy_instance(groups: GroupClient, id: str, instances: tuple[str, ...]) -> None:
    """Destroy members, and make the group smaller by their number."""
    groups.destroy_instances(id, instances)
    click.echo("Initiated.")


@click.command()
@pass_groups
@id_argument
@click.argument("instance", metavar="INSTANCE")
def protect(groups: GroupClient, id: str, instance: str) -> None:
    """Protect a member: the controller does not destroy it to make the group smaller."""
    groups.protect(id, instance, True)
    print_line(f"protected {instance}")


@click.command()
@pass_groups
@id_argument
@click.argument("instance", metavar="INSTANCE")
def unprotect(groups: GroupClient, id: str, instance: str) -> None:
    """End the protection of a member."""
    groups.protect(id, instance, False)
    print_line(f"unprotected {instance}")


@click.command()
@pass_groups
@id_argument
def confirm(groups: GroupClient, id: str) -> None:
    """Confirm held losses, so that the members are replaced. Losses are held if too many come at once."""
    ids = groups.confirm(id)
    for line in [f"confirmed {each}" for each in ids] or ["nothing is held"]:
        print_line(line)
