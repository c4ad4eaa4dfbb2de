"""Providers whose `provision` waits without using the CPU, as if for a remote machine: async and plain."""

# The daemon loads this module, so it imports only modules that the daemon loads anyhow.

import asyncio
import time

from pyinfrakit.instance.slots import CallLimits
from pyinfrakit.provider import Machine
from pyinfrakit.providers.file import File
from pyinfrakit.record import Spec

LATENCY = 0.05
"""Seconds that each `provision` takes."""


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


def compute_ideal_seconds(count: int) -> float:
    """Return the least time that *count* provisions take under the daemon's default limit of concurrent calls."""
    return count / CallLimits().at_once * LATENCY
