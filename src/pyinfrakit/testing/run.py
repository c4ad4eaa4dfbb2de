"""A provider, or a plugin with one, from one start to its end; nothing waits for ever."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from pyinfrakit.instance.calls import CallLimits, Calls
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import FileStore
from pyinfrakit.testing.wrapped import Wrapped

MARK = "the-contract"

_OPEN: ContextVar[list[Calls | Plugin]] = ContextVar("_OPEN")
"""Whose threads a test that takes too long is not to wait for."""


class Run(Calls):
    """Calls to a provider that was started."""

    def __init__(self, provider: Provider, spec: Spec) -> None:
        """*spec* is what machines are made of."""
        super().__init__(provider, CallLimits())
        self.provider = provider
        self.spec = spec
        self.made: dict[str, Record] = {}
        """The records of what was provisioned, by ID."""

    async def make(self, id: str) -> Machine:
        """Provision, and keep the record."""
        machine = await self.provision(id, lambda: self.spec)
        assert machine is not None
        self.made[id] = Record(id=id, state=State.READY, spec=self.spec, handle=machine.handle)
        return machine

    async def end(self, *records: Record) -> dict[str, str]:
        """Destroy, together as far as the provider takes that; give the errors by ID."""
        outcomes = await asyncio.gather(
            *(self.destroy(record, "terminate") for record in records), return_exceptions=True
        )
        return {record.id: str(error) for record, error in zip(records, outcomes, strict=True) if error is not None}

    async def seen(self) -> list[Machine]:
        """Observe, and give all that the provider gave: two of one ID are two."""
        return sorted(await self.observe_all(), key=lambda machine: machine.id)

    async def seen_ids(self) -> list[str]:
        return [machine.id for machine in await self.seen()]


def _bound(*calls: Calls | Plugin) -> None:
    _OPEN.get().extend(calls)


@asynccontextmanager
async def started(provider: Provider, spec: Spec, known: Sequence[Record], mark: str) -> AsyncIterator[Run]:
    """Start a provider, and stop it in the end."""
    run = Run(provider, spec)
    _bound(run)
    try:
        await run.start(mark, known)
        yield run
        await run.stop(10)
    finally:
        run.abandon()


@asynccontextmanager
async def plugin_with(provider: Provider, folder: Path, interval: float, wait: float = 60) -> AsyncIterator[Plugin]:
    """Run a plugin on the state file in *folder*, and stop it in the end, in order."""
    with FileStore(folder / "contract.json", "the contract", MARK) as store:
        plugin = Plugin(store, provider, interval=interval, wait=wait)
        _bound(plugin, *([provider.calls] if isinstance(provider, Wrapped) else []))
        await plugin.start()
        try:
            yield plugin
        finally:
            await plugin.stop(10)
            await store.flush()


async def crash(provider: Wrapped, folder: Path, interval: float, life: Callable[[Plugin], Awaitable[None]]) -> None:
    """Run *life* on a plugin, and then let it go in the midst of everything, as a crash does.

    This must be the end of its event loop, in which the store has timers.
    """
    with FileStore(folder / "contract.json", "the contract", MARK) as store:
        plugin = Plugin(store, provider, interval=interval, wait=0)
        _bound(plugin, provider.calls)
        before = asyncio.all_tasks()
        try:
            await plugin.start()
            await life(plugin)
        finally:
            left = asyncio.all_tasks() - before
            for task in left:
                task.cancel()
            plugin.abandon()
            provider.calls.abandon()
            if left:
                done, _ = await asyncio.wait(left, timeout=10)
                await asyncio.gather(*done, return_exceptions=True)  # nobody else asks what became of them


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until *condition* holds; its test's own time limit is where *what* is told not to have happened."""
    try:
        while not condition():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        raise AssertionError(f"in vain it was waited until {what}") from None


def bounded(test: Callable[[Any, Path], Coroutine[Any, Any, None]]) -> Callable[[Any, Path], None]:
    """Make an async test one that pytest runs, and that fails after its class's `patience` rather than hang."""

    @functools.wraps(test)
    def run(self: Any, tmp_path: Path) -> None:
        run_within(self.patience, test(self, tmp_path))

    return run


def run_within(seconds: float, test: Coroutine[Any, Any, None]) -> None:
    """Run *test* in an event loop of its own, for no more than *seconds*; what it leaves to be done later is not done."""
    asyncio.run(_within(seconds, test))


async def _within(seconds: float, test: Coroutine[Any, Any, None]) -> None:
    """Run *test*, but no longer than *seconds*: a plain method that hangs in its thread is not waited for."""
    calls: list[Calls | Plugin] = []
    _OPEN.set(calls)
    task = asyncio.create_task(test)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        return task.result()
    task.cancel()
    for each in calls:
        each.abandon()
    await asyncio.wait({task}, timeout=1)
    if task.done() and not task.cancelled() and isinstance(task.exception(), AssertionError):
        return task.result()
    pytest.fail(
        f"not done after {seconds:g} s: does a method hang? `patience` may be set higher where machines take so long"
    )
