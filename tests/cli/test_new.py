"""`new` writes a provider that works as it is, and says in one line why it does not."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import FAST
from support.console import without_pytest
from support.harness import COMMAND, PATIENCE, Daemon, eventually


def new(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Run `new` in *folder*."""
    return subprocess.run(
        [*COMMAND, "new", "--", name], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def refused(folder: Path, name: str, code: int) -> str:
    """Run `new`, which must fail with one line and leave nothing; give the line."""
    before = sorted(folder.rglob("*"))
    done = new(folder, name)
    assert (code, "", before) == (done.returncode, done.stdout, sorted(folder.rglob("*")))
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder that `new` wrote."""
    done = new(tmp_path, "my-rack")
    assert (0, "") == (done.returncode, done.stderr)
    return tmp_path / "my-rack"


def checked(folder: Path, *command: str) -> str:
    """Run a Python program in *folder*, which must succeed; give what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=without_pytest(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_written_passes_its_tests(written: Path) -> None:
    """Its tests are found, and none of them fails."""
    assert re.search(r"^\d\d passed", checked(written, "pytest", "-q", "-p", "no:cacheprovider"), re.MULTILINE)


def test_what_is_written_is_in_order(written: Path) -> None:
    """The strict type checker and the linter find nothing in it, and it is formatted."""
    checked(written, "mypy", "--strict", "--cache-dir", os.devnull, ".")
    checked(written, "ruff", "check", "--no-cache", "--extend-select", "B,I,N,RUF,UP,W", "--ignore", "RUF012", ".")
    checked(written, "ruff", "format", "--no-cache", "--check", ".")


def test_what_is_written_says_its_own_name(written: Path) -> None:
    """Nothing is left of the template's names, in files or in their names."""
    assert {"README.md", "my_rack.py", "pyproject.toml", "test_my_rack.py"} == {each.name for each in written.iterdir()}
    for file in written.iterdir():
        assert not re.search(r"your.?machines", file.read_text(), re.IGNORECASE), file.name


def test_what_is_written_runs(written: Path, run: Callable[..., Daemon]) -> None:
    """InfraKit can provision with it, sees a machine set aside that says it does not work, and can destroy it."""
    daemon = run("--provider", f"{written}/my_rack.py:MyRack", *FAST)
    id = daemon.provision({"cpus": 2})
    assert [id] == daemon.described()
    (file,) = (daemon.state.parent / "machines").iterdir()
    file.write_text(file.read_text().replace("true", "false"))
    eventually(lambda: daemon.described() == [], "it is set aside")
    daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: not file.exists(), "it is destroyed")


@pytest.mark.parametrize("name", ["", "Rack", "1rack", "-rack", "rack-", "../rack", "my rack", "räck", "a/b", "."])
def test_a_bad_name_is_told(tmp_path: Path, name: str) -> None:
    """What is no name for a project is refused, with one that is."""
    assert f"such as my-rack, got {name!r}" in refused(tmp_path, name, 2)


@pytest.mark.parametrize("name", ["file", "simulator", "json", "class", "pyinfrakit", "pytest", "provider", "machine"])
def test_a_name_that_is_taken_is_told(tmp_path: Path, name: str) -> None:
    """What would hide a module, or a class that the provider needs, is refused."""
    assert f"take another, such as my-{name}" in refused(tmp_path, name, 2)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Neither a folder nor a file of the name is touched."""
    (tmp_path / "rack").mkdir()
    (tmp_path / "shelf").touch()
    assert "rack: there is such a folder or file already" in refused(tmp_path, "rack", 1)
    assert "shelf: there is such a folder or file already" in refused(tmp_path, "shelf", 1)


def test_a_place_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    """The system's reason is told, in one line."""
    assert "File name too long; nothing was written" in refused(tmp_path, "r" * 300, 1)
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.geteuid() != 0:
        assert "rack: Permission denied; nothing was written" in refused(tmp_path / "closed", "rack", 1)
