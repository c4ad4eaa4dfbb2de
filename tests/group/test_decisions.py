"""Every example on the page about decisions is what the plan decides."""

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


def read_situation(settings: str, members: str) -> Situation:
    properties: dict[str, Any] = {"Allocation": {}, "Updating": {}, "Pools": {}}
    facts: dict[str, Any] = {}
    pools, asked = ["a"], 0
    for setting in settings.split(", "):
        name, *values = setting.split()
        match name:
            case "size":
                properties["Allocation"]["Size"] = int(values[0])
            case "names":
                properties["Allocation"]["LogicalIDs"] = values
            case "budget":
                properties["Unavailable"] = int(values[0])
            case "keep":
                properties["Keep"] = int(values[0])
            case "surge" | "unavailable" | "canary":
                properties["Updating"][name.capitalize()] = int(values[0])
            case "max":
                properties["Limits"] = {"Max": int(values[0])}
            case "remediation":
                properties["Remediate"] = values == ["on"]
            case "oldest":
                properties["ScaleIn"] = "oldest"
            case "pools":
                pools = values
            case "even":
                properties["Pools"]["Order"] = "even"
            case "return":
                properties["Pools"]["Return"] = True
            case "asked":
                asked = int(values[0])
            case "closed":
                facts["closed"] = dict.fromkeys(values, "no capacity")
            case "room":
                facts["room"] = int(values[0])
            case "backing-off":
                facts["rest"] = "members failed soon after their start"
            case "short":
                facts["short_for"] = 9999.0
            case "previous":
                facts["has_previous"] = True
            case "ending":
                facts["is_ending"] = True
            case _:
                facts["phase"] = Phase(name)
    instance = [{"Plugin": pool.partition("=")[0]} for pool in pools]
    for entry, pool in zip(instance, pools, strict=True):
        if limit := pool.partition("=")[2]:
            entry["Max"] = int(limit)  # type: ignore[assignment]
    names = [each["Plugin"] for each in instance]
    spec = parse("g", Raw(msgspec.json.encode({**properties, "Instance": instance})))
    waiting = [Asked(names[0])] * asked
    return Situation(spec=spec, members=read_members(members, names), asked=waiting, **facts)


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
