"""Fixtures: daemons that end with their test."""

import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings

from support.executables import Examples
from support.harness import Daemon, eventually
from support.processes import AS_USER, Instances, kill_all

FAST = ("--sync-interval", "0.1")

settings.register_profile("steady", derandomize=True)
"""Judges a change by the same examples each time; without it they are drawn, and may find what is older than the change."""

signal.signal(signal.SIGINT, signal.default_int_handler)
"""What a shell runs in the background ignores it, and so would what is started here."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have two workers begin with what takes longest, most of which waits, while the others do the rest."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for number, item in enumerate(item for item in items if item.get_closest_marker("long")):
        item.add_marker(pytest.mark.xdist_group(f"long {number % 2}"))


@pytest.fixture
def home() -> Iterator[Path]:
    """InfraKit's home for one test: somewhere short, as a socket's path may have 107 bytes."""
    with TemporaryDirectory(prefix="ik-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "ik"


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


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark for one test's processes. None of them is left after it."""
    mark = f"test-{uuid.uuid4().hex}"
    yield mark
    eventually(lambda: kill_all(f"PYINFRAKIT_MARK={mark}"), "all of the test's processes end")


@pytest.fixture
def start(mark: str, run: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """Start daemons with processes as instances."""

    def started(*arguments: str, grace: float = 1, **settings: Any) -> Daemon:
        return run(
            "--provider",
            "process",
            *AS_USER,
            "--option",
            f"grace={grace}",
            "--mark",
            mark,
            *FAST,
            *arguments,
            **settings,
        )

    return started


@pytest.fixture
def instances(mark: str) -> Instances:
    """The processes of the test's instances."""
    return Instances(mark)
