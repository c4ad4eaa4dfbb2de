"""The spec of a group: every InfraKit generation's form, its errors, and specs that make no update possible."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pyinfrakit.errors import InvalidSpec
from pyinfrakit.group.spec import Duration, GroupSpec, Share, parse
from support.harness import ROOT

RECORDINGS = sorted((ROOT / "tests" / "wire").glob("group-interface-*.jsonl"))


def read(properties: Any, id: str = "workers") -> GroupSpec:
    """Return the spec from properties, or from their JSON."""
    text = properties if isinstance(properties, str) else json.dumps(properties)
    return parse(id, Raw(text.encode()))


def make(**changes: Any) -> dict[str, Any]:
    """Return the properties of a group of three, with changes."""
    return {"Allocation": {"Size": 3}, "Instance": {"Plugin": "rack1"}, "Flavor": {"Plugin": "vanilla"}, **changes}


def list_recorded() -> Iterator[Any]:
    """Yield the specs of groups that InfraKit's programs sent and answered."""
    for path in RECORDINGS:
        for line in map(json.loads, path.read_text().splitlines()):
            request, result = json.loads(line["body"]), json.loads(line["reply"]).get("result") or {}
            specs = [request.get("params", {}).get("Spec"), *(result.get("Groups") or [])]
            yield from (spec for spec in specs if spec)


# --- InfraKit's forms


def test_every_recorded_spec_is_read() -> None:
    """A spec that an InfraKit program of any release sent or showed is read, with its size and its plugins."""
    specs = list(list_recorded())
    assert len(specs) > 12
    for recorded in specs:
        properties = recorded["Properties"]
        allocation = properties.get("Allocation") or {}
        if not any(allocation.values()) or all(allocation.values()):
            continue  # one that InfraKit refuses, too
        spec = read(properties, recorded["ID"])
        assert (allocation.get("Size") or len(allocation["LogicalIDs"])) == spec.size
        assert [properties["Instance"]["Plugin"]] == [pool.plugin for pool in spec.pools]


def test_names_are_read_in_any_letter_case() -> None:
    """As in Go, the letter case of InfraKit's names does not matter, and null is as good as absent."""
    spec = read(
        '{"allocation": {"SIZE": 2, "logicalids": null}, "instance": {"plugin": "a"}, "updating": null, "keep": null,'
        ' "health": [{"tcp": "localhost:80", "interval": null}]}'
    )
    assert spec.size == 2
    assert spec.properties.health[0].tcp == "localhost:80"
    assert spec.properties.keep == 0


@pytest.mark.parametrize("name", ["Instance", "instance"])
def test_properties_of_plugins_stay_byte_for_byte(name: str) -> None:
    """Only a plugin knows what its properties mean: their names, nulls, numbers and spaces stay as they are."""
    inner = '{"size":1.0,  "Plugin": null, "big": 12345678901234567890123, "Size": 1e400}'
    spec = read(f'{{"Allocation": {{"Size": 1}}, "{name}": {{"Plugin": "a", "Properties": {inner}}}}}')
    assert Raw(inner.encode()) == spec.pools[0].properties


@pytest.mark.parametrize("text", ['{"Plugin": "a"}', '{"Plugin": "a", "Properties": null}'])
def test_properties_of_plugins_may_be_absent(text: str) -> None:
    """A plugin that needs no properties gets none."""
    assert read(f'{{"Allocation": {{"Size": 1}}, "Instance": {text}}}').pools[0].properties is None


def test_the_spec_keeps_what_was_committed() -> None:
    """The JSON of a spec is kept as it came, for the history and for InfraKit's clients."""
    raw = Raw(b'{"allocation":  {"Size": 1}, "instance": {"Plugin": "a"}}')
    assert raw == parse("workers", raw).raw


# --- Errors


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ("", "Properties: not JSON: it ends too early"),
        ("[]", "Properties: expected an object, got an array"),
        ({}, "Properties.Allocation: Allocation must not be blank: expected Size or LogicalIDs"),
        (make(Allocation={}), "Properties.Allocation: Allocation must not be blank: expected Size or LogicalIDs"),
        (
            make(Allocation={"Size": 1, "LogicalIDs": ["a"]}),
            "Properties.Allocation: Only one Allocation method may be used: Size or LogicalIDs",
        ),
        (make(Allocation={"Size": -1}), "Properties.Allocation.Size: expected a number from 0 to 1000000, got -1"),
        (
            make(Allocation={"Size": 2**64 - 1}),
            "Properties.Allocation.Size: expected a number from 0 to 1000000, got 18446744073709551615",
        ),
        (
            make(Allocation={"LogicalIDs": ["a", "b", "a"]}),
            'Properties.Allocation.LogicalIDs: expected different names, got "a" 2 times',
        ),
        (
            make(Allocation={"LogicalIDs": ["a", ""]}),
            'Properties.Allocation.LogicalIDs: expected different names, got ""',
        ),
        (
            make(Instance={}),
            "Properties.Instance.Plugin: expected the name of an instance plugin, got nothing",
        ),
        (make(Instance=[]), "Properties.Instance: expected one pool or several, got an empty list"),
        (
            make(Instance=[{"Plugin": "a"}, {"Plugin": "a"}]),
            'Properties.Instance: expected different plugins, got "a" 2 times',
        ),
        (
            make(Updating={"Duration": "30s", "Count": 3}),
            "Properties.Updating: Only one Updating method may be used: Duration or Count",
        ),
        (
            make(Updating={"MinReady": "soon"}),
            'Properties.Updating.MinReady: expected a duration, such as 30 or "1m30s", got "soon"',
        ),
        (
            make(Updating={"Surge": True}),
            'Properties.Updating.Surge: expected a number of members or a percentage, such as 2 or "20%", got true',
        ),
        (make(Health=[{}]), "Properties.Health[0]: expected one of HTTP, TCP and Exec"),
        (make(Limits={"Max": 2}), "Properties.Allocation: 3 members are over the group's Limits.Max of 2"),
    ],
)
def test_an_invalid_spec_is_refused(properties: Any, problem: str) -> None:
    """The error names the field, says what is wrong, and has the words that scripts for InfraKit look for."""
    with pytest.raises(InvalidSpec) as caught:
        read(properties)
    assert problem == str(caught.value)


def test_an_unknown_name_is_refused() -> None:
    """A name that no spec has is a mistake, such as a typo; the error lists those that there are."""
    with pytest.raises(InvalidSpec, match="Properties: has an unknown field Remediation; known: Allocation, Instance"):
        read(make(Remediation=True))


@pytest.mark.parametrize("id", ["", ".", "../x", "a/b", "a\nb", "x" * 201])
def test_an_id_that_is_no_name_is_refused(id: str) -> None:
    """A group's ID becomes the name of a file and of an address."""
    with pytest.raises(InvalidSpec, match=r"^ID: "):
        read(make(), id)


# --- Updates that could never happen


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"Updating": {"Unavailable": 0}}, "Properties.Updating"),
        ({"Unavailable": 0}, "Properties.Updating"),
        ({"Updating": {"Surge": 1}, "Limits": {"Max": 3}}, "Properties.Limits.Max"),
        ({"Updating": {"Surge": 1, "Unavailable": 0}, "Limits": {"Max": 3}}, "Properties.Limits.Max"),
        ({"Updating": {"Surge": 1}, "Allocation": {"LogicalIDs": ["a"]}}, "Properties.Updating.Surge"),
        ({"Unavailable": 0, "Allocation": {"LogicalIDs": ["a"]}}, "Properties.Updating"),
        ({"Pools": {"Return": True}}, "Properties.Pools.Return"),
        ({"Pools": {"Return": True, "Order": "even"}, "Updating": {"Surge": 1}}, "Properties.Pools.Return"),
    ],
)
def test_a_spec_that_makes_updates_impossible_is_refused(changes: dict[str, Any], where: str) -> None:
    """An update that could never replace a member is refused at the commit, not found out later."""
    with pytest.raises(InvalidSpec) as caught:
        read(make(**changes))
    assert where == caught.value.field
    assert "expected" in caught.value.problem


@pytest.mark.parametrize(
    "changes",
    [
        {"Unavailable": 0, "Updating": {"Surge": 1}},
        {"Unavailable": 0, "Allocation": {"Size": 0}},
        {"Unavailable": "1%"},
        {"Updating": {"Surge": 1, "Unavailable": 1}, "Limits": {"Max": 3}},
        {"Updating": {"Surge": "10%"}, "Limits": {"Max": 4}},
        {"Pools": {"Return": True}, "Updating": {"Surge": 1}},
    ],
)
def test_a_spec_that_leaves_a_way_is_accepted(changes: dict[str, Any]) -> None:
    """With a surge, or with a member that may be unavailable, an update is possible."""
    read(make(**changes))


# --- Durations and shares


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (30, 30),
        (0.5, 0.5),
        ("30s", 30),
        ("1m30s", 90),
        ("1h0m0s", 3600),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("100ms", 0.1),
        ("2d", 172800),
        ("5µs", 5e-6),
        ("5us", 5e-6),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_a_duration_is_a_number_or_a_text_of_go(value: Any, seconds: float) -> None:
    """Seconds may be written as a number, or as Go writes a duration."""
    assert seconds == pytest.approx(Duration.parse(value))


@given(st.floats(0, 1e9) | st.integers(0, 10**9))
def test_a_duration_survives_its_text(seconds: float) -> None:
    """A number of seconds, and the same number with the unit s, mean the same."""
    assert Duration.parse(seconds) == seconds
    assert Duration.parse(f"{seconds:f}s") == pytest.approx(float(f"{seconds:f}"))


@given(
    st.from_regex(r"[^\d.].*")
    | st.floats(max_value=-1e-9)
    | st.sampled_from([math.inf, math.nan, "1", "1x", "1s1", "-1s", "٣s"])
    | st.booleans()
    | st.none()
    | st.lists(st.integers())
)
def test_what_is_no_duration_is_refused(value: Any) -> None:
    """A text without a number and its unit is no duration, nor is a number that is negative or not finite."""
    with pytest.raises(ValueError, match=r'expected a duration, such as 30 or "1m30s", got .+'):
        Duration.parse(value)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_number_of_members_does_not_depend_on_the_size(number: int, size: int) -> None:
    """An absolute share is that number."""
    assert number == Share(number).of(size)


@given(st.integers(1, 100), st.integers(1, 10**6))
def test_a_percentage_is_rounded_down_to_one_at_least(percent: int, size: int) -> None:
    """A percentage of members is rounded down, so that 10% of 3 would be none: it is one at least."""
    assert max(1, size * percent // 100) == Share(f"{percent}%").of(size)


@pytest.mark.parametrize("value", ["101%", "-1%", "%", "5", "1e2%", "٥%", -1, 1.5, True, None])
def test_what_is_no_share_is_refused(value: Any) -> None:
    """A share is a number of 0 or more, or a percentage up to 100."""
    with pytest.raises(ValueError, match="expected a number of members or a percentage"):
        Share(value)


def test_none_of_a_group_without_members_is_a_share() -> None:
    """A percentage of no members is none, and so is 0% of any."""
    assert [0, 0] == [Share("20%").of(0), Share("0%").of(100)]
