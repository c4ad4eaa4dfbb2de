"""Providers around another one, which make of it one that is cut off, or fails for a while."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Raw

from pyinfrakit.errors import TryAgain
from pyinfrakit.instance.calls import CallLimits, Calls
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec


class Wrapped(Provider):
    """Another provider, whose methods may be async or plain."""

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner.name, inner.folder, inner.options)
        self.calls = Calls(inner, CallLimits())

    async def start(self) -> None:
        await self.calls.start(self.mark, self.known, self.ready)

    async def stop(self) -> None:
        try:
            await self.calls.stop(10)
        finally:
            self.calls.abandon()

    async def validate(self, properties: Raw | None) -> None:
        await self.calls.validate(properties)

    async def provision(self, id: str, spec: Spec) -> Machine | None:
        return await self.calls.provision(id, lambda: spec)

    async def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, Exception]:
        outcomes: list[Any] = await asyncio.gather(
            *(self.calls.destroy(instance, reason) for instance in instances), return_exceptions=True
        )
        pairs = zip(instances, outcomes, strict=True)
        return {instance.id: error for instance, error in pairs if isinstance(error, Exception)}

    async def observe(self) -> Iterable[Machine]:
        return (await self.calls.observe()).values()

    async def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        if self.calls.keeps_labels:
            await self.calls.label(instance)


class Stalled(Wrapped):
    """A provider one *method* of which does its work, and then does not return before it may *go_on*."""

    def __init__(self, inner: Provider, method: str) -> None:
        super().__init__(inner)
        self._method = method
        self.done = asyncio.Event()
        """The method did its work."""
        self.go_on = asyncio.Event()

    async def provision(self, id: str, spec: Spec) -> Machine | None:
        machine = await super().provision(id, spec)
        await self._stall("provision")
        return machine

    async def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, Exception]:
        errors = await super().destroy(instances, reason)
        await self._stall("destroy")
        return errors

    async def _stall(self, method: str) -> None:
        if method == self._method:
            self.done.set()
            await self.go_on.wait()


class Unsteady(Wrapped):
    """A provider whose methods each fail for the first *failures* calls, as an API does that is overloaded."""

    def __init__(self, inner: Provider, failures: int) -> None:
        super().__init__(inner)
        self._left = dict.fromkeys(("provision", "destroy", "observe", "label"), failures)

    async def provision(self, id: str, spec: Spec) -> Machine | None:
        await self._fail("provision")
        return await super().provision(id, spec)

    async def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, Exception]:
        await self._fail("destroy")
        return await super().destroy(instances, reason)

    async def observe(self) -> Iterable[Machine]:
        await self._fail("observe")
        return await super().observe()

    async def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        await self._fail("label")
        await super().label(instance, tags)

    async def _fail(self, method: str) -> None:
        """Fail late enough that whoever does not wait has the answer by then."""
        if self._left[method] > 0:
            self._left[method] -= 1
            await asyncio.sleep(0.05)
            raise TryAgain(f"{method}: overloaded", after=0.05)
