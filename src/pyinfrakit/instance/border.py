"""The border to a provider: what goes out is a copy, and what comes in is copied and checked, once.

A provider may change all it gets and keep changing all it returned, without an effect on records. Exceptions come
in as one of our own classes with an exact text. All functions that read foreign values may raise anything: they
run where a provider's exceptions are caught.
"""

import asyncio
import copy
import math
from collections.abc import AsyncIterator, Callable, Collection, Container, Mapping, Sequence
from itertools import islice
from typing import Any, overload

from msgspec.structs import force_setattr, replace

from pyinfrakit.errors import CannotStart, GiveUp, InvalidSpec, NoCapacity, PyInfrakitError, TryAgain
from pyinfrakit.foreign import attempt, copy_text, describe_error, quote, read_text
from pyinfrakit.provider import Machine, PoolMachine, copy_tags
from pyinfrakit.record import Record, Spec

MOST_MACHINES = 2_000_000
"""Most machines in one result: a generator without an end must not fill the memory."""

MOST_GROUPS = 10
"""Most groups around an exception: each task group within another one adds one."""

_KINDS = (InvalidSpec, CannotStart, NoCapacity, GiveUp, TryAgain, PyInfrakitError)
"""The classes of errors that come in; an instance of another class comes as the first one that it is."""


# --- Out


def copy_spec(spec: Spec) -> Spec:
    """Return a spec with tags of its own; all else in it is immutable."""
    return replace(spec, tags=dict(spec.tags))


def copy_record(record: Record) -> Record:
    """Return a record with a spec of its own."""
    return replace(record, spec=copy_spec(record.spec), unknown=dict(record.unknown))


class RecordCopies(Sequence[Record]):
    """A sequence of records that copies each when it is asked for: most providers ask for few of 100,000."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        found = self._records[index]
        return copy_record(found) if isinstance(found, Record) else list(map(copy_record, found))


# --- In


def ignore(result: Any) -> None:
    """Ignore the result."""


def read_machine(id: str, handle: str | None = None) -> Callable[[Any], Machine]:
    """Return a reader of a provision's or adoption's result. *handle* is the machine's, if it is known."""

    def read(result: Any) -> Machine:
        if type(result) is Machine:
            if result.id != id:
                raise TypeError(f"returned the Machine {result.id}, expected the Machine {id}")
            return _own(result)
        if result is None:
            return Machine(id, handle)
        if issubclass(type(result), str):
            return Machine(id, copy_text(result, "a handle") or handle)
        raise TypeError(f"returned {quote(result)}, expected the Machine {id}, its handle, or None")

    return read


def read_items(result: Any) -> list[Any]:
    """Return the items of an iterable, which may be a generator."""
    if result is None:
        raise TypeError("returned None, expected an iterable")
    return _check_count(list(islice(result, MOST_MACHINES + 1)))


async def collect(result: AsyncIterator[Any]) -> list[Any]:
    """Return the items of an async generator."""
    items: list[Any] = []
    async for item in result:
        items.append(item)
        if len(items) > MOST_MACHINES:
            break
    return _check_count(items)


def _check_count(items: list[Any]) -> list[Any]:
    if len(items) > MOST_MACHINES:
        raise TypeError(f"returned more than {MOST_MACHINES} machines")
    return items


def read_machines(result: Any) -> list[Machine]:
    """Return the machines of an observation. The provider may still change their tags, but nothing else."""
    machines: list[Machine] = read_items(result)
    _check_types(machines, Machine)
    return machines


def index_machines(machines: Sequence[Machine], recorded: Container[str]) -> dict[str, Machine]:
    """Return the machines by ID, and the first one of those with the same ID.

    Those that are not *recorded* are copies. The others can do without, because only tags can change.
    """
    by_id = {machine.id: machine for machine in reversed(machines)}
    for id in [id for id in by_id if id not in recorded]:
        by_id[id] = _own(by_id[id])
    return by_id


def read_pool(machines: Any) -> list[PoolMachine]:
    """Return the machines of a pool."""
    pool: list[PoolMachine] = read_items(machines)
    _check_types(pool, PoolMachine)
    return pool


def _check_types(machines: list[Any], kind: type) -> None:
    """Raise TypeError for a machine of another type, also for one of a subclass: it could skip the checks of *kind*."""
    if set(map(type, machines)) - {kind}:
        wrong = next(machine for machine in machines if type(machine) is not kind)
        raise TypeError(f"returned {quote(wrong)}, expected a {kind.__name__}")


def _own(machine: Machine) -> Machine:
    """Return a machine with tags of its own. All else in it is immutable, and was checked when it was created."""
    own = copy.copy(machine)
    force_setattr(own, "tags", copy_tags(machine.tags) if machine.tags else {})
    return own


def read_errors(ids: Collection[str]) -> Callable[[Any], dict[str, PyInfrakitError]]:
    """Return a reader of a destroy's result. An error under an unknown key may be about any instance.

    If a provider uses handles for keys, for example, no instance counts as destroyed.
    """
    expected = f"expected None, or exceptions by ID, of {', '.join(ids)}"

    def read(result: Any) -> dict[str, PyInfrakitError]:
        if result is None:
            return {}
        if not issubclass(type(result), Mapping):
            raise TypeError(f"destroy returned {quote(result)}, {expected}")
        errors = {}
        for key, error in dict(result).items():
            id = copy_text(key, f"a key, {expected}")
            if id not in ids:
                raise TypeError(f"destroy returned an error for {id!r}, {expected}")
            if not issubclass(type(error), Exception):
                raise TypeError(f"destroy returned {quote(error)} for {id}, {expected}")
            is_own = issubclass(type(error), PyInfrakitError)
            errors[id] = _copy_own(error) if is_own else TryAgain(describe_error(error))
        return errors

    return read


def copy_error(error: BaseException, call: str) -> PyInfrakitError:
    """Return *error*, which the provider raised in *call*, as exactly one of our classes, with the provider's text."""
    error = attempt(lambda: _find_single(error), error)
    if issubclass(type(error), PyInfrakitError):
        return _copy_own(error)
    if issubclass(type(error), asyncio.CancelledError):
        return TryAgain(f"the provider has a bug: {call} was cancelled from within")
    advice = "" if issubclass(type(error), Exception) else " (expected an Exception, such as TryAgain or GiveUp)"
    return TryAgain(f"the provider has a bug: {describe_error(error)}{advice}")


def _find_single(error: BaseException) -> BaseException:
    """Return the one exception in a group of one, such as a task group raises; else the same one."""
    for _ in range(MOST_GROUPS):  # a group of its own class may contain itself
        if not isinstance(error, BaseExceptionGroup) or len(error.exceptions) != 1:
            break
        error = error.exceptions[0]
    return error


def _copy_own(error: BaseException) -> PyInfrakitError:
    """Return an error of our own classes as exactly one of them. What it says of itself in a wrong way is left out."""
    kind = next(each for each in _KINDS if issubclass(type(error), each))
    own = kind.__new__(kind, read_text(error))
    own.kind = _read_attribute(error, "kind") or kind.kind
    if isinstance(own, InvalidSpec):
        own.field, own.problem = _read_attribute(error, "field"), _read_attribute(error, "problem") or str(own)
    if isinstance(own, TryAgain):
        after = attempt(lambda: float(getattr(error, "after", math.nan)), math.nan)
        own.after = None if math.isnan(after) else after
    return own


def _read_attribute(error: BaseException, name: str) -> str:
    return attempt(lambda: copy_text(getattr(error, name), name), "")
