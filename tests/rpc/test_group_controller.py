"""A controller that behaves as InfraKit's does drives a group through its life."""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support.harness import Daemon, eventually

GROUP, HASH = "infrakit.group", "infrakit.config.hash"
CLIENT_TIMEOUT = 15.0
"""Seconds before InfraKit's clients time out."""


class Controller:
    """The last release of InfraKit's group controller, with the vanilla flavor.

    It polls the members by tag, provisions missing ones in parallel, and shrinks the group by destroying
    the smallest IDs. A rolling update replaces members one by one, by ID. It continues as soon as the
    replacement is described, because the vanilla flavor calls every member healthy.
    """

    def __init__(self, daemon: Daemon, group: str, size: int, properties: Any) -> None:
        self.daemon = daemon
        self.group = group
        self.size = size
        self.properties = properties
        self.errors: list[str] = []
        self._pool = ThreadPoolExecutor(16)
        self._over = threading.Event()
        self._polling = threading.Thread(target=self._poll)

    def __enter__(self) -> "Controller":
        self._polling.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._polling.join()
        self._pool.shutdown()

    @property
    def hash(self) -> str:
        return hashlib.sha1(repr(self.properties).encode()).hexdigest()

    def members(self) -> list[Any]:
        """Return the descriptions of the group's members, sorted by ID."""
        found = self._call("Instance.DescribeInstances", Tags={GROUP: self.group}, Properties=True)["Descriptions"]
        return sorted(found, key=lambda member: str(member["ID"]))

    def ids(self) -> list[str]:
        return [member["ID"] for member in self.members()]

    def update(self, properties: Any) -> None:
        """Commit new properties and replace the members one by one."""
        self.properties = properties
        while undesired := [member["ID"] for member in self.members() if member["Tags"][HASH] != self.hash]:
            before = self._desired()
            self._call("Instance.Destroy", Instance=undesired[0], Context={"Reason": "rolling_update"})
            self._wait_for_desired(before + 1)

    def _wait_for_desired(self, count: int) -> None:
        eventually(lambda: self._desired() == count, "the replacement is described")

    def destroy(self) -> None:
        """Destroy the group's members one after the other."""
        self._over.set()
        self._polling.join()
        for id in self.ids():
            self._call("Instance.Destroy", Instance=id, Context={"Reason": "terminate"})

    def _desired(self) -> int:
        return sum(member["Tags"][HASH] == self.hash for member in self.members())

    def _poll(self) -> None:
        while not self._over.wait(0.1):
            ids = self.ids()
            if len(ids) < self.size:
                list(self._pool.map(lambda _: self._provision(), range(self.size - len(ids))))
            for id in ids[: len(ids) - self.size if len(ids) > self.size else 0]:
                self._call("Instance.Destroy", Instance=id, Context={"Reason": "terminate"})

    def _provision(self) -> None:
        spec = {"Properties": self.properties, "Tags": {GROUP: self.group, HASH: self.hash}, "Init": "#!/bin/sh"}
        self._call("Instance.Provision", Spec=spec)

    def _call(self, method: str, **params: Any) -> Any:
        began = time.monotonic()
        try:
            return self.daemon.call(method, **params)
        except Exception as error:
            self.errors.append(f"{method}: {error}")
            raise
        finally:
            if time.monotonic() - began > CLIENT_TIMEOUT:
                self.errors.append(f"{method} took longer than the timeout of InfraKit's clients")


class Watcher:
    """Count working machines continuously. *fewest* is the smallest number so far."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.fewest = 1000

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            machines = self._daemon.world.look().machines.values()
            self.fewest = min(self.fewest, sum(not machine.problem(time.time()) for machine in machines))


def test_the_life_of_a_group(run: Callable[..., Daemon]) -> None:
    """A group heals, grows, shrinks to its oldest members, rolls without dropping below two machines, and is destroyed."""
    daemon = run("--provider", "simulator", "--sync-interval", "0.1")
    with Controller(daemon, "workers", 3, {"delay": 0.2}) as controller:
        eventually(lambda: len(controller.ids()) == 3 and is_all_ready(daemon), "three instances")
        first = controller.ids()

        with daemon.world.change() as scene:
            del scene.machines[first[1]]
        eventually(lambda: first[1] not in controller.ids(), "the killed machine is noticed")
        eventually(lambda: len(controller.ids()) == 3, "the killed machine is replaced")
        eventually(lambda: is_all_ready(daemon))
        oldest = controller.ids()
        assert {first[0], first[2]} < set(oldest)

        controller.size = 6
        eventually(lambda: len(controller.ids()) == 6, "six instances")
        controller.size = 3
        eventually(lambda: controller.ids() == oldest, "only the three oldest remain")
        eventually(lambda: daemon.machines() == oldest and is_all_ready(daemon), "no other machine remains")

        with Watcher(daemon) as watcher:
            controller.update({"delay": 2})
        assert 2 == watcher.fewest
        rolled = controller.ids()
        assert 3 == len(rolled)
        assert not set(rolled) & set(oldest)
        assert [{"delay": 2}] * 3 == [member["Properties"] for member in controller.members()]

        eventually(lambda: is_all_ready(daemon))
        controller.destroy()
        assert [] == controller.ids()
        eventually(lambda: daemon.machines() == [], "no machine remains")
        assert [] == controller.errors
    assert 0 == daemon.stop()
    assert ([], []) == (daemon.saved()["Instances"], daemon.saved()["NonFunctional"])


def is_all_ready(daemon: Daemon) -> bool:
    with daemon.remote() as plugin:
        return {record.State for record in plugin.records({})} == {"ready"}
