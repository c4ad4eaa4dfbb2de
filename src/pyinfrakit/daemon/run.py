"""Start, run, stop: one process that serves its programs until a signal, or until its errand is done."""

import asyncio
import logging
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import uvloop

from pyinfrakit.daemon.connections import MAX_CONNECTIONS
from pyinfrakit.daemon.events import EventStreams
from pyinfrakit.daemon.garbage import collect_quickly
from pyinfrakit.daemon.guard import run_guarded
from pyinfrakit.daemon.http import Server
from pyinfrakit.daemon.programs import Program
from pyinfrakit.daemon.stop import Stop
from pyinfrakit.events import EventLog
from pyinfrakit.logs import NOTICE

log = logging.getLogger(__name__)

REQUESTS_STOP = 2.5
"""Seconds in which requests have to finish at a stop."""

SWITCH = 0.0005
"""Seconds that the event loop waits for a thread that computes, after each call to the system. Python's own 5 ms would
add up to much more in each pass, since a pass has many such calls."""

OTHER_FILES = 3096
"""Files that are not connections, such as those of a provider and its children."""

FEWEST_OTHER_FILES = 256
"""As many of these as the connections leave open at least, or half of all if the limit is very low."""

Errand = Callable[[], Awaitable[None]]
"""Work to do once all programs have started. The process ends with it."""


def run(programs: Sequence[Program], events: EventLog, errand: Errand | None = None) -> None:
    """Run *programs* until SIGTERM or SIGINT, or until *errand* is done.

    They start in order. The last one may need the others, and stops first. *events* is the log of
    the process. Garbage collection is enabled after the start. Raise `CannotStart` if a provider, a store or a
    socket can't be used, `StoreFailed` if the last change could not be written, and what *errand* raises.
    Threads of a provider that hang may be left behind. From the stop on, the process ends within ten seconds.
    """
    sys.setswitchinterval(SWITCH)
    stop = Stop()
    limit = _limit_connections(len(programs))
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        run_guarded(loop, _serve(programs, events, errand, stop, limit))
    finally:
        stop.doing = "closing the state"
        loop.close()
        asyncio.set_event_loop(None)


async def _serve(programs: Sequence[Program], events: EventLog, errand: Errand | None, stop: Stop, limit: int) -> None:
    stopping = asyncio.Event()
    stop.follow(asyncio.get_running_loop(), stopping.set)
    streams = EventStreams(events)
    servers = {program: Server(program.route(streams), limit) for program in programs}
    try:
        for program in programs:
            await _do_unless(stopping, program.start())
        collect_quickly(lambda: sum(server.open_connections for server in servers.values()))
        if not stopping.is_set():
            await _open_sockets(servers)
            stop.doing = "serving"
            if errand is None:
                await stopping.wait()
            else:
                await _do_unless(stopping, errand())
        log.log(NOTICE, "stopping")
    finally:
        stop.begin()
        stop.doing = "answering requests"
        # First nobody finds the sockets, then requests in flight are answered, then providers' calls may end.
        for program in programs:
            program.listener.remove()
            program.stop_waiting()
        streams.close()
        await asyncio.gather(*(server.stop(REQUESTS_STOP) for server in servers.values()))
        stop.doing = "stopping the provider, or writing its last changes"
        await _stop(programs)
        await _cancel_tasks()
    log.log(NOTICE, "stopped")


async def _open_sockets(servers: Mapping[Program, Server]) -> None:
    for program, server in servers.items():
        await server.start(program.listener.listen())
        for line in program.summarize():
            log.log(NOTICE, "%s", line)


async def _stop(programs: Sequence[Program]) -> None:
    """Stop the last program, which may need the others, and then the others at once."""
    *others, last = programs
    try:
        await last.stop()
    finally:
        await asyncio.gather(*(program.stop() for program in others))


async def _do_unless(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Do *work*, but return at once if *stop* comes before its end."""
    task, stopping = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # after a stop, nobody else looks
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()


async def _cancel_tasks() -> None:
    """Cancel all remaining tasks, such as a provider's calls, without relying on them to end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1)


def _limit_connections(servers: int) -> int:
    """Return the number of connections for each server, after raising the limit on open files as far as they need.

    The usual soft limit is near the limit of one server.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OTHER_FILES + servers * MAX_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    limit = max(soft - FEWEST_OTHER_FILES, soft // 2) // servers
    if limit < MAX_CONNECTIONS:
        log.warning("at most %d files can be open: each socket takes at most %d connections", soft, limit)
    return min(limit, MAX_CONNECTIONS)
