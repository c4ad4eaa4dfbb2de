"""Executables for the provider exec."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.harness import PROGRAMS, ROOT

BUILT = pytest.mark.xdist_group("go")
"""Runs all tests of the Go example in one worker, so that it is built once."""

EXAMPLES = ROOT / "examples" / "exec"

SHELL = """\
#!/bin/sh
observe() { echo '{"machines": []}'; }
provision() { echo '{}'; }
destroy() { echo '{"destroyed": ["'"$INFRAKIT_IDS"'"]}'; }
validate() { exit 64; }
label() { exit 64; }
adopt() { exit 64; }
%s
$1
"""
"""An executable that creates nothing. The text in place of ``%s`` can redefine its verbs."""


def shell(path: Path, verbs: str = "") -> Path:
    """Write an executable: `shell(path, "provision() { exit 3; }")`."""
    return _script(path, SHELL % verbs)


def slow_machines(path: Path) -> Path:
    """Write an executable that is slow and notices when two runs overlap."""
    program = PROGRAMS / "slow_machines.py"
    return _script(path, f'#!/bin/sh\nexec {sys.executable} -IS {program} "$@"\n')


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o700)
    return path


class Examples:
    """The examples by language, in a folder that only this user can change. The Go example is built once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, language: str) -> Path:
        """Return the executable. Skip the test if the language is not installed."""
        if shutil.which(language) is None:
            pytest.skip(f"{language} is not installed")
        path = self._folder / f"{language}-machines"
        if not path.exists():
            self._build(path) if language == "go" else shutil.copy(EXAMPLES / language / "machines", path)
        return path

    def _build(self, path: Path) -> None:
        environment = {**os.environ, "GOCACHE": str(self._folder / "cache"), "GO111MODULE": "off"}
        subprocess.run(
            ["go", "build", "-o", path, EXAMPLES / "go" / "machines.go"], check=True, timeout=250, env=environment
        )
