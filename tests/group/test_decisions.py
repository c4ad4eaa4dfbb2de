"""Every example on the page about decisions is what the plan decides."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from pyinfrakit.group.flavors import Health
from pyinfrakit.group.plan import plan
from pyinfrakit.group.situation import Action, Asked, Config, Create, Destroy, Member, MemberState, SetAside, Situation
from pyinfrakit.group.spec import parse
from pyinfrakit.group.status import Phase
from support.harness import ROOT

PAGE = (ROOT / "docs" / "decisions.md").read_text()
HEAD = "| rule | settings | members | then |"

WORDS: dict[str, dict[str, Any]] = {
    "ok": {},
    "old": {"config": Config.OUTDATED},
    "sick": {"health": Health.UNHEALTHY},
    "unknown": {"health": Health.UNKNOWN},
    "new": {"is_proven": False},
    "late": {"is_proven": False, "health": Health.UNKNOWN, "age": 9999.0},
    "excused": {"is_excused": True},
    "protected": {"is_protected": True},
    "host": {"is_own_host": True},
    "bootstrap": {"config": Config.TO_ADOPT},
    "creating": {"state": MemberState.CREATING, "health": Health.UNKNOWN, "is_proven": False},
    "failed": {"state": MemberState.FAILED, "health": Health.UNKNOWN},
    "draining": {"state": MemberState.DRAINING},
    "leaving": {"state": MemberState.LEAVING},
    "lost": {"state": MemberState.LOST, "health": Health.UNKNOWN},
}


def list_rows() -> list[list[str]]:
    rows = PAGE.partition(HEAD)[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def read_members(text: str, pools: list[str]) -> list[Member]:
    """Return members from a text such as ``a:ok b:old+sick c@x:new d/cloud:ok``."""
    members = []
    for each in text.split():
        place, _, words = each.partition(":")
        place, _, pool = place.partition("/")
        id, _, logical_id = place.partition("@")
        facts: dict[str, Any] = {}
        for word in words.split("+"):
            facts |= WORDS[word]
        members.append(Member(id=id, pool=pool or pools[0], logical_id=logical_id or None, **facts))
    return members


PROPERTIES: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "size": lambda values: {"Allocation": {"Size": int(values[0])}},
    "names": lambda values: {"Allocation": {"LogicalIDs": values}},
    "budget": lambda values: {"Unavailable": int(values[0])},
    "keep": lambda values: {"Keep": int(values[0])},
    "max": lambda values: {"Limits": {"Max": int(values[0])}},
    "remediation": lambda values: {"Remediate": values == ["on"]},
    "oldest": lambda values: {"ScaleIn": "oldest"},
    "pools": lambda values: {"Instance": [read_pool(each) for each in values]},
    "even": lambda values: {"Pools": {"Order": "even"}},
    "return": lambda values: {"Pools": {"Return": True}},
}
FACTS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "asked": lambda values: {"asked": [Asked("a")] * int(values[0])},
    "closed": lambda values: {"closed": dict.fromkeys(values, "no capacity")},
    "room": lambda values: {"room": int(values[0])},
    "backing-off": lambda values: {"rest": "members failed soon after their start"},
    "short": lambda values: {"short_for": 9999.0},
    "previous": lambda values: {"has_previous": True},
    "ending": lambda values: {"is_ending": True},
}


def read_pool(text: str) -> dict[str, Any]:
    """Return a pool from its name, or from a text such as ``rack=2``, in which 2 is its maximum."""
    name, _, most = text.partition("=")
    return {"Plugin": name, "Max": int(most)} if most else {"Plugin": name}


def read_situation(settings: str, members: str) -> Situation:
    """Return the situation of a row. A setting is a property, a fact, a field of `Updating` or a phase."""
    properties: dict[str, Any] = {"Instance": [{"Plugin": "a"}]}
    facts: dict[str, Any] = {}
    updating: dict[str, int] = {}
    for setting in settings.split(", "):
        name, *values = setting.split()
        if name in PROPERTIES:
            properties |= PROPERTIES[name](values)
        elif name in FACTS:
            facts |= FACTS[name](values)
        elif values:
            updating[name.capitalize()] = int(values[0])
        else:
            facts["phase"] = Phase(name)
    spec = parse("g", Raw(msgspec.json.encode({**properties, "Updating": updating})))
    pools = [each["Plugin"] for each in properties["Instance"]]
    return Situation(spec=spec, members=read_members(members, pools), **facts)


def describe(action: Action) -> str:
    match action:
        case Create(pool, _, logical_id, is_previous):
            return f"create {logical_id or pool}" + (" as before" if is_previous else "")
        case Destroy(id):
            return f"destroy {id}"
        case SetAside(id):
            return f"set aside {id}"
        case _:
            return f"adopt {action.id}"


@pytest.mark.parametrize("row", list_rows(), ids=" | ".join)
def test_an_example_is_decided_as_the_page_says(row: list[str]) -> None:
    """The plan's actions, and whether it stops the update, are those in the row."""
    _, settings, members, then = row
    decided = plan(read_situation(settings, members))
    actions = [*map(describe, decided.actions), *(["stop"] if decided.stop else [])]
    assert then == (", ".join(actions) or "nothing")
    assert all(step.reason and "\n" not in step.reason for step in decided.steps)


def test_every_rule_has_examples() -> None:
    """The examples cover each rule of the table, and there are at least forty."""
    table = PAGE.partition("| rule | condition | then |")[2].partition("\n\n")[0].splitlines()[2:]
    rules = {row.strip("|").split("|")[0].strip() for row in table}
    assert rules == {row[0] for row in list_rows()}
    assert len(list_rows()) >= 40
