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
"""Of all that is drawn; the runs themselves are not quite the same each time, as threads are not."""


PATIENCE = 20
"""How often something that may fail is tried."""


def record(id: str, state: State = State.READY, size: int = 0, **more: Any) -> Record:
    properties = Raw(b'"%b"' % (b"x" * size)) if size else None
    return Record(id=id, state=state, spec=Spec(properties=properties, tags={"t": id}, **more), since=1.5)


def labelled(id: str, value: str) -> Put:
    return Put(Record(id=id, state=State.READY, spec=Spec(tags={"label": value})))


FILE = b"".join(
    document.stamped(document.Content([record("f"), record("g"), record("h")], mark="m"), "0123456789abcdef", 7)
)
"""A file of this project's."""

C_DEMO = b'{"Provider": {}, "Instances": [{"ID": "f"}, {"ID": "g", "Odd": 1}], "NonFunctional": [{"ID": "h"}]}'

MINTED = ids.mint(ids.NEVER, 1e9)


BEGINNINGS = ("create", "append")
"""With what a batch begins, among other things."""


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
    """A store at work on a *disk*, of which images are taken as it goes."""

    def __init__(self, path: Path, disk: FaultyDisk) -> None:
        self.path = path
        self.disk = disk
        self.dice = random.Random(SEED)
        self.history = History(on_disk(disk, path))
        self.images: list[Image] = []
        self.draws = 0
        self.is_slow = False
        """Does each step of a checkpoint wait for a commit?"""
        self.store: FileStore
        self._loop = asyncio.get_running_loop()
        disk.wait, disk.look = self._wait, self.take

    def take(self, step: Step | None) -> None:
        """Take images of what crashes now may leave."""
        resolved = self.history.resolved
        self.images += [Image(step, self.disk.crash(self.dice), self.history, resolved) for _ in range(self.draws)]
        if self.draws:
            self.images.append(Image(step, self.disk.killed(), self.history, resolved, by_kill=True))

    def _wait(self, step: Step) -> None:
        """Have the event loop tell of a batch that was made durable, before the next one is begun."""
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
        """Open the store, however often the disk fails."""
        for _ in range(PATIENCE):
            with contextlib.suppress(CannotStart):
                self.store = FileStore(self.path, "test", disk=self.disk)
                break
        found = held(self.store.records)
        assert found in [each.seen for each in self.history.possible(self.history.resolved, failed=True)]
        if found != self.history.memory.seen:
            self.history = History(Plain(tuple(self.store.records), dict(self.store.records.notes)))

    async def close(self) -> None:
        """Close the store as a process does that ends without a flush."""
        self.store._stop_timer()
        await self.store._idle()
        await asyncio.to_thread(self.store.__exit__)
        await _turns()
        self.store._stop_timer()

    def begin(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        return self.history.commit(self.store, *changes, urgent=urgent)

    async def ended(self, *written: asyncio.Future[None]) -> None:
        """Wait for commits, which may fail; then memory has exactly what did not."""
        for outcome in await asyncio.gather(*written, return_exceptions=True):
            assert outcome is None or isinstance(outcome, StoreFailed)
        await _turns()
        assert self.history.memory.seen == held(self.store.records)

    async def commit(self, *changes: Change) -> None:
        await self.ended(self.begin(*changes))

    async def checkpoint(self) -> None:
        """Have a checkpoint come, and wait for it."""
        self.store._be_due()
        await self.store._idle()
        if self.store._checkpoint is not None:
            await asyncio.wait({self.store._checkpoint})

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
    """All that a store does: every kind of change, alone and together, checkpoints meanwhile, and closes in every state."""
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
    run.store._be_due()
    for count in range(6):
        run.store._be_due()
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
    """The same, shorter."""
    run.open()
    await run.commit(Put(record("a")), Put(record("b")), Note("n", Raw(b"1")))
    await run.ended(run.begin(labelled("a", "1")), run.begin(Put(record("b"), front=True)), run.begin(Put(record("c"))))
    run.is_slow = True
    run.store._be_due()
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
    """Play a story to its end, after *prepare*; give the run."""

    async def play() -> Run:
        run = Run(path, disk)
        prepare(run)
        await asyncio.wait_for(story(run), 60)
        run.take(None)
        return run

    return asyncio.run(play())


def opened(disk: FaultyDisk, path: Path) -> Seen:
    with FileStore(path, "test", disk=disk) as store:
        return held(store.records)


def brief(content: Seen) -> str:
    """Say what counts of a content, for whoever wants to know why a test failed."""
    in_service, aside, notes = content
    told = [f"{each.id}={each.spec.tags.get('label', '')}" for each in chain(*in_service.values(), aside.values())]
    return f"{' '.join(told)} {[bytes(note) for note in notes.values()]}"


def told_of(image: Image, found: Seen, possible: list[Seen]) -> str:
    return f"after {image}:\n{brief(found)} is none of\n" + "\n".join(map(brief, possible))


def check(image: Image, path: Path, possible: list[Seen], dice: random.Random, nested: int) -> None:
    """Open what a crash left; it holds what it may, and keeps that.

    So it does where the opening itself is cut short, at every step. But where a kill left what was under way to the system to
    write, the power may fail before that is done.
    """
    crashes: list[FaultyDisk] = []
    image.disk.look = lambda step: crashes.extend(
        [*(image.disk.crash(dice) for _ in range(nested)), image.disk.killed()]
    )
    found = opened(image.disk, path)
    assert found in possible, told_of(image, found, possible)
    image.disk.look = lambda step: None
    for disk in crashes:
        again = on_disk(disk, path).seen
        assert again in (possible if image.by_kill else [found]), told_of(image, again, possible)
    assert found == on_disk(image.disk.crash(dice), path).seen
    assert found == opened(image.disk, path)
    assert {path} == set(image.disk.files)


DISKS = {"nothing": {}, "a file": {"state.json": FILE}, "a C demo's file": {"state.json": C_DEMO}}


def disk_with(folder: Path, files: dict[str, bytes]) -> FaultyDisk:
    return FaultyDisk({folder / name: content for name, content in files.items()})


@pytest.mark.parametrize("files", DISKS.values(), ids=DISKS)
def test_a_crash_at_any_step_loses_nothing_acknowledged(tmp_path: Path, files: dict[str, bytes]) -> None:
    """After a power cut or a kill at any step, also of the recovery, there is all that was acknowledged, or a batch more."""
    path = tmp_path / "state.json"

    def prepare(run: Run) -> None:
        run.draws = 2

    run = played(everything, path, disk_with(tmp_path, files), prepare)
    for image in run.images:
        check(image, path, image.possible(), run.dice, nested=1)


NO_ROOM = ("create", "append", "rename")
"""What needs room on the disk."""


def once(number: int, done: float) -> Callable[[Step], Fault | None]:
    """Have step *number* fail, after *done* of it."""
    return lambda step: Fault(fitting(step), done) if step.number == number else None


def full(number: int, steps: int) -> Callable[[Step], Fault | None]:
    """Have the disk full for some steps."""
    return lambda step: (
        Fault(errno.ENOSPC, 0.5) if number <= step.number < number + steps and step.kind in NO_ROOM else None
    )


def broken(number: int, steps: int) -> Callable[[Step], Fault | None]:
    """Have all fail for some steps, but what only reads."""
    return lambda step: (
        Fault(fitting(step)) if number <= step.number < number + steps and step.kind not in READS else None
    )


READS = ("read", "names", "is_private")


def fitting(step: Step) -> int:
    return errno.ENOSPC if step.kind in NO_ROOM else errno.EIO


def told(step: Step, fault: Fault | None) -> Fault | None:
    """Print a fault, for whoever wants to know why a test failed."""
    if fault is not None:
        print(f"{fault} in {step}")
    return fault


def with_fault(path: Path, files: dict[str, bytes], number: int, fault: Callable[[Step], Fault | None]) -> Run:
    """Play a story on a disk with a fault from step *number* on, with images of some steps after that."""

    def prepare(run: Run) -> None:
        run.dice.seed(number)
        run.draws = 1
        run.disk.fail = lambda step: told(step, fault(step))
        run.disk.look = lambda step: run.take(step) if step.number > number and run.dice.random() < 0.1 else None

    return played(little, path, disk_with(path.parent, files), prepare)


def steps_of(story: Story, path: Path, files: dict[str, bytes]) -> range:
    """Number the steps that a story may take, a few more than it took this time."""
    return range(played(story, path, disk_with(path.parent, files), lambda run: None).disk.steps + 5)


@pytest.mark.long
@pytest.mark.parametrize("done", [0.5, 1.0])
def test_a_step_that_fails_once_fails_its_batch_alone(tmp_path: Path, done: float) -> None:
    """Whichever step fails, its batch is taken back, with what was decided on it; all else is kept.

    After a kill nothing of it is found. After a power cut it may be, until a later commit was acknowledged.
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
def test_a_disk_that_fails_for_a_while_is_got_over(
    tmp_path: Path, fault: Callable[[int, int], Callable[[Step], Fault | None]]
) -> None:
    """Whenever a disk begins to fail, what fails is taken back, and nothing acknowledged is lost, then or later.

    What failed may be found after a crash, but only until a later commit was acknowledged.
    """
    path = tmp_path / "state.json"
    for number in steps_of(little, path, DISKS["nothing"])[::2]:
        run = with_fault(path, DISKS["nothing"], number, fault(number, 11))
        for image in run.images:
            check(image, path, image.possible(failed=True), run.dice, nested=0)


def test_what_failed_never_comes_back_once_more_was_acknowledged(tmp_path: Path) -> None:
    """An entry that could not be taken away, in a journal whose removal a crash undoes, is known to be over."""
    path = tmp_path / "state.json"

    async def story(run: Run) -> None:
        run.open()
        await run.commit(Put(record("a")))
        run.disk.fail = lambda step: Fault() if step.kind in ("is_at", "truncate") else None
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


class Passing(Disk):
    """A disk that changes as a run's did, between any two looks that a reader takes at it."""

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


def test_a_reader_beside_the_store_sees_what_was_acknowledged(tmp_path: Path) -> None:
    """Whoever reads the files while the store writes them finds all that was acknowledged before, and nothing torn."""
    path = tmp_path / "state.json"

    def prepare(run: Run) -> None:
        run.draws = 1

    run = played(everything, path, disk_with(tmp_path, DISKS["a file"]), prepare)
    images = [image for image in run.images if image.by_kill]
    for first, image in enumerate(images):
        later = [content for each in images[first:] for content in each.possible()]
        for _ in range(10):
            content = recovery.read_live(Passing(images[first:], run.dice), path).content
            assert held(content) in later, told_of(image, held(content), later[:3])


def test_a_flush_leaves_one_file_also_after_a_checkpoint_that_failed(tmp_path: Path) -> None:
    """However many journals there are since a checkpoint failed, a flush folds all of them in."""
    path = tmp_path / "state.json"

    async def story(run: Run) -> None:
        run.open()
        await run.commit(Put(record("a")))
        run.disk.fail = lambda step: Fault() if step.path.name == ".state.json.new" else None
        await run.checkpoint()
        await run.commit(Put(record("b")))
        run.disk.fail = lambda step: None
        await run.flush()
        assert {path} == set(run.disk.files)
        await run.close()

    played(story, path, FaultyDisk(), lambda run: None)
