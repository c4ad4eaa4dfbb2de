"""`fsck` and `export`: the commands that read a state file themselves, without a plugin."""

import io
import os
import re
import secrets
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import click

from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart
from pyinfrakit.logs import escape
from pyinfrakit.store.file import document, recovery
from pyinfrakit.store.file import fsck as checks
from pyinfrakit.store.file.fsck import Examination


def state_file(path: Path) -> Path:
    """Return the real path of a state file. Raise `CannotStart` if it, or a journal beside it, is not a regular file.

    A FIFO or a device may never end, so the commands must not begin to read it.
    """
    real = Path(os.path.realpath(path))
    try:
        for each in (real, *recovery.journals(Disk(), real)):
            if each.exists() and not each.is_file():
                raise CannotStart(f"state file {path}: {'' if each == real else f'{each.name} is '}not a regular file")
    except OSError as error:
        raise CannotStart(f"state file {path}: {error.strerror or error}") from None
    return real


@click.command()
@click.argument("path", metavar="STATE", type=click.Path(path_type=Path))
@click.option(
    "--repair", is_flag=True, help="Replace the file with everything that can be saved; keep copies of the old files."
)
@click.option("--without-journal", is_flag=True, help="Use the file alone, without the changes in its journal.")
@click.option(
    "--accept-edit", is_flag=True, help="Print what an editor changed in the file, and let the plugin start with it."
)
def fsck(path: Path, repair: bool, without_journal: bool, accept_edit: bool) -> None:
    """Report the problems of a state file and its journal.

    Exit status 0: there are no problems, or they are repaired. 1: there are problems.
    """
    real = state_file(path)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file may hold letters that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    if accept_edit and (repair or without_journal):
        raise click.UsageError("--accept-edit: use it alone, after a clean stop; --repair is for damage")
    if repair or accept_edit:
        with recovery.lock(real, f"state file {path}", "fsck"):
            if accept_edit:
                _accept(real)
            else:
                _repair(real, not without_journal)
    else:
        _report(real, not without_journal)


def _report(path: Path, with_journals: bool) -> None:
    examination = _examine_live(path, with_journals)
    saved = _count(len(examination.content.records), "instance")
    if not examination.problems:
        _print(f"no problems: {saved}")
        return
    _list_problems(examination)
    if examination.changed:
        changed = ", ".join(examination.changed)
        _print(f"would apply the journal's changes to {changed}; `--without-journal` skips them")
    _list_losses("would lose", examination)
    _list_edits(examination)
    problems = _count(len(examination.problems), "problem")
    raise click.ClickException(f"{problems} in {path}: `--repair` would save {saved} and keep copies of the old files")


def _examine_live(path: Path, with_journals: bool) -> Examination:
    """Examine files that a daemon may be writing: problems count only if the files did not change in the meantime."""
    end = time.monotonic() + recovery.PATIENCE
    while True:
        pair = recovery.read_existing(Disk(), path)
        examination = checks.examine(pair, with_journals)
        if not examination.problems or time.monotonic() > end or recovery.read_existing(Disk(), path) == pair:
            return examination


def _accept(path: Path) -> None:
    pair = recovery.read_existing(Disk(), path)
    examination = checks.examine(pair)
    saved = _count(len(examination.content.records), "instance")
    if not examination.problems:
        _print(f"no problems, nothing changed: {saved}")
        return
    _list_problems(examination)
    if not examination.edits:
        raise click.ClickException(f"{path} has other problems than an edit: see `infrakit-instance fsck {path}`")
    _list_edits(examination)
    for copy in checks.repair(Disk(), pair, examination.content):
        _print(f"kept {copy}")
    _print(f"accepted {path}: {saved}")


def _list_edits(examination: Examination) -> None:
    for line in examination.edits:
        _print(f"edit: {line}")


def _repair(path: Path, with_journals: bool) -> None:
    pair = recovery.read_existing(Disk(), path)
    examination = checks.examine(pair, with_journals)
    saved = _count(len(examination.content.records), "instance")
    if not examination.problems:
        _print(f"no problems, nothing changed: {saved}")
        return
    _list_problems(examination)
    for copy in checks.repair(Disk(), pair, examination.content):
        _print(f"kept {copy}")
    if examination.changed:
        _print(f"applied the journal's changes to {', '.join(examination.changed)}")
    _list_losses("lost", examination)
    _print(f"repaired {path}: {saved}")


def _list_problems(examination: Examination) -> None:
    for problem in examination.problems:
        _print(f"{problem.place}: {problem.text}")


def _list_losses(verb: str, examination: Examination) -> None:
    for problem in examination.problems:
        if problem.loss:
            _print(f"{verb} {problem.loss}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print(text: str) -> None:
    click.echo(escape(text))  # damaged files, and their names, may hold anything


@click.command()
@click.argument("path", metavar="STATE", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file, with mode 0600, instead.")
def export(path: Path, output: Path | None) -> None:
    """Print the content of a state file and its journal as one JSON document, even while the plugin runs.

    The output is a state file itself. It holds all secrets that are in specs.
    """
    state = state_file(path)
    target = None if output is None else _resolve_output(output, state)
    content = recovery.read_live(Disk(), state).content
    chunks = document.dump_stamped(content, secrets.token_hex(8), 0)
    if target is None:
        if sys.stdout is None:
            raise click.ClickException("there is no standard output")
        # With PYTHONUNBUFFERED, sys.stdout may write only a part.
        with open(sys.stdout.fileno(), "wb", closefd=False) as stdout:
            stdout.writelines(chunks)
        return
    # A file that exists may be another plugin's state file.
    with recovery.lock(target, f"file {output}", "export") if target.exists() else nullcontext():
        try:
            Disk().replace(target, chunks)
        except OSError as error:
            raise CannotStart(f"file {output} can't be written: {error.strerror or error}") from None


def _resolve_output(output: Path, state: Path) -> Path:
    """Return the real path of the file to write. Raise `CannotStart` if an export must not replace it."""
    target = Path(os.path.realpath(output))
    name = re.escape(state.name)
    if target.exists() and not target.is_file():
        raise CannotStart(f"file {output}: not a regular file")
    if target.parent == state.parent and re.fullmatch(
        rf"{name}(\.lock|\.journal-.*)?|\.{name}\.(journal\.)?new", target.name
    ):
        raise CannotStart(f"file {output}: an export would destroy this file, which the plugin uses; name another file")
    return target
