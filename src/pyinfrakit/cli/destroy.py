"""`destroy`: have instances destroyed."""

import time
from pathlib import Path

import click

from pyinfrakit.cli.arguments import directory_option, plugin_argument, remote
from pyinfrakit.errors import PyInfrakitError, TryAgain
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.operator.client import OperatorClient

LOOK_AGAIN = 0.2


@click.command()
@plugin_argument
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@directory_option
@click.option("--wait/--no-wait", default=True, help="Wait until the instances are gone.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds to wait at most."
)
def destroy(name: str, ids: tuple[str, ...], directory: Path, wait: bool, timeout: float) -> None:
    """Have instances destroyed, and wait until they are gone. One that can't be does not keep the others from it."""
    end = time.monotonic() + timeout
    problems: dict[str, PyInfrakitError] = {}
    with remote(name, directory) as plugin:
        for id in ids:
            try:
                plugin.destroy(id)
            except RemoteError as error:
                problems[id] = error
        for id in ids:
            if wait and id not in problems:
                try:
                    _wait(plugin, id, end)
                except TryAgain as error:
                    problems[id] = error
            if id not in problems:
                click.echo(f"destroyed {id}")
    if problems:
        raise click.ClickException("; ".join(str(problem) for problem in problems.values()))


def _wait(plugin: OperatorClient, id: str, end: float) -> None:
    while reason := _why_there(plugin, id):
        if time.monotonic() >= end:
            raise TryAgain(f"{id}: still being destroyed ({reason}); the plugin goes on trying")
        time.sleep(LOOK_AGAIN)


def _why_there(plugin: OperatorClient, id: str) -> str | None:
    """Say why an instance is still there; None when it is gone, as far as a plugin that is not ours can tell."""
    try:
        records = plugin.records({}, [id])
    except RemoteError as error:
        if error.is_unknown_method:
            return None
        raise
    return records[0].Reason or "destroying" if records else None
