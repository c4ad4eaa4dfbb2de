"""A fleet file has plugins and groups, in any of three formats, and errors in it name line, column and field."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pyinfrakit import config, source
from pyinfrakit.errors import CannotStart, InvalidSpec
from pyinfrakit.fleet import parse_groups, read_fleet, read_groups
from pyinfrakit.group import spec
from pyinfrakit.providers.file import File
from pyinfrakit.providers.simulator import Simulator
from support.harness import root_only

FLEET = """\
plugins:
  local:
    provider: simulator
    options: {world: /w}
  racks:
    types:
      compute: {provider: file}
      storage: {provider: simulator}
groups:
  - ID: web
    Properties:
      Allocation: {Size: 3}
      Instance: {Plugin: local, Properties: {command: no}}
      Flavor: {Plugin: vanilla, Properties: {}}
  - ID: db
    Properties: {Allocation: {LogicalIDs: [a, b]}, Instance: {Plugin: racks/compute}}
limits: {Max: 100}
"""


def write(folder: Path, text: str, name: str = "fleet.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def fail(*files: Path) -> str:
    with pytest.raises(CannotStart) as caught:
        read_fleet(files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format", ["yaml", "yml", "json", "toml"])
def test_a_fleet_is_the_same_in_every_format(tmp_path: Path, format: str) -> None:
    """A fleet file holds plugins with their providers, groups in order, and a limit, in YAML, JSON and TOML."""
    content = json.loads(bytes(source.parse(FLEET.encode(), "fleet").json))
    text = {
        "json": json.dumps(content),
        "toml": "\n".join(f"{key} = {config.format_toml(value)}" for key, value in content.items()),
    }.get(format, FLEET)
    fleet = read_fleet([write(tmp_path, text, f"fleet.{format}")])
    assert {"local": {"": Simulator}, "racks": {"compute": File, "storage": Simulator}} == {
        name: {sub_type: choice.provider for sub_type, choice in types.items()} for name, types in fleet.plugins.items()
    }
    assert "/w" == fleet.plugins["local"][""].options.world
    assert ["web", "db"] == [group.id for group in fleet.groups]
    assert [group["Properties"] for group in content["groups"]] == [
        json.loads(bytes(group.properties)) for group in fleet.groups
    ]
    assert 100 == fleet.max_members


@given(
    st.dictionaries(
        st.text("abc-ä", min_size=1), st.dictionaries(st.text("abcä", min_size=1), st.integers()), min_size=1
    )
)
def test_groups_survive_both_of_their_forms(groups: dict[str, Any]) -> None:
    """Groups are the same as a list of specs and as a mapping from IDs to properties."""
    for form in ([{"ID": id, "Properties": properties} for id, properties in groups.items()], groups):
        found = parse_groups(yaml.safe_dump({"groups": form}, sort_keys=False).encode(), "fleet")
        assert groups == {group.id: json.loads(bytes(group.properties)) for group in found}


GROUP_FILES = {
    "a bare spec": '{"ID": "web", "Properties": {"Allocation": {"Size": 3}}}',
    "a kind": "kind: group\nversion: 1\nmetadata: {name: group/web, tags: {}}\nproperties: {Allocation: {Size: 3}}\n",
    "a kind without an address": "kind: group\nmetadata: {name: web}\nproperties: {Allocation: {Size: 3}}\n",
    "a fleet": "plugins: {x: {provider: nowhere}}\ngroups: {web: {Allocation: {Size: 3}}}\n",
}


@pytest.mark.parametrize("form", GROUP_FILES)
def test_a_group_file_may_have_any_form(tmp_path: Path, form: str) -> None:
    """A group comes from a bare spec, from the last form of InfraKit's command line, or from a fleet file."""
    path = write(tmp_path, GROUP_FILES[form], "web")
    for groups in (read_groups(path), parse_groups(path.read_bytes(), "-")):
        assert [("web", {"Allocation": {"Size": 3}})] == [
            (each.id, json.loads(bytes(each.properties))) for each in groups
        ]


def test_a_group_file_is_a_fleet_without_plugins(tmp_path: Path) -> None:
    """A fleet may have its plugins in one file and each group in its own."""
    plugins = write(tmp_path, "plugins: {local: {provider: file}}")
    web = write(tmp_path, "ID: web\nProperties: {}", "web.yaml")
    db = write(tmp_path, "ID: db\nProperties: {}", "db.yaml")
    fleet = read_fleet([plugins, web, db])
    assert (["local"], ["web", "db"], None) == (
        list(fleet.plugins),
        [each.id for each in fleet.groups],
        fleet.max_members,
    )


def test_an_error_in_a_spec_has_its_place(tmp_path: Path) -> None:
    """An error that the spec's reader finds later has the file, the line and the column of its field."""
    path = write(tmp_path, FLEET.replace("Size: 3", "Size: three"))
    group = read_fleet([path]).groups[0]
    with pytest.raises(InvalidSpec) as caught:
        spec.parse(group.id, group.properties)
    assert "Properties.Allocation.Size" == caught.value.field
    where = "groups[0].Properties.Allocation.Size"
    assert f"{path}:12:20: {where}" == group.locate(caught.value.field)
    assert f"{path}:11:5: groups[0].Properties" == group.locate("ID")
    assert f"{path}:13:7: groups[0].Properties.Instance.Pool" == group.locate("Properties.Instance.Pool")
    web = parse_groups(b"groups:\n  web:\n    Allocation: {}", "-")[0]
    assert "-:3:5: groups.web.Allocation" == web.locate("Properties.Allocation")


WRONG = {
    "nothing": ("", ": empty"),
    "an empty object": ("{}", ": expected plugins, groups, or both, got neither"),
    "limits alone": ("limits: {Max: 1}", ": expected plugins, groups, or both, got neither"),
    "a list": ("- a", ": expected an object, got an array"),
    "an unknown section": (
        "groups: {}\nplugin: {}",
        ":2:1: has an unknown field plugin; known: plugins, groups, limits",
    ),
    "groups of another shape": ("groups: 5", ":1:1: groups: expected an object or an array, got 5"),
    "a group of another shape": ("groups: [web]", ':1:10: groups[0]: expected an object, got "web"'),
    "a number as an ID": ("groups:\n- ID: 5\n  Properties: {}", ":2:3: groups[0].ID: expected a string, got 5"),
    "an unknown key in a group": (
        "groups:\n- ID: x\n  Properties: {}\n  Props: {}",
        ":4:3: groups[0]: has an unknown field Props; known: ID, Properties",
    ),
    "no properties": ("groups: [{ID: x}]", ":1:10: groups[0]: missing required field Properties"),
    "no ID": ("Properties: {}", ": missing required field ID"),
    "the same ID twice": (
        "groups:\n- {ID: x, Properties: {}}\n- {ID: x, Properties: {}}",
        ":3:11: groups[1].Properties: group 'x' is at ",
    ),
    "another kind": (
        "kind: instance\nmetadata: {name: x}\nproperties: {}",
        ':1:1: kind: expected "group", got "instance"',
    ),
    "a kind without a name": (
        "kind: group\nmetadata: {}\nproperties: {}",
        ":2:1: metadata: missing required field name",
    ),
    "a negative limit": ("groups: {a: {}}\nlimits: {Max: -1}", ":2:10: limits.Max: expected an integer >= 0, got -1"),
    "a plugin without a provider": (
        "plugins:\n  a: {}",
        ':2:3: plugins.a: expected a provider, as in provider: "simulator", or types, which have one each',
    ),
    "an unknown provider": (
        "plugins: {a: {provider: nope}}",
        ":1:15: plugins.a.provider: provider 'nope': not installed",
    ),
    "a plugin with a wrong name": (
        "plugins: {.a: {provider: file}}",
        ":1:11: plugins..a: name '.a': expected a file name",
    ),
    "an unknown option": (
        "plugins:\n  a:\n    provider: simulator\n    options:\n      wrld: x",
        ":5:7: plugins.a.options: has an unknown field wrld; known: world; "
        'for example: options: {"world": "/srv/rack1.world"}',
    ),
    "a wrong option of a sub-type": (
        "plugins: {a: {types: {b: {provider: simulator, options: {world: 5}}}}}",
        ":1:58: plugins.a.types.b.options.world: expected a string",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_in_a_fleet_file_have_a_place(tmp_path: Path, case: str) -> None:
    """An error in a fleet file is one line with the place, the field, and what would be right."""
    content, message = WRONG[case]
    path = write(tmp_path, content)
    assert fail(path).startswith(f"{path}{message}")


def test_names_are_unique_in_all_files(tmp_path: Path) -> None:
    """A plugin, a group or a limit that two files have is an error with both places."""
    one = write(tmp_path, FLEET)
    for content, message in {
        "plugins: {local: {provider: file}}": f":1:11: plugins.local: is in {one}:2:3, too: expected a name of its own",
        "groups: {db: {}}": f":1:10: groups.db: group 'db' is at {one}:16:5: groups[1].Properties, too",
        "groups: {x: {}}\nlimits: {}": f":2:1: limits: is in {one}:17:1, too: expected it once",
    }.items():
        two = write(tmp_path, content, "two.yaml")
        assert fail(one, two).startswith(f"{two}{message}")


def test_a_file_without_groups_is_no_group_file(tmp_path: Path) -> None:
    """A file that only has plugins is an error if groups are asked for."""
    path = write(tmp_path, "plugins: {a: {provider: file}}")
    with pytest.raises(CannotStart, match=r"expected a group, as in .*, got none"):
        read_groups(path)
    with pytest.raises(CannotStart, match="nowhere: No such file or directory"):
        read_groups(tmp_path / "nowhere")


@root_only
def test_root_refuses_fleet_files_that_others_may_change(tmp_path: Path) -> None:
    """Root refuses a fleet file that another user may write, but takes a group's spec from it."""
    path = write(tmp_path, "groups: {web: {}}")
    os.chmod(path, 0o666)
    assert f"{path}: {path}: {path} may be written by others (mode 0666)" in fail(path)
    assert ["web"] == [group.id for group in read_groups(path)]
