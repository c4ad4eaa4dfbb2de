"""The documentation says what the program does."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pyinfrakit.cli.plugin import plugin
from pyinfrakit.spi import methods

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS: dict[str, click.Command] = {"": plugin, **plugin.commands}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_as_its_help_says(name: str) -> None:
    """docs/commands.md has each command's help, as it is printed, though maybe in lines of another length."""
    context = click.Context(plugin, info_name="infrakit-instance", **plugin.context_settings)
    if name:
        context = click.Context(COMMANDS[name], info_name=name, parent=context)
    context.terminal_width = 108  # as in a terminal of 110
    page = (ROOT / "docs" / "commands.md").read_text()
    documented = page.partition(f"## `{context.command_path}`\n\n```\n")[2].partition("\n```")[0]
    assert COMMANDS[name].get_help(context).split() == documented.split()


def test_the_simulator_is_documented_as_it_is() -> None:
    """docs/providers.md has what `provider simulator` prints, as it is printed."""
    page = (ROOT / "docs" / "providers.md").read_text()
    documented = page.partition("$ infrakit-instance provider simulator\n")[2].partition("\n```")[0]
    assert CliRunner().invoke(plugin, ["provider", "simulator"]).output == f"{documented}\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    """Every relative link is to a file that is there."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_every_method_is_documented() -> None:
    """docs/wire.md names every method."""
    served = re.findall(r'"((?:Plugin|Handshake|Instance|Operator)\.\w+)": self', Path(methods.__file__).read_text())
    page = (ROOT / "docs" / "wire.md").read_text()
    assert served
    assert [] == [method for method in served if f"`{method}`" not in page]


def test_every_module_is_in_the_plan_of_the_building() -> None:
    """docs/design.md names every module and folder of the package."""
    page = (ROOT / "docs" / "design.md").read_text()
    names = [path.name for path in (ROOT / "src" / "pyinfrakit").iterdir() if not path.name.startswith(("_", "py.typed"))]
    assert [] == [name for name in names if name not in page]
