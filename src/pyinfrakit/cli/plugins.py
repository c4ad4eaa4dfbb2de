"""`plugin`: the plugins that run, whatever they are."""

import socket
from pathlib import Path

import click

from pyinfrakit.cli.arguments import directory_option
from pyinfrakit.cli.output import format_row
from pyinfrakit.errors import Unreachable
from pyinfrakit.logs import escape
from pyinfrakit.rpc.client import Client, RemoteError
from pyinfrakit.rpc.instance.client import InstanceClient

TIMEOUT = 5.0
"""Seconds to wait for each plugin."""


@click.group(no_args_is_help=False)
def plugin() -> None:
    """See which plugins run."""


@plugin.command()
@directory_option
@click.option("-q", "--quiet", is_flag=True, help="Print rows without column headers.")
@click.option("-w", "--wide", is_flag=True, help="Show interfaces, too.")
def ls(directory: Path, quiet: bool, wide: bool) -> None:
    """List the plugins that run. Sockets on which nothing listens are named on standard error."""
    if not quiet:
        click.echo(format_row("INTERFACE", "NAME", "LISTEN") if wide else format_row("NAME", "LISTEN", width=20))
    for path in sorted(_list_sockets(directory)):
        if not _is_live(path):
            click.echo(f"infrakit: nothing listens on {escape(str(path))}: its plugin is gone", err=True)
        elif wide:
            click.echo("\n".join(format_row(each, path.name, str(path)) for each in _find_interfaces(path)))
        else:
            click.echo(format_row(path.name, str(path), width=20))


def _list_sockets(directory: Path) -> list[Path]:
    """Return the sockets in a folder; none if it does not exist."""
    try:
        return [each for each in directory.iterdir() if each.is_socket()]
    except FileNotFoundError:
        return []


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(TIMEOUT)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass  # too busy to answer, or not ours: it has an owner
    return True


def _find_interfaces(path: Path) -> list[str]:
    """Return a plugin's interfaces, newest version only, or ``-`` if it does not tell."""
    with Client(path, TIMEOUT) as client:
        try:
            return [f"{each.Name}/{each.Version}" for each in InstanceClient(client).api().Implements] or ["-"]
        except (RemoteError, Unreachable):
            return ["-"]
