"""The documentation matches the program."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pyinfrakit import provider, testing
from pyinfrakit.cli.controller import controller
from pyinfrakit.cli.root import infrakit
from pyinfrakit.cli.serve import instance
from pyinfrakit.daemon.programs import STOP_TIMEOUT
from pyinfrakit.instance.calls import POOL, VALIDATE
from pyinfrakit.instance.slots import CallLimits
from pyinfrakit.rpc.group import service as group_service
from pyinfrakit.rpc.instance import service as instance_service
from pyinfrakit.rpc.operator import service as operator_service
from pyinfrakit.testing import ProviderContract
from support.harness import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
WIDTH = 108
"""The width of help in a terminal of 110."""


def list_commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield a context for a command and for each command within it, except those of another program."""
    settings = parent.command.context_settings if parent else command.context_settings
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, **settings)
    yield context
    if not isinstance(command, click.Group):
        return
    for each in command.list_commands(context):
        within = command.get_command(context, each)
        assert within is not None
        if within is not instance:
            yield from list_commands(within, each, context)


COMMANDS = {
    context.command_path: context
    for program in (infrakit, controller, instance)
    for context in list_commands(program, str(program.name))
}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_is_documented_as_its_help_says(path: str) -> None:
    """docs/commands.md shows the help of each command, though the lines may have another length."""
    page = (ROOT / "docs" / "commands.md").read_text()
    documented = page.partition(f"## `{path}`\n\n```\n")[2].partition("\n```")[0]
    assert COMMANDS[path].command.get_help(COMMANDS[path]).split() == documented.split()


@pytest.mark.parametrize(
    ("name", "provider"),
    [("providers.md", "simulator"), ("providers.md", "process"), ("exec.md", "exec"), ("redfish.md", "redfish")],
)
def test_providers_are_documented_as_they_are(name: str, provider: str) -> None:
    """The pages show the exact output of `infrakit-instance provider`."""
    page = (ROOT / "docs" / name).read_text()
    documented = page.partition(f"$ infrakit-instance provider {provider}\n")[2].partition("\n```")[0]
    assert CliRunner().invoke(instance, ["provider", provider]).output == f"{documented}\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    """Every relative link leads to an existing file."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_every_method_is_documented() -> None:
    """docs/wire.md names every method."""
    code = "".join(inspect.getsource(each) for each in (group_service, instance_service, operator_service))
    served = re.findall(r'"((?:Plugin|Handshake|Instance|Operator|Groups?)\.\w+)": self', code)
    page = (ROOT / "docs" / "wire.md").read_text()
    assert served
    assert [] == [method for method in served if f"`{method}`" not in page]


def test_every_module_is_in_the_design_page() -> None:
    """docs/design.md names every module and folder of the package."""
    page = (ROOT / "docs" / "design.md").read_text()
    names = [
        path.name for path in (ROOT / "src" / "pyinfrakit").iterdir() if not path.name.startswith(("_", "py.typed"))
    ]
    assert [] == [name for name in names if name not in page]


SDK = (ROOT / "docs" / "sdk.md").read_text()
SHARED = {
    "Machine": provider.Machine,
    "PoolMachine": provider.PoolMachine,
    "Record": provider.Record,
    "Spec": provider.Spec,
}
INNER = {"by_hand", "made", "relabel", "unknown"}
"""Fields of a record that only the plugin uses."""


@pytest.mark.parametrize("name", [*provider.__all__, *(name for name in vars(provider.Provider) if name[0] != "_")])
def test_the_sdk_is_documented(name: str) -> None:
    """docs/sdk.md names everything in `pyinfrakit.provider`, and every attribute and method of a provider."""
    assert re.search(rf"`{name}\b", SDK)


@pytest.mark.parametrize("name", SHARED)
def test_the_structures_of_the_sdk_are_documented(name: str) -> None:
    """docs/sdk.md has a table of fields for each structure of the SDK."""
    table = SDK.partition(f"\n## `{name}`")[2].partition("\n## ")[0]
    assert [] == [field for field in SHARED[name].__struct_fields__ if f"`{field}`" not in table and field not in INNER]


def test_the_hooks_of_the_contract_are_documented() -> None:
    """docs/sdk.md names the contract's attributes and methods, except tests, and the other classes for tests."""
    hooks = {name for name in vars(ProviderContract) if not name.startswith(("_", "test_"))}
    assert [] == [name for name in {*hooks, *testing.__all__} - {"Wrapped"} if f"`{name}" not in SDK]


def test_the_call_limits_are_documented() -> None:
    """docs/sdk.md states the limits that apply to calls."""
    bounds = CallLimits()
    for calls in ("`provision` and `adopt`", "`destroy`", "`label`"):
        assert f"| {calls} | {bounds.at_once} | {bounds.timeout:g} |" in SDK
    assert f"| `validate` | any number | {VALIDATE:g} |" in SDK
    assert f"| `pool` | any number | {POOL:g} |" in SDK
    assert f"have {STOP_TIMEOUT:g} seconds to end" in SDK
