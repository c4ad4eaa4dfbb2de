"""A group survives a kill -9 of the whole process, plugin and controller, at any moment."""

import json
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pyinfrakit.group.status import GroupStatus, Phase
from pyinfrakit.providers.simulator import World
from pyinfrakit.rpc.client import Client, RemoteError
from pyinfrakit.rpc.group.client import GroupClient
from pyinfrakit.rpc.operator.client import OperatorClient
from support.harness import PATIENCE, Daemon, eventually

KILLS = 100
SIZE, SURGE = 6, 1
FAULTS: tuple[dict[str, float], ...] = (
    {"delay": 0.1, "destroy_delay": 0.3},
    {"delay": 0.3, "failure_rate": 0.2},
    {"delay": 0.1, "breaks_after": 1.0, "heals_after": 0.3},
    {"delay": 0.1, "destroy_delay": 0.1, "dies_after": 2.0},
)
"""Machines that are slow, that fail, that flap and that vanish."""


class Fleet:
    """A group `g` on the simulator `sim`, both in one process that dies and comes back."""

    def __init__(self, run: Callable[..., Daemon], home: Path) -> None:
        path = home.parent / "fleet.json"
        path.write_text(json.dumps({"plugins": {"sim": {"provider": "simulator"}}, "groups": [group({}, 0)]}))
        program = (sys.executable, "-m", "pyinfrakit", "up", str(path))
        self.daemon = run("--poll-interval", "0.3", name="group", program=program)
        self.world = World(home / "state" / "sim.world")

    def restart(self) -> None:
        self.daemon.kill()
        self.daemon.start()

    def status(self) -> GroupStatus:
        with self.daemon.client() as client:
            return GroupClient(client).status("g")

    def commit(self, properties: dict[str, float], version: int) -> None:
        self.daemon.call("Group.CommitGroup", Spec=group(properties, version), Pretend=False)

    def resume(self) -> None:
        """Go on with an update that stopped at a machine that failed."""
        if self.status().phase is Phase.STOPPED:
            with suppress(RemoteError), self.daemon.client() as client:  # it may have ended meanwhile
                GroupClient(client).resume("g")

    def records(self) -> dict[str, str]:
        """Return the states of the plugin's records."""
        with Client(self.daemon.home / "plugins" / "sim", PATIENCE) as client:
            return {each.ID: each.State for each in OperatorClient(client).records({})}

    def count_live(self) -> int:
        """Return the number of members in service, without those that failed and have come back."""
        states, now = self.records(), time.time()
        machines = self.world.look().machines
        back = {id for id, each in machines.items() if each.heals_at is not None and now >= each.heals_at}
        return sum(state in ("ready", "provisioning") for id, state in states.items() if id not in back)


def group(properties: dict[str, float], version: int) -> dict[str, Any]:
    instance = {"Plugin": "sim", "Properties": properties}
    tags = {"version": str(version)}
    return {
        "ID": "g",
        "Properties": {
            "Allocation": {"Size": SIZE},
            "Instance": instance,
            "Flavor": {"Plugin": "vanilla", "Properties": {"Tags": tags}},
            "Updating": {"Surge": SURGE, "Deadline": 20},
        },
    }


@pytest.mark.long
def test_a_group_survives_a_hundred_kills_during_updates(run: Callable[..., Daemon], home: Path) -> None:
    """Kills at random moments of updates leave no machine doubled, lost or over, and the last update completes."""
    fleet = Fleet(run, home)
    eventually(fleet.count_live, "the first commit is made")
    chance = random.Random(12)
    for number in range(KILLS):
        if number % 4 == 0:
            fleet.commit(FAULTS[number // 4 % len(FAULTS)], number)
        fleet.resume()
        time.sleep(chance.uniform(0, 0.4))
        fleet.restart()
        assert fleet.count_live() <= SIZE + SURGE, fleet.records()

    fleet.commit({}, KILLS)

    def is_complete() -> bool:
        fleet.resume()
        status = fleet.status()
        versions = [member.tags["version"] for member in status.members]
        return versions == [str(KILLS)] * SIZE and status.phase is Phase.IDLE and status.is_converged

    eventually(is_complete, "the last update completes")
    eventually(lambda: set(fleet.records().values()) == {"ready"}, "nothing is under way")
    status = fleet.status()
    members = sorted(member.id for member in status.members)
    assert (SIZE, SIZE, 0) == (len(set(members)), status.healthy, status.outdated)
    assert members == sorted(fleet.records())
    assert members == sorted(fleet.world.look().machines)
    assert "Traceback" not in fleet.daemon.log
