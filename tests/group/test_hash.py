"""The configuration hash, against recordings of InfraKit's real programs."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pyinfrakit.errors import InvalidSpec
from pyinfrakit.group.hash import ConfigHash, hash_configuration, is_to_adopt, tag_configuration, tag_member
from pyinfrakit.group.spec import PluginSpec
from support.harness import ROOT

WIRE = ROOT / "tests" / "wire"

HASH = ConfigHash("X7mGO_h6L7noeBBQk26O61MM5JM=", "l64ymo7ypix3t2dycbijg3uo5njqzzet")
OTHER = ConfigHash("7zfCWca8bG7Q17fOe24GZCuUYLM=", "5434ewogxrwg5ugxw7hhw3qgmqvziyft")

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def hash_values(instance: Any, flavor: Any) -> ConfigHash:
    return hash_text(json.dumps(instance), json.dumps(flavor))


def hash_text(instance: str, flavor: str = "{}") -> ConfigHash:
    return hash_configuration(PluginSpec("rack1", Raw(instance.encode())), PluginSpec("vanilla", Raw(flavor.encode())))


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (WIRE / name).read_text().splitlines()]


def read_plugin(spec: dict[str, Any]) -> PluginSpec:
    return msgspec.json.decode(json.dumps(spec), type=PluginSpec)


@pytest.mark.parametrize("line", read("config-hash.jsonl"))
def test_hash_is_infrakits(line: dict[str, Any]) -> None:
    """The hash of each recorded configuration is InfraKit's own, in both forms."""
    properties = line["properties"]
    hash = hash_configuration(read_plugin(properties["Instance"]), read_plugin(properties["Flavor"]))
    expected = ConfigHash(line["config_sha_to_0.4"], line["config_sha_0.5_and_config.hash_last"])
    assert expected == hash


@pytest.mark.parametrize("name", ["0.1.0", "0.3.1", "0.5", "last"])
def test_recorded_members_are_current(name: str) -> None:
    """The members that each release's controller made have the hash of the spec that was committed before."""
    hash, seen = None, 0
    for line in read(f"group-interface-{name}.jsonl"):
        if not line["body"]:
            continue
        call = json.loads(line["body"])
        if call["method"] == "Group.CommitGroup":
            properties = call["params"]["Spec"]["Properties"]
            hash = hash_configuration(read_plugin(properties["Instance"]), read_plugin(properties["Flavor"]))
        elif call["method"] == "Group.DescribeGroup":
            members = json.loads(line["reply"])["result"]["Description"]["Instances"]
            assert hash is not None
            assert all(hash.matches(member["Tags"]) for member in members)
            seen += len(members)
    assert seen > 0


@given(values, values)
def test_layout_makes_no_difference(instance: Any, flavor: Any) -> None:
    """White space, the order of keys and escapes in a spec do not change its hash."""

    def reverse(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reverse(value[key]) for key in reversed(value)}
        return [reverse(each) for each in value] if isinstance(value, list) else value

    other = hash_text(
        json.dumps(reverse(instance), indent=3, ensure_ascii=False), json.dumps(reverse(flavor), indent="\t")
    )
    assert hash_values(instance, flavor) == other


@given(values, values)
def test_different_properties_have_different_hashes(one: Any, two: Any) -> None:
    """Two configurations have the same hash only if they have the same properties, with numbers as doubles."""
    assert (canonical(one) == canonical(two)) == (hash_values(one, {}) == hash_values(two, {}))


def canonical(value: Any) -> str:
    return json.dumps(json.loads(json.dumps(value), parse_int=float), sort_keys=True)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_form_of_a_number_makes_no_difference(number: float) -> None:
    """A number has the same hash in each of its decimal forms."""
    assert hash_text(repr(number)) == hash_text(f"{number:.17e}")


def test_missing_properties_are_null() -> None:
    """A plugin without properties has the hash of one whose properties are null."""
    assert hash_text("null") == hash_configuration(PluginSpec("rack1"), PluginSpec("vanilla", Raw(b"{}")))


def test_number_beyond_a_double_is_an_invalid_spec() -> None:
    """The error about a number that no double holds names the plugin's properties."""
    with pytest.raises(InvalidSpec, match=r"^Properties\.Instance\.Properties: has a number that is too large"):
        hash_text('{"n": 1e400}')


def test_bootstrap_asks_for_adoption() -> None:
    """The word bootstrap in either hash tag asks for adoption, and is no member's current hash."""
    for tag in ("infrakit.config_sha", "infrakit.config.hash"):
        assert is_to_adopt({tag: "bootstrap"})
        assert not HASH.matches({tag: "bootstrap"})
        assert not is_to_adopt({tag: HASH.base32})


@pytest.mark.parametrize("tag", ["infrakit.config_sha", "infrakit.config.hash"])
@pytest.mark.parametrize("form", HASH.forms)
def test_one_current_tag_is_enough(tag: str, form: str) -> None:
    """A member is current if one of its hash tags has any form of the hash."""
    tags = {"infrakit.config_sha": OTHER.base32, "infrakit.config.hash": OTHER.base32, tag: form}
    assert HASH.matches(tags)
    assert not HASH.matches({"infrakit.config_sha": OTHER.base64})
    assert not HASH.matches({})


def test_new_member_has_the_tags_of_all_releases() -> None:
    """A new member has its group and the hash, under the tags of InfraKit 0.5 and of the last release."""
    expected = {
        "infrakit.group": "workers",
        "infrakit.config_sha": HASH.base32,
        "infrakit.config.hash": HASH.base32,
    }
    assert expected == tag_member(HASH, "workers", None, [{"infrakit.config_sha": OTHER.base32}])
    assert {**expected, "infrakit.logical_id": "a"} == tag_member(HASH, "workers", "a", [])


def test_form_of_old_releases_is_kept() -> None:
    """A new member has the hash in the form of releases up to 0.4 if a present member has it, whatever its hash."""
    tags = tag_configuration(HASH, [{}, {"infrakit.config_sha": OTHER.base64}])
    assert {"infrakit.config_sha": HASH.base64, "infrakit.config.hash": HASH.base32} == tags
