"""`conformance`: check that a plugin of any kind behaves as InfraKit expects."""

import signal
from pathlib import Path

import click
from msgspec import Raw, to_builtins

from pyinfrakit import paths
from pyinfrakit.cli.arguments import directory_option, plugin_argument, read_json
from pyinfrakit.cli.output import format_table, print_json
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
    properties = read_json(source, is_yaml) if source else Raw(b"{}")
    path, sub_type = paths.resolve(name, directory)
    # Clean up on SIGTERM, too, because CI systems cancel jobs with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def tell(line: str) -> None:
        click.echo(escape(line), err=True)  # stdout has the report alone, for programs

    report = check(path, sub_type=sub_type, properties=properties, count=count, timeout=timeout, tell=tell)
    if raw:
        print_json({"holds": report.holds, **to_builtins(report)})
    else:
        click.echo(_format_tables(report))
    problems = [f"does not hold: {', '.join(each.name for each in report.failed)}"] if report.failed else []
    if report.left:
        problems.append(f"left behind: {', '.join(each.id or 'perhaps others' for each in report.left)}")
    if problems:
        raise click.ClickException("; ".join(problems))


def _format_tables(report: Report) -> str:
    facts = format_table([[each.name, each.value] for each in report.facts])
    rows = [[each.name, each.verdict, each.expected, each.happened] for each in report.checks]
    checks = format_table([["CHECK", "VERDICT", "EXPECTED", "HAPPENED"], *rows])
    counts = (f"{verdict}: {sum(each.verdict is verdict for each in report.checks)}" for verdict in Verdict)
    return f"{facts}\n\n{checks}\n\n{', '.join(counts)}"
