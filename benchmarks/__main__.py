"""The command line: `python -m benchmarks [PART…]`."""

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import msgspec

from benchmarks import table
from benchmarks.bench import Bench, bench
from benchmarks.parts import describe, flat, latency, memory, processes, provision, rack, slow, start, written
from benchmarks.report import Report
from benchmarks.scale import FULL, QUICK

PARTS: Mapping[str, Callable[[Bench], Report]] = {
    "describe": describe.measure,
    "provision": provision.measure,
    "written": written.measure,
    "start": start.measure,
    "memory": memory.measure,
    "flat": flat.measure,
    "latency": latency.measure,
    "slow": slow.measure,
    "processes": processes.measure,
    "rack": rack.measure,
}


@click.command()
@click.argument("parts", type=click.Choice(list(PARTS)), nargs=-1)
@click.option("--quick", is_flag=True, help="A short look: small fleets, short rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Where state files are: on a real disk.  [default: the working directory]",
)
def main(parts: tuple[str, ...], quick: bool, as_json: bool, folder: Path) -> None:
    """Measure the daemon beside what bounds it: all parts, or some."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that whatever was started is ended
    reports = {}
    with bench(QUICK if quick else FULL, folder.absolute()) as place:
        for part in parts or PARTS:
            reports[part] = PARTS[part](place)
            if not as_json:
                click.echo("\n".join([part, "", *table.lines(reports[part]), "", ""]))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(reports)))


if __name__ == "__main__":
    main()
