"""Plans follow from observations: a test for each row of the table in `pyinfrakit.instance.plan`, and invariants."""

from collections.abc import Collection, Iterable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyinfrakit.instance.plan import Condition, History, Observation, Plan, Streak, Thresholds, Transition, plan
from pyinfrakit.provider import Machine
from pyinfrakit.record import GROUP_TAG, Event, Record, Spec, State
from pyinfrakit.store.records import Drop, Put, Records

NOW = 1_000_000.0
DEFAULT = Thresholds()
CERTAIN = Thresholds(certain=True)
SHA, HASH = "infrakit.config_sha", "infrakit.config.hash"


def make_record(
    id: str,
    state: State = State.READY,
    *,
    since: float = NOW - 60,
    group: str | None = None,
    logical: str | None = None,
    reason: str = "",
    by_hand: bool = False,
    tags: dict[str, str] | None = None,
) -> Record:
    all_tags = {**({GROUP_TAG: group} if group else {}), **(tags or {})}
    spec = Spec(tags=all_tags, logical_id=logical)
    return Record(id=id, state=state, spec=spec, since=since, reason=reason, by_hand=by_hand)


make_aside = partial(make_record, state=State.NON_FUNCTIONAL, reason="disk")


def make_working(*ids: str) -> list[Machine]:
    return [Machine(id) for id in ids]


def make_broken(*ids: str, reason: str = "disk") -> list[Machine]:
    return [Machine(id, functional=False, reason=reason) for id in ids]


def decide(
    records: Iterable[Record],
    machines: Iterable[Machine],
    history: History = History(),
    *,
    times: int = 1,
    limits: Thresholds = DEFAULT,
    now: float = NOW,
    started: float = 0.0,
    silent: Collection[str] = (),
    released: Collection[str] = (),
) -> Plan:
    """Return the last of *times* plans for the same observation, each with the previous one's history."""
    kept = list(records)
    observation = Observation({m.id: m for m in machines}, now, frozenset(silent), started)
    for _ in range(times):
        decided = plan(Records(kept).copy(), observation, history, limits, frozenset(released))
        history = decided.history
    return decided


def map_events(decided: Plan) -> dict[str, Event]:
    return {t.id: t.event for t in decided.transitions}


def make_ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


# --- Ready


def test_a_working_ready_instance_needs_no_transition() -> None:
    """A ready instance that works has no transition and no streak."""
    decided = decide([make_record("a")], make_working("a"), times=10)
    assert Plan((), (), (), History()) == decided


@pytest.mark.parametrize("threshold", [1, 2, 5])
def test_a_broken_instance_is_set_aside_at_the_threshold(threshold: int) -> None:
    """A ready instance is set aside at the `broken_after`th consecutive observation, with the provider's reason."""
    limits = Thresholds(broken_after=threshold)
    below = decide([make_record("a")], make_broken("a"), times=threshold - 1, limits=limits) if threshold > 1 else None
    at = decide([make_record("a")], make_broken("a", reason="no ping"), times=threshold, limits=limits)
    assert below is None or below.transitions == ()
    assert (Transition("a", Event.BROKEN, "no ping"),) == at.transitions


def test_an_instance_is_broken_after_two_observations() -> None:
    """By default, an instance counts as broken after two consecutive observations."""
    assert {} == map_events(decide([make_record("a")], make_broken("a"), times=1))
    assert {"a": Event.BROKEN} == map_events(decide([make_record("a")], make_broken("a"), times=2))


def test_a_broken_instance_always_has_a_reason() -> None:
    """A broken instance without a reason from the provider gets one from the plan."""
    (transition,) = decide([make_record("a")], make_broken("a", reason=""), times=2).transitions
    assert "provider" in transition.reason


@pytest.mark.parametrize(("reason", "by_hand"), [("disk", False), ("", True), ("disk", True)])
def test_a_broken_instance_is_set_aside_whatever_its_past(reason: str, by_hand: bool) -> None:
    """A broken ready instance is set aside even if its record has an old reason or a mark of being set aside by hand."""
    decided = decide([make_record("a", reason=reason, by_hand=by_hand)], make_broken("a", reason="disk"), times=2)
    assert {"a": Event.BROKEN} == map_events(decided)


@pytest.mark.parametrize("state", [State.READY, State.NON_FUNCTIONAL, State.DESTROYING])
@pytest.mark.parametrize("threshold", [1, 3, 4])
def test_a_missing_instance_is_dropped_at_the_threshold(state: State, threshold: int) -> None:
    """An instance is dropped at the `missing_after`th consecutive observation without it, and the reason has that number."""
    limits = Thresholds(missing_after=threshold)
    below = decide([make_record("a", state)], [], times=threshold - 1, limits=limits) if threshold > 1 else None
    at = decide([make_record("a", state)], [], times=threshold, limits=limits)
    assert below is None or below.transitions == ()
    assert {"a": Event.MISSING} == map_events(at)
    assert str(threshold) in at.transitions[0].reason


def test_an_instance_is_missing_after_three_observations() -> None:
    """By default, an instance counts as missing after three consecutive observations."""
    assert {} == map_events(decide([make_record("a")], [], times=2))
    assert {"a": Event.MISSING} == map_events(decide([make_record("a")], [], times=3))


def test_a_missing_instance_set_aside_by_hand_is_dropped() -> None:
    """An instance that was set aside by hand is dropped once its machine is gone."""
    assert {"a": Event.MISSING} == map_events(decide([make_aside("a", by_hand=True)], [], times=3))


# --- Non-functional


@pytest.mark.parametrize("threshold", [1, 3, 5])
def test_a_non_functional_instance_heals_at_the_threshold(threshold: int) -> None:
    """A non-functional instance heals at the `healed_after`th consecutive observation of it working."""
    limits = Thresholds(healed_after=threshold)
    below = decide([make_aside("a")], make_working("a"), times=threshold - 1, limits=limits) if threshold > 1 else None
    at = decide([make_aside("a")], make_working("a"), times=threshold, limits=limits)
    assert below is None or below.transitions == ()
    assert (Transition("a", Event.HEALED, ""),) == at.transitions


def test_an_instance_is_healed_after_three_observations() -> None:
    """By default, an instance counts as healed after three consecutive observations."""
    assert {} == map_events(decide([make_aside("a")], make_working("a"), times=2))
    assert {"a": Event.HEALED} == map_events(decide([make_aside("a")], make_working("a"), times=3))


@pytest.mark.parametrize("times", [1, 2, 3, 30])
@pytest.mark.parametrize("machines", [make_working("a"), make_broken("a", reason="another")])
def test_an_instance_set_aside_by_hand_stays(times: int, machines: list[Machine]) -> None:
    """An instance set aside by hand keeps its state and the operator's reason, whatever is observed."""
    assert () == decide([make_aside("a", by_hand=True, reason="to look at")], machines, times=times).transitions


@pytest.mark.parametrize("other", [State.PROVISIONING, State.READY])
def test_a_healed_instance_stays_if_its_logical_id_is_in_use(other: State) -> None:
    """A healed instance stays set aside if a live member of its group has its logical ID, and the reason names it."""
    records = [make_aside("a", group="g", logical="l"), make_record("b", other, group="g", logical="l")]
    (transition,) = decide(records, make_working("a", "b"), times=3).transitions
    assert ("a", Event.BROKEN) == (transition.id, transition.event)
    assert "works again" in transition.reason
    assert "b has its logical ID l" in transition.reason


@pytest.mark.parametrize(
    "other",
    [
        make_record("b", group="h", logical="l"),
        make_record("b", logical="l"),
        make_record("b", group="g", logical="m"),
        make_record("b", group="g"),
        make_record("b", State.DESTROYING, group="g", logical="l"),
        make_aside("b", group="g", logical="l", by_hand=True),
    ],
)
def test_a_healed_instance_comes_back_if_its_logical_id_is_free(other: Record) -> None:
    """A logical ID blocks a healed instance only if a live member of the same group has the same one."""
    assert {"a": Event.HEALED} == map_events(
        decide([make_aside("a", group="g", logical="l"), other], make_working("a", "b"), times=3)
    )


@pytest.mark.parametrize("tag", [SHA, HASH])
def test_a_healed_instance_with_an_old_configuration_stays(tag: str) -> None:
    """A healed instance stays set aside if its configuration differs from its group's newest ready member."""
    records = [
        make_record("2", group="g", tags={tag: "old"}),
        make_aside("3", group="g", tags={tag: "old"}),
        make_record("1", group="g", tags={tag: "new"}),
    ]
    (transition,) = decide(records, make_working("1", "2", "3"), times=3).transitions
    assert ("3", Event.BROKEN) == (transition.id, transition.event)
    assert "configuration is not that of 1," in transition.reason


@pytest.mark.parametrize("tag", [SHA, HASH])
def test_a_healed_instance_with_the_newest_configuration_comes_back(tag: str) -> None:
    """A healed instance with the newest ready member's configuration comes back, whatever older members have."""
    records = [
        make_record("1", group="g", tags={tag: "new"}),
        make_record("2", group="g", tags={tag: "old"}),
        make_aside("3", group="g", tags={tag: "new"}),
    ]
    assert {"3": Event.HEALED} == map_events(decide(records, make_working("1", "2", "3"), times=3))


@pytest.mark.parametrize(
    "other",
    [
        make_record("1", group="h", tags={SHA: "new"}),
        make_record("1", tags={SHA: "new"}),
        make_record("1", State.PROVISIONING, group="g", tags={SHA: "new"}),
        make_record("1", State.DESTROYING, group="g", tags={SHA: "new"}),
        make_aside("1", group="g", by_hand=True, tags={SHA: "new"}),
    ],
)
def test_only_ready_members_of_the_group_define_its_configuration(other: Record) -> None:
    """The configuration of another group, or of a member that is not ready, blocks no healed instance."""
    assert {"3": Event.HEALED} == map_events(
        decide([make_aside("3", group="g", tags={SHA: "old"}), other], make_working("1", "3"), times=3)
    )


def test_configuration_means_nothing_outside_of_groups() -> None:
    """A healed instance without a group comes back whatever configuration others have."""
    records = [make_aside("3", tags={SHA: "old"}), make_record("1", tags={SHA: "new"})]
    assert {"3": Event.HEALED} == map_events(decide(records, make_working("1", "3"), times=3))


def test_one_of_two_healed_instances_with_one_logical_id_comes_back() -> None:
    """If two instances with one logical ID heal in the same plan, one comes back and the other stays, with the reason."""
    records = [make_aside("a", group="g", logical="l"), make_aside("b", group="g", logical="l")]
    one, two = decide(records, make_working("a", "b"), times=3).transitions
    assert Transition("a", Event.HEALED, "") == one
    assert ("b", Event.BROKEN) == (two.id, two.event)
    assert "logical ID l" in two.reason


def test_healed_instances_with_one_logical_id_in_two_groups_come_back() -> None:
    """A logical ID is an identity within its group: holders in two groups, or without a logical ID, heal independently."""
    records = [
        make_aside("a", group="g", logical="l"),
        make_aside("b", group="h", logical="l"),
        make_aside("c"),
        make_aside("d"),
    ]
    assert dict.fromkeys("abcd", Event.HEALED) == map_events(decide(records, make_working(*"abcd"), times=3))


def test_the_reason_for_staying_is_recorded_once() -> None:
    """The reason why a healed instance stays set aside is recorded once, not at each observation."""
    records = [make_aside("a", logical="l"), make_record("b", logical="l")]
    first = decide(records, make_working("a", "b"), times=3)
    record = make_aside("a", logical="l", reason=first.transitions[0].reason)
    assert () == decide([record, records[1]], make_working("a", "b"), first.history).transitions


def test_a_healed_instance_comes_back_once_nothing_blocks_it() -> None:
    """A blocked instance comes back with the next plan once nothing blocks it."""
    first = decide([make_aside("a", logical="l"), make_record("b", logical="l")], make_working("a", "b"), times=3)
    record = make_aside("a", logical="l", reason=first.transitions[0].reason)
    assert {"a": Event.HEALED} == map_events(decide([record], make_working("a"), first.history))


def test_a_new_reason_is_recorded_at_the_threshold() -> None:
    """A non-functional instance gets a new reason at the `broken_after`th consecutive observation of it."""
    assert () == decide([make_aside("a")], make_broken("a", reason="no ping"), times=1).transitions
    assert (Transition("a", Event.BROKEN, "no ping"),) == decide(
        [make_aside("a")], make_broken("a", reason="no ping"), times=2
    ).transitions


def test_a_known_reason_is_not_recorded_again() -> None:
    """An instance that is broken for its recorded reason has no transition."""
    assert () == decide([make_aside("a", reason="disk")], make_broken("a", reason="disk"), times=2).transitions


@pytest.mark.parametrize("times", [3, 4, 20])
def test_a_changing_reason_is_recorded_only_at_the_threshold(times: int) -> None:
    """A changing reason is recorded at the `broken_after`th observation only, not at each later one."""
    assert (
        ()
        == decide(
            [make_aside("a", reason="at 90 degrees")], make_broken("a", reason="at 91 degrees"), times=times
        ).transitions
    )


def test_a_blocked_instance_that_breaks_gets_the_new_reason() -> None:
    """A blocked instance that breaks again gets the reason why it is broken."""
    well = decide([make_aside("a", reason="works again, but …")], make_working("a"), times=2)
    decided = decide([make_aside("a", reason="works again, but …")], make_broken("a"), well.history, times=2)
    assert (Transition("a", Event.BROKEN, "disk"),) == decided.transitions


# --- Age


@pytest.mark.parametrize("machines", [make_working("a"), make_broken("a"), make_broken("a", reason="another")])
def test_an_old_non_functional_instance_is_destroyed(machines: list[Machine]) -> None:
    """A non-functional instance with a machine is destroyed `non_functional_age` seconds after it became so."""
    limits = Thresholds(non_functional_age=100.0)
    assert {} == map_events(decide([make_aside("a", since=NOW - 99.9)], machines, limits=limits))
    assert {"a": Event.AGED} == map_events(decide([make_aside("a", since=NOW - 100)], machines, limits=limits))


def test_an_instance_of_unknown_age_ages_from_the_start() -> None:
    """A non-functional instance from a C demo's file has no time of its state, so it ages from the daemon's start."""
    limits = Thresholds(non_functional_age=100.0)
    assert {} == map_events(decide([make_aside("a", since=0.0)], make_broken("a"), limits=limits, started=NOW - 99.9))
    assert {"a": Event.AGED} == map_events(
        decide([make_aside("a", since=0.0)], make_broken("a"), limits=limits, started=NOW - 100)
    )


def test_nothing_is_destroyed_for_its_age_by_default() -> None:
    """A non-functional instance is kept forever if no age is set."""
    assert () == decide([make_aside("a", since=0)], make_broken("a"), times=5).transitions


@pytest.mark.parametrize(
    ("kept", "machines"),
    [
        (make_aside("a", since=0, by_hand=True), make_broken("a")),
        (make_aside("a", since=0), []),
        (make_record("a", since=0), make_broken("a")),
        (make_record("a", State.DESTROYING, since=0), make_broken("a")),
    ],
)
def test_age_destroys_only_existing_broken_instances(kept: Record, machines: list[Machine]) -> None:
    """Age does not destroy an instance that was set aside by hand, is missing, or is in another state."""
    assert () == decide([kept], machines, limits=Thresholds(non_functional_age=1)).transitions


# --- Provisioning


def test_an_overdue_instance_is_set_aside() -> None:
    """An instance is set aside if its machine exists but does not work within `provision_deadline` seconds."""
    limits = Thresholds(provision_deadline=100)
    records = [make_record("a", State.PROVISIONING, since=NOW - 100)]
    assert () == decide(records, make_broken("a"), now=NOW - 0.1, limits=limits).transitions
    (transition,) = decide(records, make_broken("a", reason="booting"), limits=limits).transitions
    assert ("a", Event.OVERDUE) == (transition.id, transition.event)
    assert "100 s" in transition.reason
    assert "booting" in transition.reason


def test_the_deadline_is_half_an_hour() -> None:
    """By default, an instance is overdue after 30 minutes."""
    assert {} == map_events(decide([make_record("a", State.PROVISIONING, since=NOW - 1799.9)], make_broken("a")))
    assert {"a": Event.OVERDUE} == map_events(
        decide([make_record("a", State.PROVISIONING, since=NOW - 1800)], make_broken("a"))
    )


def test_an_instance_is_overdue_although_its_call_hangs() -> None:
    """An instance becomes overdue even while its call is in flight, when nothing else is concluded about it."""
    late = make_record("a", State.PROVISIONING, since=NOW - 1800)
    assert {"a": Event.OVERDUE} == map_events(decide([late], make_broken("a"), silent={"a"}))


def test_a_deadline_counts_from_the_start_at_the_earliest() -> None:
    """The deadline of an instance from before the daemon's start counts from the start."""
    late = make_record("a", State.PROVISIONING, since=0)
    assert {} == map_events(decide([late], make_broken("a"), started=NOW - 1799.9))
    assert {"a": Event.OVERDUE} == map_events(decide([late], make_broken("a"), started=NOW - 1800))


@pytest.mark.parametrize("machines", [[], make_working("a")])
def test_an_instance_without_a_broken_machine_is_never_overdue(machines: list[Machine]) -> None:
    """An instance whose machine works or does not exist waits for its call, however long that takes."""
    assert () == decide([make_record("a", State.PROVISIONING, since=0)], machines, times=10).transitions


@pytest.mark.parametrize("machines", [[], make_working("a"), make_broken("a")])
def test_provisioning_waits_for_its_call(machines: list[Machine]) -> None:
    """An observation before the deadline neither changes a provisioning instance nor counts."""
    decided = decide([make_record("a", State.PROVISIONING)], machines, times=10)
    assert ((), {}) == (decided.transitions, decided.history.streaks)


# --- Destroying


@pytest.mark.parametrize("machines", [make_working("a"), make_broken("a")])
def test_destroying_waits_for_its_call(machines: list[Machine]) -> None:
    """A destroying instance has no transition while its machine exists."""
    limits = Thresholds(non_functional_age=1)
    assert () == decide([make_record("a", State.DESTROYING, since=0)], machines, times=10, limits=limits).transitions


# --- Orphans


def test_orphans_are_reported_and_left_alone() -> None:
    """A machine without a record is reported as an orphan, in order, and has no transition."""
    decided = decide([make_record("b")], [*make_working("a", "b"), *make_broken("c")], times=5)
    assert (("a", "c"), (), {}) == (decided.orphans, decided.transitions, decided.history.streaks)


def test_a_machine_of_a_dropped_record_is_no_orphan() -> None:
    """A machine whose record was dropped after the observation began is no orphan."""
    assert ("b",) == decide([], make_working("a", "b"), silent={"a"}).orphans


# --- Streaks


@pytest.mark.parametrize("before", [make_working("a"), []])
def test_a_different_observation_ends_a_streak(before: list[Machine]) -> None:
    """Two broken observations with a different one between them are not consecutive."""
    first = decide([make_record("a")], make_broken("a"))
    between = decide([make_record("a")], before, first.history)
    assert () == decide([make_record("a")], make_broken("a"), between.history).transitions


@pytest.mark.parametrize("between", [make_working("a"), make_broken("a")])
def test_missing_observations_must_be_consecutive(between: list[Machine]) -> None:
    """An instance that is missing twice, seen, and missing twice again is not dropped."""
    limits = Thresholds(broken_after=9)
    first = decide([make_record("a")], [], times=2, limits=limits)
    second = decide([make_record("a")], between, first.history, limits=limits)
    assert () == decide([make_record("a")], [], second.history, times=2, limits=limits).transitions


def test_healing_observations_must_be_consecutive() -> None:
    """An instance that works twice, is broken once, and works twice again does not heal."""
    first = decide([make_aside("a")], make_working("a"), times=2)
    second = decide([make_aside("a")], make_broken("a"), first.history)
    assert () == decide([make_aside("a")], make_working("a"), second.history, times=2).transitions


@pytest.mark.parametrize(
    ("before", "after", "machines", "times"),
    [
        (make_record("a"), make_aside("a", reason="x"), make_broken("a"), 1),
        (make_record("a"), make_aside("a"), [], 2),
        (make_aside("a"), make_record("a"), [], 2),
        (make_record("a"), make_record("a", State.DESTROYING), [], 2),
        (make_record("a", State.DESTROYING), make_aside("a"), make_working("a"), 2),
    ],
)
def test_another_state_ends_a_streak(before: Record, after: Record, machines: list[Machine], times: int) -> None:
    """A streak in one state does not count in another."""
    first = decide([before], machines, times=times)
    second = decide([after], machines, first.history)
    assert () == second.transitions
    assert 1 == second.history.streaks["a"].count


def test_the_streak_of_a_forgotten_instance_is_forgotten() -> None:
    """History keeps no streak of an ID without a record."""
    gone = History({"x": Streak(Condition.BROKEN, 5, State.READY)})
    assert {} == decide([make_record("a")], make_working("a"), gone).history.streaks


# --- Silence


@pytest.mark.parametrize(
    ("kept", "machines"),
    [
        (make_record("a"), make_broken("a")),
        (make_record("a"), []),
        (make_aside("a"), make_working("a")),
        (make_aside("a"), make_broken("a", reason="another")),
        (make_aside("a"), []),
        (make_aside("a", since=0), make_broken("a")),
        (make_record("a", State.DESTROYING), []),
    ],
)
def test_nothing_is_concluded_about_silent_ids(kept: Record, machines: list[Machine]) -> None:
    """Nothing is ever concluded about an instance on which the observation is silent."""
    decided = decide([kept], machines, times=10, silent={"a"}, limits=Thresholds(non_functional_age=1))
    assert Plan((), (), (), History()) == decided


def test_silence_keeps_a_streak() -> None:
    """Silence neither ends nor extends a streak: broken, silent many times, and broken again counts as two."""
    first = decide([make_record("a")], make_broken("a"))
    silent = decide([make_record("a")], make_working("a"), first.history, times=5, silent={"a"})
    assert first.history.streaks == silent.history.streaks
    assert () == silent.transitions
    assert {"a": Event.BROKEN} == map_events(decide([make_record("a")], make_broken("a"), silent.history))


def test_a_full_streak_waits_for_the_end_of_silence() -> None:
    """An instance with a full streak has no transition while the observation is silent about it."""
    full = History({"a": Streak(Condition.BROKEN, 9, State.READY)})
    assert () == decide([make_record("a")], make_broken("a"), full, silent={"a"}).transitions


# --- Mass loss


@pytest.mark.parametrize(
    ("instances", "allowed"), [(0, 3), (1, 3), (19, 3), (20, 4), (24, 4), (25, 5), (100, 20), (104, 20)]
)
def test_max_losses_are_three_or_a_fifth(instances: int, allowed: int) -> None:
    """At most 3 or 20 % of the instances may be lost, whichever is more."""
    assert allowed == DEFAULT.max_losses(instances)


@pytest.mark.parametrize(("instances", "allowed"), [(3, 3), (10, 3), (20, 4), (30, 6)])
def test_losses_up_to_the_limit_happen(instances: int, allowed: int) -> None:
    """Losses up to the limit take effect at once."""
    ids = make_ids("i", instances)
    decided = decide(map(make_record, ids), [*make_broken(*ids[:allowed]), *make_working(*ids[allowed:])], times=2)
    assert dict.fromkeys(ids[:allowed], Event.BROKEN) == map_events(decided)
    assert () == decided.held
    assert dict.fromkeys(ids[:allowed], NOW) == decided.history.losses


@pytest.mark.parametrize(("instances", "allowed"), [(4, 3), (10, 3), (20, 4), (30, 6)])
def test_one_loss_too_many_holds_them_all(instances: int, allowed: int) -> None:
    """One loss above the limit holds all losses, and none of them counts."""
    ids = make_ids("i", instances)
    lost = ids[: allowed + 1]
    decided = decide(map(make_record, ids), [*make_broken(*lost), *make_working(*ids[allowed + 1 :])], times=2)
    assert () == decided.transitions
    assert tuple(Transition(id, Event.BROKEN, "disk") for id in lost) == decided.held
    assert {} == decided.history.losses


def test_an_empty_observation_drops_nothing() -> None:
    """An empty observation drops no instance, however often it is repeated."""
    ids = make_ids("i", 50)
    decided = decide(map(make_record, ids), [], times=20)
    assert ((), tuple(ids)) == (decided.transitions, tuple(t.id for t in decided.held))


def test_drops_and_set_asides_count_together() -> None:
    """Missing, broken and overdue instances all count as losses."""
    records = [*map(make_record, "abc"), make_record("d", State.PROVISIONING, since=0)]
    limits = Thresholds(broken_after=3)
    decided = decide(records, make_broken("c", "d"), times=3, limits=limits)
    assert ((), set("abcd")) == (decided.transitions, {t.id for t in decided.held})
    fewer = decide(
        [*records[1:], make_record("a")], [*make_broken("c", "d"), *make_working("a")], times=3, limits=limits
    )
    assert {"b": Event.MISSING, "c": Event.BROKEN, "d": Event.OVERDUE} == map_events(fewer)


def test_a_non_functional_instance_that_is_gone_is_a_loss() -> None:
    """A non-functional instance whose machine vanishes is a loss."""
    assert 4 == len(decide(map(make_aside, "abcd"), [], times=3).held)


@pytest.mark.parametrize(
    ("records", "machines", "event"),
    [
        ([make_aside(id) for id in "abcdef"], make_working(*"abcdef"), Event.HEALED),
        ([make_aside(id, since=0) for id in "abcdef"], make_broken(*"abcdef"), Event.AGED),
        ([make_aside(id) for id in "abcdef"], make_broken(*"abcdef", reason="another"), Event.BROKEN),
    ],
)
def test_other_transitions_are_not_held(records: list[Record], machines: list[Machine], event: Event) -> None:
    """Healing, destruction for age, and a new reason are neither held nor counted as losses."""
    limits = Thresholds(broken_after=3, non_functional_age=NOW)
    decided = decide(records, machines, times=3, limits=limits)
    assert dict.fromkeys("abcdef", event) == map_events(decided)
    assert ((), {}) == (decided.held, decided.history.losses)


def test_destroying_instances_are_dropped_up_to_the_limit() -> None:
    """If more destroying instances are missing than the limit allows, none is dropped and their calls continue."""
    few, many = ([make_record(id, State.DESTROYING) for id in ids] for ids in ("abc", "abcd"))
    assert dict.fromkeys("abc", Event.MISSING) == map_events(decide(few, [], times=3))
    assert {} == map_events(decide(many, [], times=3))
    assert () == decide(many, [], times=3).held


def test_destroying_instances_are_not_dropped_beside_held_losses() -> None:
    """An observation with held losses drops no destroying instance either."""
    records = [*map(make_record, "abcd"), make_record("f", State.DESTROYING)]
    decided = decide(records, [], times=3)
    assert ({}, set("abcd")) == (map_events(decided), {t.id for t in decided.held})


def test_held_losses_block_nothing_else() -> None:
    """Held losses do not block other transitions."""
    records = [*map(make_record, "abcd"), make_aside("e")]
    decided = decide(records, [*make_broken(*"abcd"), *make_working("e")], times=3)
    assert ({"e": Event.HEALED}, 4) == (map_events(decided), len(decided.held))


def test_losses_count_for_ten_minutes() -> None:
    """Three losses block a fourth for 10 minutes."""
    lost = History(losses=dict.fromkeys("abc", NOW))
    records, machines = [*map(make_aside, "abc"), make_record("d")], make_broken(*"abcd")
    before = decide(records, machines, lost, times=2, now=NOW + 599.9)
    after = decide(records, machines, lost, times=2, now=NOW + 600)
    assert ({}, ("d",)) == (map_events(before), tuple(t.id for t in before.held))
    assert ({"d": Event.BROKEN}, ()) == (map_events(after), after.held)
    assert {"d": NOW + 600} == after.history.losses


def test_earlier_losses_are_kept_in_history_while_they_count() -> None:
    """A plan's history keeps the losses within the window, with their times."""
    lost = History(losses={"a": NOW - 10, "b": NOW - 700})
    assert {"a": NOW - 10} == decide([], [], lost).history.losses


def test_repeated_losses_of_an_instance_count_once() -> None:
    """Losses count by ID: a flapping instance counts once, from its last loss."""
    lost = History(losses={"a": NOW - 500, "b": NOW - 500})
    decided = decide(map(make_record, "abc"), make_broken("a", "b", "c"), lost, times=2)
    assert dict.fromkeys("abc", Event.BROKEN) == map_events(decided)
    assert dict.fromkeys("abc", NOW) == decided.history.losses


def test_dropped_instances_count_for_the_share() -> None:
    """The share refers to the instances before the losses: 4 of 20 may be dropped in two steps, but not 5."""
    ids = make_ids("i", 20)
    lost = History(losses=dict.fromkeys(ids[:2], NOW - 1))
    four = decide(map(make_record, ids[2:]), make_working(*ids[4:]), lost, times=3)
    five = decide(map(make_record, ids[2:]), make_working(*ids[5:]), lost, times=3)
    assert dict.fromkeys(ids[2:4], Event.MISSING) == map_events(four)
    assert ((), tuple(ids[2:5])) == (five.transitions, tuple(t.id for t in five.held))


def test_set_aside_instances_count_once_for_the_share() -> None:
    """A lost instance that still has a record counts once: of 19 instances, a fourth loss is held."""
    ids = make_ids("i", 19)
    lost = History(losses={ids[0]: NOW - 1})
    decided = decide(
        [make_aside(ids[0]), *map(make_record, ids[1:])],
        [*make_broken(*ids[:4]), *make_working(*ids[4:])],
        lost,
        times=2,
    )
    assert ((), 3) == (decided.transitions, len(decided.held))


def test_held_losses_stay_held() -> None:
    """Held losses stay held in later plans while nothing changes."""
    first = decide(map(make_record, "abcd"), make_broken(*"abcd"), times=2)
    second = decide(map(make_record, "abcd"), make_broken(*"abcd"), first.history)
    assert first.held == second.held
    assert () == second.transitions


def test_a_held_loss_has_the_latest_reason() -> None:
    """A held loss has the latest reason."""
    first = decide(map(make_record, "abcd"), make_broken(*"abcd"), times=2)
    second = decide(map(make_record, "abcd"), make_broken(*"abcd", reason="fire"), first.history)
    assert {"fire"} == {t.reason for t in second.held}


def test_released_losses_happen() -> None:
    """Losses that an operator confirmed take effect and are not counted."""
    first = decide(map(make_record, "abcd"), [], times=3)
    decided = decide(map(make_record, "abcd"), [], first.history, released="abcd")
    assert dict.fromkeys("abcd", Event.MISSING) == map_events(decided)
    assert ((), {}) == (decided.held, decided.history.losses)


def test_released_losses_leave_room_for_others() -> None:
    """Three more losses may follow any number of confirmed ones; four more are held."""
    three = decide(map(make_record, "abcdefg"), [], times=3, released="abcd")
    four = decide(map(make_record, "abcdefgh"), [], times=3, released="abcd")
    assert (set("abcdefg"), ()) == (set(map_events(three)), three.held)
    assert set("efg") == set(three.history.losses)
    assert (set("abcd"), tuple("efgh")) == (set(map_events(four)), tuple(t.id for t in four.held))


def test_release_is_no_loss_by_itself() -> None:
    """A released ID that works, or has too short a streak, has no transition."""
    assert (
        ()
        == decide(
            [make_record("a"), make_record("b")], [*make_working("a"), *make_broken("b")], released="ab"
        ).transitions
    )


def test_held_losses_are_released_once_they_work() -> None:
    """Held instances that all work again are no longer held, and have no transition."""
    first = decide(map(make_record, "abcd"), make_broken(*"abcd"), times=2)
    decided = decide(map(make_record, "abcd"), make_working(*"abcd"), first.history)
    assert ((), ()) == (decided.held, decided.transitions)
    assert {} == map_events(decide(map(make_record, "abcd"), make_working(*"abcd"), decided.history))


def test_fewer_held_losses_stay_held() -> None:
    """If some held instances work again, the others stay held until they work too or are confirmed."""
    first = decide(map(make_record, "abcd"), make_broken(*"abcd"), times=2)
    machines = [*make_working("a"), *make_broken(*"bcd")]
    fewer = decide(map(make_record, "abcd"), machines, first.history, times=5)
    assert ((), tuple("bcd")) == (fewer.transitions, tuple(t.id for t in fewer.held))
    confirmed = decide(map(make_record, "abcd"), machines, fewer.history, released="bcd")
    assert (dict.fromkeys("bcd", Event.BROKEN), ()) == (map_events(confirmed), confirmed.held)


# --- Certain providers


def test_one_observation_of_a_certain_provider_is_enough() -> None:
    """What a certain provider observes broken or missing is set aside or dropped at once."""
    records = [make_record("a"), make_record("b"), make_aside("c"), make_record("d", State.DESTROYING)]
    decided = decide(records, make_broken("a"), limits=CERTAIN)
    assert {"a": Event.BROKEN, **dict.fromkeys("bcd", Event.MISSING)} == map_events(decided)
    assert {"missing from 1 observation"} == {t.reason for t in decided.transitions if t.event is Event.MISSING}


def test_a_certain_provider_s_instance_gets_its_final_reason() -> None:
    """A reason that is known only after the instance is set aside replaces the first one."""
    decided = decide([make_aside("a", reason="unknown status")], make_broken("a", reason="status 3"), limits=CERTAIN)
    assert (Transition("a", Event.BROKEN, "status 3"),) == decided.transitions


def test_an_operator_s_thresholds_hold_for_a_certain_provider() -> None:
    """Thresholds that an operator sets apply to a certain provider too."""
    limits = Thresholds(certain=True, broken_after=2, missing_after=2)
    records = [make_record("a"), make_record("b")]
    assert {} == map_events(decide(records, make_broken("a"), times=1, limits=limits))
    both = {"a": Event.BROKEN, "b": Event.MISSING}
    assert both == map_events(decide(records, make_broken("a"), times=2, limits=limits))


def test_a_certain_provider_s_instance_heals_as_any_other() -> None:
    """An instance of a certain provider is healed after three observations, too."""
    assert {} == map_events(decide([make_aside("a")], make_working("a"), times=2, limits=CERTAIN))
    assert {"a": Event.HEALED} == map_events(decide([make_aside("a")], make_working("a"), times=3, limits=CERTAIN))


def test_no_loss_of_a_certain_provider_is_held() -> None:
    """If a certain provider loses all of its instances at once, none is held, whatever was lost before."""
    ids = make_ids("i", 50)
    gone = [make_record("d", State.DESTROYING)]
    recent = History(losses=dict.fromkeys(make_ids("x", 50), NOW))
    decided = decide([*map(make_record, ids), *gone], make_broken(*ids[:25]), recent, limits=CERTAIN)
    expected = {**dict.fromkeys(ids[:25], Event.BROKEN), **dict.fromkeys([*ids[25:], "d"], Event.MISSING)}
    assert (expected, ()) == (map_events(decided), decided.held)


def test_losses_that_were_held_happen_once_the_provider_is_certain() -> None:
    """Losses that an earlier version held are released if the provider has become certain."""
    held = decide(map(make_record, "abcd"), make_broken(*"abcd"), times=2).history
    decided = decide(map(make_record, "abcd"), make_broken(*"abcd"), held, limits=CERTAIN)
    assert dict.fromkeys("abcd", Event.BROKEN) == map_events(decided)
    assert {} == decided.history.held


def test_silence_changes_nothing_for_a_certain_provider() -> None:
    """A certain provider that can't say whether a machine works or exists changes nothing."""
    decided = decide([make_record("a"), make_record("b")], make_broken("a"), silent={"a", "b"}, limits=CERTAIN)
    assert () == decided.transitions


# --- Invariants

IDS = make_ids("i", 8)
STRANGE = ["x", "y"]
CONDITIONS = st.sampled_from([None, (True, ""), (False, ""), (False, "disk"), (False, "no ping")])


@st.composite
def record_lists(draw: st.DrawFn) -> list[Record]:
    found = []
    for id in draw(st.lists(st.sampled_from(IDS), unique=True)):
        state = draw(st.sampled_from(State))
        found.append(
            make_record(
                id,
                state,
                since=draw(st.sampled_from([0.0, NOW - 2000, NOW - 50, NOW])),
                group=draw(st.sampled_from([None, "g", "h"])),
                logical=draw(st.sampled_from([None, "l", "m"])),
                reason=draw(st.sampled_from(["", "disk", "no ping"])),
                by_hand=state is State.NON_FUNCTIONAL and draw(st.booleans()),
                tags=draw(st.sampled_from([{}, {SHA: "1"}, {SHA: "2"}, {HASH: "1"}])),
            )
        )
    return found


@st.composite
def machine_maps(draw: st.DrawFn) -> dict[str, Machine]:
    conditions = {id: draw(CONDITIONS) for id in [*IDS, *STRANGE]}
    return {
        id: Machine(id, functional=condition[0], reason=condition[1])
        for id, condition in conditions.items()
        if condition is not None
    }


SOME_IDS = st.sets(st.sampled_from([*IDS, *STRANGE]), max_size=4).map(frozenset)
OBSERVATIONS = st.builds(
    Observation,
    machine_maps(),
    st.just(NOW),
    st.one_of(st.just(frozenset()), SOME_IDS),
    st.sampled_from([0.0, NOW - 1900, NOW]),
)
STREAKS = st.builds(Streak, st.sampled_from(Condition), st.integers(1, 5), st.sampled_from(State))
HISTORIES = st.builds(
    History,
    st.dictionaries(st.sampled_from([*IDS, *STRANGE]), STREAKS),
    st.dictionaries(st.sampled_from([*IDS, *STRANGE]), st.sampled_from([NOW, NOW - 599, NOW - 601])),
)
COUNTS = st.integers(1, 4)
LIMITS = st.builds(
    Thresholds,
    certain=st.booleans(),
    broken_after=COUNTS,
    healed_after=COUNTS,
    missing_after=COUNTS,
    non_functional_age=st.sampled_from([None, 10.0, 1900.0]),
    loss_floor=st.integers(0, 5),
    loss_share=st.sampled_from([0.0, 0.2, 0.5]),
)
SITUATIONS = st.tuples(record_lists(), OBSERVATIONS, HISTORIES, LIMITS, SOME_IDS)
Situation = tuple[list[Record], Observation, History, Thresholds, frozenset[str]]

thoroughly = settings(max_examples=120, deadline=None)


def plan_situation(situation: Situation) -> Plan:
    found, observation, history, limits, released = situation
    return plan(Records(found).copy(), observation, history, limits, released)


@thoroughly
@given(SITUATIONS)
def test_a_plan_does_not_change_its_input(situation: Situation) -> None:
    """Planning does not change the records, the observation or the history."""
    found, observation, history, limits, released = situation
    records = Records(found)
    machines, streaks, losses = dict(observation.machines), dict(history.streaks), dict(history.losses)
    plan(records.copy(), observation, history, limits, released)
    assert found == list(records)
    assert list(machines.items()) == list(observation.machines.items())
    assert (streaks, losses) == (history.streaks, history.losses)


@thoroughly
@given(SITUATIONS)
def test_a_plan_is_deterministic(situation: Situation) -> None:
    """The same input yields the same plan."""
    assert plan_situation(situation) == plan_situation(situation)


@thoroughly
@given(SITUATIONS)
def test_every_transition_can_happen(situation: Situation) -> None:
    """Every transition, even a held one, belongs to a record and is in the lifecycle table."""
    records = Records(situation[0])
    decided = plan_situation(situation)
    for transition in (*decided.transitions, *decided.held):
        records[transition.id].next_state(transition.event)


@thoroughly
@given(SITUATIONS)
def test_an_instance_has_at_most_one_transition(situation: Situation) -> None:
    """No ID appears twice among the transitions and the held losses."""
    decided = plan_situation(situation)
    ids = [t.id for t in (*decided.transitions, *decided.held)]
    assert sorted(set(ids)) == sorted(ids)


@thoroughly
@given(SITUATIONS)
def test_silent_ids_can_only_become_overdue(situation: Situation) -> None:
    """A silent ID is neither lost, nor healed, nor an orphan, but it may be overdue."""
    silent = situation[1].silent
    decided = plan_situation(situation)
    assert {Event.OVERDUE} >= {t.event for t in (*decided.transitions, *decided.held) if t.id in silent}
    assert [] == [id for id in decided.orphans if id in silent]


@thoroughly
@given(SITUATIONS)
def test_orphans_are_the_machines_without_a_record(situation: Situation) -> None:
    """Orphans are exactly the machines without a record, except silent ones."""
    found, observation, *_ = situation
    known = {r.id for r in found}
    unknown = {id for id in observation.machines if id not in known and id not in observation.silent}
    assert unknown == set(plan_situation(situation).orphans)


def follow(record: Record, transition: Transition, now: float) -> Record | None:
    """Return the record after a transition, or None if the transition drops it."""
    is_dropped = record.next_state(transition.event) is None
    return None if is_dropped else record.after(transition.event, now, transition.reason)


def is_loss(before: Record, after: Record | None) -> bool:
    """Check whether InfraKit sees one instance fewer, or a machine vanished that nobody destroyed."""
    if after is None:
        return before.state is not State.DESTROYING
    return before.state in (State.READY, State.PROVISIONING) and after.state is State.NON_FUNCTIONAL


@thoroughly
@given(record_lists(), HISTORIES, LIMITS)
def test_nothing_is_lost_if_everything_works(found: list[Record], history: History, limits: Thresholds) -> None:
    """An observation in which every instance works yields no losses and no orphans, whatever the history."""
    decided = decide(found, make_working(*(r.id for r in found)), history, limits=limits)
    records = Records(found)
    lost = [t for t in decided.transitions if is_loss(records[t.id], follow(records[t.id], t, NOW))]
    assert ([], (), ()) == (lost, decided.held, decided.orphans)


STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 29), CONDITIONS, max_size=12),
        st.sampled_from([1.0, 60.0, 299.0, 300.0, 600.0]),
        st.sets(st.integers(0, 29), max_size=3),
        st.sets(st.integers(0, 29), max_size=5),
    ),
    min_size=3,
    max_size=15,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), STEPS, LIMITS, st.booleans())
def test_no_window_has_more_losses_than_allowed(
    count: int,
    steps: list[tuple[dict[int, tuple[bool, str] | None], float, set[int], set[int]]],
    limits: Thresholds,
    confirms: bool,
) -> None:
    """No window has more losses than allowed, except confirmed ones, whatever is observed."""
    ids = make_ids("i", count)
    records, history, now = Records(map(make_record, ids)), History(), NOW
    world = {id: Machine(id) for id in ids}
    lost_at: dict[str, float] = {}
    for conditions, pause, silent, confirmed in steps:
        now += pause
        world |= {f"i{n}": Machine(f"i{n}", functional=s[0], reason=s[1]) for n, s in conditions.items() if s}
        world = {id: machine for id, machine in world.items() if conditions.get(int(id[1:]), "as before") is not None}
        released = {f"i{n}" for n in confirmed} if confirms else set()
        before = {r.id: r for r in records}
        observation = Observation(world, now, frozenset(f"i{n}" for n in silent))
        decided = plan(records.copy(), observation, history, limits, released)
        history = decided.history
        lost_now = set()
        for transition in decided.transitions:
            after = follow(before[transition.id], transition, now)
            records.apply(Drop(transition.id) if after is None else Put(after, transition.event is Event.HEALED))
            if is_loss(before[transition.id], after) and transition.id not in released:
                lost_now.add(transition.id)
        lost_at |= dict.fromkeys(lost_now, now)
        recent = {id for id, at in lost_at.items() if now - at < limits.loss_window}
        total = len(before.keys() | recent)
        assert not lost_now or len(recent) <= limits.max_losses(total)
