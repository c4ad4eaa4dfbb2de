"""The page about physical machines is true: its files are written, and its commands typed, against emulated BMCs."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pyinfrakit.providers.redfish.inventory import Media, Wanted
from support.console import Console, blocks
from support.harness import ROOT
from support.rack import BMCS, Rack, rack

PAGE = ROOT / "docs" / "redfish.md"
BLOCKS = blocks(PAGE)
EMULATOR = "python bmcs.py --bmcs 2 --systems 3 --port 15001"


@pytest.fixture
def bmcs() -> Iterator[Rack]:
    """What the page has run in a terminal of its own."""
    with rack(2, 3) as bmcs:
        yield bmcs


@pytest.fixture
def console(tmp_path: Path, bmcs: Rack) -> Iterator[Console]:
    """A console beside the example's files, where the page's addresses stand for those of BMCs that really run."""
    with Console(tmp_path) as console:
        (console.folder / "health.py").symlink_to(BMCS.with_name("health.py"))
        console.ids |= {f"http://127.0.0.1:1500{number}": address for number, address in enumerate(bmcs.addresses, 1)}
        yield console


def test_the_page_is_true(console: Console) -> None:
    """From the box to a group that heals itself: each command prints what the page says."""
    for block in BLOCKS:
        if block.file:
            (console.folder / block.file).write_text(console.real(block.text))
        for command, output in block.commands:
            if command != EMULATOR:
                console.type(command, output)
    console.stop()


def test_the_emulator_says_what_the_page_says(console: Console) -> None:
    """It is started as the page says, but on other ports, and prints its addresses."""
    ((_, printed),) = [typed for block in BLOCKS for typed in block.commands if typed[0] == EMULATOR]
    assert list(console.ids) == json.loads(printed)


def test_the_group_asks_for_what_the_provider_takes() -> None:
    """The properties in the page's group are right."""
    (group,) = [json.loads(block.text) for block in BLOCKS if block.file == "group.json"]
    msgspec.convert(group["Properties"]["Instance"]["Properties"], Wanted)


def test_the_options_that_are_shown_alone_are_options() -> None:
    """They are of the type that the provider takes."""
    media, cleaning = [
        tomllib.loads(block.text)["options"] for block in BLOCKS if block.language == "toml" and not block.file
    ]
    msgspec.convert(media["media"], Media)
    assert ["/usr/local/bin/wipe", "--quick"] == cleaning["cleaning"]
