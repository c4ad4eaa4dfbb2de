"""Fixtures: daemons that end with their test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from executables import Examples
from harness import Daemon

FAST = ("--sync-interval", "0.1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """InfraKit's home for one test."""
    return tmp_path / "ik"


@pytest.fixture
def run(home: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons: `run("--flag", name=...)`."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(Daemon(home, *arguments, **settings))


@pytest.fixture
def daemon(run: Callable[..., Daemon]) -> Daemon:
    """A daemon with the file provider."""
    return run(*FAST)


@pytest.fixture
def simulated(run: Callable[..., Daemon]) -> Daemon:
    """A daemon with the simulator, which observes ten times a second."""
    return run("--provider", "simulator", *FAST)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """The examples of executables."""
    return Examples(tmp_path_factory.mktemp("examples"))
