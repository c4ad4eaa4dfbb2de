"""The plugin adopts machines without a record: orphans with its mark, and machines from before its time."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from conftest import FAST
from pyinfrakit import ids
from pyinfrakit.errors import GiveUp, Refused
from pyinfrakit.events import EventLog
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine, Provider, Record, Spec
from pyinfrakit.providers.simulator import SimulatedMachine
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.store.file import FileStore
from support.harness import Daemon, command, eventually

Run = Callable[..., Daemon]

SIMULATED = ("--provider", "simulator", *FAST)


def add_machine(daemon: Daemon, id: str, **settings: object) -> None:
    """Add a machine to the world behind the daemon's back."""
    with daemon.world.change() as scene:
        scene.machines[id] = SimulatedMachine(**settings)  # type: ignore[arg-type]


def list_orphans(daemon: Daemon) -> list[str]:
    """Return the IDs of the daemon's orphans."""
    with daemon.remote() as plugin:
        return [orphan.ID for orphan in plugin.orphans()]


@pytest.fixture
def daemon_without_state(run: Run, home: Path) -> tuple[Daemon, list[str]]:
    """Start a daemon that lost its state file but not its mark. Return it with the IDs of its three machines."""
    daemon = run(*SIMULATED, "--mark", "mine")
    lost = [daemon.provision(infrakit_group="w", tier=str(number), logical=f"m{number}") for number in range(3)]
    daemon.stop()
    daemon.state.unlink()
    daemon.start()
    eventually(lambda: set(lost) == set(list_orphans(daemon)))
    return daemon, lost


def test_orphans_are_listed_and_left_alone(daemon_without_state: tuple[Daemon, list[str]]) -> None:
    """Orphans are listed with their tags and logical IDs, but InfraKit does not see them and nothing touches them."""
    daemon, lost = daemon_without_state
    output = command(daemon.home, "orphans", "rack1")
    assert 0 == output.returncode
    assert ["ID", "HANDLE", "LOGICAL", "WORKS", "TAGS"] == output.stdout.splitlines()[0].split()
    assert f"{lost[1]} sim-{lost[1]} m1 yes infrakit.group=w,tier=1" in " ".join(output.stdout.split())
    assert set(lost) == {each["ID"] for each in json.loads(command(daemon.home, "orphans", "rack1", "--raw").stdout)}
    assert [] == daemon.described()
    assert set(lost) == daemon.world.look().machines.keys()
    assert "orphans" in daemon.log


def test_records_are_rebuilt_from_orphans(daemon_without_state: tuple[Daemon, list[str]]) -> None:
    """Adopted orphans keep their IDs, tags and logical IDs after the loss of a state file, and survive a restart."""
    daemon, lost = daemon_without_state
    adopted = command(daemon.home, "adopt", "rack1", "--orphans", "--tags", "found=yes")
    assert {f"adopted {id}" for id in lost} == set(adopted.stdout.splitlines())
    assert [] == list_orphans(daemon)
    daemon.kill()
    daemon.start()
    assert set(lost) == set(daemon.described(infrakit_group="w", found="yes"))
    record = daemon.record(lost[2])
    assert record is not None
    assert ("m2", "ready", f"sim-{lost[2]}") == (record.LogicalID, record.State, record.Handle)
    assert daemon.provision() < min(lost), "new IDs continue the old order"
    daemon.call("Instance.Destroy", Instance=lost[0])
    eventually(lambda: lost[0] not in daemon.world.look().machines)


def test_an_orphan_is_destroyed_on_command(daemon_without_state: tuple[Daemon, list[str]]) -> None:
    """`orphans --destroy` destroys only the named orphan; if one of its IDs is no orphan, it destroys nothing."""
    daemon, lost = daemon_without_state
    wrong = command(daemon.home, "orphans", "rack1", "--destroy", lost[0], "--destroy", "nobody")
    assert 1 == wrong.returncode
    assert "no orphan 'nobody'" in wrong.stderr
    result = command(daemon.home, "orphans", "rack1", "--destroy", lost[0])
    assert f"destroying {lost[0]}\n" == result.stdout
    eventually(lambda: set(lost[1:]) == daemon.world.look().machines.keys())
    eventually(lambda: daemon.record(lost[0]) is None)
    assert set(lost[1:]) == set(list_orphans(daemon))


def test_a_plugin_without_orphans_says_so(simulated: Daemon) -> None:
    """A plugin without orphans prints no output and says so on stderr."""
    for arguments in (["orphans", "rack1"], ["adopt", "rack1", "--orphans"]):
        result = command(simulated.home, *arguments)
        assert (0, "", "no orphans\n") == (result.returncode, result.stdout, result.stderr)


def test_a_foreign_machine_is_adopted_into_a_group(simulated: Daemon) -> None:
    """An adopted machine gets the mark, a hash that InfraKit never replaces, and an ID that is destroyed last."""
    add_machine(simulated, "old-server")
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


def test_machines_that_cannot_be_adopted_are_refused(simulated: Daemon) -> None:
    """Adoption fails without a trace for a missing machine, another plugin's, a known one, and a logical ID in use."""
    add_machine(simulated, "theirs", mark="somebody else")
    add_machine(simulated, "ours", logical_id=None)
    add_machine(simulated, "second")
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
    assert [] == list_orphans(simulated)


@pytest.mark.parametrize("arguments", [[], ["a", "--orphans"], ["--orphans", "--logical-id", "x"]])
def test_adopt_expects_a_machine_or_orphans(simulated: Daemon, arguments: list[str]) -> None:
    """`adopt` with neither, with both, or with one logical ID for several orphans is a usage error."""
    result = command(simulated.home, "adopt", "rack1", *arguments)
    assert 2 == result.returncode
    assert 1 == len(result.stderr.splitlines())


def test_two_orphans_with_one_logical_id_are_not_adopted(run: Run) -> None:
    """Two orphans with one logical ID are both refused until the operator names one."""
    daemon = run(*SIMULATED, "--mark", "mine")
    for id in ("0a", "0b"):
        add_machine(daemon, id, mark="mine", logical_id="x", tags={"infrakit.group": "w"})
    eventually(lambda: ["0a", "0b"] == sorted(list_orphans(daemon)))
    with pytest.raises(RemoteError, match="another orphan has logical ID x too"):
        daemon.call("Operator.AdoptOrphans")
    assert [] == daemon.described()
    daemon.call("Operator.AdoptOrphans", Instances=["0b"])
    assert ["0b"] == daemon.described(infrakit_group="w")


class Stuck(Provider):
    """A provider with one machine that can't be destroyed. At the end of an observation, it calls *meanwhile* once."""

    meanwhile: Callable[[], None] | None = None

    def provision(self, id: str, spec: Spec) -> None: ...

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        raise GiveUp("never")

    def observe(self) -> list[Machine]:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return [Machine("0a")]


def test_an_orphan_being_destroyed_is_no_longer_listed(tmp_path: Path) -> None:
    """An orphan leaves the list even if its destroy arrives while an observation that saw it completes."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with FileStore(tmp_path / "state.json", "a test") as store:
            provider = Stuck("stuck", tmp_path)
            plugin = Plugin(store, provider, "stuck", EventLog(), interval=3600)
            await plugin.start()
            while plugin.observed is None:
                await asyncio.sleep(0.01)
            assert ["0a"] == list(plugin.orphans)

            def destroy() -> None:
                asyncio.run_coroutine_threadsafe(plugin.destroy_orphans(["0a"]), loop)

            provider.meanwhile = destroy
            seen = plugin.observed
            await plugin.confirm_losses()
            while plugin.observed == seen:
                await asyncio.sleep(0.01)
            assert "0a" in plugin.records
            assert {} == plugin.orphans
            await plugin.stop(0.2)
            await store.flush()

    asyncio.run(test())


def test_the_file_provider_adopts_any_handle(daemon: Daemon) -> None:
    """The file provider adopts any handle except an empty one."""
    with pytest.raises(RemoteError, match="Handle: expected the provider's name for a machine"):
        daemon.call("Operator.Adopt", Handle="")
    id = daemon.call("Operator.Adopt", Handle="h")["Instances"][0]
    assert [id] == daemon.described()


def test_an_instance_of_another_sub_type_is_no_orphan(tmp_path: Path) -> None:
    """A sub-type refuses to adopt or destroy an instance of another, even if the provider ignores marks."""

    class Markless(Provider):
        def provision(self, id: str, spec: Spec) -> None:
            (tmp_path / f"{id}.machine").touch()

        def destroy(self, instances: Sequence[Record], reason: str) -> None:
            raise GiveUp("never")

        def observe(self) -> Iterator[Machine]:
            return (Machine(path.stem) for path in tmp_path.glob("*.machine"))

    async def test() -> None:
        with FileStore(tmp_path / "state.json", "a test", sub_types=("a", "b")) as store:
            one, other = (
                Plugin(store.part(name), Markless(name, tmp_path), name, EventLog(), interval=0.05)
                for name in ("a", "b")
            )
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
    """IDs of adopted machines are unique and sort after all minted IDs, now and later."""
    adopted = [ids.mint_adopted(1_700_000_000 + number / 1_000_000) for number in range(100)]
    assert 100 == len(set(adopted))
    assert ids.mint(ids.NEVER, 0) < min(adopted)
    assert all(len(id) <= 32 for id in adopted)
