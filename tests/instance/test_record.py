"""The lifecycle of instances, the order of IDs, and the records in memory."""

import asyncio
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.errors import Refused, UnknownInstance
from pyinfrakit.record import CONFIG_TAGS, GROUP_TAG, LIFECYCLE, Attachment, Event, Record, Spec, State
from pyinfrakit.store.records import Change, Drop, Note, Put, Records, Undo

EVERY_PAIR = [(state, event) for state in State for event in Event]
POSSIBLE = [pair for pair in EVERY_PAIR if pair in LIFECYCLE]
IMPOSSIBLE = [pair for pair in EVERY_PAIR if pair not in LIFECYCLE]
REPEATS = (Event.PROVISIONED, Event.FAILED, Event.DESTROY)
"""Events that change nothing if the state stays the same."""


def make_record(id: str = "a", state: State = State.READY, **more: Any) -> Record:
    return Record(id=id, state=state, spec=more.pop("spec", Spec()), **more)


def test_a_repr_shows_no_secrets() -> None:
    """The repr of a record or spec hides secrets, because an error quotes what a provider returned by mistake."""
    record = make_record(spec=Spec(init="SWMTKN-1", properties=Raw(b'{"password": "hunter2"}'), tags={"rack": "a"}))
    assert "SWMTKN" not in repr(record)
    assert "hunter2" not in repr(record)
    assert "rack" in repr(record)


# --- Lifecycle


def test_infrakit_sees_provisioning_and_ready_instances() -> None:
    """InfraKit sees provisioning and ready instances only."""
    assert [State.PROVISIONING, State.READY] == [state for state in State if state.described]


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE)
def test_an_event_outside_the_table_is_refused(state: State, event: Event) -> None:
    """An event that the table lacks for a state is refused, and the error names the instance, the state and the event."""
    with pytest.raises(Refused) as caught:
        make_record("i1", state).after(event, 9.0)
    assert f"i1: is {state}, so it can't be {event}" == str(caught.value)
    assert "i1" == caught.value.id


@pytest.mark.parametrize(("state", "event"), POSSIBLE)
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_record_follows_the_table(state: State, event: Event, by_hand: bool) -> None:
    """An event drops the record, changes nothing as a repeat, or sets the state with its time, reason and by-hand flag."""
    before = make_record(
        state=state, since=1.0, reason="old", by_hand=by_hand, handle="h", relabel=True, unknown={"k": Raw(b"1")}
    )
    becomes = LIFECYCLE[state, event]
    assert becomes is before.next_state(event)
    if becomes is None:
        return
    after = before.after(event, 2.0, "new")
    if becomes is state and event in REPEATS:
        assert before == after
    else:
        expected = replace(
            before,
            state=becomes,
            since=1.0 if becomes is state else 2.0,
            reason="new",
            by_hand=event is Event.SET_ASIDE or (by_hand and becomes is State.NON_FUNCTIONAL),
        )
        assert expected == after


@pytest.mark.parametrize(
    ("state", "event", "becomes"),
    [
        (State.PROVISIONING, Event.PROVISIONED, State.READY),
        (State.PROVISIONING, Event.FAILED, State.DESTROYING),
        (State.PROVISIONING, Event.OVERDUE, State.NON_FUNCTIONAL),
        (State.READY, Event.BROKEN, State.NON_FUNCTIONAL),
        (State.READY, Event.SET_ASIDE, State.NON_FUNCTIONAL),
        (State.READY, Event.MISSING, None),
        (State.NON_FUNCTIONAL, Event.HEALED, State.READY),
        (State.NON_FUNCTIONAL, Event.RESTORED, State.READY),
        (State.NON_FUNCTIONAL, Event.MISSING, None),
        (State.NON_FUNCTIONAL, Event.AGED, State.DESTROYING),
        (State.DESTROYING, Event.GONE, None),
        (State.DESTROYING, Event.MISSING, None),
    ],
)
def test_the_table_matches_the_design(state: State, event: Event, becomes: State | None) -> None:
    """The lifecycle table matches the design page."""
    assert becomes == LIFECYCLE[state, event]


@pytest.mark.parametrize("state", State)
def test_every_instance_can_be_destroyed(state: State) -> None:
    """A destroy is accepted in any state."""
    assert State.DESTROYING == LIFECYCLE[state, Event.DESTROY]


@pytest.mark.parametrize("event", Event)
def test_a_destroying_instance_never_comes_back(event: Event) -> None:
    """No event leads from `destroying` to another state."""
    assert LIFECYCLE.get((State.DESTROYING, event), State.DESTROYING) in (State.DESTROYING, None)


@pytest.mark.parametrize("state", State)
def test_the_end_of_a_provision_is_valid_in_every_state(state: State) -> None:
    """A provision may end in any state: success keeps the state, and failure leads to `destroying`."""
    assert (State.READY if state is State.PROVISIONING else state) == LIFECYCLE[state, Event.PROVISIONED]
    assert State.DESTROYING == LIFECYCLE[state, Event.FAILED]


def test_a_broken_instance_can_be_set_aside_by_hand() -> None:
    """Setting aside a broken instance marks it as set aside by hand, with the new reason and the old time."""
    after = make_record(state=State.NON_FUNCTIONAL, since=1.0, reason="disk").after(Event.SET_ASIDE, 2.0, "mine")
    assert make_record(state=State.NON_FUNCTIONAL, since=1.0, reason="mine", by_hand=True) == after


@pytest.mark.parametrize("event", [Event.RESTORED, Event.HEALED])
def test_a_restored_instance_has_no_reason(event: Event) -> None:
    """A restored or healed instance has no reason, and is no longer set aside by hand."""
    after = make_record(state=State.NON_FUNCTIONAL, since=1.0, reason="mine", by_hand=True).after(event, 2.0)
    assert make_record(since=2.0) == after


# --- Specs

SPEC = Spec(
    properties=Raw(b'{"a":1,"b":2}'), tags={"t": "1"}, init="i", logical_id="l", attachments=(Attachment("v", "ebs"),)
)


@pytest.mark.parametrize("properties", [b'{"a":1,"b":2}', b'{"b": 2, "a": 1}'])
def test_a_repeat_asks_for_the_same(properties: bytes) -> None:
    """Specs are equal requests if they differ only in the form of their JSON and in tags that were added later."""
    labelled = replace(SPEC, tags={**SPEC.tags, "later": "x"})
    assert replace(SPEC, properties=Raw(properties)).asks_for(labelled)


@pytest.mark.parametrize(
    "change",
    [
        {"properties": Raw(b'{"a":1}')},
        {"properties": None},
        {"tags": {"t": "2"}},
        {"tags": {"t": "1", "more": ""}},
        {"init": ""},
        {"logical_id": "m"},
        {"attachments": ()},
        {"attachments": (Attachment("v", "nfs"),)},
    ],
)
def test_another_spec_asks_for_something_else(change: dict[str, Any]) -> None:
    """A spec that differs in any field, or has an extra tag, is another request."""
    assert not replace(SPEC, **change).asks_for(SPEC)


def test_empty_specs_ask_for_the_same() -> None:
    """Two specs without properties are equal requests."""
    assert Spec().asks_for(Spec())


@pytest.mark.parametrize("tag", CONFIG_TAGS)
def test_the_configuration_is_under_either_tag(tag: str) -> None:
    """The tag of either InfraKit generation identifies a member's configuration."""
    assert Spec(tags={tag: "1"}).config != Spec(tags={tag: "2"}).config
    assert Spec(tags={tag: "1", "other": "x"}).config == Spec(tags={tag: "1"}).config


# --- IDs

CLOCKS = st.floats(min_value=-1e9, max_value=3.6e10, allow_nan=False)
"""Times from 1938 to 3110."""


@settings(deadline=None)
@given(st.lists(CLOCKS, min_size=2, max_size=50))
def test_each_id_sorts_before_all_earlier_ones(clock: list[float]) -> None:
    """Each ID sorts before all earlier ones, whatever the clock does."""
    minted = [ids.NEVER]
    for now in clock:
        minted.append(ids.mint(minted[-1], now))
    assert sorted(set(minted), reverse=True) == minted


@settings(deadline=None)
@given(st.lists(CLOCKS, min_size=1, max_size=5))
def test_an_id_is_a_short_dns_label(clock: list[float]) -> None:
    """A minted ID is a DNS label of at most 32 characters that starts with a digit."""
    last = ids.NEVER
    for now in clock:
        last = ids.mint(last, now)
        assert re.fullmatch(r"[0-9]([a-z0-9-]*[a-z0-9])?", last)
        assert 32 >= len(last)
        assert ids.is_minted(last)


@settings(deadline=None)
@given(CLOCKS, st.text())
def test_an_id_sorts_before_those_of_the_c_demo(now: float, rest: str) -> None:
    """A minted ID sorts before the C demo's IDs, adopted machines' IDs, and `NEVER`."""
    minted = ids.mint(ids.NEVER, now)
    assert minted < ids.NEVER < "9" < f"InfraKit-{rest}"


def test_ids_of_one_instant_are_distinct_between_plugins() -> None:
    """Two plugins that mint at the same instant get different IDs."""
    assert 100 == len({ids.mint(ids.NEVER, 1e9) for _ in range(100)})


def test_ids_follow_the_clock() -> None:
    """An ID minted a microsecond later sorts before one of another plugin."""
    assert ids.mint(ids.NEVER, 1e9 + 1e-6) < ids.mint(ids.NEVER, 1e9)


@pytest.mark.parametrize(
    "id",
    [
        "",
        "1",
        "InfraKit-x1",
        "0vp5l8q2k1ca",
        "0vp5l8q2k1ca-7m0t3",
        "1vp5l8q2k1ca-7m0t3e",
        "0vp5l8q2k1cw-7m0t3e",
        "0VP5L8Q2K1CA-7M0T3E",
    ],
)
def test_other_ids_are_recognized(id: str) -> None:
    """An ID of another form is not taken for a minted one."""
    assert not ids.is_minted(id)


# --- Records


def test_records_keep_their_order() -> None:
    """Records keep the order in which they were added; a replaced one keeps its place, and a healed one comes first."""
    records = Records([make_record("b"), make_record("a")])
    for change in (
        Put(make_record("c")),
        Put(make_record("b", reason="new")),
        Put(make_record("d"), front=True),
        Put(make_record("c"), front=True),
    ):
        records.apply(change)
    assert ["c", "d", "b", "a"] == [r.id for r in records]


def test_an_unknown_id_is_an_error() -> None:
    """An index with an unknown ID raises an error that names it, and `get` returns None."""
    with pytest.raises(UnknownInstance, match="'x'"):
        Records()["x"]
    assert Records().get("x") is None


def test_used_ids_stay_used() -> None:
    """The last ID is the smallest minted one ever put, even after its record was dropped or undone."""
    records = Records()
    first = ids.mint(records.last_id, 1e9)
    undo = records.apply(Put(make_record(first)))
    records.undo([undo])
    assert first == records.last_id
    records.apply(Put(make_record(ids.mint(ids.NEVER, 1e6))))
    records.apply(Put(make_record("0-not-minted-here")))
    assert first == records.last_id


def test_subscribers_see_every_change() -> None:
    """A subscriber receives a record before and after each put, drop, show and undo."""
    a, b = make_record("a"), make_record("b")
    records = Records([a, b, make_record("c")])
    seen: list[tuple[Record | None, Record | None]] = []
    records.subscribe(lambda old, new: seen.append((old, new)))
    changed, added = make_record("a", reason="x"), make_record("d")
    undo = records.apply(Put(changed))
    records.apply(Drop("b"))
    records.apply(Put(added))
    records.show("d", Raw(b"1"))
    records.show("d", Raw(b"1"))
    records.undo([undo])
    assert [(a, changed), (b, None), (None, added), (added, added), (changed, a)] == seen


def test_live_properties_go_with_the_record() -> None:
    """Live properties are forgotten only with their record."""
    records = Records([make_record("a"), make_record("b")])
    asyncio.run(records.show_all({"a": Raw(b"1"), "b": Raw(b"2")}, newer=()))
    records.apply(Drop("a"))
    records.apply(Put(make_record("b", reason="x")))
    assert Raw(b"2") == records.live("b")
    records.apply(Put(make_record("a")))
    assert records.live("a") is None


NAMES = [f"i{number}" for number in range(8)]
GROUPS = [None, "g", "h"]
LOGICAL = [None, "l", "m"]
TAGS = [{}, {"t": "1"}, {"t": "2"}, {"t": "1", "u": "1"}]
NEW = st.builds(
    lambda id, state, group, logical, tags: make_record(
        id, state, spec=Spec(tags={**tags, **({GROUP_TAG: group} if group else {})}, logical_id=logical)
    ),
    st.sampled_from(NAMES),
    st.sampled_from(State),
    st.sampled_from(GROUPS),
    st.sampled_from(LOGICAL),
    st.sampled_from(TAGS),
)


def search(model: Iterable[Record], tags: dict[str, str]) -> list[Record]:
    return [r for r in model if tags.items() <= r.spec.tags.items()]


def test_notes_can_be_undone() -> None:
    """An undone note has its previous value, or does not exist."""
    records = Records(notes={"old": Raw(b"1")})
    undos = [records.apply(Note("old", Raw(b"2"))), records.apply(Note("new", Raw(b"3")))]
    assert {"old": Raw(b"2"), "new": Raw(b"3")} == records.notes
    records.undo(reversed(undos))
    assert {"old": Raw(b"1")} == records.notes


class RecordsModel(RuleBasedStateMachine):
    """`Records` beside a plain list, changed and undone in step."""

    def __init__(self) -> None:
        super().__init__()
        self.model: list[Record] = []
        self.records = Records()
        self.batches: list[tuple[list[Record], list[Undo | Note]]] = []

    def change(self, change: Change) -> None:
        match change:
            case Drop(id):
                self.model = [r for r in self.model if r.id != id]
            case Put(new, front=True):
                self.model = [new, *(r for r in self.model if r.id != new.id)]
            case Put(new) if any(r.id == new.id for r in self.model):
                self.model = [new if r.id == new.id else r for r in self.model]
            case Put(new):
                self.model = [*self.model, new]
        undo = self.records.apply(change)
        for _, undos in self.batches[-1:]:
            undos.append(undo)

    @rule(new=NEW, front=st.booleans())
    def put(self, new: Record, front: bool) -> None:
        self.change(Put(new, front))

    @rule(id=st.sampled_from(NAMES))
    def drop(self, id: str) -> None:
        self.change(Drop(id))

    @rule()
    def begin_batch(self) -> None:
        self.batches.append((self.model, []))

    @precondition(lambda self: self.batches)
    @rule()
    def undo_batch(self) -> None:
        self.model, undos = self.batches.pop()
        self.records.undo(reversed(undos))

    @precondition(lambda self: self.batches)
    @rule()
    def undo_all(self) -> None:
        """Undo all batches, as a store does if one fails and later ones build on it."""
        self.model = self.batches[0][0]
        self.records.undo(undo for _, undos in reversed(self.batches) for undo in reversed(undos))
        self.batches.clear()

    @precondition(lambda self: self.batches)
    @rule()
    def make_durable(self) -> None:
        del self.batches[0]

    @invariant()
    def compare_order(self) -> None:
        assert self.model == list(self.records)
        assert len(self.model) == len(self.records)

    @invariant()
    def compare_by_id(self) -> None:
        known = {r.id: r for r in self.model}
        for id in NAMES:
            assert known.get(id) == self.records.get(id)
            assert (id in known) == (id in self.records)

    @invariant()
    def compare_by_tags(self) -> None:
        for tags in [*TAGS, {GROUP_TAG: "g"}, {GROUP_TAG: "g", "t": "1"}, {"t": "1", "u": "2"}]:
            assert search(self.model, tags) == list(self.records.find_tagged(tags))
        assert search(self.model, {GROUP_TAG: "h"}) == list(self.records.find_members("h"))

    @invariant()
    def compare_by_logical_id(self) -> None:
        for logical in ("l", "m", "n"):
            for group in GROUPS:
                expected = [r for r in self.model if (r.spec.logical_id, r.spec.group) == (logical, group)]
                found = self.records.find_logical(logical, group)
                assert sorted(r.id for r in expected) == sorted(r.id for r in found)
                assert all(r in expected for r in found)
                assert expected == list(self.records.copy().find_logical(logical, group))

    @invariant()
    def compare_by_state(self) -> None:
        for state in State:
            assert sum(r.state is state for r in self.model) == self.records.count(state)
        assert {r.id for r in self.model if r.is_unfinished} == set(self.records.unfinished)
        for group in ("g", "h"):
            members = [r for r in self.model if r.spec.group == group]
            assert {r.id for r in members if r.state is State.PROVISIONING} == set(
                self.records.find_provisioning(group)
            )
            newest = min((r for r in members if r.state is State.READY), key=lambda r: r.id, default=None)
            assert newest == self.records.find_newest(group)
            assert newest == self.records.copy().find_newest(group)


TestRecordsModel = RecordsModel.TestCase
TestRecordsModel.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
