"""Have executables do what a provider is asked, and tell what came of it."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from pyinfrakit.child import Child, Ended
from pyinfrakit.errors import GiveUp, InvalidSpec, PyInfrakitError, TryAgain
from pyinfrakit.providers.exec import wire
from pyinfrakit.providers.exec.hiding import Hiding, within
from pyinfrakit.providers.exec.lines import Lines
from pyinfrakit.providers.exec.requests import Requests
from pyinfrakit.providers.exec.wire import Request
from pyinfrakit.schema.decode import NotJSON, WrongShape

log = logging.getLogger(__name__)

T = TypeVar("T")

ALWAYS = ("PATH", "HOME", "LANG")
"""Variables of the environment that executables get without having to be named: a clean environment."""

LAST_WORDS, KILLED = 0.6, 0.2
"""Seconds that executables have at a stop to end, and then, killed, to be gone: together less than a provider has."""


class Bounds(Struct, frozen=True):
    """Seconds that a run may take, and bytes that it may write."""

    timeout: float
    output: int


class Runner:
    """Runs the executables of the plugin *name*, in *folder*."""

    def __init__(self, name: str, folder: Path, requests: Requests) -> None:
        self._name = name
        self._folder = folder
        self._requests = requests
        self._clean = {name: os.environ[name] for name in ALWAYS if name in os.environ}
        self._lock = threading.Lock()
        self._runs = 0
        """How many are under way, from before there is a request until after there is none."""
        self._children: set[Child] = set()
        self._stopped = False

    def start(self, mark: str, passed: Mapping[str, str]) -> None:
        """Get ready; *passed* are variables of the environment that executables get, too."""
        self._mark = mark
        self._passed = passed
        self._stopped = False
        self._told = Hiding(passed.values())

    def shown(self, text: str) -> str:
        """Give what an executable tells, as it may be shown."""
        return self._told.shown(text) if text else text

    def run(self, executable: Path, request: Request, shape: type[T], bounds: Bounds) -> T:
        """Have *request* answered by a result of this *shape*.

        Raise what the executable's exit status says, `TryAgain` where it does what it must not, or `wire.Unknown`. The errors
        name it and the verb.
        """
        what = f"{executable.name} {request.verb}"
        secret = self._hiding(request, properties=True)
        lines = Lines(lambda line: log.info("%s: %s", f"{what} {request.subject}".strip(), secret.shown(line)))
        try:
            ended = self._ended(executable, request, bounds, lines)
            if ended.status:
                raise wire.failed(request.verb, ended.status, ended.output, secret.shown(lines.last))
            return wire.read(ended.output, shape)
        except PyInfrakitError as error:
            raise _named(error, what, self._hiding(request, properties=False)) from None
        except (WrongShape, NotJSON) as error:
            raise TryAgain(f"{what}: {secret.shown(str(error))}") from None

    def _hiding(self, request: Request, *, properties: bool) -> Hiding:
        """Give what hides secrets. What an executable tells as a problem may have properties in it: it says which are wrong."""
        return Hiding([*self._passed.values(), *within(request.members, properties=properties)])

    def stop(self) -> None:
        """End all that run, and wait for that; none is started any more."""
        with self._lock:
            self._stopped = True
        for number, seconds in ((signal.SIGTERM, LAST_WORDS), (signal.SIGKILL, KILLED)):
            with self._lock:
                children = set(self._children)
            for child in children:
                child.signal(number)
            deadline = time.monotonic() + seconds
            while self._runs and time.monotonic() < deadline:
                time.sleep(0.02)

    def _ended(self, executable: Path, request: Request, bounds: Bounds, lines: Lines) -> Ended:
        data = request.encoded(self._name, self._mark)
        with (
            self._under_way(),
            self._requests.one(data) as stdin,
            self._child(executable, request, stdin, lines, bounds.output) as child,
        ):
            try:
                return child.finish(bounds.timeout)
            finally:
                lines.end()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        with self._lock:
            if self._stopped:
                raise TryAgain("not run, as the plugin stops")
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1

    @contextmanager
    def _child(self, executable: Path, request: Request, stdin: int, lines: Lines, limit: int) -> Iterator[Child]:
        """Start an executable, and let `stop` know of it while it runs."""
        try:
            command = [str(executable), request.verb]
            child = Child(command, stdin, self._environment(request), self._folder, lines.feed, limit)
        except (OSError, ValueError) as error:
            raise TryAgain(f"it can't be run: {getattr(error, 'strerror', None) or error}") from None
        with self._lock:
            self._children.add(child)
            if self._stopped:
                child.signal(signal.SIGKILL)
        try:
            yield child
        finally:
            with self._lock:
                self._children.discard(child)

    def _environment(self, request: Request) -> Mapping[str, str]:
        """Give the environment; what a shell needs of a request is in it, as that can't read JSON."""
        ours = {"INFRAKIT_PLUGIN": self._name, "INFRAKIT_MARK": self._mark, "INFRAKIT_IDS": "\n".join(request.ids)}
        return {**self._clean, **self._passed, **ours}


def _named(error: PyInfrakitError, what: str, hiding: Hiding) -> PyInfrakitError:
    """Give the error as it is told: an `InvalidSpec` is the caller's to mend, who need not know of executables."""
    match error:
        case InvalidSpec():
            return InvalidSpec(hiding.shown(error.field), hiding.shown(error.problem))
        case TryAgain():
            return TryAgain(f"{what}: {hiding.shown(str(error))}", error.after)
    return GiveUp(f"{what}: {hiding.shown(str(error))}")
