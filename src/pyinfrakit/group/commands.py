"""Commands of health checks and drain hooks: run with limits, their output's last line kept as the reason."""

import os
import shutil
import signal
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from pyinfrakit.child import Child
from pyinfrakit.errors import TryAgain
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.threads import call_apart
from pyinfrakit.logs import escape
from pyinfrakit.paths import check_trusted
from pyinfrakit.schema.redactor import Redactor
from pyinfrakit.schema.values import decode_any, find_credentials

LONGEST_REASON = 200
"""Characters of a reason."""

TAIL = 4096
"""Bytes at the end of the output in which the last line is looked for."""


def shorten(text: str) -> str:
    """Return *text* in one line of limited length."""
    text = escape(text.strip())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


async def run(command: Sequence[str], timeout: float, member: Description) -> tuple[int, str]:
    """Return the exit status of *command* and the last line of its output, without the member's secrets.

    The status is negative if a signal ended the command. Nothing that it started lives on, also if this is
    cancelled. Raise `TimeoutError` after *timeout* seconds, `CannotStart` if this is root and another user can
    change the executable, or `TryAgain` if it can't be run.
    """
    execution = _Execution(command, timeout)
    try:
        status, output = await call_apart(execution.finish)
    finally:
        execution.kill()
    text = output.decode(errors="backslashreplace")
    lines = (text if len(output) < TAIL else f"…{text}").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return status, shorten(hide_secrets(last, member))


def hide_secrets(text: str, member: Description) -> str:
    """Return *text* without the member's secrets: the properties that have a secret's name."""
    return Redactor(find_credentials(decode_any(member.properties or b"{}"))).redact(text)


def describe_exit(status: int, last_line: str) -> str:
    """Return an exit status and the last line of the output in words."""
    text = f"exit status {status}" if status >= 0 else f"ended by signal {-status}"
    return f"{text}: {last_line}" if last_line else text


class _Execution:
    """One run of a command: `finish` blocks a thread, and `kill` is for any other thread."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self._command = command
        self._timeout = timeout
        self._child: Child | None = None
        self._is_killed = False

    def finish(self) -> tuple[int, bytes]:
        """Return the exit status, and the end of the output."""
        # The daemon's environment may hold secrets.
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        name = self._command[0]
        executable = shutil.which(os.path.join("/", name) if "/" in name else name, path=environment.get("PATH"))
        if executable is None:
            raise TryAgain(f"can't be run: there is no executable {name}")
        check_trusted(Path(executable))
        tail: deque[int] = deque(maxlen=TAIL)
        command = [executable, *self._command[1:]]
        self._child = Child(command, environment, Path("/"), take_output=tail.extend, take_error=tail.extend)
        if self._is_killed:  # since before there was a child
            self._child.signal(signal.SIGKILL)
        try:
            return self._child.finish(self._timeout, kill_group=True), bytes(tail)
        except TryAgain as error:  # the time-out is its only limit
            raise TimeoutError(str(error)) from None

    def kill(self) -> None:
        """End the command and everything that it started. Do nothing if it is over."""
        self._is_killed = True
        if self._child is not None:
            self._child.signal(signal.SIGKILL)
