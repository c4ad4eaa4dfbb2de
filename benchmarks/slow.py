"""Providers whose provision takes a while and costs nothing, as that of a machine somewhere else: async, and plain."""

import asyncio
import time

from pyinfrakit.provider import Machine
from pyinfrakit.providers.file import File
from pyinfrakit.record import Spec

LATENCY = 0.05
"""Seconds that a provision takes."""


class Async(File):
    """Waits on the event loop."""

    async def provision(self, id: str, spec: Spec) -> Machine:
        await asyncio.sleep(LATENCY)
        return await super().provision(id, spec)


class Plain(File):
    """Waits in a thread."""

    def provision(self, id: str, spec: Spec) -> Machine:  # type: ignore[override]
        time.sleep(LATENCY)
        return self._machines.setdefault(id, Machine(id))
