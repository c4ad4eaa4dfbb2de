"""`provider`: what a provider takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from pyinfrakit.cli.table import table

if TYPE_CHECKING:
    from pyinfrakit.provider import Provider
    from pyinfrakit.schema.describe import FieldRow


@click.command()
@click.argument("name", metavar="PROVIDER")
@click.option("--schema", is_flag=True, help="The JSON Schema of its properties instead.")
def provider(name: str, schema: bool) -> None:
    """Show which properties and options a provider takes, with an example of each.

    PROVIDER is as the plugin's --provider takes it: the name of one that is installed, module:Class, or
    path/to/file.py:Class. No plugin needs to run.
    """
    from pyinfrakit import loading
    from pyinfrakit.schema import describe

    found = loading.find_provider(name)
    if schema:
        click.echo(msgspec.json.format(msgspec.json.encode(describe.describe_schema(found.Properties))))
        return
    click.echo("\n\n".join([_title(found), *_properties(found), *_options(found)]))


def _title(provider: "type[Provider]") -> str:
    said = (provider.__doc__ or "").strip().partition("\n")[0]
    return f"{provider.__name__}: {said}" if said else provider.__name__


def _properties(provider: "type[Provider]") -> list[str]:
    from pyinfrakit.schema.describe import find_example, list_fields

    rows = list_fields(provider.Properties)
    example = msgspec.json.format(msgspec.json.encode(find_example(provider.Properties, provider.example)), indent=0)
    return [_table("PROPERTY", rows) if rows else "Any properties.", f"For example: {example.decode()}"]


def _options(provider: "type[Provider]") -> list[str]:
    from pyinfrakit.config import format_flags
    from pyinfrakit.schema.describe import list_fields

    rows = list_fields(provider.Options)
    if not rows:
        return ["No options."]
    example = format_flags(provider)
    return [_table("OPTION", rows), *([f"For example: {example}"] if example else [])]


def _table(what: str, rows: "Sequence[FieldRow]") -> str:
    cells = [
        [row.name, row.type, "required" if row.default is None else row.default or "-", row.description] for row in rows
    ]
    return table([[what, "TYPE", "DEFAULT", ""], *cells])
