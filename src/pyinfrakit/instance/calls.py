"""Calls to a provider, whose methods may be async or plain, slow, or wrong. Only good results come through.

The number of calls of a kind is limited. A call beyond its time limit no longer counts, so that hanging
calls do not block others. If it is async, it is cancelled. If it is plain, its thread can't be ended, and
the call keeps its instance until it returns: there is never a second call for the same instance beside it.
"""

import asyncio
import contextlib
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Raw, Struct
from msgspec.structs import replace

from pyinfrakit.errors import PyInfrakitError, TryAgain
from pyinfrakit.instance.redaction import Redaction
from pyinfrakit.instance.threads import Threads
from pyinfrakit.logs import Quota
from pyinfrakit.provider import Machine, PoolMachine, Provider
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema.redactor import hiding, redact_error
from pyinfrakit.store.records import Records

log = logging.getLogger(__name__)
log.addFilter(Quota())  # machines and callers cause its lines

T = TypeVar("T")
M = TypeVar("M", Machine, PoolMachine)

VALIDATE = POOL = 10.0
"""Seconds that a provider's own `validate`, or its `pool`, may take: a client waits for them."""


class CallLimits(Struct, frozen=True):
    """How many calls of a kind may run at once, and the seconds after which each is late.

    The limit on the number matters after a restart, when thousands of calls may be due at once.
    """

    at_once: int = 50
    timeout: float = 1800.0


class _Slots:
    """Room for calls of one kind; *late* collects the names of calls beyond their time limit."""

    def __init__(self, limits: CallLimits, late: set[str]) -> None:
        self.timeout = limits.timeout
        self.room = asyncio.Semaphore(limits.at_once)
        self.late = late


class _Slot:
    """Room for one call, released at the end of the call or when the call is late. Entering it waits for room."""

    def __init__(self, slots: _Slots, name: str) -> None:
        self._slots = slots
        self._name = name
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False

    async def __aenter__(self) -> None:
        await self._slots.room.acquire()
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._slots.timeout, self._expire)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        assert self._timer is not None
        assert self._task is not None
        if not self._is_late:
            self._timer.cancel()
            self._slots.room.release()
            return
        self._slots.late.discard(self._name)
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TryAgain(f"no answer for {self._slots.timeout:g} s")

    def _expire(self) -> None:
        log.error("%s: no answer for %g s", self._name, self._slots.timeout)
        self._is_late = True
        self._slots.late.add(self._name)
        self._slots.room.release()
        assert self._task is not None
        self._task.cancel()


class Calls:
    """All calls to one provider. Every error and every wrong result comes as a `PyInfrakitError`.

    No error, no reason and nothing that the provider logs during a call shows a secret of its instances.
    """

    def __init__(self, provider: Provider, limits: CallLimits, records: Records) -> None:
        self._provider = provider
        self._records = records
        self.redaction = Redaction(provider, records)
        self._threads = Threads()
        self._has_started = False
        self.late: set[str] = set()
        """Calls beyond their time limit."""
        self.in_flight: set[str] = set()
        """IDs of the instances in calls under way."""
        self.called: set[str] = set()
        """IDs of the instances in calls that began since the reconcile loop last replaced this set."""
        self._provisions = _Slots(limits, self.late)
        self._destroys = _Slots(limits, self.late)
        self._labels = _Slots(limits, self.late)
        self._to_destroy: list[_Destroy] = []
        self._duplicates: frozenset[str] = frozenset()
        self.keeps_labels = type(provider).label is not Provider.label
        """Whether the provider puts tags on machines, so that it needs to know of changes."""
        self._validates = type(provider).validate is not Provider.validate

    async def start(
        self,
        mark: str,
        known: Sequence[Record],
        ready: Container[str] = frozenset(),
        changed: Callable[[], None] = Provider.changed,
    ) -> None:
        """Start the provider.

        *ready* contains, at any time, the IDs of the instances that are ready then. The provider calls *changed* if
        it should be observed.
        """
        self._provider.mark, self._provider.known, self._provider.ready = mark, known, ready
        self._provider.changed = changed
        try:
            with hiding(self.redaction.redact_all):
                await self._ask("start", _ignore, self._provider.start)
            self._has_started = True
        finally:
            self._provider.known = ()

    async def stop(self, timeout: float) -> None:
        """Stop the provider, if it has started. Raise `TryAgain` if that takes more than *timeout* seconds."""
        if self._has_started:
            with hiding(self.redaction.redact_all):
                await _limit(timeout, self._ask("stop", _ignore, self._provider.stop))

    def abandon(self) -> None:
        """Wait for no thread any more."""
        self._threads.abandon()

    async def validate(self, properties: Raw | None) -> None:
        """Raise `InvalidSpec` if the provider would refuse the properties."""
        with hiding(self.redaction.of(Spec(properties=properties)).redact):
            if self._validates:
                await _limit(VALIDATE, self._ask("validate", _ignore, self._provider.validate, properties))
            else:
                # The provider has no code of its own for this: no thread, and no time limit, are needed.
                await self._ask("validate", _ignore, self._parse, properties)

    async def _parse(self, properties: Raw | None) -> None:
        self._provider.parse(properties)

    async def provision(self, id: str, pending: Callable[[], Spec | None]) -> Machine | None:
        """Have a machine made. Return None if, by its turn, no spec is *pending* any more."""
        name = f"provision of {id}"
        async with _Slot(self._provisions, name):
            spec = pending()
            if spec is None:
                return None
            with self._calling(id), hiding(self.redaction.of(spec).redact):
                return await self._ask(name, _read_machine(id), self._provider.provision, id, spec)

    async def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        """Have a machine that exists marked as the instance *id*."""
        name = f"adopt of {handle}"
        async with _Slot(self._provisions, name):
            with self._calling(id), hiding(self.redaction.of(spec).redact):
                return await self._ask(name, _read_machine(id, handle), self._provider.adopt, id, handle, spec)

    async def label(self, record: Record) -> None:
        """Have a record's tags put on its machine."""
        name = f"label of {record.id}"
        async with _Slot(self._labels, name):
            with self._calling(record.id), hiding(self.redaction.of(record.spec).redact):
                await self._ask(name, _ignore, self._provider.label, record, record.spec.tags)

    async def list_pool(self) -> list[PoolMachine]:
        """Return all machines of the provider's pool; raise `GiveUp` if it has none."""
        with hiding(self.redaction.redact_all):
            machines: list[PoolMachine] = await _limit(POOL, self._ask("pool", _read_pool, self._provider.pool))
        return await self._hide_reasons(machines)

    async def observe(self) -> dict[str, Machine]:
        """Return all machines by ID. If two have the same ID, as a cloned machine does, return the first and log both."""
        machines = await self.observe_all()
        by_id = {machine.id: machine for machine in reversed(machines)}
        duplicates = frozenset(machine.id for machine in machines if by_id[machine.id] is not machine)
        for id in duplicates - self._duplicates:
            handles = self.hide(id, ", ".join(str(machine.handle) for machine in machines if machine.id == id))
            log.error(
                "%s: several machines of the provider have this ID: %s; only the first one is managed", id, handles
            )
        self._duplicates = duplicates
        return by_id

    async def observe_all(self) -> list[Machine]:
        """Return all machines, also those with a duplicate ID."""
        with hiding(self.redaction.redact_all):
            machines = await self._ask("observe", _read_machines, self._provider.observe)
        return await self._hide_reasons(machines)

    def hide(self, id: str | None, text: str) -> str:
        """Return a *text* of the provider's about an instance without its secrets."""
        record = self._records.get(id) if id else None
        spec = record.spec if record else Spec()
        return self.redaction.of(spec).redact(text) if self.redaction.has_secrets(spec) else text

    async def _hide_reasons(self, machines: list[M]) -> list[M]:
        """Return the machines without their instances' secrets in the reasons."""
        if any(machine.reason for machine in machines):
            # In a thread, because of outages with thousands of reasons.
            machines = await self._threads.call(self._redact_reasons, machines)
        return machines

    def _redact_reasons(self, machines: list[M]) -> list[M]:
        known = {record.reason for record in self._records.peek()}  # they were redacted before
        return [
            replace(machine, reason=self.hide(machine.id, machine.reason))
            if machine.reason and machine.reason not in known
            else machine
            for machine in machines
        ]

    async def destroy(self, record: Record, reason: str) -> None:
        """Have a machine destroyed, perhaps together with others that wait for their turn."""
        mine = _Destroy(record, reason)
        self._to_destroy.append(mine)
        try:
            if self._provider.batch > 1:
                await asyncio.sleep(0)  # let others of this turn of the event loop join the batch
            async with _Slot(self._destroys, f"destroy of {record.id}"):
                if mine in self._to_destroy:
                    await self._destroy_batch(mine)
            await mine.outcome
        finally:
            self._to_destroy = [each for each in self._to_destroy if each is not mine]

    async def _destroy_batch(self, mine: "_Destroy") -> None:
        """Destroy *mine* and others that wait with the same reason, as many as the provider accepts at once."""
        others = [each for each in self._to_destroy if each is not mine and each.reason == mine.reason]
        batch = [mine, *others[: self._provider.batch - 1]]
        self._to_destroy = [each for each in self._to_destroy if each not in batch]
        records = [each.record for each in batch]
        ids = [record.id for record in records]
        errors: Mapping[str, PyInfrakitError] = dict.fromkeys(ids, TryAgain("the call for the batch broke off"))
        redact = self.redaction.of(*(record.spec for record in records)).redact
        try:
            with self._calling(*ids), hiding(redact):
                name = f"destroy of {', '.join(ids)}"
                errors = await self._ask(name, _read_errors(ids), self._provider.destroy, records, mine.reason)
        except PyInfrakitError as error:
            errors = dict.fromkeys(ids, error)
        finally:
            for each in batch:
                failure = errors.get(each.record.id)
                each.settle(None if failure is None else redact_error(failure, redact))

    @contextlib.contextmanager
    def _calling(self, *ids: str) -> Iterator[None]:
        self.in_flight.update(ids)
        self.called.update(ids)
        try:
            yield
        finally:
            self.in_flight.difference_update(ids)

    async def _ask(self, name: str, read: Callable[[Any], T], method: Callable[..., Any], *arguments: Any) -> T:
        """Call a method, and read its result. A provider's exceptions are caught here, and only here."""
        log.debug("the provider is asked: %s", name)
        try:
            if inspect.iscoroutinefunction(method):
                return read(await method(*arguments))
            result = await self._threads.call(_complete, method, arguments)
            return read(await _await(result))
        except PyInfrakitError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise TryAgain(f"the provider has a bug: {name} was cancelled from within") from error
        except GeneratorExit:
            raise
        except BaseException as error:  # a KeyboardInterrupt would end the event loop, and leave the process
            log.exception("the provider has a bug: %s raised", name)
            raise TryAgain(f"the provider has a bug: {_describe_error(error)}") from error


class _Destroy:
    """An instance that waits to be destroyed, and then the outcome."""

    def __init__(self, record: Record, reason: str) -> None:
        self.record = record
        self.reason = reason
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, error: PyInfrakitError | None) -> None:
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(None)
        else:
            self.outcome.set_exception(error)
            self.outcome.exception()  # after a stop, nobody else looks


def _complete(method: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Call a plain method. If it is a generator, run it to its end, here in its thread."""
    result = method(*arguments)
    return list(result) if isinstance(result, Iterator) else result


async def _await(result: Any) -> Any:
    if inspect.isasyncgen(result):
        return [each async for each in result]
    return await result if isinstance(result, Awaitable) else result


async def _limit(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """Return the call's result; raise `TryAgain` after *seconds*, and leave the call to itself."""
    task = asyncio.create_task(call)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # after a stop, nobody else looks
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        return task.result()
    task.cancel()
    raise TryAgain(f"no answer from the provider for {seconds:g} s")


def _ignore(result: Any) -> None:
    """Ignore the result."""


def _read_machine(id: str, handle: str | None = None) -> Callable[[Any], Machine]:
    def read(result: Any) -> Machine:
        machine = Machine(id, result or handle) if result is None or isinstance(result, str) else result
        if type(machine) is not Machine or machine.id != id:
            raise TypeError(f"returned {result!r}, expected the Machine {id}, its handle, or None")
        return machine

    return read


def _read_machines(result: Iterable[Machine]) -> list[Machine]:
    machines = list(result)
    # A subclass of Machine could skip the checks that Machine makes when it is created.
    for type_ in set(map(type, machines)):
        if type_ is not Machine:
            wrong = next(machine for machine in machines if type(machine) is type_)
            raise TypeError(f"observe returned {wrong!r}, expected a Machine")
    return machines


def _read_pool(result: Iterable[PoolMachine]) -> list[PoolMachine]:
    machines = list(result)
    for machine in machines:
        if not isinstance(machine, PoolMachine):
            raise TypeError(f"pool returned {machine!r}, expected a PoolMachine")
    return machines


def _read_errors(ids: Collection[str]) -> Callable[[Any], dict[str, PyInfrakitError]]:
    """Return a reader of a destroy's result. An error under an unknown key may be about any instance.

    If a provider uses handles for keys, for example, no instance counts as destroyed.
    """

    def read(result: Any) -> dict[str, PyInfrakitError]:
        if result is None:
            return {}
        if not isinstance(result, Mapping) or not all(isinstance(error, Exception) for error in result.values()):
            raise TypeError(f"destroy returned {result!r}, expected None, or exceptions by ID")
        if unknown := [id for id in result if id not in ids]:
            expected = f"expected None, or exceptions by ID, of {', '.join(ids)}"
            raise TypeError(f"destroy returned an error for {unknown[0]!r}, {expected}")
        return {
            id: error if isinstance(error, PyInfrakitError) else TryAgain(_describe_error(error))
            for id, error in result.items()
        }

    return read


def _describe_error(error: BaseException) -> str:
    """Return the error in one line. Its own text is a provider's code too, and may itself raise."""
    return " ".join("".join(traceback.format_exception_only(error)).split())
