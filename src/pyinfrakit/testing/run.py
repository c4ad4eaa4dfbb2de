"""Runs of a provider, alone or in a plugin, from a start to a stop or a crash. All of them have a time limit."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pyinfrakit.daemon.build import Parts, build
from pyinfrakit.events import EventLog
from pyinfrakit.instance.calls import CallLimits, Calls
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.records import Records
from pyinfrakit.testing.wrapped import Wrapped, destroy_each

T = TypeVar("T")

MARK = "the-contract"

_OPEN: ContextVar[list[Calls | Plugin]] = ContextVar("_OPEN")
"""The calls whose threads must not hold up a test that times out."""


class Run(Calls):
    """Calls to a provider that has started. Machines are made from *spec*."""

    def __init__(self, provider: Provider, spec: Spec) -> None:
        super().__init__(provider, CallLimits(), Records())
        self.provider = provider
        self.spec = spec

    async def make(self, id: str) -> Record:
        """Provision a machine, and return its record."""
        machine = await self.provision(id, lambda: self.spec)
        assert machine is not None
        return Record(id=id, state=State.READY, spec=self.spec, handle=machine.handle)

    async def try_destroy(self, *records: Record) -> dict[str, str]:
        """Destroy machines. Return the errors by ID."""
        return {id: str(error) for id, error in (await destroy_each(self, records, "terminate")).items()}

    async def destroy_all(self, *records: Record) -> None:
        """Destroy machines. Any error fails the test."""
        errors = await self.try_destroy(*records)
        assert {} == errors, f"destroy must succeed for all of {', '.join(record.id for record in records)}"

    async def list_machines(self) -> list[Machine]:
        """Observe, and return all machines sorted by ID, also those with a duplicate ID."""
        return sorted(await self.observe_all(), key=lambda machine: machine.id)

    async def check_ids(self, ids: Sequence[str], rule: str = "") -> None:
        """Fail the test, with *rule* in the message, unless observe returns one machine for each of *ids* and no other."""
        observed = [machine.id for machine in await self.list_machines()]
        # pytest explains a bare assert only in modules that it rewrites, which this is not in others' projects.
        message = f"observe must return {', '.join(ids) or 'no machine'}, but returned {', '.join(observed) or 'none'}"
        assert sorted(ids) == observed, f"{message}: {rule}" if rule else message


@asynccontextmanager
async def run_provider(provider: Provider, spec: Spec, known: Sequence[Record], mark: str) -> AsyncIterator[Run]:
    """Start a provider, and stop it at the end."""
    run = Run(provider, spec)
    _OPEN.get().append(run)
    try:
        await run.start(mark, known)
        yield run
        await run.stop(10)
    finally:
        run.abandon()


def _build(provider: Provider, folder: Path, interval: float, wait: float) -> AbstractContextManager[Parts]:
    make_plugin = functools.partial(Plugin, interval=interval, wait=wait)
    state = str(folder / "contract.json")
    return build("the contract", {"": lambda name, folder: provider}, EventLog(), state, MARK, make_plugin)


@asynccontextmanager
async def run_plugin(provider: Provider, folder: Path, interval: float, wait: float = 60) -> AsyncIterator[Plugin]:
    """Run a plugin with a state file in *folder*, and stop it properly at the end."""
    with _build(provider, folder, interval, wait) as parts:
        plugin = parts.plugins[""]
        _OPEN.get().extend([plugin, *([provider.calls] if isinstance(provider, Wrapped) else [])])
        await plugin.start()
        try:
            yield plugin
        finally:
            await plugin.stop(10)
            await parts.store.flush()


async def crash(provider: Wrapped, folder: Path, interval: float, live: Callable[[Plugin], Awaitable[T]]) -> T:
    """Return the result of *live* for a plugin, and drop the plugin with all calls under way, as a crash does.

    The event loop must end with this, because timers of the store remain in it.
    """
    with _build(provider, folder, interval, wait=0) as parts:
        plugin = parts.plugins[""]
        _OPEN.get().extend([plugin, provider.calls])
        before = asyncio.all_tasks()
        try:
            await plugin.start()
            return await live(plugin)
        finally:
            remaining = asyncio.all_tasks() - before
            for task in remaining:
                task.cancel()
            plugin.abandon()
            provider.calls.abandon()
            if remaining:
                done, _ = await asyncio.wait(remaining, timeout=10)
                await asyncio.gather(*done, return_exceptions=True)  # asyncio warns of errors that nobody looks at


async def wait_until(condition: Callable[[], bool], event: str) -> None:
    """Wait until *condition* holds. Raise `AssertionError` with *event* if the test's time limit comes first."""
    try:
        while not condition():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        raise AssertionError(f"timed out waiting until {event}") from None


def bounded(test: Callable[[Any, Path], Coroutine[Any, Any, None]]) -> Callable[[Any, Path], None]:
    """Let pytest run an async test, and fail it after the `patience` of its class."""

    @functools.wraps(test)
    def run(self: Any, tmp_path: Path) -> None:
        asyncio.run(limit(self.patience, test(self, tmp_path)))

    return run


async def limit(seconds: float, test: Coroutine[Any, Any, T]) -> T:
    """Return the result of *test*. Fail it after *seconds*."""
    calls: list[Calls | Plugin] = []
    _OPEN.set(calls)
    task = asyncio.create_task(test)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if done:
        return task.result()
    task.cancel()
    for each in calls:  # a plain method may hang in its thread, which nothing can end: do not wait for it
        each.abandon()
    await asyncio.wait({task}, timeout=1)
    if task.done() and not task.cancelled() and isinstance(task.exception(), AssertionError):
        return task.result()
    pytest.fail(f"timed out after {seconds:g} s: does a method hang? If your machines are slow, set `patience` higher")
