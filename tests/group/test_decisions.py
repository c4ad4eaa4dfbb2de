"""Every example in docs/decisions.md is what the plan decides."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from msgspec import Raw, Struct

from pyinfrakit.group.flavors import Health
from pyinfrakit.group.plan import plan
from pyinfrakit.group.situation import Action, Adopt, Asked, Config, Create, Destroy, Member, MemberState, Situation
from pyinfrakit.group.spec import GroupSpec, parse
from pyinfrakit.group.status import Phase, Verb
from support.harness import ROOT

DEADLINE, MIN_READY = 600.0, 10.0


class Example(Struct, frozen=True):
    """A row of the page."""

    rule: str
    name: str
    spec: str
    members: str
    now: str
    steps: str


def read_page() -> Iterator[Example]:
    """Yield the examples of the page."""
    page = (ROOT / "docs" / "decisions.md").read_text().partition("## Examples")[2]
    rule = ""
    for line in page.splitlines():
        if line.startswith("### "):
            rule = line.removeprefix("### ").lower()
        elif line.startswith("| ") and not line.startswith("| example "):
            yield Example(rule, *[cell.strip() for cell in line.strip("|").split("|")])


EXAMPLES = list(read_page())

UPDATING = ("Surge", "Canary", "Updating.Unavailable")
PLACES = {"Max": "Limits", "Order": "Pools", "Return": "Pools"}


def read_spec(text: str) -> GroupSpec:
    """Return the spec of ``3; Surge 1`` or ``[x y]; Keep 1``."""
    allocation, *settings = [part.strip() for part in text.split(";")]
    properties: dict[str, Any] = {"Instance": {"Plugin": "p"}, "Updating": {"MinReady": MIN_READY}}
    if allocation.startswith("["):
        properties["Allocation"] = {"LogicalIDs": allocation.strip("[]").split()}
    else:
        properties["Allocation"] = {"Size": int(allocation)}
    for setting in settings:
        name, _, value = setting.partition(" ")
        if name == "Pools":
            properties["Instance"] = [read_pool(pool) for pool in value.split()]
            continue
        part = "Updating" if name in UPDATING else PLACES.get(name)
        inner = properties.setdefault(part, {}) if part else properties
        inner[name.removeprefix("Updating.")] = read_value(value)
    return parse("g", Raw(json.dumps(properties).encode()))


def read_pool(text: str) -> Mapping[str, Any]:
    plugin, _, most = text.partition(":")
    return {"Plugin": plugin, "Max": int(most)} if most else {"Plugin": plugin}


def read_value(text: str) -> Any:
    return json.loads(text) if re.fullmatch(r"\d+|true|false", text) else text


CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    "ok": {"healthy_for": 1000.0},
    "old": {"healthy_for": 1000.0, "config": Config.OUTDATED},
    "new": {"is_proven": False, "health": Health.UNKNOWN},
    "sick": {"health": Health.UNHEALTHY, "healthy_for": 0.0},
    "unknown": {"health": Health.UNKNOWN},
    "healthy": {"health": Health.HEALTHY, "healthy_for": MIN_READY - 1},
    "bootstrap": {"config": Config.TO_ADOPT},
    "lost": {"state": MemberState.LOST, "health": Health.UNKNOWN},
    **{
        state: {"state": MemberState(state), "health": Health.UNKNOWN}
        for state in ("creating", "failed", "draining", "leaving")
    },
    "late": {"age": DEADLINE},
    "protected": {"is_protected": True},
    "host": {"is_own_host": True},
    "aside": {"is_by_hand": True},
    "excused": {"is_excused": True},
}


def read_members(spec: GroupSpec, text: str) -> tuple[Sequence[Member], Sequence[Asked]]:
    """Return the members of ``a:ok b@east:old,sick c/x:new asked``."""
    members, asked = [], []
    for word in text.split():
        match = re.fullmatch(r"(\w+)(?:/(\w+))?(?:@(\w+))?(?::([\w,]+))?", word)
        assert match, f"{word}: expected a member such as a:ok or b@east:old,sick"
        id, logical_id, pool, conditions = match.groups()
        pool = pool or spec.pools[0].plugin
        if id == "asked":
            asked.append(Asked(pool, logical_id))
            continue
        facts: dict[str, Any] = {}
        for condition in conditions.split(","):
            facts |= CONDITIONS[condition]
        members.append(Member(id=id, pool=pool, logical_id=logical_id, **facts))
    return members, asked


FACTS: Mapping[str, Mapping[str, Any]] = {
    "short": {"short_for": DEADLINE},
    "previous": {"has_previous": True},
    "ending": {"is_ending": True},
    "crash loop": {"rest": "a crash loop backs off"},
}


def read_now(text: str) -> Mapping[str, Any]:
    """Return the facts of ``rolling, east closed, room 1``."""
    phase, *words = text.split(", ")
    facts: dict[str, Any] = {"phase": Phase(phase)}
    for word in words:
        match word.split():
            case [pool, "closed"]:
                facts["closed"] = {pool: f"{pool} is closed"}
            case ["room", number]:
                facts["room"] = int(number)
            case [_, "failed"]:
                facts["failure"] = word
            case _:
                facts |= FACTS[word]
    return facts


def show_action(action: Action) -> str:
    """Return the page's words for an action."""
    match action:
        case Create(pool, _, logical_id, is_previous):
            where = f" @{pool}" if pool != "p" else ""
            return f"create{f' /{logical_id}' if logical_id else ''}{where}{' previous' if is_previous else ''}"
        case Destroy(id):
            return f"destroy {id}"
        case Adopt(id):
            return f"adopt {id}"
    return f"set aside {action.id}"


def read_steps(text: str) -> list[tuple[str, str]]:
    """Return the steps of a row, and what their reasons must say."""
    steps = [re.fullmatch(r"([^()]+?)(?: \((.+)\))?", step) for step in re.split(r", (?![^(]*\))", text)]
    return [(match[1], match[2] or "") for match in steps if match and match[1] != "nothing"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.rule}: {example.name}")
def test_examples_of_decisions_are_what_the_plan_decides(example: Example) -> None:
    """A row of the page has the actions, the holds and the words of their reasons that the plan has."""
    spec = read_spec(example.spec)
    members, asked = read_members(spec, example.members)
    now = Situation(spec=spec, members=members, asked=asked, min_ready=MIN_READY, **read_now(example.now))
    decided = plan(now)
    turns = [("stop", decided.stop)] if decided.stop else []
    if decided.is_updated and now.phase is not Phase.IDLE:
        turns.append(("updated", ""))
    actions = [(show_action(action), action.reason) for action in decided.actions]
    holds = [(f"hold {hold.subject or 'group'}", hold.reason) for hold in decided.holds if hold.verb is Verb.HOLD]
    actual = [*turns, *actions, *holds]
    expected = read_steps(example.steps)
    assert sorted(step for step, _ in expected) == sorted(step for step, _ in actual)
    for step, words in expected:
        assert any(step == other and words in reason for other, reason in actual), f"{step}: {words}: {actual}"


def test_every_rule_has_examples() -> None:
    """The page's table has the rules in the order of its examples."""
    page = (ROOT / "docs" / "decisions.md").read_text()
    rules = re.findall(r"^\| (\w[\w ]*) \|", page.partition("| rule |")[2].partition("\n\n")[0], re.MULTILINE)
    assert rules == list(dict.fromkeys(example.rule for example in EXAMPLES))
