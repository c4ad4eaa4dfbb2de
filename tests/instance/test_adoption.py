"""Machines that exist without a record: orphans, and those that had nothing to do with the plugin before."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path

import pytest

from conftest import FAST
from pyinfrakit import ids
from pyinfrakit.errors import GiveUp, Refused
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine, Provider, Record, Spec
from pyinfrakit.providers.simulator import SimulatedMachine
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.store import Store
from pyinfrakit.store.file import FileStore
from pyinfrakit.store.records import Change
from support.harness import Daemon, command, eventually

Run = Callable[..., Daemon]

SIMULATED = ("--provider", "simulator", *FAST)


def placed(daemon: Daemon, id: str, **settings: object) -> None:
    """Put a machine into the world behind the daemon's back."""
    with daemon.world.change() as scene:
        scene.machines[id] = SimulatedMachine(**settings)  # type: ignore[arg-type]


def orphans(daemon: Daemon) -> list[str]:
    with daemon.remote() as plugin:
        return [orphan.ID for orphan in plugin.orphans()]


@pytest.fixture
def lost(run: Run, home: Path) -> tuple[Daemon, list[str]]:
    """A daemon that has lost its state file, but for the mark, and the IDs of the three machines that are there."""
    daemon = run(*SIMULATED, "--mark", "mine")
    made = [daemon.provision(infrakit_group="w", tier=str(number), logical=f"m{number}") for number in range(3)]
    daemon.stop()
    daemon.state.unlink()
    daemon.start()
    eventually(lambda: set(made) == set(orphans(daemon)))
    return daemon, made


def test_orphans_are_told_and_left_alone(lost: tuple[Daemon, list[str]]) -> None:
    """They are listed with what is written on them, not described, and not touched."""
    daemon, made = lost
    shown = command(daemon.home, "orphans", "rack1")
    assert 0 == shown.returncode
    assert ["ID", "HANDLE", "LOGICAL", "WORKS", "TAGS"] == shown.stdout.splitlines()[0].split()
    assert f"{made[1]} sim-{made[1]} m1 yes infrakit.group=w,tier=1" in " ".join(shown.stdout.split())
    assert set(made) == {each["ID"] for each in json.loads(command(daemon.home, "orphans", "rack1", "--raw").stdout)}
    assert [] == daemon.described()
    assert set(made) == daemon.world.look().machines.keys()
    assert "orphans" in daemon.log


def test_records_are_rebuilt_from_orphans(lost: tuple[Daemon, list[str]]) -> None:
    """After a lost state file they have their IDs, tags and logical IDs again, and survive a restart."""
    daemon, made = lost
    adopted = command(daemon.home, "adopt", "rack1", "--orphans", "--tags", "found=yes")
    assert {f"adopted {id}" for id in made} == set(adopted.stdout.splitlines())
    assert [] == orphans(daemon)
    daemon.kill()
    daemon.start()
    assert set(made) == set(daemon.described(infrakit_group="w", found="yes"))
    record = daemon.record(made[2])
    assert record is not None
    assert ("m2", "ready", f"sim-{made[2]}") == (record.LogicalID, record.State, record.Handle)
    assert daemon.provision() < min(made), "IDs go on where they were"
    daemon.call("Instance.Destroy", Instance=made[0])
    eventually(lambda: made[0] not in daemon.world.look().machines)


def test_an_orphan_is_destroyed_on_command(lost: tuple[Daemon, list[str]]) -> None:
    """That one, and no other; what is no orphan is refused, and then nothing is done."""
    daemon, made = lost
    wrong = command(daemon.home, "orphans", "rack1", "--destroy", made[0], "--destroy", "nobody")
    assert 1 == wrong.returncode
    assert "no instance 'nobody'" in wrong.stderr
    done = command(daemon.home, "orphans", "rack1", "--destroy", made[0])
    assert f"destroying {made[0]}\n" == done.stdout
    eventually(lambda: set(made[1:]) == daemon.world.look().machines.keys())
    eventually(lambda: daemon.record(made[0]) is None)
    assert set(made[1:]) == set(orphans(daemon))


def test_no_orphans(simulated: Daemon) -> None:
    """Nothing is printed as output, and it is said."""
    for arguments in (["orphans", "rack1"], ["adopt", "rack1", "--orphans"]):
        result = command(simulated.home, *arguments)
        assert (0, "", "no orphans\n") == (result.returncode, result.stdout, result.stderr)


def test_a_machine_that_existed_before_is_taken_in(simulated: Daemon) -> None:
    """It is marked, becomes a member of the group with the hash that InfraKit does not replace, and the last one to go."""
    placed(simulated, "old-server")
    newer = simulated.provision(infrakit_group="w")
    result = command(
        simulated.home, "adopt", "rack1", "old-server", "--group", "w", "--tags", "site=b", "--logical-id", "10.0.0.9"
    )
    assert 0 == result.returncode, result.stderr
    id = result.stdout.split()[1]
    tags = {"infrakit.group": "w", "infrakit.config_sha": "bootstrap", "infrakit.config.hash": "bootstrap", "site": "b"}
    record = simulated.record(id)
    assert record is not None
    assert (tags, "10.0.0.9", "ready", "old-server") == (record.Tags, record.LogicalID, record.State, record.Handle)
    assert newer < id
    machine = simulated.world.look().machines[id]
    assert ("old-server", tags) == (machine.handle, machine.tags)
    simulated.kill()
    simulated.start()
    assert {id, newer} == set(simulated.described(infrakit_group="w"))


def test_what_can_not_be_adopted_is_refused(simulated: Daemon) -> None:
    """A machine that is not there, one of somebody else's, one that is known already; and nothing is left of the attempt."""
    placed(simulated, "theirs", mark="somebody else")
    placed(simulated, "ours", logical_id=None)
    placed(simulated, "second")
    command(simulated.home, "adopt", "rack1", "ours", "--logical-id", "a")
    known = simulated.described()
    for handle, options, says in (
        ("nobody", [], "no machine 'nobody'"),
        ("theirs", [], "already belongs to a plugin"),
        ("ours", [], "is machine ours already"),
        ("second", ["--logical-id", "a"], "has logical ID a in no group already"),
    ):
        result = command(simulated.home, "adopt", "rack1", handle, *options)
        assert 1 == result.returncode
        assert says in result.stderr
        assert 1 == len(result.stderr.splitlines())
    assert known == simulated.described()
    assert [] == orphans(simulated)


@pytest.mark.parametrize("arguments", [[], ["a", "--orphans"], ["--orphans", "--logical-id", "x"]])
def test_adopt_wants_a_machine_or_orphans(simulated: Daemon, arguments: list[str]) -> None:
    """Neither, both, or one logical ID for several is wrong use."""
    result = command(simulated.home, "adopt", "rack1", *arguments)
    assert 2 == result.returncode
    assert 1 == len(result.stderr.splitlines())


def test_two_orphans_with_one_logical_id_are_not_adopted(run: Run) -> None:
    """Which of them is it is for the operator to say; none is adopted meanwhile."""
    daemon = run(*SIMULATED, "--mark", "mine")
    for id in ("0a", "0b"):
        placed(daemon, id, mark="mine", logical_id="x", tags={"infrakit.group": "w"})
    eventually(lambda: ["0a", "0b"] == sorted(orphans(daemon)))
    with pytest.raises(RemoteError, match="another orphan has logical ID x too"):
        daemon.call("Operator.AdoptOrphans")
    assert [] == daemon.described()
    daemon.call("Operator.AdoptOrphans", Instances=["0b"])
    assert ["0b"] == daemon.described(infrakit_group="w")


class Slow(Store):
    """Another store; who waits for it waits for something else, too, once."""

    def __init__(self, other: Store) -> None:
        self.location, self.records, self.mark = other.location, other.records, other.mark
        self.commit_now = other.commit
        self.flush_now = other.flush
        self.meanwhile: Callable[[], Coroutine[None, None, None]] | None = None

    def commit(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        if not changes and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            return asyncio.ensure_future(meanwhile())
        return self.commit_now(*changes, urgent=urgent)

    def part(self, sub_type: str) -> Store:
        return self

    async def flush(self) -> None:
        await self.flush_now()

    def close(self) -> None:
        """Do nothing: the other store is closed by its own owner."""


class Stuck(Provider):
    """Has one machine, for ever."""

    def provision(self, id: str, spec: Spec) -> None: ...

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        raise GiveUp("never")

    def observe(self) -> list[Machine]:
        return [Machine("0a")]


def test_an_orphan_that_is_destroyed_is_told_no_more(tmp_path: Path) -> None:
    """Also where the operator's call came while an observation that saw it was concluded: it could be adopted again."""

    async def test() -> None:
        with FileStore(tmp_path / "state.json", "a test") as file:
            store = Slow(file)
            plugin = Plugin(store, Stuck("stuck", tmp_path), interval=3600)
            await plugin.start()
            while plugin.observed is None:
                await asyncio.sleep(0.01)
            assert ["0a"] == list(plugin.orphans)
            store.meanwhile = lambda: plugin.destroy_orphans(["0a"])
            seen = plugin.observed
            plugin.confirm_losses()
            while plugin.observed == seen:
                await asyncio.sleep(0.01)
            assert "0a" in plugin.records
            assert {} == plugin.orphans
            await plugin.stop(0.2)
            await store.flush()

    asyncio.run(test())


def test_the_file_provider_adopts_anything_with_a_name(daemon: Daemon) -> None:
    """A handle must be given."""
    with pytest.raises(RemoteError, match="Handle: expected the provider's name for a machine"):
        daemon.call("Operator.Adopt", Handle="")
    id = daemon.call("Operator.Adopt", Handle="h")["Instances"][0]
    assert [id] == daemon.described()


def test_an_instance_of_another_sub_type_is_no_orphan(tmp_path: Path) -> None:
    """Where a provider ignores the mark it is neither adopted nor destroyed: an ID that stands twice is a damaged file."""

    class Markless(Provider):
        def provision(self, id: str, spec: Spec) -> None:
            (tmp_path / f"{id}.machine").touch()

        def destroy(self, instances: Sequence[Record], reason: str) -> None:
            raise GiveUp("never")

        def observe(self) -> Iterator[Machine]:
            return (Machine(path.stem) for path in tmp_path.glob("*.machine"))

    async def test() -> None:
        with FileStore(tmp_path / "state.json", "a test", sub_types=("a", "b")) as store:
            one, other = (Plugin(store.part(type), Markless(type, tmp_path), interval=0.05) for type in ("a", "b"))
            await one.start()
            await other.start()
            id = await one.provision(Spec())
            while id not in other.orphans:
                await asyncio.sleep(0.01)
            with pytest.raises(Refused, match="is an instance of sub-type a"):
                await other.adopt_orphans([], {})
            with pytest.raises(Refused, match="is an instance of sub-type a"):
                await other.destroy_orphans([id])
            await asyncio.gather(one.stop(0.2), other.stop(0.2))
            await store.flush()

    asyncio.run(test())
    FileStore(tmp_path / "state.json", "the next", sub_types=("a", "b")).__exit__()


def test_ids_of_adopted_machines_sort_last_and_differ() -> None:
    """After all that are minted, now or later."""
    adopted = [ids.mint_adopted(1_700_000_000 + number / 1_000_000) for number in range(100)]
    assert 100 == len(set(adopted))
    assert ids.mint(ids.NEVER, 0) < min(adopted)
    assert all(len(id) <= 32 for id in adopted)
