"""A fleet in one process: `infrakit up` runs it, and `infrakit down` destroys its groups."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyinfrakit.cli.arguments import directory_option, log_option
from pyinfrakit.cli.controller import Interval
from pyinfrakit.errors import CannotStart, InvalidSpec, PyInfrakitError, UnknownGroup
from pyinfrakit.rpc.client import Client, RemoteError
from pyinfrakit.rpc.group.client import GroupClient

if TYPE_CHECKING:
    from pyinfrakit.events import EventLog
    from pyinfrakit.fleet import Fleet, GroupEntry
    from pyinfrakit.group.groups import Groups
    from pyinfrakit.group.status import GroupStatus

LOOK_INTERVAL = 1.0
"""Seconds between looks at groups that are being destroyed."""

MOST_CALLS = 32
"""Groups that a running controller is asked to destroy at the same time. A call returns late: at the group's end."""

UP = "up"
"""The cause of a commit from a fleet file, in a group's history."""

files_argument = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)

name_option = click.option(
    "--name",
    default="group",
    help="The name of the controller's socket. With a name of your own, a plugin's socket is NAME-PLUGIN, so that"
    " several fleets can run from the same file.",
)

poll_option = click.option(
    "--poll-interval", type=Interval(), default="10s", help="Time between two descriptions by a plugin without events."
)


@click.command()
@files_argument
@name_option
@directory_option
@poll_option
@log_option(default=2)
def up(files: Sequence[Path], name: str, directory: Path, poll_interval: float, log: int) -> None:
    """Run the plugins and groups in FILE, and show what happens, until Ctrl-C.

    Groups are committed as the file has them, unless they were committed from it before: a size that you change
    with `infrakit group scale` stays. Ctrl-C leaves the machines alone. `infrakit down` destroys the groups.
    """
    fleet = _prepare(files, log)
    _run(fleet, name, directory, poll_interval, partial(_keep_up, fleet))


@click.command()
@files_argument
@name_option
@directory_option
@poll_option
@log_option(default=2)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def down(files: Sequence[Path], name: str, directory: Path, poll_interval: float, log: int, yes: bool) -> None:
    """Destroy the groups in FILE with all their machines, after asking. This works whether or not the fleet runs."""
    fleet = _prepare(files, log)
    ids = [group.id for group in fleet.groups]
    if not ids:
        raise click.ClickException(f"{', '.join(map(str, files))}: no groups to destroy")
    if not yes:
        click.confirm(f"Destroy group{'s' if len(ids) > 1 else ''} {', '.join(ids)} with all machines?", abort=True)
    if (directory / name).is_socket() and (running := _list_running(directory / name)) is not None:
        _destroy(directory / name, [id for id in ids if id in running])
    else:
        gone: set[str] = set()
        _run(fleet, name, directory, poll_interval, partial(_wait_for_end, ids, gone), ids)
        if not gone:
            raise click.Abort  # a signal came first; the rest goes on with the next `up` or `down`
    click.echo(f"destroyed {', '.join(ids)}")


def _prepare(files: Sequence[Path], log: int) -> "Fleet":
    # Imported here: these modules load slowly, and --help does not need them.
    from pyinfrakit import logs
    from pyinfrakit.fleet import read_fleet

    logs.configure(log)
    return read_fleet(files)


def _run(fleet: "Fleet", name: str, directory: Path, poll: float, errand: Any, ending: Sequence[str] = ()) -> None:
    from pyinfrakit.daemon.build import MakeProvider, run_fleet

    prefix = "" if name == "group" else f"{name}-"
    plugins: dict[str, Mapping[str, MakeProvider]] = {
        f"{prefix}{plugin}": {sub_type: choice.make for sub_type, choice in choices.items()}
        for plugin, choices in fleet.plugins.items()
    }
    run_fleet(name, plugins, directory, poll, errand, max_members=fleet.max_members, ending=ending)


# --- Errands, in the daemon's process


async def _keep_up(fleet: "Fleet", groups: "Groups", log: "EventLog") -> None:
    """Commit the fleet's groups, and show events until the daemon stops."""
    with log.subscribe() as subscription:
        await _apply(fleet, groups)
        click.echo(f"{_count(len(fleet.plugins), 'plugin')}, {_count(len(groups.inspect()), 'group')}; Ctrl-C to stop")
        await _show(subscription)


async def _wait_for_end(ids: Sequence[str], gone: set[str], groups: "Groups", log: "EventLog") -> None:
    """Show events, and what the groups wait for, until they are gone; add their IDs to *gone* then."""
    with log.subscribe() as subscription:
        showing = asyncio.create_task(_show(subscription))
        watching = asyncio.create_task(_watch(ids, groups))
        if await groups.wait_for_end(ids):
            gone.update(ids)
        watching.cancel()
        subscription.close()
        await showing


async def _watch(ids: Sequence[str], groups: "Groups") -> None:
    """Say what the groups wait for, whenever that has changed."""
    waits = _Waits()
    while True:
        await asyncio.sleep(LOOK_INTERVAL)
        waits.say([group for id in ids if (group := _find(groups, id))])


def _find(groups: "Groups", id: str) -> "GroupStatus | None":
    try:
        return groups.describe(id)
    except UnknownGroup:
        return None


class _Waits:
    """What was last said of groups that are being destroyed."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def say(self, groups: "Sequence[GroupStatus]") -> None:
        """Say what these groups wait for, if that has changed."""
        lines = [f"waiting for {group.id}: {text}" for group in groups for text in _explain(group)]
        if lines != self._said:
            click.echo("\n".join(lines), err=True, nl=bool(lines))
            self._said = lines


def _explain(group: "GroupStatus") -> Iterator[str]:
    """Yield what a group waits for; one text for all members with the same reason."""
    from pyinfrakit.group.holds import summarize

    if group.trouble:
        yield group.trouble
    subjects: dict[str, list[str]] = {}
    for step in group.steps:
        subjects.setdefault(step.reason, []).append(step.subject)
    for reason, ids in subjects.items():
        yield ": ".join(filter(None, summarize(reason, ids)))


async def _show(subscription: Any) -> None:
    from pyinfrakit.cli.events import format_event

    async for event in subscription:
        lines = "\n".join(map(format_event, [event, *subscription.take()]))
        await asyncio.to_thread(click.echo, lines)  # the terminal may be stopped


async def _apply(fleet: "Fleet", groups: "Groups") -> None:
    """Commit the groups that the file has changed. All are checked before the first one is committed."""
    stored = {id for id, _ in groups.inspect()}
    changed = [entry for entry in fleet.groups if entry.id not in stored or not _is_applied(entry, groups)]
    for pretend in (True, False):
        for entry in changed:
            try:
                await groups.commit(entry.id, entry.properties, pretend, UP)
            except InvalidSpec as error:
                raise CannotStart(f"{entry.locate(error.field)}: {error.problem}") from None
            except PyInfrakitError as error:
                raise CannotStart(f"{entry.locate('Properties')}: {error}") from None
    for id in sorted(stored - {entry.id for entry in fleet.groups}):
        click.echo(f"group {id} is not in the file; it is kept as it is", err=True)


def _is_applied(entry: "GroupEntry", groups: "Groups") -> bool:
    """Return whether a group's last commit from a file had the same properties."""
    applied = [commit.properties for commit in groups.history(entry.id) if commit.by == UP]
    return bool(applied) and bytes(applied[-1]) == bytes(entry.properties)


# --- A fleet that runs already


def _list_running(path: Path) -> list[str] | None:
    """Return the groups of the controller at *path*, or None if none runs there."""
    try:
        with Client(path) as client:
            return [group.ID for group in GroupClient(client).list()]
    except PyInfrakitError:
        return None


def _destroy(path: Path, ids: Sequence[str]) -> None:
    """Have the controller at *path* destroy groups, all at once, and wait until they are gone."""
    waits = _Waits()
    with ThreadPoolExecutor(MOST_CALLS) as pool, Client(path) as client:
        calls = [pool.submit(_begin_end, path, id) for id in ids]
        while left := [group for id in ids if (group := _ask(GroupClient(client), id))]:
            for call in filter(Future.done, calls):
                call.result()  # a refusal ends the wait
            waits.say(left)
            time.sleep(LOOK_INTERVAL)


def _begin_end(path: Path, id: str) -> None:
    with Client(path, timeout=30) as client:
        GroupClient(client).destroy(id)


def _ask(controller: GroupClient, id: str) -> "GroupStatus | None":
    """Return the status of a group, or None once it is gone."""
    try:
        return controller.status(id)
    except RemoteError as error:
        if error.kind != UnknownGroup.kind:
            raise
        return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
