"""Plans keep their promises in thousands of random lives of a group, and converge once faults stop."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pyinfrakit.errors import InvalidSpec
from pyinfrakit.group.flavors import Health
from pyinfrakit.group.plan import plan
from pyinfrakit.group.situation import Adopt, Config, Create, Destroy, Member, MemberState, Plan, Situation
from pyinfrakit.group.status import Phase
from support.world import DEADLINE, MIN_READY, Latency, World

LIVES = 1000 if settings.get_current_profile_name() == "steady" else 60
"""Lives of each kind of group."""

CALM = 400
"""Ticks within which a group converges once faults stop."""

OVER = (MemberState.FAILED, MemberState.LEAVING)

# --- What holds at each tick


def check(now: Situation, decided: Plan) -> None:
    """Check all that holds for each plan by itself."""
    assert plan(now) == decided, "the same situation has the same plan"
    for step in decided.steps:
        assert step.reason
        assert step.reason.isprintable(), "a reason is one line"
    _check_victims(now, decided)
    _check_creations(now, decided)
    _check_update(now, decided)


def _find_victims(now: Situation, decided: Plan) -> list[Member]:
    """Return the members that a plan takes out of service. Failed ones are out of it already."""
    members = {m.id: m for m in now.members}
    victims = [members[each.id] for each in decided.actions if not isinstance(each, Create | Adopt)]
    return [m for m in victims if m.state is not MemberState.FAILED]


def _check_victims(now: Situation, decided: Plan) -> None:
    members = {m.id: m for m in now.members}
    ids = [each.id for each in decided.actions if not isinstance(each, Create)]
    assert [] == [id for id, count in Counter(ids).items() if count > 1], "one action for each member"
    for id in ids:
        assert members[id].state in (MemberState.CREATING, MemberState.RUNNING, MemberState.FAILED)
    destroyed = [members[each.id] for each in decided.actions if not isinstance(each, Create | Adopt)]
    assert [] == [m.id for m in destroyed if m.is_protected], "no protected member is destroyed"
    if now.is_ending:
        return
    assert [] == [m.id for m in destroyed if m.is_by_hand], "none that was set aside by hand is destroyed"
    victims = _find_victims(now, decided)
    floor = now.spec.size - now.spec.budget
    running = [m for m in now.members if m.state is MemberState.RUNNING]
    for health in ((Health.HEALTHY,), (Health.HEALTHY, Health.UNKNOWN)):
        working = [m for m in running if m.health in health]
        if any(m in working and m.health is health[-1] for m in victims):
            left = sum(m not in victims for m in working)
            assert left >= floor, f"{left} of {now.spec.size} are left working, {floor} must be"


def _check_creations(now: Situation, decided: Plan) -> None:
    creations = [each for each in decided.actions if isinstance(each, Create)]
    if not creations:
        return
    counted = [m for m in now.members if m.state not in OVER]
    total = len(counted) + len(now.asked) + len(creations)
    surge = now.spec.properties.updating.surge.of(now.spec.size)
    stale = sum(m.config is Config.OUTDATED for m in counted) if now.phase is Phase.ROLLING else 0
    returns = now.spec.properties.pools.return_ and now.phase in (Phase.IDLE, Phase.ABORTED)
    assert total <= now.spec.size + min(surge, max(stale, returns)), "no more members than the size and the surge"
    limit = now.spec.properties.limits.max
    assert limit is None or total <= limit, "no more members than the limit"
    assert now.room is None or len(creations) <= now.room
    assert not now.rest
    _check_pools(now, creations, counted)
    logical_ids = Counter(each.logical_id for each in counted)
    logical_ids.update(each.logical_id for each in now.asked)
    for creation in creations:
        assert creation.logical_id is None or logical_ids[creation.logical_id] == 0, "no logical ID is doubled"


def _check_pools(now: Situation, creations: Sequence[Create], counted: Sequence[Member]) -> None:
    for pool in now.spec.pools:
        new = sum(each.pool == pool.plugin for each in creations)
        assert not (new and pool.plugin in now.closed), "nothing is created in a closed pool"
        present = sum(m.pool == pool.plugin for m in counted) + sum(m.pool == pool.plugin for m in now.asked)
        assert not new or pool.max is None or present + new <= pool.max, "no pool exceeds its maximum"


def _check_update(now: Situation, decided: Plan) -> None:
    if not any(isinstance(each, Destroy) and each.is_update for each in decided.actions):
        return
    assert now.phase is Phase.ROLLING
    assert not decided.stop, "a stopped update replaces nothing"
    new = [m for m in now.members if m.config is Config.CURRENT and not m.is_proven]
    failed = [m for m in new if m.health is Health.UNHEALTHY or m.state is MemberState.FAILED]
    assert all(m.is_excused for m in failed), "an update stops at the first failed replacement"
    updating, size = now.spec.properties.updating, now.spec.size
    surge = updating.surge.of(size)
    down = updating.unavailable.of(size) if updating.unavailable is not None else int(not surge)
    victims = _find_victims(now, decided)
    staying = [m for m in now.members if m.state not in (*OVER, MemberState.DRAINING) and m not in victims]
    missing = max(size - len(staying), len(now.asked))
    under_way = missing + sum(m in new for m in staying)
    assert under_way <= max(1, down + surge), "no more replacements at once than surge and unavailable"


# --- Lives

SETTINGS = {
    "Unavailable": st.sampled_from([1, 2, "40%"]),
    "Remediate": st.booleans(),
    "Keep": st.integers(0, 2),
    "ScaleIn": st.sampled_from(["smallest", "oldest"]),
}
UPDATING = {
    "Unavailable": st.integers(0, 2),
    "Canary": st.integers(0, 2),
    "OnFailure": st.sampled_from(["pause", "undo"]),
}
KINDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "size": st.fixed_dictionaries({"Updating": st.fixed_dictionaries({}, optional=UPDATING)}, optional=SETTINGS),
    "surge": st.fixed_dictionaries(
        {"Updating": st.fixed_dictionaries({"Surge": st.integers(1, 2)}, optional=UPDATING)},
        optional={**SETTINGS, "Limits": st.fixed_dictionaries({"Max": st.integers(3, 6)})},
    ),
    "logical IDs": st.fixed_dictionaries(
        {},
        optional={
            "Updating": st.fixed_dictionaries({}, optional={"Canary": st.integers(0, 1)}),
            "Keep": st.integers(0, 1),
            "Unavailable": st.sampled_from([1, 2]),
        },
    ),
    "pools": st.fixed_dictionaries(
        {
            "Pools": st.sampled_from([{}, {"Order": "even"}, {"Return": True}]),
            "Updating": st.fixed_dictionaries({"Surge": st.integers(1, 2)}),
        },
        optional={"Keep": st.integers(0, 1)},
    ),
}
POOLS = [{"Plugin": "a", "Max": 3}, {"Plugin": "b"}]
PLACES = st.integers(0, 7)
NAMES = st.sampled_from("ab")
LOGICAL_IDS = st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=4, unique=True)

Event = Callable[[World], None]


def _sicken(world: World, place: int, is_sick: bool) -> None:
    if machine := world.find(place):
        machine.is_sick = is_sick


def _set_aside(world: World, place: int, is_aside: bool) -> None:
    if machine := world.find(place):
        machine.is_aside = machine.is_by_hand = is_aside


def _kill(world: World, place: int) -> None:
    if machine := world.find(place):
        del world.machines[machine.id]


def _protect(world: World, place: int) -> None:
    if machine := world.find(place):
        world.protected ^= {machine.id}


def _break(world: World, plugin: str, field: str) -> None:
    pools = getattr(world, field)
    pools ^= {plugin}


def _blind(world: World) -> None:
    world.blind = not world.blind


def _limit_room(world: World, room: int) -> None:
    world.room = None if world.room is not None else room


def _event(function: Callable[..., None], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(function), *arguments)


FAULTS = [
    _event(_kill, PLACES),
    _event(_sicken, PLACES, st.booleans()),
    _event(_set_aside, PLACES, st.booleans()),
    _event(_break, NAMES, st.sampled_from(["down", "full"])),
    _event(_blind),
    _event(_limit_room, st.integers(0, 2)),
    _event(World.restart),
]
ORDERS = [
    _event(World.commit, st.sampled_from(["", "", "sick", "mute", "dead"])),
    _event(World.undo),
    _event(World.order, st.sampled_from(["pause", "resume", "abort"])),
    _event(_protect, PLACES),
]
SCALES = {
    "size": _event(World.allocate, st.builds(lambda size: {"Size": size}, st.integers(0, 6))),
    "surge": _event(World.allocate, st.builds(lambda size: {"Size": size}, st.integers(0, 6))),
    "pools": _event(World.allocate, st.builds(lambda size: {"Size": size}, st.integers(0, 6))),
    "logical IDs": _event(World.allocate, st.builds(lambda ids: {"LogicalIDs": ids}, LOGICAL_IDS)),
}
LATENCIES = st.builds(Latency, *[st.integers(0, 2)] * 5)


@st.composite
def draw_world(draw: st.DrawFn, kind: str) -> World:
    """Draw a group that was created, or that is to be adopted."""
    own = draw(KINDS[kind])
    updating = {"Deadline": DEADLINE, "MinReady": MIN_READY, **own.get("Updating", {})}
    instance: Any = POOLS if kind == "pools" else {"Plugin": "a"}
    logical_ids = draw(LOGICAL_IDS) if kind == "logical IDs" else []
    size = len(logical_ids) or draw(st.integers(0, 6))
    try:
        world = World(size, {**own, "Updating": updating, "Instance": instance}, draw(LATENCIES), logical_ids)
    except InvalidSpec:
        assume(False)
    for version in draw(st.lists(st.sampled_from([None, 0, 1]), max_size=4)):
        world.create("a", logical_ids[world.count] if world.count < len(logical_ids) else None, version)
    return world


def live(world: World, ticks: int) -> None:
    """Let some ticks pass, and check each plan."""
    for _ in range(ticks):
        world.advance()
        if (decision := world.decide()) is not None:
            check(*decision)
            world.act(decision[1].actions)


def calm(world: World) -> None:
    """End all faults. What an operator left broken, an operator repairs."""
    world.down.clear()
    world.full.clear()
    world.blind, world.room = False, None
    world.protected.clear()
    if any(world.bad.get(version or 0) for version in [world.version, *(m.version for m in world.machines.values())]):
        world.commit()
    for machine in world.machines.values():
        machine.is_sick = machine.is_sick and world.spec.properties.remediate
        if not world.spec.properties.remediate:
            machine.is_aside = machine.is_by_hand = False


def is_settled(now: Situation, decided: Plan) -> bool:
    """Return whether a group is as it is wanted."""
    present = [m for m in now.members if m.state not in OVER]
    is_whole = len(present) == now.spec.size and not now.asked
    works = all(m.state is MemberState.RUNNING and m.health is Health.HEALTHY for m in present)
    is_updated = now.phase is Phase.IDLE and all(m.config is Config.CURRENT for m in present)
    # Without members, an update goes on until the first one shows that the configuration works.
    is_over = is_updated or now.phase is Phase.ABORTED or not present
    return not decided.actions and is_whole and works and is_over and _is_in_place(now, present)


def _is_in_place(now: Situation, present: Sequence[Member]) -> bool:
    """Return whether members have returned to the first pool, as far as it has room."""
    first = now.spec.pools[0]
    in_first = sum(m.pool == first.plugin for m in present)
    return not now.spec.properties.pools.return_ or in_first >= min(len(present), first.max or 0)


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=LIVES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_plans_keep_their_promises_and_converge(kind: str, data: st.DataObject) -> None:
    """Whatever happens to a group, no plan breaks a promise; once faults stop, the group becomes as it is wanted."""
    world = data.draw(draw_world(kind))
    live(world, data.draw(st.sampled_from([0, 20])))
    fewest = data.draw(st.sampled_from([0, 5, 15]))
    events = data.draw(st.lists(st.one_of([SCALES[kind], *FAULTS, *ORDERS]), min_size=fewest, max_size=30))
    for function, *arguments in events:
        function(world, *arguments)
        live(world, data.draw(st.sampled_from([1, 1, 2, 5, DEADLINE + 2])))
    calm(world)
    for _ in range(CALM):
        world.order("resume")  # an update stops on what is left of the faults; only an operator goes on then
        live(world, 1)
        decision = world.decide()
        if decision is not None and is_settled(*decision):
            return
    raise AssertionError(f"not settled: {decision}")
