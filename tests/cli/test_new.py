"""`new` writes a provider that works at once. Any failure is one line on stderr, and nothing is written."""

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


def refuse(folder: Path, name: str, code: int) -> str:
    """Run `new`, which must fail without writing anything, and return its one line on stderr."""
    before = sorted(folder.rglob("*"))
    done = new(folder, name)
    assert (code, "", before) == (done.returncode, done.stdout, sorted(folder.rglob("*")))
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder that `new` wrote."""
    done = new(tmp_path, "my-rack")
    assert (0, "") == (done.returncode, done.stderr)
    return tmp_path / "my-rack"


def check(folder: Path, *command: str) -> str:
    """Run a Python program in *folder*, which must succeed, and return its output."""
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


def test_a_new_project_passes_its_tests(project: Path) -> None:
    """A new project passes its own tests."""
    assert re.search(r"^\d\d passed", check(project, "pytest", "-q", "-p", "no:cacheprovider"), re.MULTILINE)


def test_a_new_project_passes_the_type_checker_and_the_linter(project: Path) -> None:
    """A new project passes the strict type checker and the linter, and is formatted."""
    check(project, "mypy", "--strict", "--cache-dir", os.devnull, ".")
    check(project, "ruff", "check", "--no-cache", "--extend-select", "B,I,N,RUF,UP,W", "--ignore", "RUF012", ".")
    check(project, "ruff", "format", "--no-cache", "--check", ".")


def test_a_new_project_has_its_own_name_everywhere(project: Path) -> None:
    """A new project has its own name everywhere, also in the names of its files."""
    assert {"README.md", "my_rack.py", "pyproject.toml", "test_my_rack.py"} == {each.name for each in project.iterdir()}
    for file in project.iterdir():
        assert not re.search(r"your.?machines", file.read_text(), re.IGNORECASE), file.name


def test_a_new_provider_runs(project: Path, run: Callable[..., Daemon]) -> None:
    """A new provider can provision a machine, report it as broken, and destroy it."""
    daemon = run("--provider", f"{project}/my_rack.py:MyRack", *FAST)
    id = daemon.provision({"cpus": 2})
    assert [id] == daemon.described()
    (file,) = (daemon.state.parent / "machines").iterdir()
    file.write_text(file.read_text().replace("true", "false"))
    eventually(lambda: daemon.described() == [], "it is set aside")
    daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: not file.exists(), "it is destroyed")


@pytest.mark.parametrize("name", ["", "Rack", "1rack", "-rack", "rack-", "../rack", "my rack", "räck", "a/b", "."])
def test_a_bad_name_is_an_error(tmp_path: Path, name: str) -> None:
    """The error for an invalid name shows a valid one."""
    assert f"such as my-rack, got {name!r}" in refuse(tmp_path, name, 2)


@pytest.mark.parametrize("name", ["file", "simulator", "json", "class", "pyinfrakit", "pytest", "provider", "machine"])
def test_a_name_in_use_is_an_error(tmp_path: Path, name: str) -> None:
    """A name that would hide a module, or a class that the provider needs, is refused."""
    assert f"use another, such as my-{name}" in refuse(tmp_path, name, 2)


def test_an_existing_folder_stays_as_it_is(tmp_path: Path) -> None:
    """An existing folder or file of the name stays as it is."""
    (tmp_path / "rack").mkdir()
    (tmp_path / "shelf").touch()
    assert "rack: File exists; nothing was written" in refuse(tmp_path, "rack", 1)
    assert "shelf: File exists; nothing was written" in refuse(tmp_path, "shelf", 1)


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    """The error for a folder that can't be written has the system's reason."""
    assert "File name too long; nothing was written" in refuse(tmp_path, "r" * 300, 1)
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.geteuid() != 0:
        assert "rack: Permission denied; nothing was written" in refuse(tmp_path / "closed", "rack", 1)
