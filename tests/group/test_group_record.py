"""A group's record survives its form as JSON, and an error in it names its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit.errors import Damaged
from pyinfrakit.group import record
from pyinfrakit.group.record import HISTORY, GroupRecord
from pyinfrakit.group.rollout import Rollout
from pyinfrakit.group.status import Commit, Phase

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PROPERTIES = st.sampled_from([Raw(b'{"Allocation": {"Size": 3}}'), Raw(b"{}"), Raw(b'{"a":1.0,"b":[1e400]}')])
TIME = st.floats(0, 1e10)
COMMITS = st.lists(st.builds(Commit, st.just(0), TIME, TEXT, TEXT, TEXT, PROPERTIES), max_size=HISTORY).map(
    lambda commits: tuple(replace(commit, number=number) for number, commit in enumerate(commits, 5))
)
RECORDS = st.builds(
    GroupRecord,
    properties=PROPERTIES,
    history=COMMITS,
    protected=st.frozensets(TEXT),
    rollout=st.builds(Rollout, phase=st.sampled_from(Phase), reason=TEXT, previous=st.none() | PROPERTIES, since=TIME),
    held=st.dictionaries(TEXT, TEXT),
    losses=st.dictionaries(TEXT, TIME),
    known=st.dictionaries(TEXT, st.dictionaries(TEXT, st.none() | TEXT)),
    doomed=st.frozensets(TEXT),
    destroying=st.booleans(),
    unknown=st.dictionaries(st.sampled_from(["Later", "more"]), st.just(Raw(b'{"x": null}'))),
)


@given(RECORDS)
def test_a_record_survives_its_form_as_json(original: GroupRecord) -> None:
    """A record is the same after it was encoded and decoded, including keys of a later version."""
    assert original == record.decode(record.encode(original), "here")


def test_the_form_of_a_record_is_short() -> None:
    """A record's form has only what differs from a new group."""
    assert Raw(b'{"Format":1,"Properties":{"a": 1}}') == record.encode(GroupRecord(properties=Raw(b'{"a": 1}')))


def test_the_history_is_bounded() -> None:
    """The history keeps the last commits, and their numbers go on."""
    group = GroupRecord(properties=Raw(b"0"))
    for number in range(1, 31):
        group = group.commit("web", Raw(str(number).encode()), float(number), "root", "commit", "Noop")
    assert Raw(b"30") == group.properties
    assert list(range(11, 31)) == [commit.number for commit in group.history]
    assert Commit(30, 30.0, "root", "commit", "Noop", Raw(b"30")) == group.history[-1]


DAMAGE = {
    "no JSON": ("{", "Value: not JSON: it ends too early"),
    "no object": ("[]", "Value: expected an object, got an array"),
    "no format": ("{}", "Value.Format: missing: expected 1"),
    "a later format": ('{"Format":2,"Properties":[]}', "Value.Format: expected 1, got 2, which another version"),
    "no properties": ('{"Format":1}', "Value: missing required field Properties"),
    "an unknown phase": ('{"Format":1,"Properties":{},"Phase":"x"}', "Value.Phase: "),
    "a wrong loss": ('{"Format":1,"Properties":{},"Losses":{"i1":"x"}}', "Value.Losses.i1: expected a number"),
    "a wrong commit": ('{"Format":1,"Properties":{},"History":[{}]}', "Value.History[0]: missing required field Num"),
    "commits out of order": (
        '{"Format":1,"Properties":{},"History":['
        '{"Number":2,"At":1,"By":"","Cause":"","Details":"","Properties":{}},'
        '{"Number":2,"At":1,"By":"","Cause":"","Details":"","Properties":{}}]}',
        "Value.History[1].Number: expected more than 2, got 2",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_in_a_record_is_explained(damage: str) -> None:
    """An error in a record names the entry and the field, and says how to go on."""
    value, message = DAMAGE[damage]
    with pytest.raises(Damaged) as caught:
        record.decode(Raw(value.encode()), "group state /x/web.json")
    assert str(caught.value).startswith(f"group state /x/web.json: {message}")
    assert "it was left untouched" in str(caught.value)
