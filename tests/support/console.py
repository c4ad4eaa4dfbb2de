"""What a page of the documentation has in its blocks: files to be written, and what is typed at a console and printed there."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from support.harness import PATIENCE, environment, eventually

BLOCK = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ID = re.compile(r"\b0[0-9a-v]{11}-[0-9a-v]{6}\b")
VARIES = [
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d{3})?"), "TIME"),
    (re.compile(r"in \d+\.\d\ds$", re.MULTILINE), "in SECONDS"),
]


class Block(Struct):
    """A block of code: *file* is what it is written to, empty for a console."""

    language: str
    file: str
    text: str

    @property
    def commands(self) -> Iterator[tuple[str, str]]:
        """What is typed at a console, with what is printed."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def blocks(page: Path) -> list[Block]:
    """Give a page's blocks, in order."""
    return [Block(*found) for found in BLOCK.findall(page.read_text())]


def without_pytest(environment: Mapping[str, str]) -> dict[str, str]:
    """Give an environment in which pytest runs as by hand, whatever runs this."""
    return {key: value for key, value in environment.items() if not key.startswith(("PYTEST_ADDOPTS", "PYTEST_XDIST_"))}


class Console:
    """A terminal in *folder* of a user with the home *home*; the page's IDs stand for those that there really are."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "rack"
        self.folder.mkdir()
        self.ids: dict[str, str] = {}
        self.daemon: subprocess.Popen[bytes] | None = None
        paths = [
            Path(__file__).parent.parent / "programs",
            *map(Path, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
        ]
        self.environment = without_pytest(environment(home))
        del self.environment["INFRAKIT_HOME"]
        self.environment |= {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *exception: object) -> None:
        """End the daemon, if one was started and not stopped."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()

    def type(self, command: str, output: str) -> None:
        """Run a command, which must print *output*; one that only looks may have to look again."""
        command = self.real(command)
        if " --provider " in command or " --config " in command:
            self.start(command)
            eventually(
                lambda: self._printed(output, self._log(output.count("\n"))), f"{command}: {output} in {self._log()}"
            )
        elif " describe " in command or " machines " in command:
            eventually(
                lambda: self._printed(output, self._run(command)), f"{command}: {output}, but {self._run(command)}"
            )
        else:
            printed = self._run(command)
            assert self._printed(output, printed), f"$ {command}\n{printed}instead of\n{output}"

    def real(self, text: str) -> str:
        """Give text of the page with what it stands for."""
        for written, real in self.ids.items():
            text = text.replace(written, real)
        return text

    def start(self, command: str) -> None:
        """Start a daemon, once the one before has ended."""
        self.stop()
        with (self.home / "log").open("wb") as log:
            self.daemon = subprocess.Popen(
                ["bash", "-c", f"exec env {command}"], stderr=log, cwd=self.folder, env=self.environment
            )

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGINT)
            assert self.daemon.wait(PATIENCE) == 0, self._log()
            self.daemon = None

    def _log(self, lines: int | None = None) -> str:
        return "".join((self.home / "log").read_text().splitlines(keepends=True)[:lines])

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.environment,
            timeout=120,
            check=False,
        )
        return done.stdout

    def _printed(self, written: str, printed: str) -> bool:
        """Is this what is written, but for what is another each time?"""
        printed = printed.replace(str(self.home), "/home/ada")
        ids = {**dict(zip(ID.findall(written), ID.findall(printed), strict=False)), **self.ids}
        for one, other in ids.items():
            printed = printed.replace(other, one)
        for pattern, word in VARIES:
            written, printed = pattern.sub(word, written), pattern.sub(word, printed)
        if written == printed:
            self.ids = ids
        return written == printed
