"""The documentation matches the program."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pyinfrakit import provider, testing
from pyinfrakit.cli.serve import plugin
from pyinfrakit.daemon.run import STOP_TIMEOUT
from pyinfrakit.instance.calls import POOL, VALIDATE, CallLimits
from pyinfrakit.rpc.instance import service
from pyinfrakit.testing import ProviderContract
from support.harness import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PROGRAM = click.Context(plugin, info_name="infrakit-instance", **plugin.context_settings)


@pytest.mark.parametrize("name", ["", *plugin.list_commands(PROGRAM)])
def test_every_command_is_documented_as_its_help_says(name: str) -> None:
    """docs/commands.md shows the help of each command, though the lines may have another length."""
    command = plugin.get_command(PROGRAM, name) if name else plugin
    assert command is not None
    parent = PROGRAM if name else None
    context = click.Context(command, info_name=name or PROGRAM.info_name, parent=parent, **plugin.context_settings)
    context.terminal_width = 108  # as in a terminal of 110
    page = (ROOT / "docs" / "commands.md").read_text()
    documented = page.partition(f"## `{context.command_path}`\n\n```\n")[2].partition("\n```")[0]
    assert command.get_help(context).split() == documented.split()


@pytest.mark.parametrize(
    ("name", "provider"),
    [("providers.md", "simulator"), ("providers.md", "process"), ("exec.md", "exec"), ("redfish.md", "redfish")],
)
def test_providers_are_documented_as_they_are(name: str, provider: str) -> None:
    """The pages show the exact output of `infrakit-instance provider`."""
    page = (ROOT / "docs" / name).read_text()
    documented = page.partition(f"$ infrakit-instance provider {provider}\n")[2].partition("\n```")[0]
    assert CliRunner().invoke(plugin, ["provider", provider]).output == f"{documented}\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    """Every relative link leads to an existing file."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_every_method_is_documented() -> None:
    """docs/wire.md names every method."""
    served = re.findall(r'"((?:Plugin|Handshake|Instance|Operator)\.\w+)": self', Path(service.__file__).read_text())
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
