"""The page about executables: its commands work, and its test passes."""

import re
import subprocess
from pathlib import Path

import pytest

from support.console import Console, read_blocks
from support.harness import ROOT

BLOCKS = read_blocks(ROOT / "docs" / "exec.md")


@pytest.fixture
def console(tmp_path: Path) -> Console:
    """Return a console in a folder with the page's files and the examples."""
    console = Console(tmp_path)
    (console.folder / "examples").symlink_to(ROOT / "examples")
    for block in BLOCKS:
        if block.file:
            (console.folder / block.file).write_text(block.text)
    return console


def run(console: Console, commands: str) -> str:
    """Return the output of *commands*, which one shell runs."""
    done = subprocess.run(
        ["bash", "-c", commands],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=console.folder,
        env=console.environment,
        timeout=120,
        check=False,
    )
    return done.stdout


def test_an_executable_runs_by_hand(console: Console) -> None:
    """The commands that run a verb by hand print the output on the page."""
    (session,) = [list(block.commands) for block in BLOCKS if "INFRAKIT_PLUGIN=" in block.text]
    assert "".join(output for _, output in session) == run(console, "\n".join(command for command, _ in session))


def test_the_contract_tests_an_executable(console: Console) -> None:
    """The example keeps the contract of all providers, in the test on the page."""
    (command,) = [command for block in BLOCKS for command, _ in block.commands if "pytest" in command]
    assert re.search(r"^\d\d passed", run(console, command), re.MULTILINE)
