"""The whole plugin with physical machines, as InfraKit and operators see it: breakdowns, outages and crashes."""

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
    """Two BMCs with four machines each, in their initial state. Their credentials are in the environment."""
    monkeypatch.setenv("BMC_USER", USER)
    monkeypatch.setenv("BMC_PASSWORD", PASSWORD)
    built.reset()
    return built


def write_config(folder: Path, bmcs: Rack, **options: Any) -> str:
    path = folder / "rack.toml"
    path.write_text(bmcs.toml(**options))
    return str(path)


@pytest.fixture
def daemon(home: Path, tmp_path: Path, bmcs: Rack) -> Iterator[Daemon]:
    with Daemon(home, "--config", write_config(tmp_path, bmcs), *QUICK) as daemon:
        yield daemon


def pool(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """Return the machines by name, as `machines` shows them."""
    done = command(daemon.home, "machines", "rack1", "--raw")
    assert "" == done.stderr
    return {machine["Name"]: machine for machine in json.loads(done.stdout)}


def states(daemon: Daemon) -> dict[str, str]:
    with daemon.remote() as plugin:
        return {record.ID: record.State for record in plugin.records({})}


def test_machines_shows_the_pool(daemon: Daemon, bmcs: Rack) -> None:
    """`machines` shows each machine with its BMC, power, health, state, instance and reason."""
    id = daemon.provision({"boot": "pxe"}, logical="b0n1")
    bmcs.sick("b0n2")
    eventually(lambda: pool(daemon)["b0n2"]["Health"] == "Critical", "its health is observed")
    machines = pool(daemon)
    assert ("On", "OK", "ready", id, "") == find_cells(machines["b0n1"])
    assert ("Off", "Critical", "not free", None, "its health is Critical") == find_cells(machines["b0n2"])
    assert ("Off", "OK", "free", None, "") == find_cells(machines["b1n4"])
    command(daemon.home, "set-aside", "rack1", id, "--reason", "new disk")
    assert ("On", "OK", "non-functional", id, "new disk") == find_cells(pool(daemon)["b0n1"])
    table = command(daemon.home, "machines", "rack1").stdout.splitlines()
    assert ["MACHINE", "AT", "POWER", "HEALTH", "STATE", "INSTANCE", "REASON"] == table[0].split()
    assert ["b0n1", bmcs.addresses[0], "On", "OK", "non-functional", id, "new", "disk"] == table[1].split()


def find_cells(machine: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(machine[key] for key in ("Power", "Health", "State", "Instance", "Reason"))


def test_the_plugin_is_conformant(daemon: Daemon, bmcs: Rack) -> None:
    """`conformance` finds no violation, and leaves all machines free."""
    done = command(daemon.home, "conformance", "rack1")
    assert 0 == done.returncode, done.stdout
    eventually(lambda: {} == bmcs.tags(), "all are free")


def test_a_broken_machine_is_set_aside_with_its_reason_and_comes_back(daemon: Daemon, bmcs: Rack) -> None:
    """InfraKit does not see a broken machine until it heals."""
    broken, works = (daemon.provision(logical=name) for name in ("b0n1", "b1n1"))
    bmcs.sick("b0n1")
    eventually(lambda: [works] == daemon.described(), "it is set aside")
    record = daemon.record(broken)
    assert record is not None
    assert "its health is Critical: see its BMC's log" == record.Reason
    bmcs.well("b0n1")
    eventually(lambda: [broken, works] == daemon.described(), "it is back, at the front")


def test_an_unreachable_bmc_changes_nothing_for_a_while(home: Path, tmp_path: Path, bmcs: Rack) -> None:
    """An unreachable machine stays described, also after a restart. Later it is set aside, and never dropped."""
    with Daemon(home, "--config", write_config(tmp_path, bmcs), *QUICK) as first:
        id, other = first.provision(logical="b0n1"), first.provision(logical="b1n1")
        bmcs.fault("drop")
        eventually(lambda: pool(first)["b0n1"]["Power"] == "", "it is unreachable")
        first.stop()
    config = write_config(tmp_path, bmcs, unreachable_after=6)
    with Daemon(home, "--config", config, *QUICK) as second:
        eventually(lambda: second.call("Operator.Status")["Observed"], "the others are observed")
        assert {id, other} == set(second.described())
        eventually(lambda: [other] == second.described(), "it is set aside")
        assert {id: "non-functional", other: "ready"} == states(second)
        bmcs.mend()
        eventually(lambda: {id, other} == set(second.described()), "it is back")


def test_only_ready_machines_are_power_cycled(home: Path, tmp_path: Path, bmcs: Rack) -> None:
    """A ready machine that goes off is powered on again and stays described; one that is set aside stays off."""
    with Daemon(home, "--config", write_config(tmp_path, bmcs, power_cycle=True), *QUICK) as daemon:
        ready, aside = daemon.provision(logical="b0n1"), daemon.provision(logical="b0n2")
        command(daemon.home, "set-aside", "rack1", aside, "--reason", "new disk")
        bmcs.power("b0n2", "Off")
        bmcs.power("b0n1", "Off")
        eventually(lambda: bmcs.system("b0n1")["power_state"] == "On", "it is switched on")
        eventually(lambda: pool(daemon)["b0n1"]["Power"] == "On", "its power is observed")
        assert "Off" == bmcs.system("b0n2")["power_state"]
        assert [ready] == daemon.described()


def test_an_outage_of_the_management_network_does_not_replace_the_rack(home: Path, tmp_path: Path, bmcs: Rack) -> None:
    """In an outage, a few instances are set aside, and all others are held and stay described; later all are back."""
    with Daemon(home, "--config", write_config(tmp_path, bmcs, unreachable_after=0.5), *QUICK) as daemon:
        ids = {daemon.provision() for _ in range(8)}
        for bmc in (0, 1):
            bmcs.fault("drop", bmc)
        held = eventually(lambda: find_held(daemon, ids), "each is held, or was set aside")
        assert 5 <= len(held)
        assert held <= set(daemon.described())
        assert "instances seem lost at once" in daemon.log
        for bmc in (0, 1):
            bmcs.mend(bmc)
        eventually(lambda: not daemon.call("Operator.Status")["Held"], "none is held any more")
        eventually(lambda: ids == set(daemon.described()), "all are described")


def find_held(daemon: Daemon, ids: set[str]) -> set[str]:
    """Return the IDs of held instances, once all others are set aside."""
    held = set(daemon.call("Operator.Status")["Held"])
    aside = {id for id, state in states(daemon).items() if state == "non-functional"}
    return held if held | aside == ids else set()


def test_a_cleaning_survives_the_plugin(home: Path, tmp_path: Path, bmcs: Rack) -> None:
    """A cleaning command goes on and can write output after the plugin is killed, and the machine is free later."""
    hook = tmp_path / "wipe"
    loop = f"for n in 1 2 3 4 5 6 7 8; do echo wiping; sleep 0.1; touch {tmp_path}/start; done"
    hook.write_text(f"#!/bin/sh\n{loop}\necho clean >> {tmp_path}/end\n")
    hook.chmod(0o755)
    with Daemon(home, "--config", write_config(tmp_path, bmcs, cleaning=[str(hook)]), *QUICK) as daemon:
        daemon.call("Instance.Destroy", Instance=daemon.provision(logical="b0n1"))
        eventually((tmp_path / "start").exists, "the command runs")
        daemon.kill()
        assert not (tmp_path / "end").exists()
        eventually((tmp_path / "end").exists, "the command has succeeded")
        assert "infrakit:" in bmcs.tags()["b0n1"]
        daemon.start()
        eventually(lambda: {} == bmcs.tags(), "the machine is free")


def test_credentials_are_nowhere(daemon: Daemon, bmcs: Rack, tmp_path: Path) -> None:
    """No log of any level, error, description, state file or claims file contains credentials, whatever the BMCs do."""
    texts = []
    daemon.provision(logical="b0n1")
    for kind in ("401", "404", "500", "half", "garbage", "drop"):
        bmcs.fault(kind, 1)
        with pytest.raises(RemoteError) as error:
            daemon.provision(logical="b1n1")
        texts.append(str(error.value))
        bmcs.mend(1)
        eventually(lambda: pool(daemon)["b1n1"]["Free"], "it is free again")
    texts.append(json.dumps(daemon.call("Instance.DescribeInstances", Properties=True)))
    texts += [command(daemon.home, *each, "rack1").stdout for each in (["machines"], ["describe", "--all"], ["info"])]
    daemon.stop()
    files = [path for path in (daemon.home).rglob("*") if path.is_file()]
    assert {"log", "rack1.json", "rack1.claims"} <= {path.name for path in files}
    texts += [path.read_text() for path in files]
    assert [] == [text for text in texts if re.search(f"{PASSWORD}|\\b{USER}\\b|YWRtaW4", text)]


def test_two_daemons_share_a_pool(home: Path, tmp_path: Path, bmcs: Rack) -> None:
    """Two daemons never get the same machine, and when all are in use the error counts them."""
    config = write_config(tmp_path, bmcs)
    with Daemon(home, "--config", config, *QUICK) as one, Daemon(tmp_path / "two", "--config", config, *QUICK) as two:
        for _ in range(4):
            one.provision()
            two.provision()
        with pytest.raises(RemoteError, match="8 of 8 match: 8 in use"):
            one.provision()
        assert {4} == {len(each.described()) for each in (one, two)}
        assert 8 == len({tag.rpartition(":")[2] for tag in bmcs.tags().values()})


@pytest.mark.long
def test_daemons_that_are_killed_claim_none_twice_and_lose_none(tmp_path: Path, bmcs: Rack) -> None:
    """After kills of two daemons with one pool, amid provisions and destroys, machines and records agree."""
    config = write_config(tmp_path, bmcs)
    daemons = [
        Daemon(tmp_path / name, "--config", config, "--provision-wait", "0", "--sync-interval", "0.1") for name in "ab"
    ]
    with daemons[0], daemons[1], ThreadPoolExecutor(2) as threads:
        interrupted = sum(threads.map(lambda daemon: kill_often(daemon, bmcs), daemons))
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


def kill_often(daemon: Daemon, bmcs: Rack) -> int:
    """Use a daemon and kill it, many times. Return the number of calls that the kills interrupted."""
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
