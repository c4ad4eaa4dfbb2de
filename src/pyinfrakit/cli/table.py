"""Tables for people, which a program may read, too."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns; nothing is cut, as it may be read by a program."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    printable = [[_printable(cell) for cell in row] for row in rows]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in printable
    )
    return "\n".join(lines)


def _printable(cell: str) -> str:
    """Escape line ends and control sequences: what came from elsewhere must not forge a row."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in cell)
