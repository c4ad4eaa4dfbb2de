"""Read a documentation page's code blocks, write its files, and type its commands at a console."""

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
    """A block of code. *file* is the file that it belongs in, or empty for a console."""

    language: str
    file: str
    text: str

    @property
    def commands(self) -> Iterator[tuple[str, str]]:
        """Yield each command with the output that follows it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def read_blocks(page: Path) -> list[Block]:
    """Return a page's blocks, in order."""
    return [Block(*groups) for groups in BLOCK.findall(page.read_text())]


def without_pytest(environment: Mapping[str, str]) -> dict[str, str]:
    """Return *environment* without pytest's variables, so that a nested pytest runs as if started by hand."""
    return {key: value for key, value in environment.items() if not key.startswith(("PYTEST_ADDOPTS", "PYTEST_XDIST_"))}


class Console:
    """A terminal in *folder* of a user with the home *home*, which maps the page's IDs to real ones."""

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
        """Kill the daemon if it still runs."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()

    def type(self, command: str, output: str) -> None:
        """Run a command and check that it prints *output*. Repeat a command that only reads until it does."""
        command = self.fill_in(command)
        if " --provider " in command or " --config " in command:
            self.start(command)
            eventually(
                lambda: self._matches(output, self._log(output.count("\n"))), f"{command}: {output} in {self._log()}"
            )
        elif " describe " in command or " machines " in command:
            eventually(
                lambda: self._matches(output, self._run(command)), f"{command}: {output}, but {self._run(command)}"
            )
        else:
            printed = self._run(command)
            assert self._matches(output, printed), f"$ {command}\n{printed}instead of\n{output}"

    def fill_in(self, text: str) -> str:
        """Return *text* with real IDs and addresses in place of the page's."""
        for written, real in self.ids.items():
            text = text.replace(written, real)
        return text

    def start(self, command: str) -> None:
        """Start a daemon after the previous one has stopped."""
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

    def _matches(self, written: str, printed: str) -> bool:
        """Check whether *printed* matches *written*, ignoring values that differ in every run."""
        printed = printed.replace(str(self.home), "/home/ada")
        ids = {**dict(zip(ID.findall(written), ID.findall(printed), strict=False)), **self.ids}
        for one, other in ids.items():
            printed = printed.replace(other, one)
        for pattern, word in VARIES:
            written, printed = pattern.sub(word, written), pattern.sub(word, printed)
        if written == printed:
            self.ids = ids
        return written == printed
