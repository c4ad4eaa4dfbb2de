"""`new`: write a provider to fill in."""

import keyword
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import click

FILES = {
    "project.toml": "pyproject.toml",
    "yourmachines.py": "{module}.py",
    "test_yourmachines.py": "test_{module}.py",
    "README.md": "README.md",
}
"""The template's files, and what they are called where they are written."""

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_TAKEN = {"conftest", "file", "msgspec", "pyinfrakit", "pytest", "simulator", "tests", *sys.stdlib_module_names}


@click.command()
@click.argument("name", metavar="NAME")
def new(name: str) -> None:
    """Write a folder NAME with a provider to fill in, and its tests. It works as it is: its machines are files."""
    module = name.replace("-", "_")
    words = {
        "your-machines": name,
        "yourmachines": module,
        "YourMachines": "".join(word.capitalize() for word in module.split("_")),
        "your machines": f"the machines of {name}",
        "Your machines": f"The machines of {name}",
    }
    _check(name, module, words["YourMachines"])
    _write(Path(name), {target.format(module=module): _filled(source, words) for source, target in FILES.items()})
    click.echo(f"wrote {name}: fill in {name}/{module}.py; {name}/README.md says how to test it and run it")


def _check(name: str, module: str, class_name: str) -> None:
    """Refuse a name that would not do as the module's, the class's and the folder's."""
    if not _NAME.fullmatch(name):
        raise click.BadParameter(f"expected lower-case words with - or _ between them, such as my-rack, got {name!r}")
    is_in_use = re.search(rf"\b{class_name}\b", _filled("yourmachines.py", {})) is not None
    if module in _TAKEN or keyword.iskeyword(module) or is_in_use:
        raise click.BadParameter(
            f"{name!r} is the name of something else in Python or pyinfrakit; take another, such as my-{name}"
        )


def _filled(source: str, words: Mapping[str, str]) -> str:
    text = (files("pyinfrakit") / "template" / source).read_text()
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _write(folder: Path, content: Mapping[str, str]) -> None:
    """Write a new folder, or nothing."""
    try:
        folder.mkdir()
    except FileExistsError:
        raise click.ClickException(f"{folder}: there is such a folder or file already; nothing was written") from None
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror}; nothing was written") from None
    try:
        for name, text in content.items():
            (folder / name).write_text(text)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise click.ClickException(f"{folder}: {error.strerror}; nothing was written") from None
