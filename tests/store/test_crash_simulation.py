"""The store on a disk that crashes, or fails, at every single step of a run."""

import asyncio
import contextlib
import errno
import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw, Struct

from pyinfrakit import ids
from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart, StoreFailed
from pyinfrakit.record import Attachment, Record, Spec, State
from pyinfrakit.store.file import FileStore, document, recovery
from pyinfrakit.store.records import Change, Drop, Note, Put
from support.faulty_disk import Fault, FaultyDisk, Step
from support.model import History, Plain, Seen, held

SEED = 3
"""The seed of all random choices. Runs still differ a little, because threads do."""


PATIENCE = 20
"""Attempts at an operation that may fail."""


def record(id: str, state: State = State.READY, size: int = 0, **more: Any) -> Record:
    properties = Raw(b'"%b"' % (b"x" * size)) if size else None
    return Record(id=id, state=state, spec=Spec(properties=properties, tags={"t": id}, **more), since=1.5)


def labelled(id: str, value: str) -> Put:
    return Put(Record(id=id, state=State.READY, spec=Spec(tags={"label": value})))


FILE = b"".join(
    document.dump_stamped(document.Content([record("f"), record("g"), record("h")], mark="m"), "0123456789abcdef", 7)
)
"""A file that this project wrote."""

C_DEMO = b'{"Provider": {}, "Instances": [{"ID": "f"}, {"ID": "g", "Odd": 1}], "NonFunctional": [{"ID": "h"}]}'

MINTED = ids.mint(ids.NEVER, 1e9)


BEGINNINGS = ("create", "append")
"""The steps that a batch begins with; other work has them too."""


class Image(Struct, frozen=True):
    """A disk as a crash in *step* left it, when *resolved* commits had ended."""

    step: Step | None
    disk: FaultyDisk
    history: History
    resolved: int
    by_kill: bool = False

    def possible(self, *, failed: bool = False) -> list[Seen]:
        return [each.seen for each in self.history.possible(self.resolved, failed=failed)]

    def __str__(self) -> str:
        return f"{'a kill' if self.by_kill else 'a crash'} in {self.step}, with {self.resolved} commits"


class Run:
    """A store at work on a *disk*, with images of the disk after crashes at its steps."""

    def __init__(self, path: Path, disk: FaultyDisk) -> None:
        self.path = path
        self.disk = disk
        self.dice = random.Random(SEED)
        self.history = History(on_disk(disk, path))
        self.images: list[Image] = []
        self.draws = 0
        self.checkpoints: list[asyncio.Task[None]] = []
        self.is_slow = False
        """Whether each step of a checkpoint waits for a commit."""
        self.store: FileStore
        self._loop = asyncio.get_running_loop()
        disk.wait, disk.look = self._wait, self.take

    def take(self, step: Step | None) -> None:
        """Take images that a crash at this instant may leave."""
        resolved = self.history.resolved
        self.images += [Image(step, self.disk.crash(self.dice), self.history, resolved) for _ in range(self.draws)]
        if self.draws:
            self.images.append(Image(step, self.disk.killed(), self.history, resolved, by_kill=True))

    def _wait(self, step: Step) -> None:
        """Let the event loop acknowledge a durable batch before the next one begins."""
        thread = threading.current_thread().name
        if self.is_slow and thread.startswith("checkpoint"):
            self._wait_for_a_commit()
        if thread.startswith("journal") and step.kind in BEGINNINGS:
            asyncio.run_coroutine_threadsafe(_turns(), self._loop).result(30)

    def _wait_for_a_commit(self) -> None:
        before = self.history.resolved
        for _ in range(20):
            time.sleep(0.0002)
            if self.history.resolved > before or self.history.resolved == len(self.history.commits):
                break

    def open(self) -> None:
        """Open the store, and retry if the disk fails."""
        for _ in range(PATIENCE):
            with contextlib.suppress(CannotStart):
                self.store = FileStore(self.path, "test", disk=self.disk)
                break
        found = held(self.store.records)
        assert found in [each.seen for each in self.history.possible(self.history.resolved, failed=True)]
        if found != self.history.memory.seen:
            self.history = History(Plain(tuple(self.store.records), dict(self.store.records.notes)))

    async def close(self) -> None:
        """Close the store like a process that ends without a flush."""
        with contextlib.suppress(StoreFailed):
            await self.store.commit()
        await asyncio.to_thread(self.store.__exit__)
        await _turns()

    def begin(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        return self.history.commit(self.store, *changes, urgent=urgent)

    async def ended(self, *written: asyncio.Future[None]) -> None:
        """Wait for commits, which may fail. Memory must hold exactly those that did not."""
        for outcome in await asyncio.gather(*written, return_exceptions=True):
            assert outcome is None or isinstance(outcome, StoreFailed)
        await _turns()
        assert self.history.memory.seen == held(self.store.records)

    async def commit(self, *changes: Change) -> None:
        await self.ended(self.begin(*changes))

    async def checkpoint(self) -> None:
        await self.store.checkpoint()

    def begin_checkpoint(self) -> None:
        """Have a checkpoint run while the story goes on."""
        self.checkpoints.append(asyncio.create_task(self.store.checkpoint()))

    async def flush(self) -> None:
        for _ in range(PATIENCE):
            with contextlib.suppress(StoreFailed):
                await self.store.flush()
                break


async def _turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def on_disk(disk: FaultyDisk, path: Path) -> Plain:
    content = recovery.assemble(recovery.read(disk, path)).content
    return Plain(tuple(content.records), dict(content.notes))


Story = Callable[[Run], Any]


async def everything(run: Run) -> None:
    """Exercise everything: all kinds of changes, alone and together, during checkpoints, and closes in every state."""
    run.open()
    await run.commit(Put(record("a")), Put(record("b", State.PROVISIONING)), Put(record("c", logical_id="l")))
    await run.ended(*(run.begin(Put(record(id))) for id in ("d", "e", "i")))
    await run.commit(labelled("a", "1"), Drop("d"), Note("n", Raw(b'{"k": [1, "=0000"]}')), Put(record(MINTED)))
    await run.checkpoint()
    await run.commit(labelled("a", "2"))
    await run.commit(Put(record("big", size=1300, init="\n=00000002 \n")), Put(record("e", State.NON_FUNCTIONAL)))
    later = run.begin(Put(record("later")), urgent=False)
    await run.ended(later, run.begin(Put(record("big", size=700))))
    first = run.begin(Drop("b"))
    await _turns()
    await run.ended(first, run.begin(labelled("a", "3")), run.begin(Put(record("e"), front=True)), run.begin(Drop("c")))
    run.is_slow = True
    run.begin_checkpoint()
    for count in range(6):
        run.begin_checkpoint()
        await run.commit(labelled("a", f"slow {count}"), Put(record(f"slow-{count}")))
    run.is_slow = False
    await run.checkpoint()
    await run.commit(Put(record("c", attachments=(Attachment("v", "ebs"),))))
    await run.close()

    run.open()
    await run.commit(Note("n", Raw(b"2")), Drop("slow-1"))
    await run.checkpoint()
    await run.flush()
    await run.close()

    run.open()
    await run.commit(Put(record("e", State.DESTROYING)))
    await run.commit(Drop("e"))
    await run.flush()
    await run.commit(Put(record("after")), Drop(MINTED))
    await run.commit(labelled("a", "last"))
    await run.close()
    run.open()
    await run.close()


async def little(run: Run) -> None:
    """Do the same in fewer steps."""
    run.open()
    await run.commit(Put(record("a")), Put(record("b")), Note("n", Raw(b"1")))
    await run.ended(run.begin(labelled("a", "1")), run.begin(Put(record("b"), front=True)), run.begin(Put(record("c"))))
    run.is_slow = True
    run.begin_checkpoint()
    for count in range(3):
        first = run.begin(Put(record(f"slow-{count}", size=300)), Drop("f"))
        await _turns()
        await run.ended(first, run.begin(labelled("a", f"slow {count}")))
    run.is_slow = False
    await run.checkpoint()
    await run.commit(Put(record("c", State.NON_FUNCTIONAL)), Drop("b"))
    await run.close()
    run.open()
    await run.commit(Put(record("c"), front=True))
    await run.checkpoint()
    await run.commit(labelled("a", "last"))
    await run.flush()
    await run.commit(Note("n", Raw(b"2")))
    await run.flush()
    await run.close()


def played(story: Story, path: Path, disk: FaultyDisk, prepare: Callable[[Run], None]) -> Run:
    """Call *prepare*, play a story to its end, and return the run."""

    async def play() -> Run:
        run = Run(path, disk)
        prepare(run)
        await asyncio.wait_for(story(run), 60)
        run.take(None)
        return run

    return asyncio.run(play())


def open_and_read(disk: FaultyDisk, path: Path) -> Seen:
    with FileStore(path, "test", disk=disk) as store:
        return held(store.records)


def brief(content: Seen) -> str:
    """Summarize a content for the message of a failed test."""
    in_service, aside, notes = content
    records = [f"{each.id}={each.spec.tags.get('label', '')}" for each in chain(*in_service.values(), aside.values())]
    return f"{' '.join(records)} {[bytes(note) for note in notes.values()]}"


def explain(image: Image, found: Seen, possible: list[Seen]) -> str:
    return f"after {image}:\n{brief(found)} is none of\n" + "\n".join(map(brief, possible))


def check(image: Image, path: Path, possible: list[Seen], dice: random.Random, nested: int) -> None:
    """Open the disk after a crash. Its content must be one of the possible ones, and stay the same.

    The same holds if a second crash cuts the start short at any step. But after a kill, the system still has to write
    the data of the last steps, and a power cut may come before that.
    """
    crashes: list[FaultyDisk] = []
    image.disk.look = lambda step: crashes.extend(
        [*(image.disk.crash(dice) for _ in range(nested)), image.disk.killed()]
    )
    found = open_and_read(image.disk, path)
    assert found in possible, explain(image, found, possible)
    image.disk.look = lambda step: None
    for disk in crashes:
        again = on_disk(disk, path).seen
        assert again in (possible if image.by_kill else [found]), explain(image, again, possible)
    assert found == on_disk(image.disk.crash(dice), path).seen
    assert found == open_and_read(image.disk, path)
    assert {path} == set(image.disk.files)


DISKS = {"nothing": {}, "a file": {"state.json": FILE}, "a C demo's file": {"state.json": C_DEMO}}


def disk_with(folder: Path, files: dict[str, bytes]) -> FaultyDisk:
    return FaultyDisk({folder / name: content for name, content in files.items()})


@pytest.mark.parametrize("files", DISKS.values(), ids=DISKS)
def test_a_crash_at_any_step_loses_nothing_acknowledged(tmp_path: Path, files: dict[str, bytes]) -> None:
    """A power cut or a kill at any step, even of the recovery, loses no acknowledged change, and adds at most one batch."""
    path = tmp_path / "state.json"

    def prepare(run: Run) -> None:
        run.draws = 2

    run = played(everything, path, disk_with(tmp_path, files), prepare)
    for image in run.images:
        check(image, path, image.possible(), run.dice, nested=1)


NO_ROOM = ("create", "append", "rename")
"""The steps that need room on the disk."""


def once(number: int, done: float) -> Callable[[Step], Fault | None]:
    """Let step *number* fail after *done* of it."""
    return lambda step: Fault(fitting(step), done) if step.number == number else None


def full(number: int, steps: int) -> Callable[[Step], Fault | None]:
    """Let the disk be full for some steps."""
    return lambda step: (
        Fault(errno.ENOSPC, 0.5) if number <= step.number < number + steps and step.kind in NO_ROOM else None
    )


def broken(number: int, steps: int) -> Callable[[Step], Fault | None]:
    """Let some steps fail, except those that only read."""
    return lambda step: (
        Fault(fitting(step)) if number <= step.number < number + steps and step.kind not in READS else None
    )


READS = ("read", "names", "is_private")


def fitting(step: Step) -> int:
    return errno.ENOSPC if step.kind in NO_ROOM else errno.EIO


def log_fault(step: Step, fault: Fault | None) -> Fault | None:
    """Print a fault for the output of a failed test."""
    if fault is not None:
        print(f"{fault} in {step}")
    return fault


def with_fault(path: Path, files: dict[str, bytes], number: int, fault: Callable[[Step], Fault | None]) -> Run:
    """Play a story with a fault from step *number* on, and take images of some steps after it."""

    def prepare(run: Run) -> None:
        run.dice.seed(number)
        run.draws = 1
        run.disk.fail = lambda step: log_fault(step, fault(step))
        run.disk.look = lambda step: run.take(step) if step.number > number and run.dice.random() < 0.1 else None

    return played(little, path, disk_with(path.parent, files), prepare)


def steps_of(story: Story, path: Path, files: dict[str, bytes]) -> range:
    """Return the numbers of a story's steps, and a few more, because runs differ."""
    return range(played(story, path, disk_with(path.parent, files), lambda run: None).disk.steps + 5)


@pytest.mark.long
@pytest.mark.parametrize("done", [0.5, 1.0])
def test_a_step_that_fails_once_fails_its_batch_alone(tmp_path: Path, done: float) -> None:
    """A failing step undoes its own batch and the changes on top of it, and nothing else.

    After a kill, nothing of the batch is there. After a power cut it may be, until a later commit is acknowledged.
    """
    path = tmp_path / "state.json"
    for number in steps_of(little, path, DISKS["a file"]):
        run = with_fault(path, DISKS["a file"], number, once(number, done))
        outcomes = "".join("." if commit.outcome else "F" for commit in run.history.commits)
        assert 1 >= len(outcomes.replace(".", " ").split()), f"step {number}: {outcomes}"
        for image in run.images:
            check(image, path, image.possible(failed=not image.by_kill), run.dice, nested=0)


@pytest.mark.long
@pytest.mark.parametrize("fault", [full, broken])
def test_the_store_recovers_from_a_disk_that_fails_for_a_while(
    tmp_path: Path, fault: Callable[[int, int], Callable[[Step], Fault | None]]
) -> None:
    """A disk that fails for a while undoes the failed changes, and loses no acknowledged one, then or later.

    A failed change may be there after a crash, but only until a later commit is acknowledged.
    """
    path = tmp_path / "state.json"
    for number in steps_of(little, path, DISKS["nothing"])[::2]:
        run = with_fault(path, DISKS["nothing"], number, fault(number, 11))
        for image in run.images:
            check(image, path, image.possible(failed=True), run.dice, nested=0)


def test_a_failed_change_never_returns_after_a_later_commit(tmp_path: Path) -> None:
    """A failed entry that stayed in its journal is obsolete, even if a crash undoes the journal's removal."""
    path = tmp_path / "state.json"

    async def story(run: Run) -> None:
        run.open()
        await run.commit(Put(record("a")))
        run.disk.fail = lambda step: (
            Fault() if step.kind in ("is_at", "truncate") and ".journal" in step.path.name else None
        )
        await run.commit(Put(record("failed")))
        run.disk.fail = lambda step: None
        await run.commit(Put(record("b")))
        run.draws = 40
        run.take(None)
        await run.commit(Put(record("c")))
        run.draws = 0
        await run.close()

    run = played(story, path, FaultyDisk(), lambda run: None)
    assert [True, False, True, True] == [commit.outcome for commit in run.history.commits]
    for image in run.images:
        check(image, path, image.possible(), run.dice, nested=0)


def test_the_journal_leaves_room_for_a_new_file(tmp_path: Path) -> None:
    """Changes that come while no new file can be written never fill the disk so far that none ever can be."""
    path = tmp_path / "state.json"

    async def story(run: Run) -> None:
        run.open()
        run.disk.size = 1_000_000
        for round in range(4):
            number = 0
            run.disk.fail = lambda step: (
                Fault() if (step.kind, step.path.name) == ("create", ".state.json.new") else None
            )
            while await outcome(run, labelled(f"i{number % 50}", f"{round} {number}" + "x" * 3000)):
                number += 1
            assert number > 50
            run.disk.fail = lambda step: None
            assert await outcome(run, labelled("i1", f"{round}"))
        await run.flush()
        assert {path} == set(run.disk.files)
        await run.close()

    run = played(story, path, FaultyDisk(), lambda run: None)
    assert run.history.memory.seen == open_and_read(run.disk, path)


async def outcome(run: Run, change: Change) -> bool:
    """Return whether a commit succeeds."""
    try:
        await run.begin(change)
    except StoreFailed:
        return False
    return True


@pytest.mark.parametrize("is_clean", [False, True])
def test_a_start_needs_no_room(tmp_path: Path, is_clean: bool) -> None:
    """A start on a full disk, after a kill or a stop, has everything; changes fail until there is room."""
    path = tmp_path / "state.json"

    async def fill(run: Run) -> None:
        run.open()
        for number in range(20):
            await run.commit(labelled(f"i{number}", "x" * 1000))
            if number == 10:
                await run.checkpoint()
        if is_clean:
            await run.flush()
        await run.close()

    async def go_on(run: Run) -> None:
        run.disk.size = sum(map(len, run.disk.files.values()))
        for _ in range(3):
            run.store = FileStore(path, "test", disk=run.disk)
            assert filled.history.memory.seen == held(run.store.records)
            assert not await outcome(run, labelled("i1", "y" * 1000))
            await run.store.flush()
            await run.close()
        run.disk.size = 1_000_000
        run.store = FileStore(path, "test", disk=run.disk)
        assert await outcome(run, labelled("i1", "y" * 1000))
        await run.flush()
        await run.close()
        assert {path} == set(run.disk.files)

    filled = played(fill, path, FaultyDisk(), lambda run: None)
    run = played(go_on, path, filled.disk.killed(), lambda run: None)
    assert run.history.memory.seen == open_and_read(run.disk, path)


class Passing(Disk):
    """A disk that changes like that of a run between any two reads."""

    def __init__(self, images: Sequence[Image], dice: random.Random) -> None:
        self._images = images
        self._dice = dice
        self._now = 0

    def _look(self) -> dict[Path, bytes]:
        self._now = min(self._now + self._dice.choice([0, 0, 1, 2, 5, 20, 40]), len(self._images) - 1)
        return self._images[self._now].disk.files

    def read(self, path: Path) -> bytes:
        try:
            return self._look()[path]
        except KeyError:
            raise FileNotFoundError from None

    def names(self, folder: Path) -> list[str]:
        return [path.name for path in self._look()]


def test_a_reader_beside_the_store_sees_acknowledged_changes(tmp_path: Path) -> None:
    """A reader of files that the store is writing finds all acknowledged changes, and nothing torn."""
    path = tmp_path / "state.json"

    def prepare(run: Run) -> None:
        run.draws = 1

    run = played(everything, path, disk_with(tmp_path, DISKS["a file"]), prepare)
    images = [image for image in run.images if image.by_kill]
    for first, image in enumerate(images):
        later = [content for each in images[first:] for content in each.possible()]
        for _ in range(10):
            content = recovery.read_live(Passing(images[first:], run.dice), path).content
            assert held(content) in later, explain(image, held(content), later[:3])


def test_a_flush_leaves_one_file_also_after_a_checkpoint_that_failed(tmp_path: Path) -> None:
    """A flush after a failed checkpoint folds in all journals."""
    path = tmp_path / "state.json"

    async def story(run: Run) -> None:
        run.open()
        await run.commit(Put(record("a")))
        run.disk.fail = lambda step: Fault() if (step.kind, step.path.name) == ("create", ".state.json.new") else None
        await run.checkpoint()
        await run.commit(Put(record("b")))
        run.disk.fail = lambda step: None
        await run.flush()
        assert {path} == set(run.disk.files)
        await run.close()

    played(story, path, FaultyDisk(), lambda run: None)
