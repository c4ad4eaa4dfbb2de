"""Short pauses for the garbage collector, however many instances there are."""

import gc
import time
from collections.abc import Callable

LONGEST = 0.01
"""Seconds that a full collection may take before the objects that it found alive are left out of later ones."""

FEW_CONNECTIONS = 50
"""Connections whose objects may be left out: they are never freed if they are in cycles."""

FULL = 2
"""The number of a full collection."""


class _Watch:
    """Watch how long full collections take: they go through all objects, and nothing else runs meanwhile.

    What is alive after a long one is mostly records, which hold no cycles: they are freed without a collection. That
    is not so of connections, so that nothing is left out while there are many.
    """

    def __init__(self, count_connections: Callable[[], int]) -> None:
        self._count_connections = count_connections
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        elif info["generation"] == FULL and time.perf_counter() - self._began > LONGEST and self._has_few():
            gc.freeze()

    def _has_few(self) -> bool:
        return self._count_connections() <= FEW_CONNECTIONS


def collect_quickly(count_connections: Callable[[], int]) -> None:
    """Enable garbage collection, and leave out all objects that exist now."""
    gc.freeze()
    gc.collect()  # it counts the objects that are left: how soon the next full collection comes depends on them
    gc.callbacks.append(_Watch(count_connections))
    gc.enable()
