"""Calls to a provider, whose methods may be async or plain, slow, or wrong. Only good results come through.

The number of calls of a kind is limited. A call beyond its time limit no longer counts, so that hanging
calls do not block others. If it is async, it is cancelled. If it is plain, its thread can't be ended, and
the call keeps its instance until it returns: there is never a second call for the same instance beside it.
"""

import asyncio
import contextlib
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import islice
from typing import Any, TypeVar, cast

from msgspec import Raw, Struct
from msgspec.structs import replace

from pyinfrakit.errors import PyInfrakitError, TryAgain
from pyinfrakit.foreign import attempt, copy_trace
from pyinfrakit.instance import border
from pyinfrakit.instance.border import RecordCopies, copy_record, copy_spec
from pyinfrakit.instance.redaction import Redaction
from pyinfrakit.instance.slots import CallLimits, Slot, Slots
from pyinfrakit.instance.threads import Threads
from pyinfrakit.logs import Quota
from pyinfrakit.provider import Machine, PoolMachine, Provider
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema.redactor import Redact, hiding_in_log, redact_current, redact_error
from pyinfrakit.store.records import Records

log = logging.getLogger(__name__)
log.addFilter(Quota())  # machines and callers cause its lines

T = TypeVar("T")
M = TypeVar("M", Machine, PoolMachine)

IN_PROVIDER: ContextVar[bool] = ContextVar("IN_PROVIDER", default=False)
"""Whether code of a provider runs: set in its coroutines, and so in all tasks and callbacks that these start."""

VALIDATE = POOL = 10.0
"""Seconds that a provider's own `validate`, or its `pool`, may take: a client waits for them."""


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
        self._provisions = Slots(limits, self.late)
        self._destroys = Slots(limits, self.late)
        self._labels = Slots(limits, self.late)
        self._to_destroy: dict[str, dict[_Destroy, None]] = {}  # those that wait, in order, by reason
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
        self._provider.mark, self._provider.known, self._provider.ready = mark, RecordCopies(known), ready
        self._provider.changed = changed
        try:
            with hiding_in_log(self.redaction.redact_all):
                await self._ask("start", border.ignore, self._provider.start)
            self._has_started = True
        finally:
            self._provider.known = ()

    async def stop(self, timeout: float) -> None:
        """Stop the provider, if it has started. Raise `TryAgain` if that takes more than *timeout* seconds."""
        if self._has_started:
            with hiding_in_log(self.redaction.redact_all):
                await _limit(timeout, self._ask("stop", border.ignore, self._provider.stop))

    def abandon(self) -> None:
        """Wait for no thread any more."""
        self._threads.abandon()

    async def validate(self, properties: Raw | None) -> None:
        """Raise `InvalidSpec` if the provider would refuse the properties."""
        with hiding_in_log(self.redaction.watch(Spec(properties=properties))):
            if self._validates:
                await _limit(VALIDATE, self._ask("validate", border.ignore, self._provider.validate, properties))
            else:
                # The provider has no code of its own for this: no thread, task and time limit are needed.
                parse = partial(self._provider.parse, properties)
                await self._open("validate", copy_context().run(_answer, border.ignore, parse))

    async def provision(self, id: str, pending: Callable[[], Spec | None]) -> Machine | None:
        """Have a machine made. Return None if, by its turn, no spec is *pending* any more."""
        name = f"provision of {id}"
        async with Slot(self._provisions, name):
            spec = pending()
            if spec is None:
                return None
            with self._calling(id), hiding_in_log(self.redaction.watch(spec)):
                return await self._ask(name, border.read_machine(id), self._provider.provision, id, copy_spec(spec))

    async def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        """Have a machine that exists marked as the instance *id*."""
        name = f"adopt of {handle}"
        async with Slot(self._provisions, name):
            with self._calling(id), hiding_in_log(self.redaction.watch(spec)):
                read = border.read_machine(id, handle)
                return await self._ask(name, read, self._provider.adopt, id, handle, copy_spec(spec))

    async def label(self, record: Record) -> None:
        """Have a record's tags put on its machine."""
        name = f"label of {record.id}"
        async with Slot(self._labels, name):
            with self._calling(record.id), hiding_in_log(self.redaction.watch(record.spec)):
                tags = dict(record.spec.tags)
                await self._ask(name, border.ignore, self._provider.label, copy_record(record), tags)

    async def list_pool(self) -> list[PoolMachine]:
        """Return all machines of the provider's pool; raise `GiveUp` if it has none."""
        with hiding_in_log(self.redaction.redact_all):
            machines: list[PoolMachine] = await _limit(POOL, self._ask("pool", border.read_pool, self._provider.pool))
        return await self._hide_reasons(machines)

    async def observe(self) -> dict[str, Machine]:
        """Return all machines by ID. If two have the same ID, as a cloned machine does, return the first and log both.

        The tags of machines that have a record are not for use: the provider may still change them.
        """
        machines = await self.observe_all()
        # In a thread, because there may be many.
        by_id: dict[str, Machine] = await self._ask("observe", _keep, border.index_machines, machines, self._records)
        counts = Counter(machine.id for machine in machines) if len(by_id) < len(machines) else {}
        duplicates = frozenset(id for id, count in counts.items() if count > 1)
        for id in duplicates - self._duplicates:
            handles = self.hide(id, ", ".join(str(machine.handle) for machine in machines if machine.id == id))
            log.error(
                "%s: several machines of the provider have this ID: %s; only the first one is managed", id, handles
            )
        self._duplicates = duplicates
        return by_id

    async def observe_all(self) -> list[Machine]:
        """Return all machines, also those with a duplicate ID."""
        with hiding_in_log(self.redaction.redact_all):
            machines = await self._ask("observe", border.read_machines, self._provider.observe)
        return await self._hide_reasons(machines)

    def hide(self, id: str | None, text: str) -> str:
        """Return a *text* of the provider's about an instance without its secrets."""
        record = self._records.get(id) if id else None
        spec = record.spec if record else Spec()
        return self.redaction.of(spec).redact(text) if self.redaction.has_secrets(spec) else text

    async def _hide_reasons(self, machines: list[M]) -> list[M]:
        """Return the machines without their instances' secrets in the reasons."""
        if any(machine.reason for machine in machines):
            # In a thread, because of outages with thousands of reasons. A provider may have spoiled the tags meanwhile.
            return await self._ask("reasons", _keep, self._redact_reasons, machines)
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
        mine = _Destroy(record)
        waiting = self._to_destroy.setdefault(reason, {})
        waiting[mine] = None
        try:
            if self._read_batch() > 1:
                await asyncio.sleep(0)  # let others of this turn of the event loop join the batch
            async with Slot(self._destroys, f"destroy of {record.id}"):
                if mine in waiting:
                    others = islice((each for each in waiting if each is not mine), self._read_batch() - 1)
                    batch = [mine, *others]
                    for each in batch:
                        del waiting[each]
                    await self._destroy_batch(batch, reason)
            await mine.outcome
        finally:
            waiting.pop(mine, None)
            if not waiting and self._to_destroy.get(reason) is waiting:
                del self._to_destroy[reason]

    async def _destroy_batch(self, batch: Sequence["_Destroy"], reason: str) -> None:
        """Destroy as many instances as the provider accepts at once."""
        records = [each.record for each in batch]
        ids = [record.id for record in records]
        errors: Mapping[str, PyInfrakitError] = dict.fromkeys(ids, TryAgain("the call for the batch broke off"))
        redact = self.redaction.watch(*(record.spec for record in records))
        try:
            with self._calling(*ids), hiding_in_log(redact):
                name = f"destroy of {', '.join(ids)}"
                copies = list(map(copy_record, records))
                errors = await self._ask(name, border.read_errors(ids), self._provider.destroy, copies, reason)
                if errors:
                    errors = await self._threads.call(_redact_errors, errors, redact)
        except PyInfrakitError as error:
            errors = dict.fromkeys(ids, error)
        finally:
            for each in batch:
                each.settle(errors.get(each.record.id))

    def _read_batch(self) -> int:
        """Return how many instances the provider takes at once; 1 if that is no number."""
        return attempt(lambda: max(1, int(self._provider.batch)), 1)

    @contextlib.contextmanager
    def _calling(self, *ids: str) -> Iterator[None]:
        self.in_flight.update(ids)
        self.called.update(ids)
        try:
            yield
        finally:
            self.in_flight.difference_update(ids)

    async def _ask(self, name: str, read: Callable[[Any], T], method: Callable[..., Any], *arguments: Any) -> T:
        """Call a method, and return what *read* makes of its result. Every exception comes as a `PyInfrakitError`."""
        log.debug("the provider is asked: %s", name)

        def call() -> Any:
            return method(*arguments)

        if inspect.iscoroutinefunction(method):
            answer = await _run_task(read, call)
        else:
            answer = await self._threads.call(_answer, read, call)
            if isinstance(pending := answer.value, _Pending):
                answer = await _run_task(read, lambda: pending.result)
        return cast(T, await self._open(name, answer))

    async def _open(self, name: str, answer: "_Answer") -> Any:
        """Return an answer's value, or raise its error."""
        if answer.failure is not None:
            # In a thread, because secrets may be looked for in a long text, or many.
            raise await self._threads.call(_explain, answer.failure, name)
        return answer.value


class _Destroy:
    """An instance that waits to be destroyed, and then the outcome."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, error: PyInfrakitError | None) -> None:
        if self.outcome.done():
            return
        if error is None:
            self.outcome.set_result(None)
        else:
            self.outcome.set_exception(error)
            self.outcome.exception()  # after a stop, nobody else looks


class _Answer(Struct, frozen=True):
    """What a call returned, as it was read, or what it raised."""

    value: Any = None
    failure: BaseException | None = None


class _Pending(Struct, frozen=True):
    """What a plain method returned, if that must be awaited: a coroutine, for example."""

    result: Any


def _answer(read: Callable[[Any], Any], call: Callable[[], Any]) -> _Answer:
    """Call a plain method. If it is a generator, run it to its end, here in its thread."""
    IN_PROVIDER.set(True)
    try:
        result = call()
        if inspect.isasyncgen(result) or isinstance(result, Awaitable):
            return _Answer(_Pending(result))
        return _Answer(read(border.read_items(result) if isinstance(result, Iterator) else result))
    except BaseException as error:  # noqa: BLE001 - foreign code: nothing that it raises may go further
        return _Answer(failure=error)


async def _run_task(read: Callable[[Any], Any], call: Callable[[], Any]) -> _Answer:
    """Run an async method in a task of its own: a provider that cancels the current task cancels only that one."""
    try:
        return await asyncio.create_task(_answer_async(read, call), name="provider")
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _Answer(failure=error)


async def _answer_async(read: Callable[[Any], Any], call: Callable[[], Any]) -> _Answer:
    IN_PROVIDER.set(True)
    try:
        result = call()
        if inspect.isasyncgen(result):
            return _Answer(read(await border.collect(result)))
        return _Answer(read(await result if isinstance(result, Awaitable) else result))
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - a SystemExit would end the event loop, and so the process
        return _Answer(failure=error)


def _explain(error: BaseException, name: str) -> PyInfrakitError:
    """Return what the call *name* raised as an error without secrets. Log it if it is a bug of the provider's."""
    if not issubclass(type(error), PyInfrakitError):
        log.error("the provider has a bug: %s raised", name, exc_info=copy_trace(error))
    return redact_error(border.copy_error(error, name), redact_current)


def _redact_errors(errors: Mapping[str, PyInfrakitError], redact: Redact) -> Mapping[str, PyInfrakitError]:
    return {id: redact_error(error, redact) for id, error in errors.items()}


async def _limit(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """Return the call's result; raise `TryAgain` after *seconds*, and leave the call to itself."""
    task = asyncio.create_task(call)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # after a stop, nobody else looks
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        return task.result()
    task.cancel()
    raise TryAgain(f"no answer from the provider for {seconds:g} s")


def _keep(result: T) -> T:
    """Return the result as it is: it has been read."""
    return result
