"""What goes over an executable's stdin and stdout: version 1 of the protocol, which docs/exec.md describes. No I/O."""

from collections.abc import Mapping, Sequence
from os import EX_DATAERR, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from signal import Signals
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from pyinfrakit.errors import GiveUp, InvalidSpec, PyInfrakitError, TryAgain
from pyinfrakit.provider import Machine
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema.decode import check, decode

VERSION = 1
OPTIONAL = ("validate", "label", "adopt")
"""Verbs that an executable need not know."""

T = TypeVar("T")
Seconds = Annotated[float, Meta(ge=0, le=86400)]


class Request(Struct, frozen=True):
    """What an executable is asked; *ids* are the instances that it is asked to change."""

    verb: str
    ids: Sequence[str] = ()
    members: Mapping[str, Any] = {}

    @property
    def subject(self) -> str:
        """What it is about, for the log."""
        return ", ".join(self.ids[:3]) + (", …" if len(self.ids) > 3 else "")

    def encoded(self, plugin: str, mark: str) -> bytes:
        return msgspec.json.encode(
            {"version": VERSION, "verb": self.verb, "plugin": plugin, "mark": mark, "ids": self.ids, **self.members}
        )


def provision(id: str, spec: Spec) -> Request:
    return Request("provision", [id], {"id": id, "spec": _spec(spec)})


def destroy(instances: Sequence[Record], reason: str) -> Request:
    ids = [instance.id for instance in instances]
    return Request("destroy", ids, {"instances": [_instance(each) for each in instances], "reason": reason})


def observe() -> Request:
    return Request("observe")


def validate(properties: Raw | None) -> Request:
    return Request("validate", members={"properties": properties})


def label(instance: Record, tags: Mapping[str, str]) -> Request:
    return Request("label", [instance.id], {"id": instance.id, "instance": _instance(instance), "tags": tags})


def adopt(id: str, handle: str, spec: Spec) -> Request:
    return Request("adopt", [id], {"id": id, "handle": handle, "spec": _spec(spec)})


def _spec(spec: Spec) -> Mapping[str, Any]:
    attachments = [{"id": each.id, "type": each.type} for each in spec.attachments]
    known = {"properties": spec.properties, "tags": spec.tags, "init": spec.init, "logical_id": spec.logical_id}
    return {**known, "attachments": attachments}


def _instance(record: Record) -> Mapping[str, Any]:
    spec = record.spec
    known = {"id": record.id, "handle": record.handle, "logical_id": spec.logical_id}
    return {**known, "tags": spec.tags, "properties": spec.properties}


class Nothing(Struct):
    """The result of what has none."""


class Made(Struct):
    """The result of a provision, and of an adoption."""

    handle: str | None = None
    properties: dict[str, Raw] | None = None

    def machine(self, id: str) -> Machine:
        return Machine(id, self.handle, properties=self.properties)


class Seen(Struct):
    """A machine that exists."""

    id: Annotated[str, Meta(min_length=1)]
    handle: str | None = None
    functional: bool = True
    reason: str = ""
    properties: dict[str, Raw] | None = None
    tags: dict[str, str] = {}
    logical_id: str | None = None

    def machine(self, reason: str) -> Machine:
        return Machine(self.id, self.handle, self.functional, reason, self.properties, self.tags, self.logical_id)


class Observed(Struct):
    """The result of an observation."""

    machines: list[Seen]


class Failure(Struct):
    """Why something was not done, and when it may be tried again; *field* is below the properties."""

    problem: str = ""
    after: Seconds | None = None
    field: str = ""


class Destroyed(Struct):
    """The result of a destroy: each instance is in one of the two, or it is not known to be gone."""

    destroyed: list[str]
    failed: dict[str, Failure] = {}

    def errors(self, ids: Sequence[str]) -> dict[str, TryAgain]:
        """Give the errors of those of *ids* that are not gone."""
        return {id: self._error(id) for id in ids if id in self.failed or id not in self.destroyed}

    def _error(self, id: str) -> TryAgain:
        failure = self.failed.get(id, Failure("it has a bug: neither destroyed nor failed has this instance"))
        return TryAgain(failure.problem or "failed, with no word on why", failure.after)


def read(output: bytes, shape: type[T]) -> T:
    """Read a result; raise `WrongShape` or `NotJSON`. Where nothing need be told, no output is an empty object."""
    data = b"{}" if shape in (Nothing, Made, Failure) and not output.strip() else output
    check(data)
    return decode(data, shape)


class Unknown(Exception):
    """The executable does not know the verb, and need not."""


def failed(verb: str, status: int, output: bytes, last_line: str) -> PyInfrakitError:
    """Give what an exit status other than 0 stands for; raise `Unknown`, or what `read` does."""
    if status == EX_USAGE and verb in OPTIONAL:
        raise Unknown
    if status not in (EX_DATAERR, EX_TEMPFAIL, EX_UNAVAILABLE):
        return TryAgain(f"it has a bug: {_ended(status)}" + (f": {last_line}" if last_line else ""))
    failure = read(output, Failure)
    problem = failure.problem or last_line or f"exit status {status}, with no word on why"
    if status == EX_DATAERR:
        return InvalidSpec(f"Properties.{failure.field}" if failure.field else "Properties", problem)
    return GiveUp(problem) if status == EX_UNAVAILABLE else TryAgain(problem, failure.after)


def _ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    names = {number.value: number.name for number in Signals}
    return f"ended by {names.get(-status, f'signal {-status}')}"
