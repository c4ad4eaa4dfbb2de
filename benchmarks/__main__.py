"""The command line: `python -m benchmarks [CASE...]`."""

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import msgspec

from benchmarks.cases.describe import measure_describe
from benchmarks.cases.groups import measure_groups
from benchmarks.cases.latency import measure_latency
from benchmarks.cases.memory import measure_growth, measure_memory
from benchmarks.cases.observation import measure_processes, measure_rack
from benchmarks.cases.provision import measure_provision, measure_slow, measure_written
from benchmarks.cases.start import measure_start
from benchmarks.cases.workspace import FULL, QUICK, Workspace, open_workspace
from benchmarks.report.tables import Report, format_report

CASES: Mapping[str, Callable[[Workspace], Report]] = {
    "describe": measure_describe,
    "provision": measure_provision,
    "written": measure_written,
    "start": measure_start,
    "memory": measure_memory,
    "flat": measure_growth,
    "latency": measure_latency,
    "slow": measure_slow,
    "processes": measure_processes,
    "rack": measure_rack,
    "groups": measure_groups,
}


@click.command()
@click.argument("cases", type=click.Choice(list(CASES)), nargs=-1)
@click.option("--quick", is_flag=True, help="Run small fleets and short rounds: a check that everything works.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Folder for state files, on the disk to measure.  [default: the working directory]",
)
def main(cases: tuple[str, ...], quick: bool, as_json: bool, folder: Path) -> None:
    """Measure the daemon against its limits: in the named cases, or in all."""
    # A SIGTERM has to raise an exception, so that the contexts of all servers close and kill them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    reports = {}
    with open_workspace(QUICK if quick else FULL, folder.absolute()) as workspace:
        for case in cases or CASES:
            reports[case] = CASES[case](workspace)
            if not as_json:
                click.echo("\n".join([case, "", *format_report(reports[case]), "", ""]))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(reports)))


if __name__ == "__main__":
    main()
