"""The tutorial works: each of its files is written and each of its commands run, in order, with a real daemon."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.console import Console, read_blocks
from support.harness import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCKS = read_blocks(TUTORIAL)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    """Yield a console. Its daemon ends with the test."""
    with Console(tmp_path) as console:
        yield console


def test_the_tutorial_is_true(console: Console) -> None:
    """The tutorial's commands, with its files in place, print the output on the page."""
    for block in BLOCKS:
        if block.language == "python":
            (console.folder / block.file).write_text(block.text)
        for command, output in block.commands:
            console.type(command, output)
    console.stop()


def test_every_block_is_run() -> None:
    """Every block on the page is a Python file or a console session, so that all of them run."""
    blocks = {(block.language, bool(block.file)) for block in BLOCKS}
    assert {("python", True), ("console", False)} == blocks
    assert TUTORIAL.read_text().count("```") == 2 * len(BLOCKS)
    assert all(block.text.startswith("$ ") for block in BLOCKS if block.language == "console")


def test_the_first_provider_is_short() -> None:
    """The first provider has at most 20 lines, without blank lines, imports and docstrings."""
    lines = [line for line in BLOCKS[0].text.splitlines() if line and not re.match(r'import |from |"""', line)]
    assert 20 >= len(lines)
