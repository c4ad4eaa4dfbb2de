"""Errors about values that a type lists one by one name the valid ones and the one that it got."""

import enum
from typing import Annotated, Literal

import pytest
from msgspec import UNSET, Meta, Struct, UnsetType

from pyinfrakit.schema.decode import WrongShape, decode


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Paint(Struct):
    """A type with choices wherever a type may have them."""

    finish: Literal["matt", "gloss"] = "matt"
    only: Literal["2.0"] = "2.0"
    level: Level = Level.LOW
    spare: Color | None = None
    later: Color | UnsetType = UNSET
    noted: Annotated[Color, Meta(description="a color")] = Color.RED
    coats: list[Color] = []
    rooms: dict[str, Color] = {}
    litres: dict[Color, int] = {}
    mixed: Color | int = 1


ERRORS = {
    '{"finish": "wet"}': 'finish: expected "gloss" or "matt", got "wet"',
    '{"finish": 3}': 'finish: expected "gloss" or "matt", got 3',
    '{"finish": null}': 'finish: expected "gloss" or "matt", got null',
    '{"only": "1.0"}': 'only: expected "2.0", got "1.0"',
    '{"level": 7}': "level: expected 1 or 2, got 7",
    '{"level": true}': "level: expected 1 or 2, got true",
    '{"spare": "green"}': 'spare: expected "red", "blue" or null, got "green"',
    '{"finish": [1e400]}': 'finish: expected "gloss" or "matt", got an array',
    '{"later": []}': 'later: expected "red" or "blue", got an array',
    '{"noted": "green"}': 'noted: expected "red" or "blue", got "green"',
    '{"coats": ["red", "green"]}': 'coats[1]: expected "red" or "blue", got "green"',
    '{"rooms": {"hall": "red", "bath": "green"}}': 'rooms.bath: expected "red" or "blue", got "green"',
    '{"litres": {"red": 1, "green": 2}}': 'litres: expected "red" or "blue" as a key, got "green"',
    '{"mixed": "green"}': 'mixed: expected "red", "blue" or another type, got "green"',
}


@pytest.mark.parametrize("data", ERRORS)
def test_an_error_lists_the_choices(data: str) -> None:
    """A value that is none of the choices is an error with its place, the choices and the value."""
    with pytest.raises(WrongShape) as caught:
        decode(data.encode(), Paint)
    assert ERRORS[data] == str(caught.value)
