"""`export`: print a state file's current content."""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from pyinfrakit.cli.fsck import state_file
from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart
from pyinfrakit.store.file import document, recovery


@click.command()
@click.argument("path", metavar="STATE", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file, with mode 0600, instead.")
def export(path: Path, output: Path | None) -> None:
    """Print the content of a state file with its journal, as one JSON document, also while the plugin runs.

    It is a state file itself, and holds whatever secrets are in specs.
    """
    state = state_file(path)
    what, target = f"file {output}", None if output is None else _target(output, state)
    chunks = document.dump(recovery.read_live(Disk(), state).content)
    if target is None:
        _print(chunks)
    elif target.exists():  # it may be another plugin's state file
        with recovery.lock(target, what, "export"):
            _write(target, what, chunks)
    else:
        _write(target, what, chunks)


def _target(output: Path, state: Path) -> Path:
    """Resolve links to what is to be written. Raise `CannotStart` for what must not be replaced."""
    target = Path(os.path.realpath(output))
    name = re.escape(state.name)
    if target.exists() and not target.is_file():
        raise CannotStart(f"file {output}: not a regular file")
    if target.parent == state.parent and re.fullmatch(
        rf"{name}(\.lock|\.journal-.*)?|\.{name}\.(journal\.)?new", target.name
    ):
        raise CannotStart(f"file {output}: that is the plugin's own, which an export would destroy; name another")
    return target


def _print(chunks: Iterable[bytes]) -> None:
    if sys.stdout is None:
        raise click.ClickException("there is no standard output")
    with open(sys.stdout.fileno(), "wb", closefd=False) as output:  # PYTHONUNBUFFERED takes away what writes it all
        output.writelines(chunks)


def _write(path: Path, what: str, chunks: Iterable[bytes]) -> None:
    try:
        Disk().replace(path, chunks)
    except OSError as error:
        raise CannotStart(f"{what} can't be written: {error.strerror or error}") from None
