"""Memory that clients keep in use: a limit on all of one kind together, at which the oldest makes room."""

import asyncio
import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable

MANY = 8 * 1024 * 1024
"""Bytes in use after which this process gives memory back to the system."""

REST = 2.0
"""Seconds until then: it is not worthwhile for each request."""

_libc = ctypes.CDLL(None)


class Memory:
    """The memory of one kind, *limit* bytes at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._peak = 0
        self._evictable: dict[Share, Callable[[], None]] = {}  # oldest first

    def take(self, share: "Share", count: int) -> bool:
        """Add *count* bytes to *share*, and evict the oldest shares if there is no room. Return False if that fails."""
        share.size += count
        self._size += count
        self._peak = max(self._peak, self._size)
        while self._size > self._limit and self._evictable:
            oldest = next(iter(self._evictable))
            if oldest is share and len(self._evictable) == 1:
                break  # nobody else needs the room
            evict = self._evictable[oldest]
            self.release(oldest)
            evict()
        return self._size <= self._limit

    def expose(self, share: "Share", evict: Callable[[], None]) -> None:
        """Call *evict*, which frees the memory of *share*, if others need it."""
        self._evictable[share] = evict

    def protect(self, share: "Share") -> None:
        """Do not evict *share* any more."""
        self._evictable.pop(share, None)

    def release(self, share: "Share") -> None:
        """Count *share* as free."""
        self.protect(share)
        self._size -= share.size
        share.size = 0
        if self._peak >= MANY and self._size < self._peak // 4:
            self._peak = self._size
            asyncio.get_running_loop().call_later(REST, _give_back)


class Share:
    """What one request has of a `Memory`. It is free after the context."""

    def __init__(self, memory: Memory) -> None:
        self.size = 0
        self.memory = memory

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *exception: object) -> None:
        self.memory.release(self)


def _give_back() -> None:
    """Give free memory back to the system. Without this, glibc keeps what lies between blocks in use."""
    gc.collect()  # connections that broke off are cycles; `daemon.garbage` keeps this short
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        with contextlib.suppress(RuntimeError):  # this host has no thread left
            threading.Thread(target=trim, args=(0,), name="memory", daemon=True).start()
