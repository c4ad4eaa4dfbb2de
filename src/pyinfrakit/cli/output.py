"""Output that people read and programs may parse: tables, InfraKit's rows, and JSON."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from pyinfrakit.logs import escape
from pyinfrakit.rpc.instance.types import Description

_UNPRINTABLE = re.compile(r"[^\x00-\x7e]+")


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* as lines with aligned columns. Cells are never cut, because a program may read them.

    Cells are escaped: text from machines and clients must not forge a row.
    """
    cells = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def format_row(*cells: str, width: int = 30) -> str:
    """Return a row as InfraKit's command line prints it: all columns but the last are *width* wide, with tabs between."""
    *padded, last = map(escape, cells)
    return "\t".join([*(cell.ljust(width) for cell in padded), last])


def format_member(member: Description) -> str:
    """Return an instance as a row of InfraKit's command line, with the columns ID, LOGICAL and TAGS."""
    return format_row(member.ID, member.LogicalID or "  -   ", format_tags(member.Tags or {}))


def format_tags(tags: Mapping[str, str]) -> str:
    """Return *tags* in a form that ``--tags`` accepts."""
    return ",".join(f"{key}={value}" for key, value in sorted(tags.items()))


def print_line(text: str, *, err: bool = False) -> None:
    """Print *text* in one line, escaped: what a plugin sends must neither forge a line nor move a cursor."""
    click.echo(escape(text), err=err)


def print_json(value: Any) -> None:
    """Print JSON. Characters that a terminal may act on are escaped, as JSON has it."""
    text = msgspec.json.format(msgspec.json.encode(value)).decode()
    click.echo(_UNPRINTABLE.sub(lambda match: "".join(map(_escape_json, match[0])), text))


def _escape_json(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]
