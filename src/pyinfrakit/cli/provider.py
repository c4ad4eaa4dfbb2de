"""Providers, for the people who configure one or write one: show its fields, and start a new one."""

import keyword
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import msgspec

from pyinfrakit.cli.output import format_table, print_json

TEMPLATE = ("README.md", "project.toml", "test_yourmachines.py", "yourmachines.py")
"""The template's files. A new project has its own words in place of the template's, in the names of files too."""

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_RESERVED = {"conftest", "file", "msgspec", "pyinfrakit", "pytest", "simulator", "tests", *sys.stdlib_module_names}


@click.command()
@click.argument("name", metavar="PROVIDER")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of its properties instead.")
def provider(name: str, schema: bool) -> None:
    """Show the properties and options of a provider, with an example of each.

    PROVIDER is the name of an installed provider, module:Class, or path/to/file.py:Class, as for the plugin's
    --provider. No plugin needs to run.
    """
    from pyinfrakit import config, loading
    from pyinfrakit.schema import describe

    loaded = loading.find_provider(name)
    if schema:
        print_json(describe.describe_schema(loaded.Properties))
        return
    title = (loaded.__doc__ or "").strip().partition("\n")[0]
    properties = msgspec.json.encode(describe.find_example(loaded.Properties, loaded.example))
    options = config.format_flags(loaded)
    parts = [
        f"{loaded.__name__}: {title}" if title else loaded.__name__,
        _format_fields("PROPERTY", loaded.Properties) or "Any properties.",
        f"For example: {msgspec.json.format(properties, indent=0).decode()}",
        _format_fields("OPTION", loaded.Options) or "No options.",
        f"For example: {options}" if options else "",
    ]
    click.echo("\n\n".join(filter(None, parts)))


def _format_fields(head: str, shape: Any) -> str:
    """Return a table of the fields of a type, or an empty string if it has none."""
    from pyinfrakit.schema.describe import list_fields

    rows = [
        [each.name, each.type, "required" if each.default is None else each.default or "-", each.description]
        for each in list_fields(shape)
    ]
    return format_table([[head, "TYPE", "DEFAULT", ""], *rows]) if rows else ""


@click.command()
@click.argument("name", metavar="NAME")
def new(name: str) -> None:
    """Write a folder NAME with a provider to fill in, and its tests. It works at once: its machines are files."""
    module = name.replace("-", "_")
    words = {
        "project.toml": "pyproject.toml",
        "your-machines": name,
        "yourmachines": module,
        "YourMachines": "".join(word.capitalize() for word in module.split("_")),
        "your machines": f"the machines of {name}",
        "Your machines": f"The machines of {name}",
    }
    _check_name(name, module, words["YourMachines"])
    _write(Path(name), {_replace(file, words): _replace(_read_template(file), words) for file in TEMPLATE})
    click.echo(f"wrote {name}: fill in {name}/{module}.py; {name}/README.md explains how to test and run it")


def _check_name(name: str, module: str, class_name: str) -> None:
    """Raise `click.BadParameter` if *name* does not suit the folder, the module and the class."""
    if not _NAME.fullmatch(name):
        raise click.BadParameter(f"expected lower-case words with - or _ between them, such as my-rack, got {name!r}")
    is_in_template = re.search(rf"\b{class_name}\b", _read_template("yourmachines.py")) is not None
    if module in _RESERVED or keyword.iskeyword(module) or is_in_template:
        raise click.BadParameter(f"{name!r} is already a name in Python or pyinfrakit; use another, such as my-{name}")


def _read_template(file: str) -> str:
    return (files("pyinfrakit") / "template" / file).read_text()


def _replace(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _write(folder: Path, content: Mapping[str, str]) -> None:
    """Write a new folder with all of *content*, or nothing. Raise `click.ClickException`."""
    try:
        folder.mkdir()
        try:
            for name, text in content.items():
                (folder / name).write_text(text)
        except OSError:  # half a project is worse than none
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror}; nothing was written") from None
