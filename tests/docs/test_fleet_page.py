"""The examples on the page about fleet files work as they are shown."""

import re
from pathlib import Path

import pytest

from pyinfrakit.errors import InvalidSpec
from pyinfrakit.fleet import Fleet, read_fleet
from pyinfrakit.group import spec
from support.harness import ROOT

EXAMPLES = re.findall(r"```(yaml|toml|json)\n(.*?)```", (ROOT / "docs" / "fleet.md").read_text(), re.DOTALL)


def load(folder: Path, text: str, format: str) -> Fleet:
    path = folder / f"fleet.{format}"
    path.write_text(text)
    return read_fleet([path])


@pytest.mark.parametrize(("format", "text"), EXAMPLES)
def test_every_example_is_a_fleet(tmp_path: Path, format: str, text: str) -> None:
    """Each example on the page is a fleet with the group `web`."""
    assert ["web"] == [group.id for group in load(tmp_path, text, format).groups]


def test_both_formats_on_the_page_mean_the_same(tmp_path: Path) -> None:
    """The example in TOML is the one in YAML before it."""
    yaml, toml = (load(tmp_path, text, format) for format, text in EXAMPLES[1:3])
    assert yaml.plugins == toml.plugins
    assert [bytes(group.properties) for group in yaml.groups] == [bytes(group.properties) for group in toml.groups]


def test_the_error_on_the_page_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first example with a wrong size causes the error that the page shows."""
    monkeypatch.chdir(tmp_path)
    group = load(Path(), EXAMPLES[0][1].replace("Size: 3", "Size: three"), "yaml").groups[0]
    with pytest.raises(InvalidSpec) as caught:
        spec.parse(group.id, group.properties)
    shown = f"{group.locate(caught.value.field)}: {caught.value.problem}"
    assert f"```\n{shown}\n```" in (ROOT / "docs" / "fleet.md").read_text()
