"""Ends of processes, reported when they come: one epoll has a descriptor of each process.

An observation finds the end of any process, watched or not. So a process may go without a descriptor if this daemon
can't open more files.
"""

import asyncio
import contextlib
import os
import resource
import select
import threading
from collections.abc import Callable

from pyinfrakit.providers.process import proc
from pyinfrakit.providers.process.proc import ProcessID

FILES = 65536
"""Open files that suffice for all processes that one daemon is likely to have."""


class Watch:
    """One process of each instance. *report* is called when any of them ends."""

    def __init__(self, report: Callable[[], None]) -> None:
        """Begin to collect ends in the running event loop."""
        self._report = report
        self._room = _make_room()
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}
        self._ids: dict[int, str] = {}
        self._epoll = select.epoll()
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._collect)

    def add(self, id: str, *processes: ProcessID | None) -> None:
        """Report the end of the first of an instance's *processes* that is alive; report at once if none is.

        Do nothing if one of them is watched already. Any thread may call this.
        """
        with self._lock:
            if id in self._descriptors or len(self._ids) >= self._room or self._epoll.closed:
                return
            try:
                is_alive = any(self._register(id, process) for process in processes if process is not None)
            except OSError:  # no more files: the next observation finds the end
                return
        if not is_alive:
            self._report()

    def forget(self, id: str) -> None:
        """Watch an instance no longer. Any thread may call this."""
        with self._lock:
            if id in self._descriptors:
                self._close(self._descriptors[id])

    def stop(self) -> None:
        """Watch nothing any longer."""
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        with self._lock:
            for descriptor in list(self._ids):
                self._close(descriptor)
            self._epoll.close()

    def _register(self, id: str, process: ProcessID) -> bool:
        """Return whether a process is alive, and watch it if it is."""
        descriptor = proc.open_process(process)
        if descriptor is None:
            return False
        try:
            # It becomes readable when the process ends.
            self._epoll.register(descriptor, select.EPOLLIN)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptors[id], self._ids[descriptor] = descriptor, id
        return True

    def _collect(self) -> None:
        with self._lock:
            ends = self._epoll.poll(0)
            for descriptor, _ in ends:
                self._close(descriptor)
        if ends:
            self._report()

    def _close(self, descriptor: int) -> None:
        del self._descriptors[self._ids.pop(descriptor)]
        os.close(descriptor)


def _make_room() -> int:
    """Let this process open many files, and return how many of them may be descriptors of processes: half.

    Processes of instances do not inherit the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return FILES // 2
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return soft // 2
