"""`export`: print a state file's current content."""

import os
import sys
from pathlib import Path

import click

from pyinfrakit.durable import Disk
from pyinfrakit.store import document, recovery


@click.command()
@click.argument("path", metavar="STATE", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file, with mode 0600, instead.")
def export(path: Path, output: Path | None) -> None:
    """Print the content of a state file with its journal, as one JSON document, also while the plugin runs.

    It is a state file itself, and holds whatever secrets are in specs.
    """
    chunks = document.dump(recovery.read_live(Disk(), Path(os.path.realpath(path))).content)
    if output is not None:
        Disk().replace(output, chunks)
        return
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
