"""Providers around another provider: they stall it, or make its first calls fail."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from msgspec import Raw

from pyinfrakit.errors import TryAgain
from pyinfrakit.instance.calls import CallLimits, Calls
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec
from pyinfrakit.store.records import Records

T = TypeVar("T")


async def destroy_each(calls: Calls, records: Sequence[Record], reason: str) -> dict[str, Exception]:
    """Destroy machines, in batches as large as the provider takes them. Return the errors by ID."""
    outcomes = await asyncio.gather(*(calls.destroy(each, reason) for each in records), return_exceptions=True)
    return {each.id: error for each, error in zip(records, outcomes, strict=True) if isinstance(error, Exception)}


class Wrapped(Provider):
    """The provider *inner*, whose methods may be async or plain, with async methods."""

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner.name, inner.folder, inner.options)
        self.calls = Calls(inner, CallLimits(), Records())

    async def start(self) -> None:
        await self.calls.start(self.mark, self.known, self.ready, self.changed)

    async def stop(self) -> None:
        try:
            await self.calls.stop(10)
        finally:
            self.calls.abandon()

    async def validate(self, properties: Raw | None) -> None:
        await self.calls.validate(properties)

    async def provision(self, id: str, spec: Spec) -> Machine | None:
        return await self._call("provision", lambda: self.calls.provision(id, lambda: spec))

    async def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, Exception]:
        return await self._call("destroy", lambda: destroy_each(self.calls, instances, reason))

    async def observe(self) -> Iterable[Machine]:
        return (await self._call("observe", self.calls.observe)).values()

    async def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        await self._call("label", lambda: self.calls.label(instance))

    async def _call(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call a method that InfraKit waits for. Subclasses disturb it here."""
        return await call()


class Stalled(Wrapped):
    """A provider with a *method*, such as provision, that does its work but does not return before *go_on* is set."""

    def __init__(self, inner: Provider, method: str) -> None:
        super().__init__(inner)
        self._method = method
        self.done = asyncio.Event()
        """Set when the method has done its work."""
        self.go_on = asyncio.Event()

    async def _call(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        result = await call()
        if method == self._method:
            self.done.set()
            await self.go_on.wait()
        return result


class Unsteady(Wrapped):
    """A provider with methods that each fail for the first *failures* calls, as those of an overloaded API do."""

    def __init__(self, inner: Provider, failures: int) -> None:
        super().__init__(inner)
        self._failures = dict.fromkeys(("provision", "destroy", "observe", "label"), failures)

    async def _call(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        if self._failures[method] > 0:
            self._failures[method] -= 1
            await asyncio.sleep(0.05)  # late enough that a caller without a wait has its reply by then
            raise TryAgain(f"{method}: overloaded", after=0.05)
        return await call()
