"""Requests on an executable's stdin, results on its stdout: version 1 of the protocol in docs/exec.md. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from os import EX_DATAERR, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from signal import Signals
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from pyinfrakit.errors import GiveUp, InvalidSpec, PyInfrakitError, TryAgain
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema.decode import check, decode
from pyinfrakit.schema.values import decode_any, find_strings

REQUIRED_VERBS = ("provision", "destroy", "observe")
OPTIONAL_VERBS = ("validate", "label", "adopt")

T = TypeVar("T")
Seconds = Annotated[float, Meta(ge=0, le=86400)]


class Request(Struct, frozen=True):
    """A request. *ids* are the instances to change, *members* belong to the verb."""

    verb: str
    ids: Sequence[str] = ()
    members: Mapping[str, Any] = {}

    @property
    def subject(self) -> str:
        """The IDs for the log, at most three of them."""
        return ", ".join(self.ids[:3]) + (", …" if len(self.ids) > 3 else "")

    def encode(self, plugin: str, mark: str) -> bytes:
        common = {"version": 1, "verb": self.verb, "plugin": plugin, "mark": mark, "ids": self.ids}
        return msgspec.json.encode({**common, **self.members})

    def find_scripts(self, *, properties: bool) -> Iterator[str]:
        """Yield the texts in the request that may hold secrets: `init`, and with *properties* all strings in these."""
        known = self.members
        for each in (known, known.get("spec", {}), known.get("instance", {}), *known.get("instances", ())):
            yield each.get("init", "")
            if properties and each.get("properties") is not None:
                yield from find_strings(decode_any(each["properties"]))


def encode_spec(spec: Spec) -> Mapping[str, Any]:
    """Return a spec as `provision` and `adopt` have it."""
    attachments = [{"id": each.id, "type": each.type} for each in spec.attachments]
    return {**_encode_common(spec), "init": spec.init, "attachments": attachments}


def encode_instance(record: Record) -> Mapping[str, Any]:
    """Return an instance as `destroy` and `label` have it."""
    return {"id": record.id, "handle": record.handle, **_encode_common(record.spec)}


def _encode_common(spec: Spec) -> Mapping[str, Any]:
    return {"properties": spec.properties, "tags": spec.tags, "logical_id": spec.logical_id}


class EmptyResult(Struct):
    """The result of `validate` and `label`."""


class MachineResult(Struct):
    """The result of `provision` and `adopt`."""

    handle: str | None = None
    properties: dict[str, Raw] | None = None


class ObservedMachine(Struct):
    """A machine that exists. `Machine` has more fields, which are not part of the protocol."""

    id: Annotated[str, Meta(min_length=1)]
    handle: str | None = None
    functional: bool = True
    reason: str = ""
    properties: dict[str, Raw] | None = None
    tags: dict[str, str] = {}
    logical_id: str | None = None


class ObserveResult(Struct):
    machines: list[ObservedMachine]


class Failure(Struct):
    """A problem with a request. *after* is seconds until a retry; *field* is a path in the properties."""

    problem: str = ""
    after: Seconds | None = None
    field: str = ""


class DestroyResult(Struct):
    """Every instance is in one of the two, or its machine counts as existing."""

    destroyed: list[str]
    failed: dict[str, Failure] = {}

    def find_failures(self, ids: Sequence[str]) -> Mapping[str, Failure]:
        """Return, by ID, the failures of those of *ids* whose machines may still exist."""
        missing = Failure("a bug of the executable: neither destroyed nor failed has this instance")
        return {id: self.failed.get(id, missing) for id in ids if id in self.failed or id not in self.destroyed}


class UnknownVerb(Exception):
    """The executable does not support an optional verb."""


def read_result(output: bytes, shape: type[T]) -> T:
    """Return a result. If all its members are optional, it may be left out. Raise `WrongShape` or `NotJSON`."""
    data = b"{}" if shape in (EmptyResult, MachineResult, Failure) and not output.strip() else output
    check(data)
    return decode(data, shape)


def read_failure(verb: str, status: int, output: bytes, last_line: str) -> PyInfrakitError:
    """Return the error that an exit status stands for. *last_line* is the reason if there is no other.

    Raise `UnknownVerb` if the verb is optional and not supported, or `WrongShape` or `NotJSON`.
    """
    if status == EX_USAGE and verb in OPTIONAL_VERBS:
        raise UnknownVerb
    signal = next((each.name for each in Signals if each == -status), f"signal {-status}")
    exit = f"exit status {status}" if status >= 0 else f"ended by {signal}"
    if status not in (EX_DATAERR, EX_TEMPFAIL, EX_UNAVAILABLE):
        return TryAgain(f"a bug of the executable: {exit}" + (f": {last_line}" if last_line else ""))
    failure = read_result(output, Failure)
    problem = failure.problem or last_line or f"{exit} without a reason"
    if status == EX_DATAERR:
        return InvalidSpec(f"Properties.{failure.field}" if failure.field else "Properties", problem)
    return GiveUp(problem) if status == EX_UNAVAILABLE else TryAgain(problem, failure.after)
