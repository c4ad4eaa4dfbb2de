"""The documentation says what the program does."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pyinfrakit import provider, testing
from pyinfrakit.cli.plugin import plugin
from pyinfrakit.cli.verbs import VERBS, verb
from pyinfrakit.daemon.run import STOP_TIMEOUT
from pyinfrakit.instance.calls import POOL, VALIDATE, CallLimits
from pyinfrakit.rpc.instance import service
from pyinfrakit.testing import ProviderContract
from pyinfrakit.testing.lives import Lives
from support.harness import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS: dict[str, click.Command] = {"": plugin, **{name: verb(name) for name in VERBS}}


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


@pytest.mark.parametrize(
    ("name", "provider"),
    [("providers.md", "simulator"), ("providers.md", "process"), ("exec.md", "exec"), ("redfish.md", "redfish")],
)
def test_providers_are_documented_as_they_are(name: str, provider: str) -> None:
    """The pages have what `infrakit-instance provider` prints, as it is printed."""
    page = (ROOT / "docs" / name).read_text()
    documented = page.partition(f"$ infrakit-instance provider {provider}\n")[2].partition("\n```")[0]
    assert CliRunner().invoke(plugin, ["provider", provider]).output == f"{documented}\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    """Every relative link is to a file that is there."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_every_method_is_documented() -> None:
    """docs/wire.md names every method."""
    served = re.findall(r'"((?:Plugin|Handshake|Instance|Operator)\.\w+)": self', Path(service.__file__).read_text())
    page = (ROOT / "docs" / "wire.md").read_text()
    assert served
    assert [] == [method for method in served if f"`{method}`" not in page]


def test_every_module_is_in_the_plan_of_the_building() -> None:
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
"""What of a record is the plugin's own."""


@pytest.mark.parametrize("name", [*provider.__all__, *(name for name in vars(provider.Provider) if name[0] != "_")])
def test_the_sdk_is_documented(name: str) -> None:
    """docs/sdk.md names everything that `pyinfrakit.provider` gives, and every attribute and method of a provider."""
    assert re.search(rf"`{name}\b", SDK)


@pytest.mark.parametrize("kind", SHARED)
def test_what_a_provider_is_given_and_gives_is_documented(kind: str) -> None:
    """docs/sdk.md has a table of each of the SDK's structures, with their fields."""
    table = SDK.partition(f"\n## `{kind}`")[2].partition("\n## ")[0]
    assert [] == [field for field in SHARED[kind].__struct_fields__ if f"`{field}`" not in table and field not in INNER]


def test_what_may_be_given_to_the_contract_is_documented() -> None:
    """docs/sdk.md names the attributes and methods of the contract that are no tests, and the SDK's other test classes."""
    hooks = {name for each in (ProviderContract, Lives) for name in vars(each) if not name.startswith(("_", "test_"))}
    assert [] == [name for name in {*hooks, *testing.__all__} - {"started", "Wrapped"} if f"`{name}" not in SDK]


def test_the_limits_are_as_documented() -> None:
    """docs/sdk.md has the real bounds of calls."""
    bounds = CallLimits()
    for calls in ("`provision` and `adopt`", "`destroy`", "`label`"):
        assert f"| {calls} | {bounds.at_once} | {bounds.timeout:g} |" in SDK
    assert f"| `validate` | any number | {VALIDATE:g} |" in SDK
    assert f"| `pool` | any number | {POOL:g} |" in SDK
    assert f"have {STOP_TIMEOUT:g} seconds to end" in SDK
