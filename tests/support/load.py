"""Clients that put load on a daemon, and know the state that it must have after a kill at any time."""

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import Client, RemoteError
from support.harness import Daemon

Tags = dict[str, str]

MOST = 40
"""The default of a caller's most instances."""


class Kept(Struct):
    """One instance, identified by its tag `key`, and the tags that it may have; None stands for no instance."""

    key: str
    outcomes: list[Tags | None]
    id: str | None = None

    @property
    def lives(self) -> Tags | None:
        """Its tags, or None if it may not exist."""
        return self.outcomes[0] if len(self.outcomes) == 1 else None


class Caller:
    """One client that makes random calls, one after another, on instances of its own."""

    def __init__(self, name: str, seed: int, properties: Any = None, most: int = MOST) -> None:
        self.name = name
        self.dice = random.Random(f"{name} {seed}")
        self.properties = properties
        self.most = most
        self.kept: list[Kept] = []
        self.calls = 0
        self.failures: list[str] = []
        """The errors of its failed calls."""

    def work(self, daemon: Daemon) -> None:
        """Call until the daemon is killed."""
        try:
            with daemon.client() as client:
                while True:
                    self.act(client)
        except Unreachable:
            pass

    def act(self, client: Client) -> None:
        """Make one call. A call that is answered with an error changed nothing; an unanswered one may have."""
        living = [each for each in self.kept if each.lives is not None]
        choice = self.dice.random()
        if not living or (choice < 0.4 and len(living) < self.most):
            self.provision(client)
        elif choice < 0.7:
            self.label(client, self.dice.choice(living))
        else:
            self.destroy(client, self.dice.choice(living))

    def provision(self, client: Client) -> None:
        self.calls += 1
        tags = {"key": f"{self.name}-{self.calls}"}
        kept = Kept(tags["key"], [None])
        self.kept.append(kept)
        self.attempt(client, kept, tags, "Instance.Provision", Spec={"Tags": tags, "Properties": self.properties or {}})

    def label(self, client: Client, kept: Kept) -> None:
        self.calls += 1
        added = {self.dice.choice("abc"): str(self.calls)}
        self.attempt(client, kept, {**(kept.lives or {}), **added}, "Instance.Label", Instance=kept.id, Labels=added)

    def destroy(self, client: Client, kept: Kept) -> None:
        self.attempt(client, kept, None, "Instance.Destroy", Instance=kept.id)

    def attempt(self, client: Client, kept: Kept, becomes: Tags | None, method: str, **params: Any) -> None:
        before = kept.outcomes
        kept.outcomes = [*before, becomes]
        try:
            reply = json.loads(bytes(client.call(method, params)))
        except RemoteError as error:
            kept.outcomes = before
            self.failures.append(str(error))
        else:
            kept.outcomes = [becomes]
            kept.id = kept.id or reply["ID"]


def check(daemon: Daemon, callers: Sequence[Caller]) -> None:
    """Compare the described instances with the callers' knowledge, which is certain from then on."""
    described = daemon.call("Instance.DescribeInstances")["Descriptions"]
    found = {each["Tags"]["key"]: each for each in described}
    assert len(described) == len(found) == len({each["ID"] for each in described})
    for kept in (each for caller in callers for each in caller.kept):
        there = found.pop(kept.key, None)
        tags = there and there["Tags"]
        assert tags in kept.outcomes, f"{kept} is {there}"
        if there is not None:
            assert (kept.id or there["ID"]) == there["ID"]
            kept.id = there["ID"]
        kept.outcomes = [tags]
    assert {} == found
    for caller in callers:
        caller.kept = [kept for kept in caller.kept if kept.lives is not None]


@contextmanager
def loaded(daemon: Daemon, callers: Sequence[Caller]) -> Iterator[None]:
    """Let callers work, and kill the daemon at the end."""
    with ThreadPoolExecutor(len(callers)) as pool:
        working = [pool.submit(caller.work, daemon) for caller in callers]
        try:
            yield
        finally:
            daemon.kill()
    for each in working:
        each.result()


class Watcher:
    """Checks the state file and the files beside it all the time."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.looks = 0
        self.journals: set[str] = set()
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(self._look_on)
            try:
                yield
            finally:
                self._ended.set()
            looking.result()

    def _look_on(self) -> None:
        while not self._ended.is_set():
            assert {"Provider", "Instances", "NonFunctional"} == set(json.loads(self.state.read_bytes()))
            for each in self.state.parent.iterdir():
                try:
                    assert 0o600 == each.stat().st_mode & 0o777, each
                except FileNotFoundError:
                    continue
                self.journals |= {each.name} if ".journal-" in each.name else set()
            self.looks += 1
            time.sleep(0.002)
