"""Call a provider: its methods may be async or plain, slow, or wrong, and nothing but their results comes through.

Calls of a kind are limited in number. One that takes longer than it may no longer counts, so that those which hang do not
keep others waiting; an async one is cancelled then, a plain one can't be: its thread is waited for, however long
that takes, as there must never be a second call for the same instance beside it.
"""

import asyncio
import contextlib
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from msgspec import Raw, Struct

from pyinfrakit.errors import PyInfrakitError, TryAgain
from pyinfrakit.provider import Machine, PoolMachine, Provider
from pyinfrakit.record import Record, Spec

log = logging.getLogger(__name__)

T = TypeVar("T")

VALIDATE = 10.0
"""Seconds that a provider's own `validate` may take: somebody waits for it."""

POOL = 10.0
"""Seconds that it may take to tell of its pool: somebody waits for that too."""


class Bounds(Struct, frozen=True):
    """How many calls of a kind may run at once (a restart must not make thousands), and for how many seconds each may."""

    at_once: int = 50
    timeout: float = 1800.0


class Slots:
    """Room for calls of one kind. *late* has what they are called that take longer than they may."""

    def __init__(self, bounds: Bounds, late: set[str]) -> None:
        self.timeout = bounds.timeout
        self.room = asyncio.Semaphore(bounds.at_once)
        self.late = late

    def one(self, what: str) -> "_Slot":
        """Give what is to be entered for one call: it waits for room."""
        return _Slot(self, what)


class _Slot:
    """Room for one call. When that takes too long it counts no more, and is cancelled, as far as it can be."""

    def __init__(self, slots: Slots, what: str) -> None:
        self._slots = slots
        self._what = what
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False

    async def __aenter__(self) -> None:
        await self._slots.room.acquire()
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._slots.timeout, self._late)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        assert self._timer is not None
        assert self._task is not None
        if not self._is_late:
            self._timer.cancel()
            self._slots.room.release()
            return
        self._slots.late.discard(self._what)
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TryAgain(f"no answer for {self._slots.timeout:g} s")

    def _late(self) -> None:
        log.error("%s: no answer for %g s", self._what, self._slots.timeout)
        self._is_late = True
        self._slots.late.add(self._what)
        self._slots.room.release()
        assert self._task is not None
        self._task.cancel()


Outcome = Callable[[], Any]
"""Gives the result of a call, or raises its error, where it is asked for: a future takes not every error."""

_Todo = SimpleQueue[tuple[asyncio.Future[Outcome], Outcome] | None]


class Threads:
    """As many threads as there are calls at once. They stay, as it takes longer to start one than most calls take."""

    def __init__(self) -> None:
        self._todo: _Todo = SimpleQueue()
        self._waits: set[asyncio.Future[Outcome]] = set()
        self._threads = 0
        self._idle = 0

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Give what *function* gives, or raise what it raises.

        To cancel this has no effect until `abandon`: whoever waits must know when the call has really ended.
        """
        wait: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=self._run, args=(self._todo,), name="provider", daemon=True).start()
            self._threads += 1
        self._waits.add(wait)
        self._todo.put((wait, lambda: function(*arguments)))
        while not wait.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(wait)
        return wait.result()()

    def abandon(self) -> None:
        """Wait for none any more. Those that are at work end with it, or with the process; later calls have others."""
        for wait in list(self._waits):
            wait.cancel()
        for _ in range(self._threads):
            self._todo.put(None)
        self._todo = SimpleQueue()
        self._threads = self._idle = 0

    def _run(self, todo: _Todo) -> None:
        while (work := todo.get()) is not None:
            wait, call = work
            outcome = _outcome(call)
            with contextlib.suppress(RuntimeError):  # the event loop was closed meanwhile: nobody waits
                wait.get_loop().call_soon_threadsafe(self._end, todo, wait, outcome)

    def _end(self, todo: _Todo, wait: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._idle += todo is self._todo
        self._waits.discard(wait)
        if not wait.done():
            wait.set_result(outcome)


def _outcome(call: Outcome) -> Outcome:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - nobody is above it in its thread: whoever waits is to have all of them
        return _raising(error)
    return lambda: result


def _raising(error: BaseException) -> Outcome:
    def again() -> Any:
        raise error

    return again


class Calls:
    """All calls to one provider. Whatever a method raises, or returns that is wrong, comes as a `PyInfrakitError`."""

    def __init__(self, provider: Provider, bounds: Bounds, begun: Callable[[str], None]) -> None:
        """*begun* is told the ID of each instance that a call begins for."""
        self._provider = provider
        self._begun = begun
        self._threads = Threads()
        self._has_started = False
        self.late: set[str] = set()
        """Calls that take longer than they may."""
        self.in_flight: set[str] = set()
        """IDs of the instances that calls are made for."""
        self._provisions = Slots(bounds, self.late)
        self._destroys = Slots(bounds, self.late)
        self._labellings = Slots(bounds, self.late)
        self._to_destroy: list[_ToDestroy] = []
        self._twins: frozenset[str] = frozenset()
        """IDs that several machines had in the last observation."""
        self.keeps_labels = type(provider).label is not Provider.label
        """Does the provider want to be told of tags that change?"""
        self._validates = type(provider).validate is not Provider.validate

    async def start(self, mark: str, known: Sequence[Record], ready: Container[str] = frozenset()) -> None:
        """Tell the provider who it is, and have it start. *ready* has, at any time, the IDs of the instances that are ready."""
        self._provider.mark, self._provider.known, self._provider.ready = mark, known, ready
        try:
            await self._ask("start", _anything, self._provider.start)
            self._has_started = True
        finally:
            self._provider.known = ()

    async def stop(self, timeout: float) -> None:
        """Have the provider stop, if it has started; raise `TryAgain` where that takes longer than *timeout* seconds."""
        if self._has_started:
            await _within(timeout, self._ask("stop", _anything, self._provider.stop))

    def abandon(self) -> None:
        """Wait for no thread any more."""
        self._threads.abandon()

    async def validate(self, properties: Raw | None) -> None:
        """Raise `InvalidSpec` for properties that the provider would not take."""
        if self._validates:
            await _within(VALIDATE, self._ask("validate", _anything, self._provider.validate, properties))
        else:
            await self._ask("validate", _anything, self._parse, properties)

    async def _parse(self, properties: Raw | None) -> None:
        self._provider.parse(properties)

    async def provision(self, id: str, wanted: Callable[[], Spec | None]) -> Machine | None:
        """Have a machine made; None where, once it is its turn, it is not *wanted* any more."""
        what = f"provision of {id}"
        async with self._provisions.one(what):
            spec = wanted()
            if spec is None:
                return None
            with self._calling(id):
                return await self._ask(what, _machine(id), self._provider.provision, id, spec)

    async def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        """Have a machine that exists marked as the instance *id*."""
        what = f"adopt of {handle}"
        async with self._provisions.one(what):
            with self._calling(id):
                return await self._ask(what, _machine(id, handle), self._provider.adopt, id, handle, spec)

    async def label(self, record: Record) -> None:
        """Have a record's tags put on its machine."""
        what = f"label of {record.id}"
        async with self._labellings.one(what):
            with self._calling(record.id):
                await self._ask(what, _anything, self._provider.label, record, record.spec.tags)

    async def pool(self) -> list[PoolMachine]:
        """Give all machines of the provider's pool; raise `GiveUp` where it has none."""
        found: list[PoolMachine] = await _within(POOL, self._ask("pool", _pool, self._provider.pool))
        return found

    async def observe(self) -> dict[str, Machine]:
        """Give all machines by ID. Of two with one ID, as a copied machine has, the first is given, and the other told."""
        machines = await self._ask("observe", _machines, self._provider.observe)
        by_id = {machine.id: machine for machine in reversed(machines)}
        twins = frozenset(machine.id for machine in machines if by_id[machine.id] is not machine)
        for id in twins - self._twins:
            handles = ", ".join(str(machine.handle) for machine in machines if machine.id == id)
            log.error("%s: the provider has several machines with this ID: %s; all but the first are left alone", id, handles)
        self._twins = twins
        return by_id

    async def destroy(self, record: Record, reason: str) -> None:
        """Have a machine destroyed, maybe together with others that wait for their turn."""
        mine = _ToDestroy(record, reason)
        self._to_destroy.append(mine)
        try:
            if self._provider.batch > 1:
                await asyncio.sleep(0)  # others may come in this turn of the event loop
            async with self._destroys.one(f"destroy of {record.id}"):
                if mine in self._to_destroy:
                    await self._destroy_together(self._batch_with(mine))
            await mine.outcome
        finally:
            self._to_destroy = [each for each in self._to_destroy if each is not mine]

    def _batch_with(self, mine: "_ToDestroy") -> "list[_ToDestroy]":
        """Take those who wait out of the line, as many as the provider may be given."""
        others = [each for each in self._to_destroy if each is not mine and each.reason == mine.reason]
        batch = [mine, *others[: self._provider.batch - 1]]
        self._to_destroy = [each for each in self._to_destroy if each not in batch]
        return batch

    async def _destroy_together(self, batch: "Sequence[_ToDestroy]") -> None:
        records = [each.record for each in batch]
        ids = [record.id for record in records]
        errors: Mapping[str, PyInfrakitError] = dict.fromkeys(ids, TryAgain("the call for several was broken off"))
        try:
            with self._calling(*ids):
                what = f"destroy of {', '.join(ids)}"
                errors = await self._ask(what, _errors(ids), self._provider.destroy, records, batch[0].reason)
        except PyInfrakitError as error:
            errors = dict.fromkeys(ids, error)
        finally:
            for each in batch:
                each.settle(errors.get(each.record.id))

    @contextlib.contextmanager
    def _calling(self, *ids: str) -> Iterator[None]:
        for id in ids:
            self.in_flight.add(id)
            self._begun(id)
        try:
            yield
        finally:
            self.in_flight.difference_update(ids)

    async def _ask(self, what: str, read: Callable[[Any], T], method: Callable[..., Any], *arguments: Any) -> T:
        """Call a method, and read its result: the one place where a provider's exceptions are caught."""
        log.debug("the provider is asked: %s", what)
        try:
            if inspect.iscoroutinefunction(method):
                return read(await method(*arguments))
            result = await self._threads.call(_complete, method, arguments)
            return read(await _awaited(result))
        except PyInfrakitError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise TryAgain(f"the provider has a bug: {what} was cancelled from within") from error
        except GeneratorExit:
            raise
        except BaseException as error:  # a KeyboardInterrupt would end the event loop, and leave the process
            log.exception("the provider has a bug: %s raised", what)
            raise TryAgain(f"the provider has a bug: {_told(error)}") from error


class _ToDestroy:
    """An instance whose turn to be destroyed comes, and then what came of it."""

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
            self.outcome.exception()  # at a stop nobody may wait for it any more


def _complete(method: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Call a plain method; where it is a generator, have it done in this thread."""
    result = method(*arguments)
    return list(result) if isinstance(result, Iterator) else result


async def _awaited(result: Any) -> Any:
    if inspect.isasyncgen(result):
        return [each async for each in result]
    return await result if isinstance(result, Awaitable) else result


async def _within(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """Await a call, but no longer than *seconds*: then it goes on alone."""
    task = asyncio.create_task(call)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # at a stop nobody may wait for it any more
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        return task.result()
    task.cancel()
    raise TryAgain(f"no answer from the provider for {seconds:g} s")


def _anything(result: Any) -> None:
    """Read what means nothing."""


def _machine(id: str, handle: str | None = None) -> Callable[[Any], Machine]:
    def read(result: Any) -> Machine:
        machine = Machine(id, result or handle) if result is None or isinstance(result, str) else result
        if type(machine) is not Machine or machine.id != id:
            raise TypeError(f"returned {result!r}, expected the Machine {id}, its handle, or None")
        return machine

    return read


def _machines(result: Iterable[Machine]) -> list[Machine]:
    """Read an observation. A subclass of `Machine` may have left out what that checks."""
    machines = list(result)
    for kind in set(map(type, machines)):
        if kind is not Machine:
            wrong = next(machine for machine in machines if type(machine) is kind)
            raise TypeError(f"observe gave {wrong!r}, expected a Machine")
    return machines


def _pool(result: Iterable[PoolMachine]) -> list[PoolMachine]:
    machines = list(result)
    if not all(isinstance(machine, PoolMachine) for machine in machines):
        raise TypeError("pool gave what is no PoolMachine")
    return machines


def _errors(ids: Collection[str]) -> Callable[[Any], dict[str, PyInfrakitError]]:
    """An error for what was not asked for, as under a machine's handle, may be that of any: nothing is taken for gone then."""

    def read(result: Any) -> dict[str, PyInfrakitError]:
        if result is None:
            return {}
        if not isinstance(result, Mapping) or not all(isinstance(error, Exception) for error in result.values()):
            raise TypeError(f"destroy returned {result!r}, expected None, or exceptions by ID")
        if strange := [id for id in result if id not in ids]:
            raise TypeError(
                f"destroy returned an error for {strange[0]!r}, expected None, or exceptions by ID, of {', '.join(ids)}"
            )
        return {id: _as_ours(error) for id, error in result.items()}

    return read


def _as_ours(error: Exception) -> PyInfrakitError:
    return error if isinstance(error, PyInfrakitError) else TryAgain(_told(error))


def _told(error: BaseException) -> str:
    """Say what it is in one line, also where its own text, which is a provider's code too, can't be had."""
    return " ".join("".join(traceback.format_exception_only(error)).split())
