"""The tutorial is true: each of its blocks is written or run, in order, against a real daemon."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from harness import PATIENCE, environment, eventually

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"
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


BLOCKS = [Block(*found) for found in BLOCK.findall(TUTORIAL.read_text())]


class Console:
    """A terminal in *folder* of a user with the home *home*; the tutorial's IDs stand for those that there really are."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "rack"
        self.folder.mkdir()
        self.ids: dict[str, str] = {}
        self.daemon: subprocess.Popen[bytes] | None = None
        paths = [Path(__file__).parent, *map(Path, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.environment = environment(home)
        del self.environment["INFRAKIT_HOME"]
        self.environment |= {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }

    def type(self, command: str, output: str) -> None:
        """Run a command, which must print *output*; one that only looks may have to look again."""
        for written, real in self.ids.items():
            command = command.replace(written, real)
        if " --provider " in command:
            self.start(command)
            eventually(lambda: self._printed(output, self._log(output.count("\n"))), f"{command}: {output} in {self._log()}")
        elif " describe " in command:
            eventually(lambda: self._printed(output, self._run(command)), f"{command}: {output}, but {self._run(command)}")
        else:
            printed = self._run(command)
            assert self._printed(output, printed), f"$ {command}\n{printed}instead of\n{output}"

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


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A console, whose daemon ends with the test."""
    console = Console(tmp_path)
    try:
        yield console
    finally:
        if console.daemon is not None and console.daemon.poll() is None:
            console.daemon.kill()
            console.daemon.wait()


def test_the_tutorial_is_true(console: Console) -> None:
    """Its files, written as they stand, and its commands, typed one after the other, print what it says."""
    for block in BLOCKS:
        if block.language == "python":
            (console.folder / block.file).write_text(block.text)
        for command, output in block.commands:
            console.type(command, output)
    console.stop()


def test_every_block_is_run() -> None:
    """A block is a file of Python, or what is typed at a console: there is no other, which nothing would run."""
    blocks = {(block.language, bool(block.file)) for block in BLOCKS}
    assert {("python", True), ("console", False)} == blocks
    assert TUTORIAL.read_text().count("```") == 2 * len(BLOCKS)
    assert all(block.text.startswith("$ ") for block in BLOCKS if block.language == "console")


def test_the_first_provider_is_short() -> None:
    """It takes at most 20 lines, not counting blank ones, imports, and what it says of itself."""
    lines = [line for line in BLOCKS[0].text.splitlines() if line and not re.match(r'import |from |"""', line)]
    assert 20 >= len(lines)
