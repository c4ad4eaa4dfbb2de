"""`conformance`: check that a plugin of any kind behaves as InfraKit expects."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from pyinfrakit import paths
from pyinfrakit.cli.arguments import directory_option, plugin_argument, read_json
from pyinfrakit.cli.output import format_table
from pyinfrakit.conformance import Report, Verdict, check
from pyinfrakit.logs import escape


@click.command()
@plugin_argument
@directory_option
@click.option("--properties", "source", metavar="FILE|-", help="Properties of the instances; {} by default.")
@click.option("-y", "--yaml", "is_yaml", is_flag=True, help="FILE is YAML.")
@click.option("--count", type=click.IntRange(2, 100), default=5, show_default=True, help="Instances to create at once.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=15.0,
    show_default=True,
    help="Seconds to wait for each call.",
)
@click.option("-r", "--raw", "--json", is_flag=True, help="Print the report as JSON.")
def conformance(
    name: str, directory: Path, source: str | None, is_yaml: bool, count: int, timeout: float, raw: bool
) -> None:
    """Check that a plugin behaves as InfraKit expects.

    The plugin may be in any language. NAME is a name, NAME/TYPE, or the path of a socket. The command CREATES INSTANCES:
    it first prints its plan to standard error, and it destroys them at the end in all cases. The exit status is 1 if a check
    fails or an instance is left behind.
    """
    properties = read_json(source, is_yaml) if source else msgspec.Raw(b"{}")
    path, sub_type = paths.resolve(name, directory)
    with _interrupt_on_sigterm():
        report = check(path, sub_type=sub_type, properties=properties, count=count, timeout=timeout, tell=_print_line)
    click.echo(_format_json(report) if raw else _format_tables(report))
    problems = {
        "does not hold": ", ".join(each.name for each in report.failed),
        "left behind": ", ".join(each.id or "perhaps others" for each in report.left),
    }
    if not report.holds:
        raise click.ClickException("; ".join(f"{problem}: {names}" for problem, names in problems.items() if names))


def _print_line(line: str) -> None:
    click.echo(escape(line), err=True)  # stdout has the report alone, for programs


@contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """Clean up on SIGTERM, too, because CI systems cancel jobs with it."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _format_tables(report: Report) -> str:
    facts = format_table([[each.name, each.value] for each in report.facts])
    rows = [[each.name, each.verdict, each.expected, each.happened] for each in report.checks]
    checks = format_table([["CHECK", "VERDICT", "EXPECTED", "HAPPENED"], *rows])
    counts = (f"{verdict}: {sum(each.verdict is verdict for each in report.checks)}" for verdict in Verdict)
    return f"{facts}\n\n{checks}\n\n{', '.join(counts)}"


def _format_json(report: Report) -> str:
    document = {"holds": report.holds, **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(document)).decode()
