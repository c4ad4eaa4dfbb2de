"""The specs of groups: commit them, see what a commit would do, go back."""

import os
import pwd
import socket
import time
from collections.abc import Sequence

import click
from msgspec import UNSET, Raw, to_builtins

from pyinfrakit.cli.arguments import read_json
from pyinfrakit.cli.group import id_argument, pass_groups
from pyinfrakit.cli.output import format_table, print_json
from pyinfrakit.errors import UnknownGroup
from pyinfrakit.group.status import PlanReport
from pyinfrakit.rpc.group.client import GroupClient
from pyinfrakit.rpc.group.types import SpecParams
from pyinfrakit.rpc.instance.types import read
from pyinfrakit.schema.decode import WrongShape

WOULD_CHANGE = 2
"""Exit status of `plan` if a commit would change something."""

file_argument = click.argument("file", metavar="FILE|-")
yaml_option = click.option("-y", "--yaml", "is_yaml", is_flag=True, help="FILE is YAML, whatever its name.")
output_option = click.option("-o", "--output", type=click.Choice(["json"]), help="Print JSON.")


def read_groups(source: str, is_yaml: bool) -> Sequence[tuple[str, Raw]]:
    """Return the IDs and properties of the groups at *source*, which has the same forms as for `read_json`."""
    data = read_json(source, is_yaml or source.endswith((".yaml", ".yml")))
    try:
        spec = read(data, SpecParams)
    except WrongShape as error:
        raise click.ClickException(f"{source}: {error}") from None
    if not spec.ID:
        raise click.ClickException(f"{source}: ID: expected a group's ID, got nothing")
    return [(spec.ID, Raw(b"{}") if spec.Properties is UNSET else spec.Properties)]


@click.command()
@pass_groups
@file_argument
@yaml_option
@click.option("--pretend", is_flag=True, help="Commit nothing, and only say what a commit would do.")
def commit(groups: GroupClient, file: str, is_yaml: bool, pretend: bool) -> None:
    """Commit groups: create them, or change them to what FILE describes.

    FILE is a group's spec with ID and Properties. It is a file, - for standard input, or a file:// or http(s):// URL.
    """
    for id, properties in read_groups(file, is_yaml):
        details = groups.commit(id, properties, pretend, _identify_user())
        click.echo(f"Committing {id} would involve: {details}" if pretend else f"Committed {id}: {details}")


class _Plan(click.Command):
    """A command whose status 2 means something else than wrong use."""

    def make_context(self, *arguments: object, **settings: object) -> click.Context:
        try:
            return super().make_context(*arguments, **settings)  # type: ignore[arg-type]
        except click.UsageError as error:
            raise click.ClickException(error.format_message()) from None


@click.command(cls=_Plan)
@pass_groups
@file_argument
@yaml_option
@output_option
def plan(groups: GroupClient, file: str, is_yaml: bool, output: str | None) -> int:
    """Show what a commit of FILE would do, member by member, with reasons.

    Exit status 0: nothing. 2: something. 1: FILE can't be committed. FILE has the same form as for `commit`.
    """
    reports = {id: groups.plan(id, properties) for id, properties in read_groups(file, is_yaml)}
    if output:
        print_json([{"ID": id, **to_builtins(report)} for id, report in reports.items()])
    else:
        click.echo("\n\n".join(_format_plan(id, report) for id, report in reports.items()))
    return WOULD_CHANGE if any(report.has_changes for report in reports.values()) else 0


def _format_plan(id: str, report: PlanReport) -> str:
    head = f"{id}: {report.details}; at most {report.budget} unavailable at once"
    rows = [[step.verb.value, step.subject or "-", step.reason] for step in report.steps]
    return "\n".join([head, format_table([["STEP", "MEMBER", "REASON"], *rows])] if rows else [head])


@click.command()
@pass_groups
@id_argument
def inspect(groups: GroupClient, id: str) -> None:
    """Print a group's spec, which `commit` takes again."""
    specs = {spec.ID: spec for spec in groups.inspect()}
    if id not in specs:
        raise UnknownGroup(id)
    print_json(specs[id])


@click.command()
@pass_groups
@id_argument
def free(groups: GroupClient, id: str) -> None:
    """Forget a group, and leave its members alone."""
    groups.free(id)
    click.echo(f"Freed {id}")


@click.command()
@pass_groups
@id_argument
def destroy(groups: GroupClient, id: str) -> None:
    """Destroy a group, with ALL its members. The controller does not ask, and does it in the background."""
    groups.destroy(id)
    click.echo(f"destroy {id} initiated")


@click.command()
@pass_groups
@id_argument
@output_option
def history(groups: GroupClient, id: str, output: str | None) -> None:
    """Show a group's commits: who changed what, and when."""
    commits = groups.history(id)
    if output:
        print_json(commits)
        return
    rows = [
        [
            str(each.number),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.at)),
            each.by,
            each.cause,
            each.details,
        ]
        for each in commits
    ]
    click.echo(format_table([["NUMBER", "TIME", "BY", "CAUSE", "DETAILS"], *rows]))


@click.command()
@pass_groups
@id_argument
@click.argument("number", metavar="[N]", type=click.IntRange(1), required=False)
def undo(groups: GroupClient, id: str, number: int | None) -> None:
    """Commit the properties of commit N of the history again; by default, of the one before the last."""
    click.echo(f"Committed {id}: {groups.undo(id, number, _identify_user())}")


def _identify_user() -> str:
    """Return who runs this command, for the history."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"user {uid}"
    return f"{name}@{socket.gethostname()}"
