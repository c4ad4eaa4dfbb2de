"""How an instance lives, which IDs it gets, and how the instances are kept in memory."""

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
from pyinfrakit.store.records import Change, Drop, Note, Put, Records, Undo, UndoNote

EVERY_PAIR = [(state, event) for state in State for event in Event]
POSSIBLE = [pair for pair in EVERY_PAIR if pair in LIFECYCLE]
IMPOSSIBLE = [pair for pair in EVERY_PAIR if pair not in LIFECYCLE]
REPEATS = (Event.PROVISIONED, Event.FAILED, Event.DESTROY)
"""Events that change nothing where the state stays."""


def record(id: str = "a", state: State = State.READY, **more: Any) -> Record:
    return Record(id=id, state=state, spec=more.pop("spec", Spec()), **more)


def test_a_spec_shows_no_secrets() -> None:
    """Neither alone nor in a record: where a provider returns one by mistake, the error quotes what it returned."""
    kept = record(spec=Spec(init="SWMTKN-1", properties=Raw(b'{"password": "hunter2"}'), tags={"rack": "a"}))
    assert "SWMTKN" not in repr(kept)
    assert "hunter2" not in repr(kept)
    assert "rack" in repr(kept)


# lives


def test_the_states_that_infrakit_is_told_of() -> None:
    """InfraKit is told of instances that are being provisioned or ready, and of no others."""
    assert [State.PROVISIONING, State.READY] == [state for state in State if state.described]


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE)
def test_what_is_not_in_the_table_is_refused(state: State, event: Event) -> None:
    """An event that the table does not have for a state is refused, naming the instance, its state and the event."""
    with pytest.raises(Refused) as caught:
        record("i1", state).after(event, 9.0)
    assert f"i1: is {state}, so it can't be {event}" == str(caught.value)
    assert "i1" == caught.value.id


@pytest.mark.parametrize(("state", "event"), POSSIBLE)
@pytest.mark.parametrize("by_hand", [False, True])
def test_after_an_event_the_record_is_as_the_table_says(state: State, event: Event, by_hand: bool) -> None:
    """An event drops the record, leaves it alone where it is a repeat, or sets its state, since, reason and by-hand."""
    before = record(
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
def test_the_table_is_that_of_the_design(state: State, event: Event, becomes: State | None) -> None:
    """The states of an instance follow each other as the design page has them."""
    assert becomes == LIFECYCLE[state, event]


@pytest.mark.parametrize("state", State)
def test_every_instance_can_be_destroyed(state: State) -> None:
    """A destroy is accepted in any state, and makes the instance `destroying`."""
    assert State.DESTROYING == LIFECYCLE[state, Event.DESTROY]


@pytest.mark.parametrize("event", Event)
def test_what_is_being_destroyed_never_comes_back(event: Event) -> None:
    """No event leads from `destroying` anywhere but out."""
    assert LIFECYCLE.get((State.DESTROYING, event), State.DESTROYING) in (State.DESTROYING, None)


@pytest.mark.parametrize("state", State)
def test_a_late_end_of_a_provision_is_taken_in_every_state(state: State) -> None:
    """A provision's call may end after its instance went elsewhere: success leaves it there, failure has it cleaned up."""
    assert (State.READY if state is State.PROVISIONING else state) == LIFECYCLE[state, Event.PROVISIONED]
    assert State.DESTROYING == LIFECYCLE[state, Event.FAILED]


def test_what_is_set_aside_again_by_hand_is_so_by_hand() -> None:
    """Setting aside what is broken makes it so by hand, with the new reason, and since it broke."""
    after = record(state=State.NON_FUNCTIONAL, since=1.0, reason="disk").after(Event.SET_ASIDE, 2.0, "mine")
    assert record(state=State.NON_FUNCTIONAL, since=1.0, reason="mine", by_hand=True) == after


@pytest.mark.parametrize("event", [Event.RESTORED, Event.HEALED])
def test_what_comes_back_has_no_past(event: Event) -> None:
    """A restored or healed instance has no reason, and is no longer set aside by hand."""
    after = record(state=State.NON_FUNCTIONAL, since=1.0, reason="mine", by_hand=True).after(event, 2.0)
    assert record(since=2.0) == after


# specs

SPEC = Spec(
    properties=Raw(b'{"a":1,"b":2}'), tags={"t": "1"}, init="i", logical_id="l", attachments=(Attachment("v", "ebs"),)
)


@pytest.mark.parametrize("properties", [b'{"a":1,"b":2}', b'{"b": 2, "a": 1}'])
def test_a_repeat_asks_for_the_same(properties: bytes) -> None:
    """A spec asks for one that is the same but for the form of its JSON and tags that were added since."""
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
    """A spec that differs in any field, or has a tag that the other has not, is no repeat."""
    assert not replace(SPEC, **change).asks_for(SPEC)


def test_no_properties_are_the_same_as_none() -> None:
    """Two specs without properties ask for the same."""
    assert Spec().asks_for(Spec())


@pytest.mark.parametrize("tag", CONFIG_TAGS)
def test_the_configuration_is_under_either_tag(tag: str) -> None:
    """A member's configuration is told by the tag of either InfraKit generation."""
    assert Spec(tags={tag: "1"}).config != Spec(tags={tag: "2"}).config
    assert Spec(tags={tag: "1", "other": "x"}).config == Spec(tags={tag: "1"}).config


# IDs

CLOCKS = st.floats(min_value=-1e9, max_value=3.6e10, allow_nan=False)
"""What a clock may say: from 1938 to 3110."""


@settings(deadline=None)
@given(st.lists(CLOCKS, min_size=2, max_size=50))
def test_each_id_sorts_before_all_earlier_ones(clock: list[float]) -> None:
    """IDs descend strictly whatever the clock does."""
    minted = [ids.NEVER]
    for now in clock:
        minted.append(ids.mint(minted[-1], now))
    assert sorted(set(minted), reverse=True) == minted


@settings(deadline=None)
@given(st.lists(CLOCKS, min_size=1, max_size=5))
def test_an_id_is_a_short_dns_label(clock: list[float]) -> None:
    """An ID is a DNS label of at most 32 characters that starts with a digit, and is known as minted here."""
    last = ids.NEVER
    for now in clock:
        last = ids.mint(last, now)
        assert re.fullmatch(r"[0-9]([a-z0-9-]*[a-z0-9])?", last)
        assert 32 >= len(last)
        assert ids.is_minted(last)


@settings(deadline=None)
@given(CLOCKS, st.text())
def test_an_id_sorts_before_those_of_the_c_demo(now: float, rest: str) -> None:
    """A minted ID sorts before every ID of the C demo, before an adopted machine's, and before `NEVER`."""
    minted = ids.mint(ids.NEVER, now)
    assert minted < ids.NEVER < "9" < f"InfraKit-{rest}"


def test_ids_of_one_instant_are_distinct_between_plugins() -> None:
    """Two plugins that mint at the same instant get different IDs."""
    assert 100 == len({ids.mint(ids.NEVER, 1e9) for _ in range(100)})


def test_ids_follow_the_clock_where_they_can() -> None:
    """An ID that is minted a microsecond later sorts before one of another plugin."""
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
def test_other_ids_are_not_minted_here(id: str) -> None:
    """What does not have the form of an ID that is minted here is told from one."""
    assert not ids.is_minted(id)


# records


def test_records_stand_in_the_order_of_their_making() -> None:
    """Records keep their order: as loaded, then as added; a replaced one keeps its place, a healed one comes first."""
    records = Records([record("b"), record("a")])
    for change in (
        Put(record("c")),
        Put(record("b", reason="new")),
        Put(record("d"), front=True),
        Put(record("c"), front=True),
    ):
        records.apply(change)
    assert ["c", "d", "b", "a"] == [r.id for r in records]


def test_an_unknown_id_is_an_error() -> None:
    """Asking for an instance that is not there is an error that names it, and `get` gives None."""
    with pytest.raises(UnknownInstance, match="'x'"):
        Records()["x"]
    assert Records().get("x") is None


def test_used_ids_stay_used() -> None:
    """The last ID is the smallest that was ever put, also after its record was dropped or taken back."""
    records = Records()
    first = ids.mint(records.last_id, 1e9)
    undo = records.apply(Put(record(first)))
    records.undo([undo])
    assert first == records.last_id
    records.apply(Put(record(ids.mint(ids.NEVER, 1e6))))
    records.apply(Put(record("0-not-minted-here")))
    assert first == records.last_id


def test_subscribers_see_every_change() -> None:
    """A subscriber is called with a record before and after it is put, dropped, shown, or undone."""
    a, b = record("a"), record("b")
    records = Records([a, b, record("c")])
    seen: list[tuple[Record | None, Record | None]] = []
    records.subscribe(lambda old, new: seen.append((old, new)))
    changed, added = record("a", reason="x"), record("d")
    undo = records.apply(Put(changed))
    records.apply(Drop("b"))
    records.apply(Put(added))
    records.show("d", Raw(b"1"))
    records.show("d", Raw(b"1"))
    records.undo([undo])
    assert [(a, changed), (b, None), (None, added), (added, added), (changed, a)] == seen


def test_what_a_provider_said_goes_with_the_record() -> None:
    """Properties that a provider last said are forgotten with their instance, and only then."""
    records = Records([record("a"), record("b")])
    records.show_all({"a": Raw(b"1"), "b": Raw(b"2")}, newer=())
    records.apply(Drop("a"))
    records.apply(Put(record("b", reason="x")))
    assert Raw(b"2") == records.live("b")
    records.apply(Put(record("a")))
    assert records.live("a") is None


NAMES = [f"i{number}" for number in range(8)]
GROUPS = [None, "g", "h"]
LOGICAL = [None, "l", "m"]
TAGS = [{}, {"t": "1"}, {"t": "2"}, {"t": "1", "u": "1"}]
NEW = st.builds(
    lambda id, state, group, logical, tags: record(
        id, state, spec=Spec(tags={**tags, **({GROUP_TAG: group} if group else {})}, logical_id=logical)
    ),
    st.sampled_from(NAMES),
    st.sampled_from(State),
    st.sampled_from(GROUPS),
    st.sampled_from(LOGICAL),
    st.sampled_from(TAGS),
)


def by_brute_force(model: Iterable[Record], tags: dict[str, str]) -> list[Record]:
    return [r for r in model if tags.items() <= r.spec.tags.items()]


def test_notes_are_taken_back() -> None:
    """A note that was taken back is as it was before, or not there."""
    records = Records(notes={"old": Raw(b"1")})
    undos = [records.apply(Note("old", Raw(b"2"))), records.apply(Note("new", Raw(b"3")))]
    assert {"old": Raw(b"2"), "new": Raw(b"3")} == records.notes
    records.undo(reversed(undos))
    assert {"old": Raw(b"1")} == records.notes


class Kept(RuleBasedStateMachine):
    """`Records` beside a plain list, changed and taken back in step."""

    def __init__(self) -> None:
        super().__init__()
        self.model: list[Record] = []
        self.records = Records()
        self.batches: list[tuple[list[Record], list[Undo | UndoNote]]] = []

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
    def take_back(self) -> None:
        self.model, undos = self.batches.pop()
        self.records.undo(reversed(undos))

    @precondition(lambda self: self.batches)
    @rule()
    def take_all_back(self) -> None:
        """As a store does with the batch that failed and what was decided on top of it."""
        self.model = self.batches[0][0]
        self.records.undo(undo for _, undos in reversed(self.batches) for undo in reversed(undos))
        self.batches.clear()

    @precondition(lambda self: self.batches)
    @rule()
    def make_durable(self) -> None:
        del self.batches[0]

    @invariant()
    def same_content_and_order(self) -> None:
        assert self.model == list(self.records)
        assert len(self.model) == len(self.records)

    @invariant()
    def found_by_id(self) -> None:
        known = {r.id: r for r in self.model}
        for id in NAMES:
            assert known.get(id) == self.records.get(id)
            assert (id in known) == (id in self.records)

    @invariant()
    def found_by_tags(self) -> None:
        for tags in [*TAGS, {GROUP_TAG: "g"}, {GROUP_TAG: "g", "t": "1"}, {"t": "1", "u": "2"}]:
            assert by_brute_force(self.model, tags) == list(self.records.find_tagged(tags))
        assert by_brute_force(self.model, {GROUP_TAG: "h"}) == list(self.records.find_members("h"))

    @invariant()
    def found_by_logical_id(self) -> None:
        for logical in ("l", "m", "n"):
            for group in GROUPS:
                expected = [r for r in self.model if (r.spec.logical_id, r.spec.group) == (logical, group)]
                found = self.records.find_logical(logical, group)
                assert sorted(r.id for r in expected) == sorted(r.id for r in found)
                assert all(r in expected for r in found)


TestKept = Kept.TestCase
TestKept.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
