"""The page about physical machines: its files and commands, with emulated BMCs."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pyinfrakit.providers.redfish.options import Media, Properties
from support.console import Console, read_blocks
from support.harness import ROOT
from support.rack import BMCS, Rack, rack

PAGE = ROOT / "docs" / "redfish.md"
BLOCKS = read_blocks(PAGE)
EMULATOR = "python bmcs.py --bmcs 2 --systems 3 --port 15001"


@pytest.fixture
def bmcs() -> Iterator[Rack]:
    """The BMCs that the page runs in a terminal of their own."""
    with rack(2, 3) as bmcs:
        yield bmcs


@pytest.fixture
def console(tmp_path: Path, bmcs: Rack) -> Iterator[Console]:
    """A console in a folder with the example's files. It translates the page's addresses to those of the BMCs."""
    with Console(tmp_path) as console:
        (console.folder / "health.py").symlink_to(BMCS.with_name("health.py"))
        console.ids |= {f"http://127.0.0.1:1500{number}": address for number, address in enumerate(bmcs.addresses, 1)}
        yield console


def test_the_page_is_true(console: Console) -> None:
    """Each command on the page prints the output on the page."""
    for block in BLOCKS:
        if block.file:
            (console.folder / block.file).write_text(console.fill_in(block.text))
        for command, output in block.commands:
            if command != EMULATOR:
                console.type(command, output)
    console.stop()


def test_the_emulator_prints_its_addresses(console: Console) -> None:
    """The emulator prints its addresses in the form on the page, though with other ports."""
    ((_, printed),) = [typed for block in BLOCKS for typed in block.commands if typed[0] == EMULATOR]
    assert list(console.ids) == json.loads(printed)


def test_the_properties_of_the_group_are_valid() -> None:
    """The provider accepts the properties of the group on the page."""
    (group,) = [json.loads(block.text) for block in BLOCKS if block.file == "group.json"]
    msgspec.convert(group["Properties"]["Instance"]["Properties"], Properties)


def test_the_excerpts_of_options_are_valid() -> None:
    """The provider accepts the options in the page's excerpts."""
    media, cleaning = [
        tomllib.loads(block.text)["options"] for block in BLOCKS if block.language == "toml" and not block.file
    ]
    msgspec.convert(media["media"], Media)
    assert ["/usr/local/bin/wipe", "--quick"] == cleaning["cleaning"]
