"""Read a file by its format, and name places in it as ``fleet.yaml:12:7``."""

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from msgspec import Raw

from pyinfrakit import paths
from pyinfrakit.errors import CannotStart
from pyinfrakit.schema.decode import NotJSON, WrongShape, check_depth
from pyinfrakit.source import json, toml, yaml
from pyinfrakit.source.syntax import BadSyntax, Parsed, join

FORMATS: Mapping[str, Callable[[str], Parsed]] = {"YAML": yaml.parse, "JSON": json.parse, "TOML": toml.parse}

ENDINGS = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON", ".toml": "TOML"}

_LAST_STEP = re.compile(r"(\.[^.\[]*|\[[^.\[]*|^[^.\[]+)\Z")
_UNKNOWN_FIELD = re.compile(r"has an unknown field (.+?)(?:;|\Z)")


class Source:
    """The content of a text in *format*, as *json*. *name* is the text's name in messages.

    Paths in it are relative to *folder*.
    """

    def __init__(self, name: str, folder: Path, format: str, text: str) -> None:
        """Raise `CannotStart` if the text is not of its format."""
        self.name = name
        self.folder = folder
        self.format = format
        self._text = text
        try:
            self._parsed = FORMATS[format](text)
            check_depth(self._parsed.json)
        except (BadSyntax, NotJSON) as error:
            offset = getattr(error, "offset", None)
            raise CannotStart(f"{name if offset is None else self._name_place(offset)}: {error}") from None
        self.json = Raw(self._parsed.json)

    def locate(self, path: str) -> str:
        """Return the file, line and column of the value at *path*, or of the innermost one that has it."""
        while path not in self._positions:
            if not path:
                return self.name
            path = _LAST_STEP.sub("", path)
        return self._name_place(self._positions[path])

    def explain(self, error: WrongShape) -> CannotStart:
        """Return an error about this content with its line and column."""
        unknown = _UNKNOWN_FIELD.match(error.problem)
        path = join(error.where, unknown[1]) if unknown else error.where
        return CannotStart(f"{self.locate(path)}: {error}")

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        positions: dict[str, int] = {}
        for path, offset in self._parsed.find_positions():
            positions.setdefault(path, offset)
        return positions

    def _name_place(self, offset: int) -> str:
        before = self._text[:offset]
        return f"{self.name}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def parse(data: bytes, name: str, folder: Path = Path(), format: str = "") -> Source:
    """Return the content of *data*. Without a *format*, it is JSON if it begins with a brace, and YAML otherwise.

    Raise `CannotStart`.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CannotStart(f"{name}: not UTF-8") from None
    return Source(name, folder, format or ("JSON" if text.lstrip().startswith("{") else "YAML"), text)


def read(path: Path, name: str, format: str = "") -> Source:
    """Return the content of a file. *format* is that of a file whose name does not tell, as in `parse`.

    Raise `CannotStart`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CannotStart(f"{name}: {error.strerror or error}") from None
    return parse(data, name, path.absolute().parent, ENDINGS.get(path.suffix.lower(), format))


def read_trusted(path: Path, name: str, format: str = "") -> Source:
    """Return the content of a file like `read`. As root, nobody else may be able to change the file."""
    try:
        paths.check_trusted(path)
    except OSError as error:
        raise CannotStart(f"{name}: {error.strerror or error}") from None
    except CannotStart as error:
        raise CannotStart(f"{name}: {error}") from None
    return read(path, name, format)
