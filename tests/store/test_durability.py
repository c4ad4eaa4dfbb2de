"""The real daemon under load: kills, full disks, and many instances."""

import random
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import Raw

from conftest import FAST
from pyinfrakit import ids
from pyinfrakit.record import GROUP_TAG, Record, Spec, State
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.store.file import document
from support.harness import Daemon, eventually
from support.load import Caller, Watcher, check, loaded

Run = Callable[..., Daemon]


def seeded() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.long
@pytest.mark.parametrize(("provider", "kills"), [("file", 75), ("simulator", 25)])
def test_kills_under_load_lose_nothing_acknowledged(run: Run, provider: str, kills: int) -> None:
    """A hundred kills under load lose no acknowledged change, and add and duplicate nothing.

    A reader of the state file finds a whole document at every instant; only its owner may read any of the files.
    """
    dice = seeded()
    daemon = run("--provider", provider, *FAST)
    callers = [Caller(name, dice.randrange(2**32)) for name in "vwxyz"]
    watcher = Watcher(daemon.state)
    with watcher.watching():
        for _ in range(kills):
            with loaded(daemon, callers):
                time.sleep(dice.uniform(0, 0.3))
            if dice.random() < 0.2:  # a kill during the start, too
                daemon.start(wait=False)
                time.sleep(dice.uniform(0, 0.5))
                daemon.kill()
            daemon.start()
            check(daemon, callers)
    assert [] == [each for caller in callers for each in caller.failures]
    assert watcher.journals, "the watcher saw a journal"
    assert 0 == daemon.stop()
    if provider == "simulator":
        with daemon.world.change():  # removes the leftovers of a kill
            pass
    assert {daemon.state, daemon.world.path, daemon.world.path.with_name("rack1.world.lock")} >= set(
        daemon.state.parent.iterdir()
    )
    daemon.start()
    check(daemon, callers)


# Full disks


@pytest.mark.parametrize("by_kill", [False, True])
def test_a_write_that_is_cut_short_is_undone(daemon: Daemon, by_kill: bool) -> None:
    """A disk that gets full in the middle of an entry fails the call and undoes its change; describe still works.

    The same holds if the daemon is killed then.
    """
    caller = Caller("c", seeded().randrange(2**32), {"x": "x" * 2000})
    for limit in (0, 40, 150, 200, 500, 1500, 2300, 2600):
        with daemon.client() as client:
            for _ in range(4):
                caller.act(client)
            eventually(lambda: not beside(daemon), "the state file has everything")
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            failed = len(caller.failures)
            for _ in range(3):
                caller.provision(client)
                check(daemon, [caller])
            assert failed < len(caller.failures)
        if by_kill:
            daemon.kill()
            daemon.start()
        else:
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        check(daemon, [caller])
    assert all(f"state file {daemon.state} can't be written: " in each for each in caller.failures)
    assert 0 == daemon.stop()
    assert [daemon.state] == list(daemon.state.parent.iterdir())


def beside(daemon: Daemon) -> list[Path]:
    return [each for each in daemon.state.parent.iterdir() if ".journal" in each.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of a quarter of a MiB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if made.returncode:
        pytest.skip(f"mounting is not allowed: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(path: Path, but: int) -> None:
    """Fill the disk with a file, except *but* bytes."""
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            file.truncate(max(0, file.tell() - but))


def test_a_full_disk_loses_nothing_and_brings_nothing_back(small_disk: Path, run: Run) -> None:
    """On a full disk, changing calls fail with the reason and describe works; with room, all calls work, even after a kill."""
    dice = seeded()
    state, filler = small_disk / "state.json", small_disk / "filler"
    daemon = run("--state", str(state), *FAST)
    caller = Caller("c", dice.randrange(2**32), {"x": "x" * 3000})
    for round in range(10):
        fill(filler, dice.choice([0, 4096, 16384, 65536]))
        failed = len(caller.failures)
        with daemon.client() as client:
            while len(caller.failures) < failed + 3:
                caller.act(client)
                check(daemon, [caller])
        if round % 2:
            daemon.kill()
            filler.unlink()
            daemon.start()
        else:
            filler.unlink()
        check(daemon, [caller])
        failed = len(caller.failures)
        with daemon.client() as client:
            for _ in range(3):
                caller.act(client)
            for kept in caller.kept[:-5]:
                if kept.lives:
                    caller.destroy(client, kept)
        assert failed == len(caller.failures)
    assert all(f"state file {state} can't be written: No space left on device" in each for each in caller.failures)
    assert 0 == daemon.stop()
    assert [state] == list(small_disk.iterdir())
    daemon.start()
    check(daemon, [caller])


@pytest.mark.parametrize("by_kill", [True, False])
def test_a_start_on_a_full_disk_works(small_disk: Path, run: Run, by_kill: bool) -> None:
    """A start on a full disk describes all instances; changes fail until there is room, and a stop loses nothing."""
    state, filler = small_disk / "state.json", small_disk / "filler"
    daemon = run("--state", str(state), *FAST)
    ids = [daemon.provision({"x": "x" * 3000}) for _ in range(10)]
    if by_kill:
        daemon.kill()
    else:
        assert 0 == daemon.stop()
    fill(filler, 0)
    for _ in range(2):
        daemon.start()
        assert sorted(ids) == sorted(daemon.described())
        with pytest.raises(RemoteError, match="No space left on device"):
            daemon.provision({"x": "x" * 3000})
        assert 0 == daemon.stop()
    filler.unlink()
    daemon.start()
    ids.append(daemon.provision())
    assert sorted(ids) == sorted(daemon.described())
    assert 0 == daemon.stop()
    assert [state] == list(small_disk.iterdir())


def test_the_journal_never_fills_the_disk_for_good(small_disk: Path, run: Run) -> None:
    """A daemon alone on a small disk accepts changes again soon, however many came before."""
    daemon = run("--state", str(small_disk / "state.json"), *FAST)
    id = daemon.provision()

    def label(number: int) -> bool:
        try:
            daemon.call("Instance.Label", Instance=id, Labels={"x": f"{number} " + "x" * 5000})
        except RemoteError:
            return False
        return True

    for number in range(300):
        eventually(lambda number=number: label(number), "the change is accepted")  # type: ignore[misc]
    daemon.kill()
    daemon.start()
    assert [id] == daemon.described(x="299 " + "x" * 5000)


# Many instances

MANY = 100_000


def test_a_hundred_thousand_instances(home: Path, run: Run) -> None:
    """All calls, a kill, a stop and a start work with 100,000 instances as with a few."""
    path = home / "state" / "rack1.json"
    path.parent.mkdir(parents=True)
    records = [
        Record(
            id=f"i{number:06}",
            state=State.READY,
            spec=Spec(
                tags={GROUP_TAG: f"g{number // 10}"}, properties=Raw(b'{"note":"one of many"}'), logical_id=f"l{number}"
            ),
        )
        for number in range(MANY)
    ]
    path.write_bytes(
        b"".join(document.dump_stamped(document.Content(records, ids.NEVER, mark="m"), "0123456789abcdef", 3))
    )
    daemon = run("--sync-interval", "5")
    group = [f"i{number:06}" for number in range(70_000, 70_010)]
    assert group == daemon.described(infrakit_group="g7000")
    new = daemon.provision(infrakit_group="g7000")
    daemon.call("Instance.Label", Instance=group[1], Labels={"new": "1"})
    daemon.call("Instance.Destroy", Instance=group[2])
    daemon.call("Operator.SetAside", Instance=group[3], Reason="to look at")
    left = [*group[:2], *group[4:], new]
    for end in (daemon.kill, daemon.stop):
        assert left == daemon.described(infrakit_group="g7000")
        assert [group[1]] == daemon.described(new="1")
        end()
        daemon.start()
    assert left == daemon.described(infrakit_group="g7000")
    assert [group[1]] == daemon.described(new="1")
    aside = daemon.record(group[3])
    assert aside is not None
    assert ("non-functional", "to look at") == (aside.State, aside.Reason)
    with pytest.raises(RemoteError, match=re.escape(group[2])):
        daemon.call("Instance.Destroy", Instance=group[2])
    assert 0 == daemon.stop()
    assert [daemon.state] == list(daemon.state.parent.iterdir())
    saved = daemon.saved()
    assert (MANY - 1, 1) == (len(saved["Instances"]), len(saved["NonFunctional"]))
