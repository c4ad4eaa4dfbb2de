"""Executables of the user's, in any language, that read JSON from stdin and write it to stdout. docs/exec.md has the protocol."""

from pyinfrakit.providers.exec.provider import Exec, Executables

__all__ = ["Exec", "Executables"]
