"""The instances of one run. They are destroyed in all cases, and instances that existed before are never touched."""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import Raw, Struct

from pyinfrakit.conformance.report import CannotTell, DoesNotHold, Left, NotApplicable, Result, Verdict
from pyinfrakit.conformance.session import InstanceView, NotListening, ProvisionReply, Reply, Session
from pyinfrakit.errors import PyInfrakitError, Unreachable
from pyinfrakit.record import CONFIG_TAGS, GROUP_TAG
from pyinfrakit.rpc.client import RemoteError

RACK = "conformance.rack"
TIER = "conformance.tier"

POLL = 10.0
"""Seconds between two polls of InfraKit's group controller. It can't notice anything that takes less."""

PAUSE = 0.2
"""Seconds between two looks at an instance that is expected to appear or to disappear."""


class WantedInstance(Struct, frozen=True):
    """An instance to provision. *name* is for messages."""

    name: str
    tags: Mapping[str, str]
    logical_id: str | None = None


class Intent:
    """A run's group and its instances: three, one after the other, then *equal* *count* times at once.

    The group is random, so that no existing instance is in it. *mark* is the tag that all instances of the run
    have. The controller, too, provisions equal instances in parallel.
    """

    def __init__(self, count: int, properties: Raw) -> None:
        self.count = count
        self.properties = properties
        self.group = f"conformance-{secrets.token_hex(4)}"
        self.mark = {GROUP_TAG: self.group}
        tags = {**self.mark, CONFIG_TAGS[0]: "udO4s1janmGySYj4EImcMKB_D1s=", TIER: "web"}
        self.first = WantedInstance("the first instance", {**tags, RACK: "r1"})
        self.second = WantedInstance("the second instance", {**tags, RACK: "r2"})
        self.logical = WantedInstance("the instance with a logical ID", {**tags, RACK: "r1"}, f"{self.group}-node")
        self.equal = WantedInstance("each of the equal instances", {**tags, RACK: "r3"})

    def __str__(self) -> str:
        tags = ", ".join(f"{key}={value}" for key, value in self.first.tags.items() if key != RACK)
        return (
            f"creates {3 + self.count} instances and destroys them at the end: 3 one after the other, {self.count} at "
            f"once; with the tags {tags}, {RACK}=r1, r2 or r3; one with the logical ID {self.logical.logical_id}"
        )


class Trial(Struct):
    """A plugin and this run's instances. *handshake* is one that the plugin has, *version* its newest version."""

    session: Session
    intent: Intent
    handshake: str
    version: tuple[int, ...]
    existing: set[str] | None = None
    """The IDs from before the run, or None if they are unknown. Then it is not safe to provision."""
    members: dict[str, str] = {}
    """The IDs of the instances that were provisioned one by one, by their names, in order."""
    at_once: dict[str, bool | str] = {}
    """By ID, whether the first describe after the provision included it, or why that is unknown."""
    equal_ids: list[str] = []
    """The IDs of the instances that were provisioned at once."""
    sightings: set[str] = set()
    """The IDs of this run's instances that the plugin has described."""
    destroyed_ids: set[str] = set()
    """The IDs whose Destroy succeeded."""
    _ids: dict[str, None] = {}
    _unanswered: int = 0

    @property
    def grace(self) -> float:
        """Seconds to wait for a change that has until InfraKit's next poll."""
        return min(POLL, self.session.timeout)

    def provision(self, wanted: WantedInstance, copies: int = 1) -> Sequence[str | PyInfrakitError]:
        """Provision instances at once. Return the ID of each, or its error. Raise `CannotTell`."""
        if self.existing is None:
            raise CannotTell("DescribeInstances fails, so no instance was created")
        # A thread even for one copy: an interrupt then waits for the reply, and the clean-up knows the ID.
        with ThreadPoolExecutor(copies) as pool:
            return list(pool.map(self._provision, [wanted] * copies))

    def _provision(self, wanted: WantedInstance) -> str | PyInfrakitError:
        spec = {
            "Properties": self.intent.properties,
            "Tags": wanted.tags,
            "Init": "",
            "LogicalID": wanted.logical_id,
            "Attachments": None,
        }
        try:
            id = self.session.call("Instance.Provision", {"Spec": spec}, ProvisionReply).ID or ""
        except (RemoteError, Unreachable) as error:
            # Without a reply, there may be an instance all the same, which `clean_up` looks for.
            self._unanswered += isinstance(error, Unreachable)
            return error
        if id:
            self._ids[id] = None
        return id

    def find_id(self, wanted: WantedInstance) -> str:
        """Return the ID of the instance that was provisioned for *wanted*, or raise `CannotTell`."""
        try:
            return self.members[wanted.name]
        except KeyError:
            raise CannotTell(f"{wanted.name} was not created") from None

    def describe_member(self, wanted: WantedInstance) -> InstanceView:
        """Return the plugin's description of an instance, or raise `CannotTell`."""
        id = self.find_id(wanted)
        view = self.describe([id]).get(id)
        if view is None:
            raise CannotTell(f"{id} is not described")
        return view

    def describe(self, ids: Collection[str] = ()) -> Mapping[str, InstanceView]:
        """Return the plugin's instances by ID. Raise `CannotTell` if every query fails.

        This asks with a tag, with none and with null, or until all of *ids* are there. So a fault in one
        query fails only the check of that query.
        """
        views: dict[str, InstanceView] = {}
        problems: list[PyInfrakitError] = []
        for tags in (self.intent.mark, {}, None):
            try:
                views |= {view.ID: view for view in self.session.describe(tags) if view.ID}
            except (RemoteError, Unreachable) as error:
                problems.append(error)
            if ids and views.keys() >= set(ids):
                break
        if len(problems) == 3:
            raise CannotTell(f"DescribeInstances: {problems[0]}")
        return views

    def await_described(self, ids: Collection[str]) -> set[str]:
        """Wait until all of *ids* are described. Return the missing ones."""
        missing = _poll(lambda: set(ids) - self.describe(ids).keys(), self.grace)
        self.sightings |= set(ids) - missing
        return missing

    def await_gone(self, ids: Iterable[str]) -> set[str]:
        """Wait until none of *ids* is described. Return the remaining ones."""
        return _poll(lambda: set(ids) & self.describe().keys(), self.grace)

    def destroy(self, id: str) -> None:
        """Destroy an instance of this run. Raise `RemoteError` or `Unreachable`."""
        # Plugins before 0.6 may reject fields that they don't know.
        context = {"Context": {"Reason": "terminate"}} if self.version >= (0, 6, 0) else {}
        self.session.call("Instance.Destroy", {"Instance": id, **context}, Reply)
        self.destroyed_ids.add(id)

    def list_remaining(self) -> Sequence[str]:
        """Return the IDs that this run got from the plugin and has not destroyed."""
        return [id for id in self._ids if id not in self.destroyed_ids and id not in (self.existing or ())]

    def clean_up(self) -> Sequence[Left]:
        """Destroy this run's instances. Return the remaining ones."""
        if self.existing is None:
            return []
        self.session.timeouts.clear()  # the last chance to destroy: worth another wait
        left = self._sweep()
        if not self._unanswered:
            return left
        # A Provision without a reply may still be at work, so look once more.
        time.sleep(min(self.grace, 1.0))
        tag = f"{GROUP_TAG}={self.intent.group}"
        reason = f"{self._unanswered} calls of Provision got no valid reply; their instances have the tag {tag}"
        return [*self._sweep(), Left("", reason)]

    def _sweep(self) -> Sequence[Left]:
        problems: dict[str, str] = {}
        for id in self._list_mine():
            try:
                self.destroy(id)
                problems[id] = ""
            except (RemoteError, Unreachable) as error:
                problems[id] = str(error)
        try:
            remaining = self.await_gone(problems)
        except CannotTell as reason:
            return [Left(id, error or f"its end can't be confirmed: {reason}") for id, error in problems.items()]
        # A failed Destroy is no trouble if the instance was seen, and is gone all the same.
        gone = self.sightings - remaining
        return [
            Left(id, error or "Destroy succeeded, but the instance is still described")
            for id, error in problems.items()
            if id in remaining or (error and id not in gone)
        ]

    def _list_mine(self) -> Sequence[str]:
        """Return the IDs that this run got, and those in its group, whose replies may be lost. None is an existing one."""
        try:
            views = self.describe()
        except CannotTell:
            views = {}
        self.sightings |= views.keys()
        group = [id for id, view in views.items() if view.tags.items() >= self.intent.mark.items()]
        mine = [*(id for id in self._ids if id in views or id not in self.destroyed_ids), *group]
        return sorted(set(mine) - (self.existing or set()))


def _poll(look: Callable[[], set[str]], seconds: float) -> set[str]:
    """Return an empty set as soon as *look* does, or its result after *seconds*."""
    end = time.monotonic() + seconds
    while (ids := look()) and time.monotonic() <= end:
        time.sleep(PAUSE)
    return ids


class Check(Struct, frozen=True):
    """A behavior that InfraKit relies on, since version *since*. *look* returns a text for the report, or raises.

    A check has to get replies to its own calls. It learns everything else from the trial, which raises
    `CannotTell` for faults that are other checks' business. So each fault fails exactly one check.
    """

    name: str
    expected: str
    look: Callable[[Trial], str]
    since: tuple[int, ...] = ()

    def run(self, trial: Trial) -> Result:
        verdict, happened = self._judge(trial)
        return Result(self.name, verdict, self.expected, happened)

    def _judge(self, trial: Trial) -> tuple[Verdict, str]:
        if trial.version < self.since:
            version = ".".join(map(str, self.since))
            return Verdict.NOT_APPLICABLE, f"the plugin lists no version from {version} on"
        try:
            return Verdict.HOLDS, self.look(trial)
        except NotApplicable as reason:
            return Verdict.NOT_APPLICABLE, str(reason)
        except CannotTell as reason:
            return Verdict.UNKNOWN, f"because {reason}"
        except NotListening as error:
            # Only the first check that finds the plugin gone fails, and none if an earlier one saw it hang up.
            blameless, trial.session.has_hung_up = trial.session.has_hung_up, True
            return Verdict.UNKNOWN if blameless else Verdict.FAILS, str(error)
        except (DoesNotHold, RemoteError, Unreachable) as fault:
            return Verdict.FAILS, str(fault)


def expect_error(trial: Trial, method: str, params: dict[str, object]) -> str:
    """Return the plugin's error. Raise `DoesNotHold` if the call succeeds, `CannotTell` if there is no reply."""
    try:
        trial.session.call(method, params, Reply)
    except RemoteError as error:
        if error.is_unknown_method:  # another fault, and not the error that is expected
            raise CannotTell(str(error)) from None
        return f"error: {error}"
    except Unreachable as error:
        raise CannotTell(str(error)) from None
    raise DoesNotHold("the call succeeded")
