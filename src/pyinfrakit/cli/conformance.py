"""`conformance`: hold any plugin to what InfraKit relies on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from pyinfrakit import paths
from pyinfrakit.cli.arguments import directory_option, plugin_argument, read_json
from pyinfrakit.cli.table import table
from pyinfrakit.conformance import Report, Verdict, check


@click.command()
@plugin_argument
@directory_option
@click.option(
    "--properties", "source", metavar="FILE|-", help="The properties that instances are made with; {} without it."
)
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="FILE is YAML.")
@click.option(
    "--count", type=click.IntRange(2, 100), default=5, show_default=True, help="How many are provisioned at once."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=15.0,
    show_default=True,
    help="Seconds for each call.",
)
@click.option("-r", "--raw", "--json", is_flag=True, help="As JSON.")
def conformance(
    name: str, directory: Path, source: str | None, is_yaml: bool, count: int, timeout: float, raw: bool
) -> None:
    """Check that a plugin does what InfraKit relies on.

    Any instance plugin, in any language: NAME is a name, NAME/TYPE, or a socket's path. It MAKES INSTANCES, says on standard
    error which before it begins, and destroys them again, whatever happens. Exit status 1 if anything does not hold.
    """
    properties = read_json(source, is_yaml) if source else msgspec.Raw(b"{}")
    path, kind = paths.resolve(name, directory)
    with _terminated_as_interrupted():
        report = check(path, kind=kind, properties=properties, count=count, timeout=timeout, tell=_tell)
    click.echo(_json(report) if raw else _tables(report))
    if not report.holds:
        raise click.ClickException(_verdict(report))


def _tell(line: str) -> None:
    click.echo("".join(each if each.isprintable() else ascii(each)[1:-1] for each in line), err=True)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Clean up on SIGTERM, too: that is how a CI job is cancelled."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tables(report: Report) -> str:
    facts = table([[each.name, each.value] for each in report.facts])
    checks = table(
        [
            ["CHECK", "VERDICT", "EXPECTED", "HAPPENED"],
            *([r.name, r.verdict, r.expected, r.happened] for r in report.checks),
        ]
    )
    return f"{facts}\n\n{checks}\n\n{_counted(report)}"


def _counted(report: Report) -> str:
    counts = {verdict: sum(each.verdict is verdict for each in report.checks) for verdict in Verdict}
    return ", ".join(f"{verdict}: {count}" for verdict, count in counts.items())


def _json(report: Report) -> str:
    document: dict[str, Any] = {"holds": report.holds, **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def _verdict(report: Report) -> str:
    failed = ", ".join(each.name for each in report.failed)
    left = ", ".join(each.id or "perhaps what was not answered" for each in report.left)
    told = [f"does not hold: {failed}"] if failed else []
    return "; ".join([*told, f"left behind: {left}"] if left else told)
