"""What a reader of one format returns, and the error that it raises."""

from collections.abc import Callable, Iterator

from msgspec import Struct

Positions = Iterator[tuple[str, int]]
"""The paths of values, such as ``groups[0].ID``, each with the offset in the text where it begins."""


class Parsed(Struct, frozen=True):
    """A text's content as JSON, and a function that finds the positions; nobody needs them without an error."""

    json: bytes
    find_positions: Callable[[], Positions]


class BadSyntax(ValueError):
    """A text that is not of its format. *offset* is that of the error, or None if it is unknown."""

    def __init__(self, problem: str, offset: int | None = None) -> None:
        super().__init__(problem)
        self.offset = offset


def join(path: str, step: str | int) -> str:
    """Return the path of an object's key, or of an array's item."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else step
