"""Short pauses for the garbage collector, however many instances there are."""

import gc
import time

LONGEST = 0.01
"""Seconds that a full collection may take before the objects that it found alive are left out of later ones."""


class _Watch:
    """Watch how long full collections take: they go through all objects, and nothing else runs meanwhile.

    What is alive after a long one is mostly records, which hold no cycles: they are freed without a collection.
    """

    def __init__(self) -> None:
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        elif info["generation"] == 2 and time.perf_counter() - self._began > LONGEST:
            gc.freeze()


def collect_quickly() -> None:
    """Enable garbage collection, and leave out all objects that exist now."""
    gc.freeze()
    gc.collect()  # it counts the objects that are left: how soon the next full collection comes depends on them
    gc.callbacks.append(_Watch())
    gc.enable()
