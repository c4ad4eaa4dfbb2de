"""Files that people write, in YAML, JSON or TOML: their content as JSON, and the line of each value."""

from pyinfrakit.source.source import Source, parse, read, read_trusted
from pyinfrakit.source.syntax import join

__all__ = ["Source", "join", "parse", "read", "read_trusted"]
