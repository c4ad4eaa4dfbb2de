"""What an observation means: every row of the table in `pyinfrakit.instance.plan`, and what holds whatever is observed."""

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
SHA, HASH = "infrakit.config_sha", "infrakit.config.hash"


def record(
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


aside = partial(record, state=State.NON_FUNCTIONAL, reason="disk")


def works(*ids: str) -> list[Machine]:
    return [Machine(id) for id in ids]


def broken(*ids: str, reason: str = "disk") -> list[Machine]:
    return [Machine(id, functional=False, reason=reason) for id in ids]


def look(
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
    """Give the last of *times* plans for the same observation, each with the history of the one before."""
    kept = list(records)
    observation = Observation({m.id: m for m in machines}, now, frozenset(silent), started)
    for _ in range(times):
        decided = plan(Records(kept), observation, history, limits, frozenset(released))
        history = decided.history
    return decided


def events(decided: Plan) -> dict[str, Event]:
    return {t.id: t.event for t in decided.transitions}


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


# ready


def test_ready_and_functional_is_as_it_should_be() -> None:
    """A ready instance that is seen to work goes through nothing, and leaves no streak."""
    decided = look([record("a")], works("a"), times=10)
    assert Plan((), (), (), History()) == decided


@pytest.mark.parametrize("threshold", [1, 2, 5])
def test_ready_is_set_aside_when_broken_often_enough(threshold: int) -> None:
    """A ready instance is set aside at the `broken_after`th observation in a row, with the provider's reason."""
    limits = Thresholds(broken_after=threshold)
    below = look([record("a")], broken("a"), times=threshold - 1, limits=limits) if threshold > 1 else None
    at = look([record("a")], broken("a", reason="no ping"), times=threshold, limits=limits)
    assert below is None or below.transitions == ()
    assert (Transition("a", Event.BROKEN, "no ping"),) == at.transitions


def test_broken_is_believed_after_two_observations() -> None:
    """By default one observation of a broken instance is not believed, and the second is."""
    assert {} == events(look([record("a")], broken("a"), times=1))
    assert {"a": Event.BROKEN} == events(look([record("a")], broken("a"), times=2))


def test_broken_without_a_reason_gets_one() -> None:
    """Where the provider says not why an instance is broken, the reason says that."""
    (transition,) = look([record("a")], broken("a", reason=""), times=2).transitions
    assert "provider" in transition.reason


@pytest.mark.parametrize(("reason", "by_hand"), [("disk", False), ("", True), ("disk", True)])
def test_ready_is_set_aside_whatever_its_past(reason: str, by_hand: bool) -> None:
    """A ready instance whose record still has an old reason, or was once set aside by hand, is set aside like any other."""
    decided = look([record("a", reason=reason, by_hand=by_hand)], broken("a", reason="disk"), times=2)
    assert {"a": Event.BROKEN} == events(decided)


@pytest.mark.parametrize("state", [State.READY, State.NON_FUNCTIONAL, State.DESTROYING])
@pytest.mark.parametrize("threshold", [1, 3, 4])
def test_missing_is_dropped_when_missing_often_enough(state: State, threshold: int) -> None:
    """An instance is dropped at the `missing_after`th observation in a row without it, and the reason says how many."""
    limits = Thresholds(missing_after=threshold)
    below = look([record("a", state)], [], times=threshold - 1, limits=limits) if threshold > 1 else None
    at = look([record("a", state)], [], times=threshold, limits=limits)
    assert below is None or below.transitions == ()
    assert {"a": Event.MISSING} == events(at)
    assert str(threshold) in at.transitions[0].reason


def test_missing_is_believed_after_three_observations() -> None:
    """By default two observations without an instance do not drop it, and the third does."""
    assert {} == events(look([record("a")], [], times=2))
    assert {"a": Event.MISSING} == events(look([record("a")], [], times=3))


def test_missing_what_was_set_aside_by_hand_is_dropped() -> None:
    """What was set aside by hand is dropped too once its machine is gone."""
    assert {"a": Event.MISSING} == events(look([aside("a", by_hand=True)], [], times=3))


# non-functional


@pytest.mark.parametrize("threshold", [1, 3, 5])
def test_non_functional_comes_back_when_well_often_enough(threshold: int) -> None:
    """A non-functional instance is healed at the `healed_after`th observation in a row that sees it work."""
    limits = Thresholds(healed_after=threshold)
    below = look([aside("a")], works("a"), times=threshold - 1, limits=limits) if threshold > 1 else None
    at = look([aside("a")], works("a"), times=threshold, limits=limits)
    assert below is None or below.transitions == ()
    assert (Transition("a", Event.HEALED, ""),) == at.transitions


def test_healed_is_believed_after_three_observations() -> None:
    """By default two observations of a working instance do not bring it back, and the third does."""
    assert {} == events(look([aside("a")], works("a"), times=2))
    assert {"a": Event.HEALED} == events(look([aside("a")], works("a"), times=3))


@pytest.mark.parametrize("times", [1, 2, 3, 30])
@pytest.mark.parametrize("machines", [works("a"), broken("a", reason="another")])
def test_set_aside_by_hand_stays(times: int, machines: list[Machine]) -> None:
    """What was set aside by hand stays as it is, with the operator's reason, however it is seen."""
    assert () == look([aside("a", by_hand=True, reason="to look at")], machines, times=times).transitions


@pytest.mark.parametrize("other", [State.PROVISIONING, State.READY])
def test_healed_is_unwanted_where_its_logical_id_is_taken(other: State) -> None:
    """A healed instance whose logical ID a live one of its group holds stays, with a reason that names that one."""
    records = [aside("a", group="g", logical="l"), record("b", other, group="g", logical="l")]
    (transition,) = look(records, works("a", "b"), times=3).transitions
    assert ("a", Event.BROKEN) == (transition.id, transition.event)
    assert "works again" in transition.reason
    assert "b has its logical ID l" in transition.reason


@pytest.mark.parametrize(
    "other",
    [
        record("b", group="h", logical="l"),
        record("b", logical="l"),
        record("b", group="g", logical="m"),
        record("b", group="g"),
        record("b", State.DESTROYING, group="g", logical="l"),
        aside("b", group="g", logical="l", by_hand=True),
    ],
)
def test_healed_is_wanted_where_its_logical_id_is_free(other: Record) -> None:
    """Another group's holder of the logical ID, another logical ID, or a holder that is not live keeps nobody away."""
    assert {"a": Event.HEALED} == events(look([aside("a", group="g", logical="l"), other], works("a", "b"), times=3))


@pytest.mark.parametrize("tag", [SHA, HASH])
def test_healed_is_unwanted_with_an_old_configuration(tag: str) -> None:
    """A healed instance whose configuration hash is not that of its group's newest ready member stays, with that reason."""
    records = [
        record("2", group="g", tags={tag: "old"}),
        aside("3", group="g", tags={tag: "old"}),
        record("1", group="g", tags={tag: "new"}),
    ]
    (transition,) = look(records, works("1", "2", "3"), times=3).transitions
    assert ("3", Event.BROKEN) == (transition.id, transition.event)
    assert "configuration is not that of 1," in transition.reason


@pytest.mark.parametrize("tag", [SHA, HASH])
def test_healed_is_wanted_with_the_newest_configuration(tag: str) -> None:
    """A healed instance with the configuration of the newest ready member comes back, whatever older members have."""
    records = [
        record("1", group="g", tags={tag: "new"}),
        record("2", group="g", tags={tag: "old"}),
        aside("3", group="g", tags={tag: "new"}),
    ]
    assert {"3": Event.HEALED} == events(look(records, works("1", "2", "3"), times=3))


@pytest.mark.parametrize(
    "other",
    [
        record("1", group="h", tags={SHA: "new"}),
        record("1", tags={SHA: "new"}),
        record("1", State.PROVISIONING, group="g", tags={SHA: "new"}),
        record("1", State.DESTROYING, group="g", tags={SHA: "new"}),
        aside("1", group="g", by_hand=True, tags={SHA: "new"}),
    ],
)
def test_only_a_ready_member_of_the_group_says_which_configuration_is_wanted(other: Record) -> None:
    """The configuration of another group, or of a member that is not ready, keeps no healed instance away."""
    assert {"3": Event.HEALED} == events(
        look([aside("3", group="g", tags={SHA: "old"}), other], works("1", "3"), times=3)
    )


def test_configuration_means_nothing_outside_of_groups() -> None:
    """A healed instance that is in no group comes back whatever the configuration of others is."""
    records = [aside("3", tags={SHA: "old"}), record("1", tags={SHA: "new"})]
    assert {"3": Event.HEALED} == events(look(records, works("1", "3"), times=3))


def test_only_one_of_two_healed_with_one_logical_id_comes_back() -> None:
    """Of two instances with the same logical ID that heal in the same plan one comes back, and the other's reason says why."""
    records = [aside("a", group="g", logical="l"), aside("b", group="g", logical="l")]
    one, two = look(records, works("a", "b"), times=3).transitions
    assert Transition("a", Event.HEALED, "") == one
    assert ("b", Event.BROKEN) == (two.id, two.event)
    assert "logical ID l" in two.reason


def test_healed_with_one_logical_id_in_two_groups_both_come_back() -> None:
    """A logical ID is an identity within its group: holders in two groups heal independently, as do those without one."""
    records = [aside("a", group="g", logical="l"), aside("b", group="h", logical="l"), aside("c"), aside("d")]
    assert dict.fromkeys("abcd", Event.HEALED) == events(look(records, works(*"abcd"), times=3))


def test_unwanted_is_not_said_again() -> None:
    """The reason why a healed instance stays is written once, not at each observation."""
    records = [aside("a", logical="l"), record("b", logical="l")]
    first = look(records, works("a", "b"), times=3)
    told = aside("a", logical="l", reason=first.transitions[0].reason)
    assert () == look([told, records[1]], works("a", "b"), first.history).transitions


def test_unwanted_comes_back_once_wanted() -> None:
    """A healed instance that was unwanted comes back with the next plan once nothing is in its way."""
    first = look([aside("a", logical="l"), record("b", logical="l")], works("a", "b"), times=3)
    told = aside("a", logical="l", reason=first.transitions[0].reason)
    assert {"a": Event.HEALED} == events(look([told], works("a"), first.history))


def test_non_functional_gets_the_reason_of_now() -> None:
    """A non-functional instance that is broken in another way gets that reason at the `broken_after`th observation in a row."""
    assert () == look([aside("a")], broken("a", reason="no ping"), times=1).transitions
    assert (Transition("a", Event.BROKEN, "no ping"),) == look(
        [aside("a")], broken("a", reason="no ping"), times=2
    ).transitions


def test_a_known_reason_is_not_written_again() -> None:
    """A non-functional instance that is broken for the reason of its record goes through nothing."""
    assert () == look([aside("a", reason="disk")], broken("a", reason="disk"), times=2).transitions


@pytest.mark.parametrize("times", [3, 4, 20])
def test_a_reason_that_changes_all_the_time_is_not_written_all_the_time(times: int) -> None:
    """A non-functional instance's reason is written at the `broken_after`th observation only, not at each later one."""
    assert (
        () == look([aside("a", reason="at 90 degrees")], broken("a", reason="at 91 degrees"), times=times).transitions
    )


def test_unwanted_that_breaks_again_gets_the_new_reason() -> None:
    """An instance that worked again and was unwanted says why it is broken once it is."""
    well = look([aside("a", reason="works again, but …")], works("a"), times=2)
    decided = look([aside("a", reason="works again, but …")], broken("a"), well.history, times=2)
    assert (Transition("a", Event.BROKEN, "disk"),) == decided.transitions


# age


@pytest.mark.parametrize("machines", [works("a"), broken("a"), broken("a", reason="another")])
def test_non_functional_is_destroyed_when_old_enough(machines: list[Machine]) -> None:
    """A non-functional instance that is there is destroyed once it has been so for `non_functional_age` seconds."""
    limits = Thresholds(non_functional_age=100.0)
    assert {} == events(look([aside("a", since=NOW - 99.9)], machines, limits=limits))
    assert {"a": Event.AGED} == events(look([aside("a", since=NOW - 100)], machines, limits=limits))


def test_non_functional_of_unknown_age_is_not_taken_for_old() -> None:
    """A non-functional instance of a C demo's file, of which nobody knows since when, ages from the daemon's start."""
    limits = Thresholds(non_functional_age=100.0)
    assert {} == events(look([aside("a", since=0.0)], broken("a"), limits=limits, started=NOW - 99.9))
    assert {"a": Event.AGED} == events(look([aside("a", since=0.0)], broken("a"), limits=limits, started=NOW - 100))


def test_nothing_is_too_old_by_default() -> None:
    """Where no age is set a non-functional instance is kept for ever."""
    assert () == look([aside("a", since=0)], broken("a"), times=5).transitions


@pytest.mark.parametrize(
    ("kept", "machines"),
    [
        (aside("a", since=0, by_hand=True), broken("a")),
        (aside("a", since=0), []),
        (record("a", since=0), broken("a")),
        (record("a", State.DESTROYING, since=0), broken("a")),
    ],
)
def test_age_is_for_what_is_broken_by_itself_and_there(kept: Record, machines: list[Machine]) -> None:
    """What was set aside by hand, is missing, or is not non-functional is not destroyed for its age."""
    assert () == look([kept], machines, limits=Thresholds(non_functional_age=1)).transitions


# provisioning


def test_overdue_is_set_aside_at_the_deadline() -> None:
    """An instance whose machine exists but does not work `provision_deadline` after it was asked for is set aside."""
    limits = Thresholds(provision_deadline=100)
    asked = [record("a", State.PROVISIONING, since=NOW - 100)]
    assert () == look(asked, broken("a"), now=NOW - 0.1, limits=limits).transitions
    (transition,) = look(asked, broken("a", reason="booting"), limits=limits).transitions
    assert ("a", Event.OVERDUE) == (transition.id, transition.event)
    assert "100 s" in transition.reason
    assert "booting" in transition.reason


def test_the_deadline_is_half_an_hour() -> None:
    """By default an instance is overdue after 30 minutes."""
    assert {} == events(look([record("a", State.PROVISIONING, since=NOW - 1799.9)], broken("a")))
    assert {"a": Event.OVERDUE} == events(look([record("a", State.PROVISIONING, since=NOW - 1800)], broken("a")))


def test_overdue_though_its_call_hangs() -> None:
    """An instance is overdue also while its call is in flight, of which nothing else is said."""
    late = record("a", State.PROVISIONING, since=NOW - 1800)
    assert {"a": Event.OVERDUE} == events(look([late], broken("a"), silent={"a"}))


def test_no_deadline_counts_from_before_the_start() -> None:
    """The deadline of an instance that was asked for before the daemon started counts from the start."""
    late = record("a", State.PROVISIONING, since=0)
    assert {} == events(look([late], broken("a"), started=NOW - 1799.9))
    assert {"a": Event.OVERDUE} == events(look([late], broken("a"), started=NOW - 1800))


@pytest.mark.parametrize("machines", [[], works("a")])
def test_provisioning_is_not_overdue_where_it_works_or_is_not_there(machines: list[Machine]) -> None:
    """However late, an instance without a machine, or whose machine works, waits for its call."""
    assert () == look([record("a", State.PROVISIONING, since=0)], machines, times=10).transitions


@pytest.mark.parametrize("machines", [[], works("a"), broken("a")])
def test_provisioning_waits_for_its_call(machines: list[Machine]) -> None:
    """Before its deadline nothing that is observed changes an instance that is being provisioned, nor counts."""
    decided = look([record("a", State.PROVISIONING)], machines, times=10)
    assert ((), {}) == (decided.transitions, decided.history.streaks)


# destroying


@pytest.mark.parametrize("machines", [works("a"), broken("a")])
def test_destroying_that_is_there_waits_for_its_call(machines: list[Machine]) -> None:
    """An instance that is being destroyed goes through nothing while its machine is there."""
    limits = Thresholds(non_functional_age=1)
    assert () == look([record("a", State.DESTROYING, since=0)], machines, times=10, limits=limits).transitions


# orphans


def test_orphans_are_told_and_left_alone() -> None:
    """A machine that no record is of is an orphan: it is told, in order, and goes through nothing."""
    decided = look([record("b")], [*works("a", "b"), *broken("c")], times=5)
    assert (("a", "c"), (), {}) == (decided.orphans, decided.transitions, decided.history.streaks)


def test_what_was_just_dropped_is_no_orphan() -> None:
    """A machine whose record was dropped since the observation began is not told as an orphan."""
    assert ("b",) == look([], works("a", "b"), silent={"a"}).orphans


# streaks


@pytest.mark.parametrize("before", [works("a"), []])
def test_another_sight_ends_a_streak(before: list[Machine]) -> None:
    """Broken, then something else, then broken again is not twice in a row."""
    first = look([record("a")], broken("a"))
    between = look([record("a")], before, first.history)
    assert () == look([record("a")], broken("a"), between.history).transitions


@pytest.mark.parametrize("between", [works("a"), broken("a")])
def test_missing_must_be_in_a_row(between: list[Machine]) -> None:
    """Missing twice, seen, and missing twice again is not three times in a row."""
    limits = Thresholds(broken_after=9)
    first = look([record("a")], [], times=2, limits=limits)
    second = look([record("a")], between, first.history, limits=limits)
    assert () == look([record("a")], [], second.history, times=2, limits=limits).transitions


def test_healing_must_be_in_a_row() -> None:
    """Working twice, broken once, and working twice again is not three times in a row."""
    first = look([aside("a")], works("a"), times=2)
    second = look([aside("a")], broken("a"), first.history)
    assert () == look([aside("a")], works("a"), second.history, times=2).transitions


@pytest.mark.parametrize(
    ("before", "after", "machines", "times"),
    [
        (record("a"), aside("a", reason="x"), broken("a"), 1),
        (record("a"), aside("a"), [], 2),
        (aside("a"), record("a"), [], 2),
        (record("a"), record("a", State.DESTROYING), [], 2),
        (record("a", State.DESTROYING), aside("a"), works("a"), 2),
    ],
)
def test_another_state_ends_a_streak(before: Record, after: Record, machines: list[Machine], times: int) -> None:
    """What was seen of an instance in one state is not held against it in another."""
    first = look([before], machines, times=times)
    second = look([after], machines, first.history)
    assert () == second.transitions
    assert 1 == second.history.streaks["a"].count


def test_the_streak_of_a_forgotten_instance_is_forgotten() -> None:
    """History has no streaks of IDs that no record is of."""
    gone = History({"x": Streak(Condition.BROKEN, 5, State.READY)})
    assert {} == look([record("a")], works("a"), gone).history.streaks


# silence


@pytest.mark.parametrize(
    ("kept", "machines"),
    [
        (record("a"), broken("a")),
        (record("a"), []),
        (aside("a"), works("a")),
        (aside("a"), broken("a", reason="another")),
        (aside("a"), []),
        (aside("a", since=0), broken("a")),
        (record("a", State.DESTROYING), []),
    ],
)
def test_nothing_is_said_of_silent_ids(kept: Record, machines: list[Machine]) -> None:
    """Nothing is concluded about an instance that the observation says nothing about, however often."""
    decided = look([kept], machines, times=10, silent={"a"}, limits=Thresholds(non_functional_age=1))
    assert Plan((), (), (), History()) == decided


def test_silence_keeps_a_streak() -> None:
    """Silence neither ends a streak nor counts: broken, silent many times, and broken again is twice in a row."""
    first = look([record("a")], broken("a"))
    silent = look([record("a")], works("a"), first.history, times=5, silent={"a"})
    assert first.history.streaks == silent.history.streaks
    assert () == silent.transitions
    assert {"a": Event.BROKEN} == events(look([record("a")], broken("a"), silent.history))


def test_a_full_streak_waits_for_the_end_of_silence() -> None:
    """An instance with a streak that is long enough goes through nothing while the observation is silent about it."""
    full = History({"a": Streak(Condition.BROKEN, 9, State.READY)})
    assert () == look([record("a")], broken("a"), full, silent={"a"}).transitions


# mass loss


@pytest.mark.parametrize(
    ("instances", "allowed"), [(0, 3), (1, 3), (19, 3), (20, 4), (24, 4), (25, 5), (100, 20), (104, 20)]
)
def test_max_losses_are_three_or_a_fifth(instances: int, allowed: int) -> None:
    """At most 3 or 20 % of the instances may be lost, whichever is more."""
    assert allowed == DEFAULT.max_losses(instances)


@pytest.mark.parametrize(("instances", "allowed"), [(3, 3), (10, 3), (20, 4), (30, 6)])
def test_losses_up_to_the_limit_happen(instances: int, allowed: int) -> None:
    """As many instances as are allowed may be lost at once."""
    ids = names("i", instances)
    decided = look(map(record, ids), [*broken(*ids[:allowed]), *works(*ids[allowed:])], times=2)
    assert dict.fromkeys(ids[:allowed], Event.BROKEN) == events(decided)
    assert () == decided.held
    assert dict.fromkeys(ids[:allowed], NOW) == decided.history.losses


@pytest.mark.parametrize(("instances", "allowed"), [(4, 3), (10, 3), (20, 4), (30, 6)])
def test_one_loss_too_many_holds_them_all(instances: int, allowed: int) -> None:
    """Where one more than is allowed would be lost none is: all of them are held, and none counts as lost."""
    ids = names("i", instances)
    lost = ids[: allowed + 1]
    decided = look(map(record, ids), [*broken(*lost), *works(*ids[allowed + 1 :])], times=2)
    assert () == decided.transitions
    assert tuple(Transition(id, Event.BROKEN, "disk") for id in lost) == decided.held
    assert {} == decided.history.losses


def test_an_empty_answer_drops_nothing() -> None:
    """Where all machines seem gone at once nothing is dropped, however long that lasts."""
    ids = names("i", 50)
    decided = look(map(record, ids), [], times=20)
    assert ((), tuple(ids)) == (decided.transitions, tuple(t.id for t in decided.held))


def test_drops_and_set_asides_count_together() -> None:
    """Two that are missing, one that is broken and one that is overdue are four losses."""
    records = [*map(record, "abc"), record("d", State.PROVISIONING, since=0)]
    limits = Thresholds(broken_after=3)
    decided = look(records, broken("c", "d"), times=3, limits=limits)
    assert ((), set("abcd")) == (decided.transitions, {t.id for t in decided.held})
    fewer = look([*records[1:], record("a")], [*broken("c", "d"), *works("a")], times=3, limits=limits)
    assert {"b": Event.MISSING, "c": Event.BROKEN, "d": Event.OVERDUE} == events(fewer)


def test_a_non_functional_instance_that_is_gone_is_a_loss() -> None:
    """Non-functional instances whose machines vanish are losses like others."""
    assert 4 == len(look(map(aside, "abcd"), [], times=3).held)


@pytest.mark.parametrize(
    ("records", "machines", "event"),
    [
        ([aside(id) for id in "abcdef"], works(*"abcdef"), Event.HEALED),
        ([aside(id, since=0) for id in "abcdef"], broken(*"abcdef"), Event.AGED),
        ([aside(id) for id in "abcdef"], broken(*"abcdef", reason="another"), Event.BROKEN),
    ],
)
def test_what_is_not_a_loss_is_not_held(records: list[Record], machines: list[Machine], event: Event) -> None:
    """Healings, destructions for age and new reasons are no losses: they are neither held nor counted."""
    limits = Thresholds(broken_after=3, non_functional_age=NOW)
    decided = look(records, machines, times=3, limits=limits)
    assert dict.fromkeys("abcdef", event) == events(decided)
    assert ((), {}) == (decided.held, decided.history.losses)


def test_destroying_ones_are_dropped_up_to_the_max_losses() -> None:
    """More that are missing at once than may be lost are not believed; the calls that destroy them go on."""
    few, many = ([record(id, State.DESTROYING) for id in ids] for ids in ("abc", "abcd"))
    assert dict.fromkeys("abc", Event.MISSING) == events(look(few, [], times=3))
    assert {} == events(look(many, [], times=3))
    assert () == look(many, [], times=3).held


def test_destroying_ones_are_not_dropped_beside_held_ones() -> None:
    """An observation whose losses are held is not believed as to what is to be destroyed either."""
    records = [*map(record, "abcd"), record("f", State.DESTROYING)]
    decided = look(records, [], times=3)
    assert ({}, set("abcd")) == (events(decided), {t.id for t in decided.held})


def test_what_is_not_a_loss_happens_beside_held_ones() -> None:
    """Held losses hold up nothing else."""
    records = [*map(record, "abcd"), aside("e")]
    decided = look(records, [*broken(*"abcd"), *works("e")], times=3)
    assert ({"e": Event.HEALED}, 4) == (events(decided), len(decided.held))


def test_losses_count_for_ten_minutes() -> None:
    """Three losses forbid a fourth until 10 minutes have passed."""
    lost = History(losses=dict.fromkeys("abc", NOW))
    records, machines = [*map(aside, "abc"), record("d")], broken(*"abcd")
    before = look(records, machines, lost, times=2, now=NOW + 599.9)
    after = look(records, machines, lost, times=2, now=NOW + 600)
    assert ({}, ("d",)) == (events(before), tuple(t.id for t in before.held))
    assert ({"d": Event.BROKEN}, ()) == (events(after), after.held)
    assert {"d": NOW + 600} == after.history.losses


def test_earlier_losses_are_kept_in_history_while_they_count() -> None:
    """A plan hands on the losses of the window, with the times at which they happened."""
    lost = History(losses={"a": NOW - 10, "b": NOW - 700})
    assert {"a": NOW - 10} == look([], [], lost).history.losses


def test_an_instance_that_is_lost_again_and_again_counts_once() -> None:
    """Losses count by distinct ID: one flapping instance does not use up what is allowed, but counts from its last loss."""
    lost = History(losses={"a": NOW - 500, "b": NOW - 500})
    decided = look(map(record, "abc"), broken("a", "b", "c"), lost, times=2)
    assert dict.fromkeys("abc", Event.BROKEN) == events(decided)
    assert dict.fromkeys("abc", NOW) == decided.history.losses


def test_instances_that_were_dropped_still_count_for_the_share() -> None:
    """The share is of what there was before the losses: of 20 instances 4 may be dropped in two goes, and not 5."""
    ids = names("i", 20)
    lost = History(losses=dict.fromkeys(ids[:2], NOW - 1))
    four = look(map(record, ids[2:]), works(*ids[4:]), lost, times=3)
    five = look(map(record, ids[2:]), works(*ids[5:]), lost, times=3)
    assert dict.fromkeys(ids[2:4], Event.MISSING) == events(four)
    assert ((), tuple(ids[2:5])) == (five.transitions, tuple(t.id for t in five.held))


def test_set_aside_instances_count_once_for_the_share() -> None:
    """Instances that were lost and still have records are not counted twice: of 19 and a dropped one 4 may be lost, of 18 not."""
    ids = names("i", 19)
    lost = History(losses={ids[0]: NOW - 1})
    decided = look([aside(ids[0]), *map(record, ids[1:])], [*broken(*ids[:4]), *works(*ids[4:])], lost, times=2)
    assert ((), 3) == (decided.transitions, len(decided.held))


def test_held_losses_are_held_again() -> None:
    """What is held stays held in the next plans while it is seen as it was."""
    first = look(map(record, "abcd"), broken(*"abcd"), times=2)
    second = look(map(record, "abcd"), broken(*"abcd"), first.history)
    assert first.held == second.held
    assert () == second.transitions


def test_a_change_of_what_is_wrong_while_held_is_told() -> None:
    """A held instance's reason is that of now."""
    first = look(map(record, "abcd"), broken(*"abcd"), times=2)
    second = look(map(record, "abcd"), broken(*"abcd", reason="fire"), first.history)
    assert {"fire"} == {t.reason for t in second.held}


def test_released_losses_happen() -> None:
    """What an operator confirmed is lost is neither held nor counted."""
    first = look(map(record, "abcd"), [], times=3)
    decided = look(map(record, "abcd"), [], first.history, released="abcd")
    assert dict.fromkeys("abcd", Event.MISSING) == events(decided)
    assert ((), {}) == (decided.held, decided.history.losses)


def test_released_losses_leave_room_for_others() -> None:
    """Three more may be lost beside any number of confirmed ones; of four more all are held, and only they."""
    three = look(map(record, "abcdefg"), [], times=3, released="abcd")
    four = look(map(record, "abcdefgh"), [], times=3, released="abcd")
    assert (set("abcdefg"), ()) == (set(events(three)), three.held)
    assert set("efg") == set(three.history.losses)
    assert (set("abcd"), tuple("efgh")) == (set(events(four)), tuple(t.id for t in four.held))


def test_release_is_no_loss_by_itself() -> None:
    """A released ID that is seen well, or not often enough, goes through nothing."""
    assert () == look([record("a"), record("b")], [*works("a"), *broken("b")], released="ab").transitions


def test_what_is_seen_well_is_held_no_longer() -> None:
    """Held instances that are all seen well are held no longer, and go through nothing."""
    first = look(map(record, "abcd"), broken(*"abcd"), times=2)
    decided = look(map(record, "abcd"), works(*"abcd"), first.history)
    assert ((), ()) == (decided.held, decided.transitions)
    assert {} == events(look(map(record, "abcd"), works(*"abcd"), decided.history))


def test_held_losses_are_not_let_go_as_they_become_fewer() -> None:
    """Where some held instances are seen well the others stay held, until they are seen well too or confirmed."""
    first = look(map(record, "abcd"), broken(*"abcd"), times=2)
    machines = [*works("a"), *broken(*"bcd")]
    fewer = look(map(record, "abcd"), machines, first.history, times=5)
    assert ((), tuple("bcd")) == (fewer.transitions, tuple(t.id for t in fewer.held))
    confirmed = look(map(record, "abcd"), machines, fewer.history, released="bcd")
    assert (dict.fromkeys("bcd", Event.BROKEN), ()) == (events(confirmed), confirmed.held)


# what always holds

IDS = names("i", 8)
STRANGE = ["x", "y"]
SIGHTS = st.sampled_from([None, (True, ""), (False, ""), (False, "disk"), (False, "no ping")])


@st.composite
def some_records(draw: st.DrawFn) -> list[Record]:
    found = []
    for id in draw(st.lists(st.sampled_from(IDS), unique=True)):
        state = draw(st.sampled_from(State))
        found.append(
            record(
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
def some_machines(draw: st.DrawFn) -> dict[str, Machine]:
    sights = {id: draw(SIGHTS) for id in [*IDS, *STRANGE]}
    return {id: Machine(id, functional=sight[0], reason=sight[1]) for id, sight in sights.items() if sight is not None}


SOME_IDS = st.sets(st.sampled_from([*IDS, *STRANGE]), max_size=4).map(frozenset)
OBSERVATIONS = st.builds(
    Observation,
    some_machines(),
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
    broken_after=COUNTS,
    healed_after=COUNTS,
    missing_after=COUNTS,
    non_functional_age=st.sampled_from([None, 10.0, 1900.0]),
    loss_floor=st.integers(0, 5),
    loss_share=st.sampled_from([0.0, 0.2, 0.5]),
)
SITUATIONS = st.tuples(some_records(), OBSERVATIONS, HISTORIES, LIMITS, SOME_IDS)
Situation = tuple[list[Record], Observation, History, Thresholds, frozenset[str]]

thoroughly = settings(max_examples=120, deadline=None)


def decide(situation: Situation) -> Plan:
    found, observation, history, limits, released = situation
    return plan(Records(found), observation, history, limits, released)


@thoroughly
@given(SITUATIONS)
def test_a_plan_changes_nothing_that_it_is_given(situation: Situation) -> None:
    """Planning leaves records, observation and history as they were."""
    found, observation, history, limits, released = situation
    records = Records(found)
    machines, streaks, losses = dict(observation.machines), dict(history.streaks), dict(history.losses)
    plan(records, observation, history, limits, released)
    assert found == list(records)
    assert list(machines.items()) == list(observation.machines.items())
    assert (streaks, losses) == (history.streaks, history.losses)


@thoroughly
@given(SITUATIONS)
def test_a_plan_follows_from_what_it_is_given(situation: Situation) -> None:
    """The same question has the same answer."""
    assert decide(situation) == decide(situation)


@thoroughly
@given(SITUATIONS)
def test_every_transition_can_happen(situation: Situation) -> None:
    """All transitions, held ones too, are of instances that have a record, and are in the table of lives."""
    records = Records(situation[0])
    decided = decide(situation)
    for transition in (*decided.transitions, *decided.held):
        records[transition.id].next_state(transition.event)


@thoroughly
@given(SITUATIONS)
def test_an_instance_has_at_most_one_transition(situation: Situation) -> None:
    """No ID is there twice among what happens and what is held."""
    decided = decide(situation)
    ids = [t.id for t in (*decided.transitions, *decided.held)]
    assert sorted(set(ids)) == sorted(ids)


@thoroughly
@given(SITUATIONS)
def test_silence_is_kept_but_for_what_is_overdue(situation: Situation) -> None:
    """What an observation is silent about is neither lost nor healed nor an orphan; it may be overdue."""
    silent = situation[1].silent
    decided = decide(situation)
    assert {Event.OVERDUE} >= {t.event for t in (*decided.transitions, *decided.held) if t.id in silent}
    assert [] == [id for id in decided.orphans if id in silent]


@thoroughly
@given(SITUATIONS)
def test_orphans_are_the_machines_without_a_record(situation: Situation) -> None:
    """Every machine that is not silent either has a record or is an orphan, and not both."""
    found, observation, *_ = situation
    known = {r.id for r in found}
    unknown = {id for id in observation.machines if id not in known and id not in observation.silent}
    assert unknown == set(decide(situation).orphans)


def follow(record: Record, transition: Transition, now: float) -> Record | None:
    """Return the record after a transition, or None if that drops it."""
    is_dropped = record.next_state(transition.event) is None
    return None if is_dropped else record.after(transition.event, now, transition.reason)


def is_loss(before: Record, after: Record | None) -> bool:
    """Does InfraKit have one instance less, or has one vanished that nobody had destroyed?"""
    if after is None:
        return before.state is not State.DESTROYING
    return before.state in (State.READY, State.PROVISIONING) and after.state is State.NON_FUNCTIONAL


@thoroughly
@given(some_records(), HISTORIES, LIMITS)
def test_nothing_is_lost_where_all_is_well(found: list[Record], history: History, limits: Thresholds) -> None:
    """An observation that sees every instance work yields no losses and no orphans, whatever was seen before."""
    decided = look(found, works(*(r.id for r in found)), history, limits=limits)
    records = Records(found)
    lost = [t for t in decided.transitions if is_loss(records[t.id], follow(records[t.id], t, NOW))]
    assert ([], (), ()) == (lost, decided.held, decided.orphans)


STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 29), SIGHTS, max_size=12),
        st.sampled_from([1.0, 60.0, 299.0, 300.0, 600.0]),
        st.sets(st.integers(0, 29), max_size=3),
        st.sets(st.integers(0, 29), max_size=5),
    ),
    min_size=3,
    max_size=15,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), STEPS, LIMITS, st.booleans())
def test_no_window_sees_more_losses_than_allowed(
    count: int,
    steps: list[tuple[dict[int, tuple[bool, str] | None], float, set[int], set[int]]],
    limits: Thresholds,
    confirms: bool,
) -> None:
    """Whatever is observed, never are more instances lost within the window than may be, but for confirmed ones."""
    ids = names("i", count)
    records, history, now = Records(map(record, ids)), History(), NOW
    world = {id: Machine(id) for id in ids}
    lost_at: dict[str, float] = {}
    for sights, pause, silent, confirmed in steps:
        now += pause
        world |= {f"i{n}": Machine(f"i{n}", functional=s[0], reason=s[1]) for n, s in sights.items() if s}
        world = {id: machine for id, machine in world.items() if sights.get(int(id[1:]), "as before") is not None}
        released = {f"i{n}" for n in confirmed} if confirms else set()
        before = {r.id: r for r in records}
        decided = plan(records, Observation(world, now, frozenset(f"i{n}" for n in silent)), history, limits, released)
        history = decided.history
        lost_now = set()
        for transition in decided.transitions:
            after = follow(before[transition.id], transition, now)
            records.apply(Drop(transition.id) if after is None else Put(after, transition.event is Event.HEALED))
            if is_loss(before[transition.id], after) and transition.id not in released:
                lost_now.add(transition.id)
        lost_at |= dict.fromkeys(lost_now, now)
        recent = {id for id, at in lost_at.items() if now - at < limits.loss_window}
        there_were = len(before.keys() | recent)
        assert not lost_now or len(recent) <= limits.max_losses(there_were)
