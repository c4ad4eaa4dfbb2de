"""The tutorial is true: each of its blocks is written or run, in order, against a real daemon."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.console import Console, blocks
from support.harness import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCKS = blocks(TUTORIAL)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """A console, whose daemon ends with the test."""
    with Console(tmp_path) as console:
        yield console


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
