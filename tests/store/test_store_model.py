"""The store against a model of plain lists and dicts, on a disk that fails and crashes."""

import asyncio
import contextlib
import random
import tempfile
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Raw
from msgspec.structs import replace

from pyinfrakit import ids
from pyinfrakit.errors import CannotStart, StoreFailed
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import FileStore
from pyinfrakit.store.records import Change, Drop, Note, Put
from support.faulty_disk import Fault, FaultyDisk, Step
from support.model import History, Plain, Seen, held_by_parts

MINTED = [ids.mint(ids.NEVER, now) for now in (1e9, 2e9)]
ALSO_MINTED = dict(zip(MINTED, [ids.mint(ids.NEVER, now) for now in (1.5e9, 2.5e9)], strict=True))
IDS = st.sampled_from(["a", "b", "c", "d", *MINTED])
VALUES = st.sampled_from([Raw(b"1"), Raw(b'{"k":"=\\n"}'), Raw(b'"%b"' % (b"x" * 600))])
PUTS = st.builds(
    lambda id, state, properties, tag, front: Put(
        Record(id=id, state=state, spec=Spec(properties=properties, tags={"label": tag})), front
    ),
    IDS,
    st.sampled_from([State.READY, *State]),
    st.none() | VALUES,
    st.sampled_from("123456789"),
    st.booleans(),
)
CHANGES = st.lists(
    PUTS | PUTS | st.builds(Drop, IDS) | st.builds(Note, st.sampled_from("nm"), VALUES), min_size=1, max_size=3
)


def of(type: str, change: Change) -> Change:
    """Turn a change into one of a sub-type's record, with an ID that is unique to it."""
    match change:
        case Put(record, front):
            return Put(replace(record, id=id_of(type, record.id), sub_type=type), front)
        case Drop(id):
            return Drop(id_of(type, id))
    return change


def id_of(type: str, id: str) -> str:
    return ALSO_MINTED.get(id, id.upper()) if type == "storage" else id


class Stored(RuleBasedStateMachine):
    """A store on a disk that fails and crashes, next to its model."""

    types: Sequence[str] = ("",)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state.json"
        self.disk = FaultyDisk()
        self.history = History(Plain())
        self.used: set[str] = set()
        """Minted IDs that were acknowledged."""
        self.checkpoints: list[asyncio.Task[None]] = []
        self.store: FileStore
        self.open()

    def open(self) -> None:
        """Open the store on a disk that works."""
        self.loop = asyncio.new_event_loop()
        self.disk.fail = lambda step: None
        self.disk.wait = self.wait
        self.store = FileStore(self.path, "test", sub_types=self.types, disk=self.disk)

    def wait(self, step: Step) -> None:
        """Let the event loop acknowledge all durable changes before a thread takes its next step."""
        if threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(RuntimeError):  # the store is closed
                asyncio.run_coroutine_threadsafe(self.turns(), self.loop).result(30)

    async def turns(self, count: int = 6) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def all_ended(self) -> None:
        while self.history.resolved < len(self.history.commits):
            await asyncio.sleep(0.001)

    async def agreement(self) -> None:
        """Let the loop report recent failures. Compare in one turn, because the next may bring more."""
        for _ in range(10):
            if self.history.memory.seen == self.held(self.store):
                return
            await self.turns()
        assert self.history.memory.seen == self.held(self.store)

    def close(self) -> None:
        """Close the store and its event loop, like a process that ends."""

        async def end() -> None:
            with contextlib.suppress(StoreFailed):
                await self.store.commit()
            await asyncio.to_thread(self.store.__exit__)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self.loop.shutdown_default_executor()

        self.loop.run_until_complete(end())
        self.loop.close()

    def note_used(self) -> None:
        commits = (commit for commit in self.history.commits if commit.outcome)
        self.used |= {each.record.id for commit in commits for each in commit.changes if isinstance(each, Put)} & {
            *MINTED,
            *ALSO_MINTED.values(),
        }

    def go_on(self) -> None:
        """Restart the model from the store's present content."""
        parts = [self.store.part(type).records for type in self.types]
        assert all(records.last_id <= id for id in self.used for records in parts)
        self.history = History(Plain(tuple(chain.from_iterable(parts)), dict(self.store.records.notes)))

    def held(self, store: FileStore) -> Seen:
        return held_by_parts(store, self.types)

    @rule(changes=CHANGES, urgent=st.booleans(), number=st.integers(0, 1))
    def commit(self, changes: list[Change], urgent: bool, number: int) -> None:
        type = self.types[number % len(self.types)]

        async def begin() -> None:
            self.history.commit(
                self.store, *(self.sensible(of(type, each)) for each in changes), urgent=urgent, type=type
            )

        self.loop.run_until_complete(begin())

    def sensible(self, change: Change) -> Change:
        """Move a record that returns to service to the front: the file has no order for those out of service."""
        if isinstance(change, Put) and change.record.state.described:
            return Put(
                change.record, change.front or change.record.id in self.store.part(change.record.sub_type).records
            )
        return change

    @rule(turns=st.integers(1, 60))
    def go_some_way(self, turns: int) -> None:
        self.loop.run_until_complete(self.turns(turns))

    @rule()
    def wait_for_all(self) -> None:
        self.loop.run_until_complete(self.all_ended())

    @rule()
    def begin_checkpoint(self) -> None:
        self.checkpoints.append(self.loop.create_task(self.store.checkpoint()))

    @rule()
    def let_time_pass(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0.005))

    @rule()
    def flush(self) -> None:
        with contextlib.suppress(StoreFailed):
            self.loop.run_until_complete(self.store.flush())

    @rule(after=st.integers(0, 20), length=st.sampled_from([1, 1, 5]), done=st.sampled_from([0.0, 0.5, 1.0]))
    def break_disk(self, after: int, length: int, done: float) -> None:
        first = self.disk.steps + after
        self.disk.fail = lambda step: Fault(done=done) if first <= step.number < first + length else None

    @rule()
    def restart(self) -> None:
        """After a clean stop, one file holds everything."""
        self.disk.fail = lambda step: None
        self.loop.run_until_complete(self.store.flush())
        self.loop.run_until_complete(self.all_ended())
        self.note_used()
        before = self.history.memory.seen
        self.close()
        self.open()
        assert before == self.held(self.store)
        assert {self.path} == set(self.disk.files)
        self.go_on()

    @rule(by_kill=st.booleans(), seed=st.integers(0, 2**32), fault=st.none() | st.integers(0, 12))
    def crash(self, by_kill: bool, seed: int, fault: int | None) -> None:
        """After a crash, all acknowledged changes are there, and at most one batch more, even if a first start fails."""
        with self.disk.lock:
            resolved = self.history.resolved
            after = self.disk.killed() if by_kill else self.disk.crash(random.Random(seed))
            self.disk.is_off = True
        self.note_used()
        possible = [each.seen for each in self.history.possible(resolved, failed=True)]
        self.close()
        self.disk = after
        self.disk.fail = lambda step: Fault() if step.number == fault else None
        with (
            contextlib.suppress(CannotStart),
            FileStore(self.path, "test", sub_types=self.types, disk=self.disk) as store,
        ):
            assert self.held(store) in possible
        self.open()
        assert self.held(self.store) in possible
        self.go_on()

    @invariant()
    def memory_has_what_did_not_fail(self) -> None:
        self.loop.run_until_complete(self.agreement())

    def teardown(self) -> None:
        self.disk.is_off = True
        self.close()
        self.folder.cleanup()


class StoredByType(Stored):
    """Two sub-types in one file."""

    types = ("compute", "storage")


TestStored = Stored.TestCase
TestStored.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestStoredByType = StoredByType.TestCase
TestStoredByType.settings = TestStored.settings
