"""Reports: rows of measurements, targets, and the tables that print them."""

from collections.abc import Iterator, Mapping, Sequence

import click
from msgspec import Struct

MILLISECONDS = 1000
"""Milliseconds in a second."""

MIB = 1 << 20
"""Bytes in a MiB."""

_TARGET_HEADS = ("", "instances", "connections", "target", "measured", "met")


class Baseline(Struct, frozen=True):
    """A baseline's value in the same rounds, and the median ratio of the row to it."""

    value: float
    ratio: float


# The JSON keys of rows and targets are part of the command's interface, so they differ from the attributes here.
class Row(Struct, frozen=True, omit_defaults=True, rename={"measure": "what", "baselines": "beside"}):
    """The value of a measure, beside its baselines."""

    measure: str
    value: float
    unit: str
    instances: int | None = None
    connections: int | None = None
    baselines: Mapping[str, Baseline] = {}


class Target(Struct, frozen=True, rename={"measure": "what"}):
    """A bound for a measure: a lower bound if *at_least* is set, otherwise an upper bound."""

    measure: str
    instances: int
    connections: int | None
    at_least: bool
    bound: float
    measured: float
    met: bool


class Report(Struct, frozen=True):
    """The result of a case."""

    rows: list[Row]
    targets: list[Target]


def at_least(bound: float, measured: float, measure: str, instances: int, connections: int | None = None) -> Target:
    """Return a target with a lower bound."""
    return Target(measure, instances, connections, True, bound, measured, measured >= bound)


def at_most(bound: float, measured: float, measure: str, instances: int, connections: int | None = None) -> Target:
    """Return a target with an upper bound."""
    return Target(measure, instances, connections, False, bound, measured, measured <= bound)


def print_progress(message: str) -> None:
    """Print a message to standard error, as standard output is for the report."""
    click.echo(message, err=True)


def format_report(report: Report) -> Iterator[str]:
    """Return the lines of a report's tables."""
    names = list(dict.fromkeys(name for row in report.rows for name in row.baselines))
    heads = ["", "instances", "connections", "", "", *(head for name in names for head in (name, "ratio"))]
    yield from _align([heads, *(_format_row(row, names) for row in report.rows)])
    if report.targets:
        yield ""
        yield from _align([_TARGET_HEADS, *map(_format_target, report.targets)])


def _format_row(row: Row, names: Sequence[str]) -> list[str]:
    cells = [
        row.measure,
        _format_count(row.instances),
        _format_count(row.connections),
        format_number(row.value),
        row.unit,
    ]
    for name in names:
        baseline = row.baselines.get(name)
        cells += ("-", "-") if baseline is None else (format_number(baseline.value), format_number(baseline.ratio))
    return cells


def _format_target(target: Target) -> list[str]:
    cells = [target.measure, _format_count(target.instances), _format_count(target.connections)]
    sign = "≥" if target.at_least else "≤"
    return [*cells, f"{sign} {target.bound:,g}", format_number(target.measured), "yes" if target.met else "NO"]


def _format_count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def format_number(value: float) -> str:
    """Return a number with three significant digits, or without decimals if it is 100 or more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return the rows as lines, with the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()
