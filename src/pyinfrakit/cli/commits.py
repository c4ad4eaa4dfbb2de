"""The specs of groups: commit them, see what a commit would do, control the update that follows, go back."""

import os
import pwd
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from pyinfrakit.cli.arguments import read_bytes
from pyinfrakit.cli.group import id_argument, pass_groups
from pyinfrakit.cli.output import format_table, print_json
from pyinfrakit.errors import CannotStart, UnknownGroup
from pyinfrakit.group.status import CourseStep, PlanReport
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.group.client import GroupClient

if TYPE_CHECKING:
    from pyinfrakit.fleet import GroupEntry

WOULD_CHANGE = 2
"""Exit status of `plan` if a commit would change something."""

MOST_ALIKE = 10
"""Most steps that have a line each in a plan although they are alike."""

file_argument = click.argument("file", metavar="FILE|-")
yaml_option = click.option(
    "-y", "--yaml", is_flag=True, hidden=True, expose_value=False, help="JSON and YAML both work."
)
output_option = click.option("-o", "--output", type=click.Choice(["json"]), help="Print JSON.")


def read_groups(source: str) -> "Sequence[GroupEntry]":
    """Return the groups at *source*: a file, ``-`` for stdin, ``file://`` or ``http(s)://``. Raise `ClickException`."""
    # Imported here: with it come the providers, which the other commands do not need.
    from pyinfrakit import fleet

    try:
        if source == "-" or "://" in source:
            return fleet.parse_groups(read_bytes(source), source)
        return fleet.read_groups(Path(source))
    except CannotStart as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def locate_errors(entry: "GroupEntry") -> Iterator[None]:
    """Name the place in the file for an error in a spec."""
    try:
        yield
    except RemoteError as error:
        field, separator, problem = str(error).partition(": ")
        if error.kind != "wrong-spec" or not separator:
            raise
        raise click.ClickException(f"{entry.locate(field)}: {problem}") from None


@click.command()
@pass_groups
@file_argument
@yaml_option
@click.option("--pretend", is_flag=True, help="Commit nothing, and only say what a commit would do.")
def commit(groups: GroupClient, file: str, pretend: bool) -> None:
    """Commit groups: create them, or change them to what FILE describes.

    FILE is a group's spec with ID and Properties, or a fleet file. It is a path, - for standard input, or a file://
    or http(s):// URL. All its groups are checked before the first one is committed.
    """
    entries = read_groups(file)
    for is_trial in (True,) if pretend else (True, False):
        for entry in entries:
            with locate_errors(entry):
                details = groups.commit(entry.id, entry.properties, is_trial, _identify_user())
            if is_trial == pretend:
                click.echo(
                    f"Committing {entry.id} would involve: {details}" if pretend else f"Committed {entry.id}: {details}"
                )


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
def plan(groups: GroupClient, file: str, output: str | None) -> int:
    """Show what a commit of FILE would do, member by member, in order and with reasons, if nothing failed.

    Steps with the same number begin together. Those without one are left alone. More than 10 steps that are alike share
    a line; -o json has all of them.

    Exit status 0: nothing. 2: something. 1: FILE can't be committed. FILE has the same form as for `commit`.
    """
    reports = {}
    for entry in read_groups(file):
        with locate_errors(entry):
            reports[entry.id] = groups.plan(entry.id, entry.properties)
    if output:
        print_json([{"ID": id, **to_builtins(report)} for id, report in reports.items()])
    else:
        click.echo("\n\n".join(_format_plan(id, report) for id, report in reports.items()))
    return WOULD_CHANGE if any(report.has_changes for report in reports.values()) else 0


def _format_plan(id: str, report: PlanReport) -> str:
    head = f"{id}: {report.details}; at most {report.budget} unavailable at once"
    alike = groupby(report.steps, lambda step: (step.number > 0, step.verb, step.reason))
    rows = [row for _, steps in alike for row in _format_steps(list(steps))]
    return "\n".join([head, format_table([_COLUMNS, *rows])] if rows else [head])


def _format_steps(steps: Sequence[CourseStep]) -> Sequence[Sequence[str]]:
    """Return a row for each of some steps that differ only in number and members, or one for all of them."""
    if len(steps) <= MOST_ALIKE:
        return [
            [str(each.number or "-"), each.verb, each.subject or "-", each.new or "-", each.reason] for each in steps
        ]
    first, last = steps[0], steps[-1]
    numbers = _join(str(first.number or "-"), "-", str(last.number or "-"))
    members = f"{len(steps)}: {_join(first.subject or '-', ' … ', last.subject or '-')}"
    return [[numbers, first.verb, members, _join(first.new or "-", " … ", last.new or "-"), first.reason]]


def _join(first: str, separator: str, last: str) -> str:
    """Return a range, or the one text that both of its ends have."""
    return first if first == last else f"{first}{separator}{last}"


_COLUMNS = ["STEP", "ACTION", "MEMBER", "NEW", "REASON"]


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


def _identify_user() -> str:
    """Return who runs this command, for the history."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"user {uid}"
    return f"{name}@{socket.gethostname()}"
