"""End all that a process started, and nothing else.

An instance's processes are those that carry its ID and the mark in their environment, the two that its file ``life`` names,
what is in the session of these, and what any of them has started.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from signal import SIGCONT, SIGKILL, SIGTERM

from pyinfrakit.providers.process import proc
from pyinfrakit.providers.process.place import Place
from pyinfrakit.providers.process.proc import Process, Seen
from pyinfrakit.providers.process.starting import INSTANCE_VARIABLE, MARK_VARIABLE

LONGEST_LOOK = 0.1
"""Seconds between looks, which are more frequent at first."""

AFTER_KILL = 5.0
"""Seconds after which what was sent SIGKILL should be gone."""

Table = Mapping[int, Seen]


def ended(
    places: Iterable[Place], mark: str, uid: int, grace: float, gone: Callable[[Place], bool]
) -> dict[str, list[int]]:
    """End the processes of instances: SIGTERM, after *grace* seconds SIGKILL; give those that are left, by instance.

    *gone* is called where none is left, and gives False where one may still come. Two looks in a row must find none, as
    one can miss a process that is started while it goes on.
    """
    waiting = {place.id: place for place in places}
    left: Mapping[str, Collection[Process]] = {}
    seen_none: set[str] = set()
    told: set[Process] = set()
    begin = time.monotonic()
    pause = 0.002
    while waiting and time.monotonic() < begin + grace + AFTER_KILL:
        left = found(waiting.values(), mark, uid)
        quiet = {id for id in waiting if not left[id]}
        for id in quiet & seen_none:
            if gone(waiting[id]):
                del waiting[id]
        is_new = bool(quiet - seen_none)
        seen_none = quiet
        late = time.monotonic() >= begin + grace
        for process in {process for id in waiting for process in left[id]}:
            _end(process, late, told)
        if not is_new:
            time.sleep(pause)
            pause = min(LONGEST_LOOK, pause * 1.5)
    return {id: sorted(process.pid for process in left[id]) for id in waiting}


def _end(process: Process, late: bool, told: set[Process]) -> None:
    """Ask once, then force. What can't be signalled is told in the end, as it is still there."""
    with contextlib.suppress(PermissionError):
        if late:
            proc.send(process, SIGKILL)
        elif process not in told:
            proc.send(process, SIGTERM, SIGCONT)
            told.add(process)


def found(places: Iterable[Place], mark: str, uid: int) -> dict[str, set[Process]]:
    """Look for the processes of instances."""
    table = proc.everything()
    boot, _ = proc.boot()
    marked = _marked(table, mark)
    children = _by(table, lambda seen: seen.parent)
    sessions = _by(table, lambda seen: seen.session)
    by_id = {}
    for place in places:
        recorded = [process for process in place.life().left(boot) if _is_ours(table, process, uid)]
        pids = marked[place.id] | {process.pid for process in recorded}
        led = place.life().parent
        if led is not None and any(table[pid].session == led.pid for pid in pids):
            pids |= sessions[led.pid]
        by_id[place.id] = {table[pid].process for pid in _with_descendants(pids, children)}
    return by_id


def _is_ours(table: Table, process: Process, uid: int) -> bool:
    """Is it still that process, and its user's? The user's own processes might have written another one into ``life``."""
    seen = table.get(process.pid)
    return seen is not None and seen.process == process and proc.user(process.pid) == uid


def _marked(table: Table, mark: str) -> defaultdict[str, set[int]]:
    marked = defaultdict(set)
    ours = f"{MARK_VARIABLE}={mark}".encode()
    prefix = f"{INSTANCE_VARIABLE}=".encode()
    for pid in table:
        lines = proc.environment(pid)
        if ours in lines:
            for line in lines:
                if line.startswith(prefix):
                    marked[line.removeprefix(prefix).decode(errors="replace")].add(pid)
    return marked


def _by(table: Table, key: Callable[[Seen], int]) -> defaultdict[int, set[int]]:
    groups = defaultdict(set)
    for pid, seen in table.items():
        groups[key(seen)].add(pid)
    return groups


def _with_descendants(pids: Iterable[int], children: Mapping[int, set[int]]) -> set[int]:
    found: set[int] = set()
    new = set(pids)
    while new:
        found |= new
        new = {child for pid in new for child in children.get(pid, ())} - found
    return found
