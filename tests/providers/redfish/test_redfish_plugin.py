"""The whole plugin with physical machines: what InfraKit and an operator see, through breakdowns, outages and crashes."""

import json
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyinfrakit.rpc.client import RemoteError
from support.harness import Daemon, command, eventually
from support.rack import PASSWORD, USER, Rack, rack

QUICK = ("--sync-interval", "0.2", "--log", "5")
KILLS = 50


@pytest.fixture(scope="module")
def built() -> Iterator[Rack]:
    with rack(2, 4) as rack_:
        yield rack_


@pytest.fixture
def bmcs(built: Rack, monkeypatch: pytest.MonkeyPatch) -> Rack:
    """Two BMCs with four machines each, as new, whose credentials are in the environment."""
    monkeypatch.setenv("BMC_USER", USER)
    monkeypatch.setenv("BMC_PASSWORD", PASSWORD)
    built.reset()
    return built


def configured(folder: Path, bmcs: Rack, **options: Any) -> str:
    path = folder / "rack.toml"
    path.write_text(bmcs.toml(**options))
    return str(path)


@pytest.fixture
def daemon(home: Path, tmp_path: Path, bmcs: Rack) -> Iterator[Daemon]:
    with Daemon(home, "--config", configured(tmp_path, bmcs), *QUICK) as daemon:
        yield daemon


def pool(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Give the machines by name, as `machines` shows them."""
    done = command(daemon.home, "machines", "rack1", "--raw")
    assert "" == done.stderr
    return {machine["Name"]: machine for machine in json.loads(done.stdout)}


def states(daemon: Daemon) -> dict[str, str]:
    with daemon.remote() as plugin:
        return {record.ID: record.State for record in plugin.records({})}


def test_machines_shows_the_pool(daemon: Daemon, bmcs: Rack) -> None:
    """Each machine with its BMC, power and health, and whether it is free, in use by which instance, or set aside and why."""
    id = daemon.provision({"boot": "pxe"}, logical="b0n1")
    bmcs.sick("b0n2")
    eventually(lambda: pool(daemon)["b0n2"]["Health"] == "Critical", "it is seen")
    found = pool(daemon)
    assert ("On", "OK", "ready", id, "") == shown(found["b0n1"])
    assert ("Off", "Critical", "not free", None, "its health is Critical") == shown(found["b0n2"])
    assert ("Off", "OK", "free", None, "") == shown(found["b1n4"])
    command(daemon.home, "set-aside", "rack1", id, "--reason", "new disk")
    assert ("On", "OK", "non-functional", id, "new disk") == shown(pool(daemon)["b0n1"])
    table = command(daemon.home, "machines", "rack1").stdout.splitlines()
    assert ["MACHINE", "AT", "POWER", "HEALTH", "STATE", "INSTANCE", "REASON"] == table[0].split()
    assert ["b0n1", bmcs.addresses[0], "On", "OK", "non-functional", id, "new", "disk"] == table[1].split()


def shown(machine: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(machine[key] for key in ("Power", "Health", "State", "Instance", "Reason"))


def test_it_does_what_infrakit_relies_on(daemon: Daemon, bmcs: Rack) -> None:
    """`conformance` finds nothing that does not hold, and leaves all machines free."""
    done = command(daemon.home, "conformance", "rack1")
    assert 0 == done.returncode, done.stdout
    eventually(lambda: {} == bmcs.tags(), "all are free")


def test_a_broken_machine_is_set_aside_with_its_reason_and_comes_back(daemon: Daemon, bmcs: Rack) -> None:
    """InfraKit sees it no more until it heals."""
    broken, works = (daemon.provision(logical=name) for name in ("b0n1", "b1n1"))
    bmcs.sick("b0n1")
    eventually(lambda: [works] == daemon.described(), "it is set aside")
    record = daemon.record(broken)
    assert record is not None
    assert "its health is Critical: its BMC's log says more" == record.Reason
    bmcs.well("b0n1")
    eventually(lambda: [broken, works] == daemon.described(), "it is back, at the front")


def test_a_bmc_that_can_not_be_reached_changes_nothing_for_a_while(home: Path, tmp_path: Path, bmcs: Rack) -> None:
    """Its machine stays described, also over a restart; after the settable time it is set aside, and never dropped."""
    with Daemon(home, "--config", configured(tmp_path, bmcs), *QUICK) as first:
        id, other = first.provision(logical="b0n1"), first.provision(logical="b1n1")
        bmcs.fault("drop")
        eventually(lambda: pool(first)["b0n1"]["Power"] == "", "it is not seen")
        first.stop()
    config = configured(tmp_path, bmcs, unreachable_after=6)
    with Daemon(home, "--config", config, *QUICK) as second:
        eventually(lambda: second.call("Operator.Status")["Observed"], "the others are observed")
        assert {id, other} == set(second.described())
        eventually(lambda: [other] == second.described(), "it is set aside")
        assert {id: "non-functional", other: "ready"} == states(second)
        bmcs.mend()
        eventually(lambda: {id, other} == set(second.described()), "it is back")


def test_only_what_is_ready_is_power_cycled(home: Path, tmp_path: Path, bmcs: Rack) -> None:
    """One that goes off is switched on again, and InfraKit sees no change; one that is set aside by hand stays off."""
    with Daemon(home, "--config", configured(tmp_path, bmcs, power_cycle=True), *QUICK) as daemon:
        ready, aside = daemon.provision(logical="b0n1"), daemon.provision(logical="b0n2")
        command(daemon.home, "set-aside", "rack1", aside, "--reason", "new disk")
        bmcs.power("b0n2", "Off")
        bmcs.power("b0n1", "Off")
        eventually(lambda: bmcs.system("b0n1")["power_state"] == "On", "it is switched on")
        eventually(lambda: pool(daemon)["b0n1"]["Power"] == "On", "that is seen")
        assert "Off" == bmcs.system("b0n2")["power_state"]
        assert [ready] == daemon.described()


def test_a_management_network_that_fails_does_not_have_the_rack_replaced(
    home: Path, tmp_path: Path, bmcs: Rack
) -> None:
    """Beyond the few that may be lost, whose time is up first, all are held and stay described; they come back with it."""
    with Daemon(home, "--config", configured(tmp_path, bmcs, unreachable_after=0.5), *QUICK) as daemon:
        made = {daemon.provision() for _ in range(8)}
        for bmc in (0, 1):
            bmcs.fault("drop", bmc)
        held = eventually(lambda: _held(daemon, made), "each is held, or was set aside")
        assert 5 <= len(held)
        assert held <= set(daemon.described())
        assert "instances seem lost at once" in daemon.log
        for bmc in (0, 1):
            bmcs.mend(bmc)
        eventually(lambda: not daemon.call("Operator.Status")["Held"], "none is held any more")
        eventually(lambda: made == set(daemon.described()), "all are described")


def _held(daemon: Daemon, made: set[str]) -> set[str]:
    """Give what is held, once nothing is left that is neither that nor set aside."""
    held = set(daemon.call("Operator.Status")["Held"])
    aside = {id for id, state in states(daemon).items() if state == "non-functional"}
    return held if held | aside == made else set()


def test_credentials_are_nowhere(daemon: Daemon, bmcs: Rack, tmp_path: Path) -> None:
    """In no log, with all that it can say, error, description, state file or claims, whatever the BMCs do."""
    said = []
    daemon.provision(logical="b0n1")
    for kind in ("401", "404", "500", "half", "garbage", "drop"):
        bmcs.fault(kind, 1)
        with pytest.raises(RemoteError) as error:
            daemon.provision(logical="b1n1")
        said.append(str(error.value))
        bmcs.mend(1)
        eventually(lambda: pool(daemon)["b1n1"]["Free"], "it is free again")
    said.append(json.dumps(daemon.call("Instance.DescribeInstances", Properties=True)))
    said += [command(daemon.home, *each, "rack1").stdout for each in (["machines"], ["describe", "--all"], ["info"])]
    daemon.stop()
    files = [path for path in (daemon.home).rglob("*") if path.is_file()]
    assert {"log", "rack1.json", "rack1.claims"} <= {path.name for path in files}
    texts = [*said, *(path.read_text() for path in files)]
    assert [] == [text for text in texts if re.search(f"{PASSWORD}|\\b{USER}\\b|YWRtaW4", text)]


def test_two_daemons_share_a_pool(home: Path, tmp_path: Path, bmcs: Rack) -> None:
    """They ask for machines at the same time, and none is given twice; when all are in use the error counts them."""
    config = configured(tmp_path, bmcs)
    with Daemon(home, "--config", config, *QUICK) as one, Daemon(tmp_path / "two", "--config", config, *QUICK) as two:
        for _ in range(4):
            one.provision()
            two.provision()
        with pytest.raises(RemoteError, match="8 of 8 fit, of which 8 in use"):
            one.provision()
        assert {4} == {len(each.described()) for each in (one, two)}
        assert 8 == len({tag.rpartition(":")[2] for tag in bmcs.tags().values()})


@pytest.mark.long
def test_daemons_that_are_killed_claim_none_twice_and_lose_none(tmp_path: Path, bmcs: Rack) -> None:
    """Two that share a pool are killed in the midst of provisions and destroys; in the end machines and records agree."""
    config = configured(tmp_path, bmcs)
    daemons = [
        Daemon(tmp_path / name, "--config", config, "--provision-wait", "0", "--sync-interval", "0.1") for name in "ab"
    ]
    with daemons[0], daemons[1], ThreadPoolExecutor(2) as threads:
        interrupted = sum(threads.map(lambda daemon: killed(daemon, bmcs), daemons))
        assert interrupted > KILLS // 10, "too few calls were under way to show anything"
        for daemon in daemons:
            eventually(lambda: set(states(daemon).values()) <= {"ready"}, "all work is done", 60)  # noqa: B023
        claimed = sorted(tag.rpartition(":")[2] for tag in bmcs.tags().values())
        assert sorted(id for daemon in daemons for id in daemon.described()) == claimed
        for daemon in daemons:
            for id in daemon.described():
                daemon.call("Instance.Destroy", Instance=id)
            eventually(lambda: not states(daemon), "all are destroyed", 60)  # noqa: B023
        eventually(lambda: all(machine["Free"] for machine in pool(daemons[0]).values()), "all are free again")
    assert {} == bmcs.tags()
    assert {"Off"} == {system["power_state"] for bmc in (0, 1) for system in bmcs.state(bmc)["systems"].values()}


def killed(daemon: Daemon, bmcs: Rack) -> int:
    """Use a daemon, and kill it, again and again; give how many calls were under way then."""
    chance = random.Random(daemon.home.name)
    interrupted = 0
    for _ in range(KILLS // 2):
        known = daemon.described()
        for id in known[: chance.randint(0, len(known))]:
            try:
                daemon.call("Instance.Destroy", Instance=id)
            except RemoteError as error:
                if "no instance" not in str(error):  # its provision may have failed meanwhile
                    raise
        for _ in range(chance.randint(1, 3)):
            daemon.provision({"boot": "pxe"})
        time.sleep(chance.uniform(0, 0.4))
        daemon.kill()
        interrupted += len(re.findall(r'"State": *"(provisioning|destroying)"', daemon.exported().decode()))
        claimed = list(bmcs.tags().values())
        assert len(set(claimed)) == len(claimed), "an instance has two machines"
        daemon.start()
    return interrupted
