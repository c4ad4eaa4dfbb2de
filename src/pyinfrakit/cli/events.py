"""The command `events`: the event logs of all daemons in a folder, as one."""

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from pyinfrakit.cli.arguments import directory_option
from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.events import CAPACITY, LOST, LoggedEvent
from pyinfrakit.logs import escape
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.events import read_frames
from pyinfrakit.rpc.operator.client import OperatorClient
from pyinfrakit.rpc.operator.types import EventsResult

ANSWER_TIMEOUT = 5.0
"""Seconds for which a socket may be silent: the folder may have foreign plugins that hang."""

STREAM_TIMEOUT = 45.0
"""Seconds for which a stream may be silent; heartbeats come every 15 s."""

LOOK_INTERVAL = 0.5
"""Seconds between looks for new daemons."""

RECENT = 10
"""Events that `--follow` shows of the past."""

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Since(click.ParamType[float]):
    """A time in the past, in seconds since 1970: as an age, such as ``90``, ``10m`` or ``1h30m``, or as a date."""

    name = "AGE|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if re.fullmatch(r"(\d+(\.\d+)?[smhd])+|\d+(\.\d+)?", value):
            parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", value)
            return max(0.0, time.time() - sum(float(number) * UNITS[unit] for number, unit in parts))
        try:
            return max(0.0, datetime.fromisoformat(value).timestamp())
        except (ValueError, OverflowError):
            self.fail(
                f"expected an age such as 90, 10m or 1h30m, or a time such as 2026-11-25T04:31, got {value!r}",
                param,
                ctx,
            )


@click.command()
@click.argument("subject", metavar="[SUBJECT]", default="", required=False)
@directory_option
@click.option("-f", "--follow", is_flag=True, help="Show new events as they happen, after the last ten or --since.")
@click.option("--since", type=Since(), help="Only events after then: 10m ago, 1h30m, 90 seconds, or a date and time.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="A line for each event, or JSON."
)
def events(subject: str, directory: Path, follow: bool, since: float | None, output: str) -> None:
    """Show what happened to instances, groups and plugins, and why, from all daemons in the folder.

    SUBJECT is a path such as instance/rack1/ID, or a part of one: the name of a plugin, a group or an instance.
    """
    wanted = _split(subject)
    found = _follow(directory, wanted, since) if follow else _collect(directory, wanted, since or 0.0)
    with contextlib.suppress(KeyboardInterrupt):  # the usual end of --follow
        for event in found:
            click.echo(format_event(event) if output == "text" else msgspec.json.encode(event))


def format_event(event: LoggedEvent) -> str:
    """Return an event in one line."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
    explanation = ": ".join(filter(None, [event.cause, event.reason]))
    # A foreign program may serve the events: nothing in them may forge a line.
    return escape("  ".join(filter(None, [when, event.subject, event.type, explanation])))


def _split(path: str) -> list[str]:
    return path.strip("/").split("/") if path.strip("/") else []


def concerns(event: LoggedEvent, wanted: list[str]) -> bool:
    """Return whether *wanted* are consecutive parts of the event's subject."""
    parts = _split(event.subject)
    return any(parts[start : start + len(wanted)] == wanted for start in range(len(parts) - len(wanted) + 1))


def _collect(directory: Path, wanted: list[str], since: float) -> list[LoggedEvent]:
    """Return the events of all logs, by time. Raise `click.ClickException` if there is no log."""
    with ThreadPoolExecutor(16) as pool:
        results = pool.map(lambda path: _ask(path, since), _find_sockets(directory))
        logs = {result.Log: result.Events for result in results if result is not None}
    if not logs:
        raise click.ClickException(f"no plugin in {directory} has an event log; is one running?")
    found = [event for some in logs.values() for event in some if concerns(event, wanted)]
    return sorted(found, key=lambda event: event.at)


def _find_sockets(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_socket())
    except FileNotFoundError:
        return []


def _ask(path: Path, since: float, after: int = 0) -> EventsResult | None:
    """Return a log's events; None for a socket that has no log, or that nobody serves."""
    with contextlib.suppress(PyInfrakitError), Client(path, ANSWER_TIMEOUT) as client:
        return OperatorClient(client).events(since=since, after=after)
    return None


def _follow(directory: Path, wanted: list[str], since: float | None) -> Iterator[LoggedEvent]:
    """Yield past events, by time, and then new ones as they come, also from daemons that start later."""
    start = time.time() if since is None else since
    past: list[LoggedEvent] = []
    with contextlib.suppress(click.ClickException):  # no daemon yet
        past = _collect(directory, wanted, since or 0.0)
    past = past if since is not None else past[-RECENT:]
    yield from past
    seen = dict.fromkeys((event.number, event.subject) for event in past)
    followers = _Followers(directory, start)
    while True:
        for event in followers.wait():
            if (event.type == LOST or concerns(event, wanted)) and (event.number, event.subject) not in seen:
                seen[event.number, event.subject] = None
                if len(seen) > 2 * CAPACITY:
                    del seen[next(iter(seen))]
                yield event


class _Followers:
    """A thread for each socket in a folder, which passes on the events since *start*, some of them twice."""

    def __init__(self, directory: Path, start: float) -> None:
        self._directory = directory
        self._start = start
        self._events: queue.SimpleQueue[LoggedEvent] = queue.SimpleQueue()
        self._sockets: set[Path] = set()
        self._lock = threading.Lock()
        self._logs: set[str] = set()

    def wait(self) -> Iterator[LoggedEvent]:
        """Yield the events that come until a new socket may be there."""
        for path in _find_sockets(self._directory):
            if path not in self._sockets:
                self._sockets.add(path)
                threading.Thread(target=self._follow, args=(path,), daemon=True).start()
        end = time.monotonic() + LOOK_INTERVAL
        with contextlib.suppress(queue.Empty):
            while (left := end - time.monotonic()) > 0:
                yield self._events.get(timeout=left)

    def _follow(self, path: Path) -> None:
        """Follow the log behind a socket, whenever one is there that no other thread follows."""
        after = 0
        while True:
            result = _ask(path, self._start, after)
            if result is not None and self._claim(result.Log):
                for event in result.Events:
                    self._events.put(event)
                    after = event.number
                for event in _stream(path, after):
                    self._events.put(event)
                    after = event.number
                self._logs.discard(result.Log)
            time.sleep(LOOK_INTERVAL)

    def _claim(self, log: str) -> bool:
        with self._lock:
            is_free = log not in self._logs
            self._logs.add(log)
        return is_free


def _stream(path: Path, after: int) -> Iterator[LoggedEvent]:
    """Yield the events after number *after* as they come, until the daemon ends."""
    with contextlib.suppress(PyInfrakitError), Client(path, STREAM_TIMEOUT) as client:
        yield from read_frames(client.stream("/events", {"Last-Event-ID": str(after)}))
