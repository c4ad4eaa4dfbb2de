"""Runs of executables: each makes a result or an error of a request, and logs the executable's stderr."""

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pyinfrakit.child import Child
from pyinfrakit.errors import GiveUp, InvalidSpec, PyInfrakitError, TryAgain
from pyinfrakit.logs import Quota, escape
from pyinfrakit.providers.exec.protocol import Request, read_failure, read_result
from pyinfrakit.providers.exec.requests import Requests
from pyinfrakit.schema.decode import NotJSON, WrongShape
from pyinfrakit.schema.redactor import SHORTEST_CREDENTIAL, Redactor, cut, join

log = logging.getLogger(__name__)
log.addFilter(Quota())  # machines and callers cause its lines

T = TypeVar("T")

LONGEST_LINE = 65536
"""Characters of a line on stderr that are read."""

LOGGED_LINES = 200
"""Lines of one run's stderr that are logged."""

LONGEST_TEXT = 500
"""Characters of a line or an error that are logged."""


def clean(text: str, redactor: Redactor) -> str:
    """Return an executable's text without secrets, in one line of limited length: ``set -x`` prints all it reads."""
    return cut(escape(redactor.redact(text).strip()), LONGEST_TEXT)


class StderrLog:
    """Logs the lines of one run's stderr as they come. *last* is the last one, as it was written."""

    def __init__(self, name: str, redactor: Redactor) -> None:
        self._name = name
        self._redactor = redactor
        self._rest = b""
        self._count = 0
        self.last = ""

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[: 4 * LONGEST_LINE]  # a character has up to four bytes
        for each in lines:
            line = cut(each.decode(errors="backslashreplace").strip(), LONGEST_LINE)
            if not line:
                continue
            self.last = line
            self._count += 1
            if self._count <= LOGGED_LINES:
                log.info("%s: %s", self._name, clean(line, self._redactor))
            elif self._count == LOGGED_LINES + 1:
                log.info("%s: (further lines are not logged)", self._name)


class Runner:
    """Runs the executables of plugin *name*, in *folder*."""

    def __init__(self, name: str, folder: Path, requests: Requests) -> None:
        self._name = name
        self._folder = folder
        self._requests = requests
        self._lock = threading.Lock()
        self._runs = 0
        """The number of runs under way; each begins before it has a request file, and ends after that is gone."""
        self._children: set[Child] = set()

    def start(self, mark: str, variables: Mapping[str, str], output_limit: int) -> None:
        """Prepare for runs. *variables* are added to the environment, and their values are secret.

        *output_limit* is how many bytes a run may write to stdout, and to stderr.
        """
        self._mark = mark
        self._output_limit = output_limit
        secrets = [value for value in variables.values() if len(value) >= SHORTEST_CREDENTIAL]
        self.redactor = Redactor(secrets)
        # The daemon's environment may hold secrets, so that all other variables must be named.
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._environment = {**inherited, **variables, "INFRAKIT_PLUGIN": self._name, "INFRAKIT_MARK": mark}
        self._is_stopped = False

    def stop(self) -> None:
        """End all runs, wait until they are over, and start no more."""
        with self._lock:
            self._is_stopped = True
        # Together less time than a provider has to stop.
        for number, seconds in ((signal.SIGTERM, 0.6), (signal.SIGKILL, 0.2)):
            with self._lock:
                children = set(self._children)
            for child in children:
                child.signal(number)
            deadline = time.monotonic() + seconds
            while self._runs and time.monotonic() < deadline:
                time.sleep(0.02)

    def run(self, executable: Path, request: Request, shape: type[T], timeout: float) -> T:
        """Return the result of *request*, of type *shape*.

        Raise the error that the exit status stands for, `UnknownVerb`, or `TryAgain` if the run can't start,
        exceeds a limit or has a wrong result. Errors name the executable and the verb.
        """
        name = f"{executable.name} {request.verb}"
        redactor = join([self.redactor, Redactor(scripts=request.find_scripts(properties=True))])
        stderr = StderrLog(f"{name} {request.subject}".strip(), redactor)
        try:
            status, output = self._execute(executable, request, timeout, stderr)
            if status:
                raise read_failure(request.verb, status, output, clean(stderr.last, redactor))
            return read_result(output, shape)
        except PyInfrakitError as error:
            # A problem may quote properties, because it says which of them are wrong.
            own = join([self.redactor, Redactor(scripts=request.find_scripts(properties=False))])
            raise _add_name(error, name, own) from None
        except (WrongShape, NotJSON) as error:
            raise TryAgain(f"{name}: {clean(str(error), redactor)}") from None

    def _execute(self, executable: Path, request: Request, timeout: float, stderr: StderrLog) -> tuple[int, bytes]:
        """Return the exit status and the output of an executable."""
        with self._lock:
            if self._is_stopped:
                raise TryAgain("not run because the plugin is stopping")
            self._runs += 1
        try:
            with self._requests.open_stdin(request.encode(self._name, self._mark)) as stdin:
                output = bytearray()
                child = self._start_child(executable, request, stdin, output, stderr)
                try:
                    return child.finish(timeout), bytes(output)
                finally:
                    stderr.feed(b"\n")  # the last line may lack its end
                    with self._lock:
                        self._children.discard(child)
        finally:
            with self._lock:
                self._runs -= 1

    def _start_child(self, path: Path, request: Request, stdin: int, output: bytearray, stderr: StderrLog) -> Child:
        child = Child(
            [str(path), request.verb],
            # A shell can't read JSON: it finds the IDs in the environment.
            {**self._environment, "INFRAKIT_IDS": "\n".join(request.ids)},
            self._folder,
            stdin=stdin,
            take_output=output.extend,
            take_error=stderr.feed,
            limit=self._output_limit,
        )
        with self._lock:
            self._children.add(child)
            if self._is_stopped:  # since `_execute` checked it: `stop` may have missed this child
                child.signal(signal.SIGKILL)
        return child


def _add_name(error: PyInfrakitError, name: str, redactor: Redactor) -> PyInfrakitError:
    if isinstance(error, InvalidSpec):  # the caller fixes it, and need not know of executables
        return InvalidSpec(clean(error.field, redactor), clean(error.problem, redactor))
    text = f"{name}: {clean(str(error), redactor)}"
    return TryAgain(text, error.after) if isinstance(error, TryAgain) else GiveUp(text)
