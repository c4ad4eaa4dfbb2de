"""`fsck`: say what is wrong with a state file, and mend it."""

import io
import os
import sys
import time
from pathlib import Path

import click

from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart
from pyinfrakit.store.file import recovery, repair, salvage
from pyinfrakit.store.file.salvage import Report


def state_file(path: Path) -> Path:
    """Return *path* without links. Raise `CannotStart` if it, or a journal beside it, is not a regular file."""
    # A pipe or a device may have no end: to read it would hang.
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
    "--repair", "mends", is_flag=True, help="Put what can be saved in the file's place; what was there is kept."
)
@click.option("--without-journal", is_flag=True, help="Take the file as it is, without the changes in its journal.")
def fsck(path: Path, mends: bool, without_journal: bool) -> None:
    """Say what is wrong with a state file and its journal: exit status 1 if anything is, and was not repaired."""
    real = state_file(path)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file may hold what a terminal can't show
        sys.stdout.reconfigure(errors="backslashreplace")
    if mends:
        with recovery.lock(real, f"state file {path}", "fsck"):
            _mend(real, not without_journal)
    else:
        _check(real, not without_journal)


def _check(path: Path, with_journals: bool) -> None:
    report = _examined(path, with_journals)
    saved = _count(len(report.content.records), "instance")
    if not report.findings:
        _tell(f"nothing is wrong: {saved}")
        return
    _say(report)
    if report.changed:
        _tell(f"would make the journal's changes to {', '.join(report.changed)}; not so with `--without-journal`")
    for finding in report.findings:
        if finding.lost:
            _tell(f"would lose {finding.lost}")
    raise click.ClickException(
        f"{_count(len(report.findings), 'problem')} in {path}: `--repair` would save {saved}, and keep all that is there now"
    )


def _examined(path: Path, with_journals: bool) -> Report:
    """Examine files to which a daemon may be writing: what is wrong with them is believed once they don't change meanwhile."""
    end = time.monotonic() + recovery.PATIENCE
    while True:
        pair = recovery.read_existing(Disk(), path)
        report = salvage.examine(pair, with_journals)
        if not report.findings or time.monotonic() > end or recovery.read_existing(Disk(), path) == pair:
            return report


def _mend(path: Path, with_journals: bool) -> None:
    pair = recovery.read_existing(Disk(), path)
    report = salvage.examine(pair, with_journals)
    if not report.findings:
        _tell(f"nothing is wrong, and nothing was changed: {_count(len(report.content.records), 'instance')}")
        return
    _say(report)
    for kept in repair.replace(Disk(), pair, report.content):
        _tell(f"kept {kept}")
    if report.changed:
        _tell(f"made the journal's changes to {', '.join(report.changed)}")
    for finding in report.findings:
        if finding.lost:
            _tell(f"lost {finding.lost}")
    _tell(f"repaired {path}: {_count(len(report.content.records), 'instance')}")


def _say(report: Report) -> None:
    for finding in report.findings:
        _tell(f"{finding.where}: {finding.problem}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _tell(text: str) -> None:
    """Print one line, whatever stands in damaged files and in their names."""
    click.echo("".join(each if each.isprintable() else ascii(each)[1:-1] for each in text))
