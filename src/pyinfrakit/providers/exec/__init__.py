"""The user's executables, in any language, which read JSON from stdin and write it to stdout. docs/exec.md has the protocol."""

from pyinfrakit.providers.exec.options import Options
from pyinfrakit.providers.exec.provider import Exec

__all__ = ["Exec", "Options"]
