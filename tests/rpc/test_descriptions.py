"""Cached encodings of descriptions stay equal to fresh ones."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import UNSET, Raw
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.record import GROUP_TAG, Record, Spec, State
from pyinfrakit.rpc.instance import types
from pyinfrakit.rpc.instance.descriptions import LARGEST, MANY, Descriptions
from pyinfrakit.rpc.jsonrpc import Reply
from pyinfrakit.schema.secrets import EMPTY_OBJECT
from pyinfrakit.store.records import Change, Drop, Note, Put, Records, Undo

NAMES = [f"i{number}" for number in range(8)]
PROPERTIES = [None, Raw(b'{"a": 1}'), Raw(b'"\xc3\xa9"'), Raw(b'{"long":"' + b"x" * LARGEST + b'"}')]
QUESTIONS: list[dict[str, str]] = [
    {},
    {GROUP_TAG: "g"},
    {"t": "1"},
    {GROUP_TAG: "g", "t": "1"},
    {"t": "none"},
    {"none": ""},
]
TAGS = st.fixed_dictionaries({}, optional={GROUP_TAG: st.sampled_from("gh"), "t": st.sampled_from("12")})
NEW = st.builds(
    lambda id, state, tags, logical, properties: Record(
        id=id, state=state, spec=Spec(tags=tags, logical_id=logical, properties=properties)
    ),
    st.sampled_from(NAMES),
    st.sampled_from(State),
    TAGS,
    st.sampled_from([None, "l"]),
    st.sampled_from(PROPERTIES),
)
SEEN = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(PROPERTIES[1:]))


def read_properties(records: Records) -> Callable[[Record], Raw]:
    return lambda record: records.live(record.id) or record.spec.properties or EMPTY_OBJECT


def read_reply(call: Awaitable[Reply], meanwhile: Callable[[], object] = bool) -> bytes:
    """Return a whole reply. If it comes piece by piece, call *meanwhile* after each."""

    async def read() -> bytes:
        reply = await call
        if not isinstance(reply, AsyncIterator):
            return b"".join(reply)
        whole = b""
        async for piece in reply:
            whole += piece
            meanwhile()
        return whole

    return asyncio.run(read())


def parse_descriptions(descriptions: Descriptions, tags: dict[str, str], with_properties: bool) -> list[Any]:
    reply = json.loads(read_reply(descriptions.reply(".", tags, with_properties)))
    assert "." == reply["Type"]
    found: list[Any] = reply["Descriptions"]
    return found


def encode_fresh(records: Records, tags: dict[str, str], with_properties: bool) -> list[Any]:
    found = [r for r in records if r.state.described and tags.items() <= r.spec.tags.items()]
    return [
        {
            "ID": r.id,
            "LogicalID": r.spec.logical_id,
            "Tags": dict(r.spec.tags),
            **({"Properties": json.loads(bytes(read_properties(records)(r)))} if with_properties else {}),
        }
        for r in found
    ]


class DescriptionsModel(RuleBasedStateMachine):
    """Descriptions that follow records through changes, some of which are undone."""

    def __init__(self) -> None:
        super().__init__()
        self.records = Records()
        self.descriptions = Descriptions(self.records, read_properties(self.records))
        self.undos: list[Undo | Note] = []

    def change(self, change: Change) -> None:
        self.undos.append(self.records.apply(change))

    @rule(new=NEW, front=st.booleans())
    def put(self, new: Record, front: bool) -> None:
        self.change(Put(new, front))

    @rule(id=st.sampled_from(NAMES), state=st.sampled_from(State), front=st.booleans())
    def become(self, id: str, state: State, front: bool) -> None:
        """Change an instance's state, and nothing that is described."""
        if (record := self.records.get(id)) is not None:
            self.change(Put(replace(record, state=state), front))

    @rule(id=st.sampled_from(NAMES), tags=TAGS)
    def label(self, id: str, tags: dict[str, str]) -> None:
        if (record := self.records.get(id)) is not None:
            self.change(Put(replace(record, spec=replace(record.spec, tags={**record.spec.tags, **tags}))))

    @rule(id=st.sampled_from(NAMES))
    def drop(self, id: str) -> None:
        self.change(Drop(id))

    @rule(id=st.sampled_from(NAMES), properties=st.sampled_from(PROPERTIES[1:3]))
    def show(self, id: str, properties: Raw) -> None:
        self.records.show(id, properties)

    @rule(seen=SEEN, newer=st.sets(st.sampled_from(NAMES)))
    def show_all(self, seen: dict[str, Raw], newer: set[str]) -> None:
        asyncio.run(self.records.show_all(seen, newer))

    @rule()
    def make_durable(self) -> None:
        self.undos.clear()

    @precondition(lambda self: self.undos)
    @rule()
    def undo_changes(self) -> None:
        self.records.undo(reversed(self.undos))
        self.undos.clear()

    @rule(tags=st.sampled_from(QUESTIONS), with_properties=st.booleans())
    def describe(self, tags: dict[str, str], with_properties: bool) -> None:
        """Compare descriptions only now and then, so that several changes come between two comparisons."""
        assert encode_fresh(self.records, tags, with_properties) == parse_descriptions(
            self.descriptions, tags, with_properties
        )


class EagerModel(DescriptionsModel):
    """Descriptions that are compared for every question after every change."""

    @invariant()
    def compare_all(self) -> None:
        for tags in QUESTIONS:
            for with_properties in (False, True):
                self.describe(tags, with_properties)


TestDescriptions = DescriptionsModel.TestCase
TestDescriptions.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestEagerDescriptions = EagerModel.TestCase
TestEagerDescriptions.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def make_instance(number: int, properties: bytes = b'{"a":1}') -> Record:
    spec = Spec(tags={GROUP_TAG: f"g{number % 2}"}, properties=Raw(properties))
    return Record(id=f"i{number:05}", state=State.READY, spec=spec)


def encode_description(record: Record) -> bytes:
    return bytes(
        msgspec.json.encode(types.Description(record.id, None, dict(record.spec.tags), record.spec.properties or UNSET))
    )


@pytest.mark.parametrize("tags", [{}, {GROUP_TAG: "g0"}])
@pytest.mark.parametrize("properties", [b'{"a" : 1}', b'{"a":"' + b"x" * LARGEST + b'"}'], ids=["small", "large"])
def test_large_replies_are_always_the_same(tags: dict[str, str], properties: bytes) -> None:
    """Large replies equal the wire's form byte for byte, however often they are requested and whatever happens meanwhile."""
    records = Records(make_instance(number, properties) for number in range(3 * MANY))
    descriptions = Descriptions(records, read_properties(records))
    for number in range(5):
        found = [encode_description(r) for r in records if tags.items() <= r.spec.tags.items()]
        for _ in range(3):
            whole = b'{"Type":"","Descriptions":[' + b",".join(found) + b"]}"
            assert whole == read_reply(descriptions.reply("", tags, True))
        assert [] == parse_descriptions(descriptions, {GROUP_TAG: "none"}, True)
        records.apply(
            (
                Drop("i00004"),
                Put(make_instance(5, b"2")),
                Put(make_instance(9999)),
                Put(make_instance(7), front=True),
                Drop("i00000"),
            )[number]
        )


def test_a_long_reply_is_of_one_instant() -> None:
    """A reply that is encoded while it is sent shows all instances as they were at the call."""
    records = Records(make_instance(number) for number in range(3 * MANY))
    descriptions = Descriptions(records, read_properties(records))
    whole = b'{"Type":"","Descriptions":[' + b",".join(map(encode_description, records)) + b"]}"
    reply = descriptions.reply("", {}, True)
    left = list(records)

    def change_two() -> None:
        records.apply(Drop(left.pop().id))
        records.apply(Put(replace(left[-1], spec=Spec(tags={"new": ""})), front=True))

    assert whole == read_reply(reply, change_two)
    assert encode_fresh(records, {}, True) == json.loads(read_reply(descriptions.reply("", {}, True)))["Descriptions"]


def test_gone_instances_take_no_memory() -> None:
    """Instances that are gone, and tags of earlier questions, take no memory."""
    records = Records(make_instance(number) for number in range(10))
    descriptions, runner = Descriptions(records, read_properties(records)), asyncio.Runner()

    def come_and_go(last_id: str) -> str:
        for number in range(500):
            last_id = ids.mint(last_id, 1e9)
            spec = Spec(tags={GROUP_TAG: last_id, "t": "1"}, logical_id=last_id, properties=Raw(b'{"a":1}'))
            records.apply(Put(Record(id=last_id, state=State.PROVISIONING, spec=spec)))
            for tags in ({}, {GROUP_TAG: last_id}, {f"t{number}": "1"}):
                for with_properties in (False, True):
                    runner.run(descriptions.reply("", tags, with_properties))
            records.apply(Drop(last_id))
        return last_id

    last_id = come_and_go(ids.NEVER)
    tracemalloc.start()
    try:
        come_and_go(come_and_go(last_id))
        before, _ = tracemalloc.get_traced_memory()
        come_and_go(come_and_go(records.last_id))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        runner.close()
    assert after - before < 50_000
