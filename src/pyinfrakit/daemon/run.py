"""Start, run, stop: one process that serves its programs until a signal, or until its errand is done."""

import asyncio
import logging
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence

import uvloop

from pyinfrakit.daemon.events import EventStreams
from pyinfrakit.daemon.garbage import collect_quickly
from pyinfrakit.daemon.http import Server
from pyinfrakit.daemon.programs import STOP_TIMEOUT, Program
from pyinfrakit.events import EventLog
from pyinfrakit.logs import NOTICE

log = logging.getLogger(__name__)

Errand = Callable[[], Awaitable[None]]
"""Work to do once all programs have started. The process ends with it."""


def run(programs: Sequence[Program], events: EventLog, errand: Errand | None = None) -> None:
    """Run *programs* until SIGTERM or SIGINT, or until *errand* is done.

    They start in order. The last one may need the others, and stops first. *events* is the log of
    the process. Garbage collection is enabled after the start. Raise `CannotStart` if a provider, a store or a
    socket can't be used, `StoreFailed` if the last change could not be written, and what *errand* raises.
    Threads of a provider that hang may be left behind.
    """
    _raise_file_limit()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_serve(programs, events, errand))
    finally:
        loop.close()
        asyncio.set_event_loop(None)


async def _serve(programs: Sequence[Program], events: EventLog, errand: Errand | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    streams = EventStreams(events)
    servers = {program: Server(program.route(streams)) for program in programs}
    try:
        for program in programs:
            await _do_unless(stop, program.start())
        collect_quickly()
        if not stop.is_set():
            await _open_sockets(servers)
            if errand is None:
                await stop.wait()
            else:
                await _do_unless(stop, errand())
        log.log(NOTICE, "stopping")
    finally:
        # First nobody finds the sockets, then requests in flight are answered, then providers' calls may end.
        for program in programs:
            program.listener.remove()
            program.stop_waiting()
        streams.close()
        await asyncio.gather(*(server.stop(STOP_TIMEOUT) for server in servers.values()))
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


def _raise_file_limit() -> None:
    """Let this process open enough files for all connections: the usual soft limit is near the server's own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
