"""Print reports as plain tables."""

from collections.abc import Iterator, Sequence

from benchmarks.report import Beside, Report, Row, Target

_TARGET_HEADS = ("", "instances", "connections", "must reach", "measured", "met")


def lines(report: Report) -> Iterator[str]:
    """Give the lines of a report."""
    beside = list(dict.fromkeys(name for row in report.rows for name in row.beside))
    heads = ["", "instances", "connections", "", "", *(head for name in beside for head in (name, "ratio"))]
    yield from _aligned([heads, *(_cells(row, beside) for row in report.rows)])
    if report.targets:
        yield ""
        yield from _aligned([_TARGET_HEADS, *map(_judgement, report.targets)])


def _cells(row: Row, beside: Sequence[str]) -> list[str]:
    cells = [row.what, _whole(row.instances), _whole(row.connections), number(row.value), row.unit]
    for name in beside:
        cells += _pair(row.beside.get(name))
    return cells


def _pair(other: Beside | None) -> tuple[str, str]:
    return ("-", "-") if other is None else (number(other.value), number(other.ratio))


def _judgement(target: Target) -> list[str]:
    where = [target.what, _whole(target.instances), _whole(target.connections)]
    sign = "≥" if target.at_least else "≤"
    return [*where, f"{sign} {target.bound:,g}", number(target.measured), "yes" if target.met else "NO"]


def _whole(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def number(value: float) -> str:
    """Write a number with three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()
