"""The command that cleans a machine before it is free again."""

import contextlib
import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart, TryAgain

READ, SHOWN = 65536, 300
"""How much of what it says is read, and then told."""


class Hook:
    """A command that must succeed."""

    def __init__(self, command: Sequence[str], timeout: float, folder: Path) -> None:
        """*folder* has locks: what an earlier run of the plugin has left running holds its machine's."""
        path = Path(command[0]) if command else Path()
        if not path.is_absolute() or not os.access(path, os.X_OK):
            raise CannotStart(f"cleaning: expected the full path of a command that can be run, got {str(path)!r}")
        paths.check_trusted(path)
        self._command = list(command)
        self._timeout = timeout
        self._folder = folder

    def run(self, machine: str, told: Mapping[str, str]) -> None:
        """Run it, in an environment with nothing but PATH and what it is *told*; raise `TryAgain` where it fails."""
        environment = {"PATH": os.defpath, **told}
        with tempfile.TemporaryFile() as output, (self._folder / f"{machine}.cleaning").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = self._run(environment, output, lock.fileno())
            except BlockingIOError:
                raise TryAgain(
                    f"{self._of(machine)}, which an earlier run of the plugin began, goes on; it is not free"
                ) from None
            except subprocess.TimeoutExpired:
                raise TryAgain(f"{self._of(machine)} did not end within {self._timeout:g} s; it is not free") from None
            except OSError as error:
                raise TryAgain(f"{self._of(machine)}: {error.strerror}; it is not free") from None
            if status != 0:
                output.seek(0)
                said = " ".join(output.read(READ).decode(errors="replace").split())[-SHOWN:]
                raise TryAgain(f"{self._of(machine)} failed ({status}): {said or 'no word'}; it is not free")

    def _of(self, machine: str) -> str:
        return f"machine {machine}: its cleaning by {self._command[0]}"

    def _run(self, environment: Mapping[str, str], output: IO[bytes], lock: int) -> int:
        """Run it to its end, or end it with all that it started."""
        process = subprocess.Popen(
            self._command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock,),
            start_new_session=True,
        )
        try:
            return process.wait(self._timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
