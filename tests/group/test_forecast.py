"""A forecast is what the controller then does if nothing fails, and its course tells it member by member."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from pyinfrakit.errors import InvalidSpec
from pyinfrakit.group.course import describe_course
from pyinfrakit.group.flavors import Health
from pyinfrakit.group.forecast import forecast
from pyinfrakit.group.record import GroupRecord
from pyinfrakit.group.situation import Action, Config, Create, Member, MemberState, Situation
from pyinfrakit.group.spec import GroupSpec, parse
from pyinfrakit.group.wishes import Wishes
from support.world import DEADLINE, MIN_READY, Latency, World

EVEN = Latency(drain=MIN_READY)
"""A drain takes as long as a new member takes to be proven, so that all actions of a round end together."""

QUIET = 2 * DEADLINE
"""Ticks without an action after which none follows."""


def commit(spec: GroupSpec) -> Wishes:
    """Return the wishes after a second commit, which begins an update."""
    record = GroupRecord(properties=spec.raw)
    for cause in ("first", "second"):
        record = record.commit(spec.id, spec.raw, 0.0, "", cause, "")
    return Wishes(spec.id, record)


def live(world: World) -> tuple[list[Sequence[Action]], Situation]:
    """Let the controller act until nothing is left to do; return its rounds, and the first situation."""
    rounds: list[Sequence[Action]] = []
    begin = None
    quiet = 0
    while quiet < QUIET:
        world.advance()
        decision = world.decide()
        assert decision is not None
        situation, decided = decision
        begin = begin or situation
        world.act(decided.actions)
        quiet = 0 if decided.actions else quiet + 1
        if decided.actions:
            rounds.append(decided.actions)
    assert begin is not None
    return rounds, begin


def simplify(rounds: Sequence[Sequence[Action]], known: Mapping[str, Any]) -> list[list[tuple[Any, ...]]]:
    """Return rounds without the IDs of new members, which a forecast can't know."""
    return [
        [
            (Create, each.pool, each.logical_id)
            if isinstance(each, Create)
            else (type(each), each.id in known and each.id)
            for each in round
        ]
        for round in rounds
    ]


SHARES = st.integers(0, 3)
UPDATING = st.fixed_dictionaries({}, optional={"Surge": SHARES, "Unavailable": SHARES, "Canary": SHARES})
SETTINGS = st.fixed_dictionaries(
    {"Updating": UPDATING},
    optional={
        "Unavailable": st.sampled_from([0, 1, 2, "40%"]),
        "Keep": st.integers(0, 2),
        "ScaleIn": st.sampled_from(["smallest", "oldest"]),
        "Limits": st.fixed_dictionaries({"Max": st.integers(4, 9)}),
        "Pools": st.sampled_from([{}, {"Order": "even"}, {"Return": True}]),
        "Instance": st.just([{"Plugin": "a", "Max": 3}, {"Plugin": "b"}]),
    },
)
LOGICAL_IDS = st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=5, unique=True)
ALLOCATIONS = st.one_of(
    st.tuples(*[st.builds(lambda size: {"Size": size}, st.integers(0, 7))] * 2),
    st.tuples(*[st.builds(lambda ids: {"LogicalIDs": ids}, LOGICAL_IDS)] * 2),
)
PLACES = st.lists(st.integers(0, 6), max_size=2)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(properties=SETTINGS, allocations=ALLOCATIONS, is_update=st.booleans(), protected=PLACES, sick=PLACES)
def test_a_forecast_is_what_the_controller_then_does(
    properties: dict[str, Any],
    allocations: tuple[dict[str, Any], dict[str, Any]],
    is_update: bool,
    protected: list[int],
    sick: list[int],
) -> None:
    """Whatever the spec and the commit, the controller takes the forecast's actions in its order, and holds the same."""
    # In this world, to set a member aside takes no time: its replacement would be ahead of others.
    assume(not (sick and properties.get("Keep")))
    before, after = allocations
    updating = {"Deadline": DEADLINE, "MinReady": MIN_READY, **properties["Updating"]}
    try:
        world = World(
            before.get("Size", 0),
            {"Instance": {"Plugin": "a"}, **properties, "Updating": updating},
            EVEN,
            before.get("LogicalIDs", ()),
        )
    except InvalidSpec:
        assume(False)
    live(world)
    world.allocate(after)
    if is_update:
        world.commit()
    for place in protected:
        if machine := world.find(place):
            world.protected.add(machine.id)
    for place in sick:
        if machine := world.find(place):
            machine.is_sick = True
    known = dict(world.machines)
    rounds, begin = live(world)
    future = forecast(commit(world.spec), begin)
    assert simplify(rounds, known) == simplify([each.actions for each in future.rounds], known)
    decision = world.decide()
    assert decision is not None
    assert [hold for hold in decision[1].holds if hold.subject in known] == [
        hold for hold in future.holds if hold.subject in known
    ]


# --- The course


def tell(members: Sequence[Member], room: int | None = None, **properties: Any) -> list[str]:
    """Return the course of a commit as lines: number, verb, member, new member, reason."""
    properties = {"Instance": {"Plugin": "a"}, **properties}
    wishes = commit(parse("g", Raw(json.dumps(properties).encode())))
    now = Situation(spec=wishes.spec, members=members, room=room)
    steps = describe_course(wishes, now)
    return [
        f"{each.number} {each.verb.value} {each.subject} > {each.new}: {each.reason}".replace(" > :", ":")
        for each in steps
    ]


def old(id: str, **more: Any) -> Member:
    return Member(id=id, pool="a", config=Config.OUTDATED, **more)


def ok(id: str, **more: Any) -> Member:
    return Member(id=id, pool="a", **more)


def test_a_course_replaces_one_after_the_other() -> None:
    """Without a surge, each outdated member goes before its replacement comes; the controller's own host is the last."""
    assert [
        "1 replace y > a: its configuration is outdated; it goes first",
        "2 replace z > a: its configuration is outdated; it goes first",
        "3 replace x > a: its configuration is outdated; last, because the controller runs on it; it goes first",
    ] == tell([old("x", is_own_host=True), old("y"), old("z")], Allocation={"Size": 3})


def test_a_course_has_canaries_and_then_batches() -> None:
    """The canary is replaced alone, then as many at once as the update may take down."""
    updating = {"Unavailable": 2, "Canary": 1}
    assert [
        "1 replace v > a: its configuration is outdated; it goes first; a canary: the others wait for it",
        "2 replace w > a: its configuration is outdated; it goes first",
        "2 replace x > a: its configuration is outdated; it goes first",
        "3 replace y > a: its configuration is outdated; it goes first",
        "3 replace z > a: its configuration is outdated; it goes first",
    ] == tell([old(id) for id in "vwxyz"], Allocation={"Size": 5}, Unavailable=2, Updating=updating)


def test_a_course_creates_a_surge_first() -> None:
    """With a surge, a replacement comes before its member goes."""
    assert [
        "1 replace x > a: its configuration is outdated; its replacement comes first",
        "2 replace y > a: its configuration is outdated; its replacement comes first",
    ] == tell([old("x"), old("y")], Allocation={"Size": 2}, Updating={"Surge": 1})


def test_a_course_tells_what_is_left_alone() -> None:
    """A member that is protected, and one that can't be seen, are left alone with the reason."""
    members = [old("x", is_protected=True), old("y"), old("z", state=MemberState.LOST, reason="rack1: down")]
    assert [
        "0 hold z: outdated; not replaced yet: it can't be seen now: rack1: down",
        "0 hold x: outdated; not replaced yet: it is protected",
        "0 hold y: outdated; not replaced yet: only 2 of 3 members are healthy, and 2 must stay so",
        "0 wait z: it can't be seen now: rack1: down",
    ] == tell(members, Allocation={"Size": 3})


def test_a_course_shrinks_and_updates() -> None:
    """Members that are too many go without a replacement."""
    assert [
        "1 destroy x: the group's size is 2",
        "1 destroy y: the group's size is 2",
        "1 replace z > a: its configuration is outdated; it goes first",
    ] == tell([old("x"), old("y"), old("z"), ok("w")], Allocation={"Size": 2})


def test_a_course_exchanges_logical_ids() -> None:
    """A logical ID that is no longer wanted goes, a new one comes, and one that stays gets a replacement."""
    members = [old("x", logical_id="one"), ok("y", logical_id="two")]
    assert [
        "1 destroy y: logical ID two is not wanted",
        "2 create  > three: logical ID three has no member",
        "3 replace x > one: its configuration is outdated; it goes first",
    ] == tell(members, Allocation={"LogicalIDs": ["one", "three"]})


def test_a_course_goes_on_from_the_middle_of_an_update() -> None:
    """A member beyond the size is the replacement of the next one that goes."""
    assert [
        "1 destroy x: its configuration is outdated",
        "2 replace y > a: its configuration is outdated; its replacement comes first",
    ] == tell([old("x"), old("y"), ok("w")], Allocation={"Size": 2}, Updating={"Surge": 1})


def test_a_course_sets_failed_members_aside() -> None:
    """An unhealthy member that is to be kept is set aside, and another one takes its place."""
    members = [ok("x", health=Health.UNHEALTHY, reason="HTTP 500"), ok("y")]
    assert ["1 set aside x > a: unhealthy: HTTP 500"] == tell(members, Allocation={"Size": 2}, Keep=1)


def test_a_course_ends_at_the_limit_of_the_fleet() -> None:
    """A member for which the fleet has no room is held."""
    assert [
        "1 create  > a: a member is missing",
        "0 hold : a member is missing; not created: the fleet's limit is reached",
    ] == tell([], room=1, Allocation={"Size": 2})


def test_a_course_of_a_thousand_members_is_complete() -> None:
    """Each of 1,000 members that are replaced one after the other has its step."""
    steps = tell([old(f"{number:04}") for number in range(1000)], Allocation={"Size": 1000})
    expected = [
        f"{number + 1} replace {number:04} > a: its configuration is outdated; it goes first" for number in range(1000)
    ]
    assert expected == steps
