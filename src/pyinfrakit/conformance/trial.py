"""The instances of one run: made, looked for, and destroyed again in all cases. Never touches what was there before."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct

from pyinfrakit.conformance.answers import Answer, Description, Provisioned
from pyinfrakit.conformance.plan import Plan, Spec
from pyinfrakit.conformance.report import Left, Unknown
from pyinfrakit.conformance.session import Session
from pyinfrakit.errors import PyInfrakitError, Unreachable
from pyinfrakit.rpc.client import RemoteError

POLL = 10.0
"""Seconds between the group controller's polls: what is seen by the next one is soon enough, where nothing is lost by waiting."""

LOOK_AGAIN = 0.2


class Member(Struct):
    """An instance that was provisioned. *at_once*: was it described right after, and if that is not known, why?"""

    id: str
    spec: Spec
    at_once: bool | str = "it was not looked for"


class Trial:
    """A plugin, and what a run has made there. *handshake* is one that the plugin speaks, *version* its newest version."""

    def __init__(self, session: Session, plan: Plan, handshake: str, version: tuple[int, ...]) -> None:
        self.session = session
        self.plan = plan
        self.handshake = handshake
        self.version = version
        self.members: dict[str, Member] = {}
        """By the name of what was asked for, in order."""
        self.equal: list[str] = []
        """The IDs that were given to those that were asked for at once."""
        self.seen: set[str] = set()
        """IDs that were described."""
        self.before: set[str] | None = None
        """IDs that were there before; None while that is not known."""
        self._given: dict[str, None] = {}
        self._destroyed: set[str] = set()
        self._unanswered = 0

    @property
    def grace(self) -> float:
        """How long to wait for what may take until InfraKit's next poll."""
        return min(POLL, self.session.timeout)

    def begin(self) -> None:
        """Note what is there; raise `Unknown` where the plugin does not say: then nothing can be made safely."""
        self.before = set(self.described())

    def provision(self, spec: Spec, copies: int = 1) -> Sequence[str | PyInfrakitError]:
        """Ask for instances, all at once; give each one's ID, or what went wrong.

        In threads also where it is one: so an interrupt waits for the answer, and what was made is known.
        """
        if self.before is None:
            raise Unknown("DescribeInstances gives no answer, so nothing was made")
        with ThreadPoolExecutor(copies) as pool:
            return list(pool.map(self._provision, [spec] * copies))

    def _provision(self, spec: Spec) -> str | PyInfrakitError:
        wanted = {
            "Properties": self.plan.properties,
            "Tags": spec.tags,
            "Init": "",
            "LogicalID": spec.logical_id,
            "Attachments": None,
        }
        try:
            id = self.session.ask("Instance.Provision", {"Spec": wanted}, Provisioned).ID or ""
        except RemoteError as error:
            return error
        except Unreachable as error:
            self._unanswered += 1
            return error
        if id:
            self._given[id] = None
        return id

    def member(self, spec: Spec) -> Member:
        """Give what was made of *spec*; raise `Unknown` where nothing was."""
        try:
            return self.members[spec.name]
        except KeyError:
            raise Unknown(f"{spec.name} of the instances was not made") from None

    def look(self, spec: Spec) -> Description:
        """Give what is described of what was made of *spec*; raise `Unknown`."""
        id = self.member(spec).id
        found = self.described([id]).get(id)
        if found is None:
            raise Unknown(f"{id} is not described")
        return found

    def described(self, wanted: Collection[str] = ()) -> Mapping[str, Description]:
        """Give what is described, by ID, asked in every way, or until all *wanted* are there; raise `Unknown`.

        No check but that of a way itself depends on its being right.
        """
        found: dict[str, Description] = {}
        problems: list[PyInfrakitError] = []
        for tags in (self.plan.mark, {}, None):
            try:
                found |= {each.ID: each for each in self.session.describe(tags) if each.ID}
            except (RemoteError, Unreachable) as error:
                problems.append(error)
            if wanted and found.keys() >= set(wanted):
                break
        if len(problems) == 3:
            raise Unknown(f"DescribeInstances: {problems[0]}")
        return found

    def settle(self, ids: Collection[str]) -> set[str]:
        """Wait until *ids* are described; give those that are not."""
        end = time.monotonic() + self.grace
        while missing := set(ids) - self.described(ids).keys():
            if time.monotonic() > end:
                break
            time.sleep(LOOK_AGAIN)
        self.seen |= set(ids) - missing
        return missing

    def linger(self, ids: Iterable[str]) -> set[str]:
        """Wait until *ids* are described no longer; give those that still are."""
        end = time.monotonic() + self.grace
        while staying := set(ids) & self.described().keys():
            if time.monotonic() > end:
                break
            time.sleep(LOOK_AGAIN)
        return staying

    def destroy(self, id: str) -> None:
        """Have one destroyed that this run has made; raise `RemoteError` or `Unreachable`."""
        params: dict[str, object] = {"Instance": id}
        if self.version >= (0, 6, 0):
            params["Context"] = {"Reason": "terminate"}
        self.session.ask("Instance.Destroy", params, Answer)
        self._destroyed.add(id)

    def has_destroyed(self, id: str) -> bool:
        """Was a Destroy of it answered well?"""
        return id in self._destroyed

    def not_destroyed(self) -> Sequence[str]:
        """Give the IDs that this run was given, and that no Destroy was answered for."""
        return [id for id in self._given if id not in self._destroyed and id not in (self.before or ())]

    def clean_up(self) -> Sequence[Left]:
        """Destroy what was made; give what could not be."""
        if self.before is None:
            return []
        self.session.ask_again()
        left = self._sweep()
        if self._unanswered:
            time.sleep(min(self.grace, 1.0))
            left = self._sweep()
        if self._unanswered:
            tag, value = next(iter(self.plan.mark.items()))
            reason = f"{self._unanswered} calls of Provision got no good answer; what comes of them has the tag {tag}={value}"
            left = [*left, Left("", reason)]
        return left

    def _sweep(self) -> Sequence[Left]:
        problems = {id: self._problem(id) for id in self._mine()}
        try:
            staying = self.linger(problems)
        except Unknown as unknown:
            return [
                Left(id, reason or f"it can't be told whether it is gone: {unknown}") for id, reason in problems.items()
            ]
        gone = self.seen - staying
        return [
            Left(id, reason or "Destroy was answered, but it is still described")
            for id, reason in problems.items()
            if id in staying or (reason and id not in gone)
        ]

    def _problem(self, id: str) -> str:
        try:
            self.destroy(id)
        except (RemoteError, Unreachable) as error:
            return str(error)
        return ""

    def _mine(self) -> Sequence[str]:
        """Give the IDs that this run was given, and those of this run's group; none that was there before."""
        try:
            found = self.described()
        except Unknown:
            found = {}
        self.seen |= found.keys()
        marked = [id for id, each in found.items() if each.tags.items() >= self.plan.mark.items()]
        mine = [*(id for id in self._given if id in found or id not in self._destroyed), *marked]
        return sorted(set(mine) - (self.before or set()))
