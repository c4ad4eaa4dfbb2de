"""Fixtures for daemons that stop with their test."""

import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings

from pyinfrakit.providers.process.cgroup import remove_empty_groups
from support.executables import Examples
from support.harness import Daemon, eventually
from support.processes import AS_USER, Instances, kill_all

FAST = ("--sync-interval", "0.1")

settings.register_profile("steady", derandomize=True)
"""Draws the same examples in each run. Without it, a run may find an older bug than the change under test."""

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell's background jobs ignore SIGINT, and the daemons of these tests would inherit that."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first on two workers: they mostly wait, while other workers run the rest."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for number, item in enumerate(item for item in items if item.get_closest_marker("long")):
        item.add_marker(pytest.mark.xdist_group(f"long {number % 2}"))


@pytest.fixture
def home() -> Iterator[Path]:
    """Create InfraKit's home for one test, in a short path because a socket's path has at most 107 bytes."""
    with TemporaryDirectory(prefix="ik-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "ik"


@pytest.fixture
def run(home: Path) -> Iterator[Callable[..., Daemon]]:
    """Return a function that starts daemons: `run("--flag", name=...)`."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(Daemon(home, *arguments, **settings))


@pytest.fixture
def daemon(run: Callable[..., Daemon]) -> Daemon:
    """Start a daemon with the file provider."""
    return run(*FAST)


@pytest.fixture
def simulated(run: Callable[..., Daemon]) -> Daemon:
    """Start a daemon with the simulator, which it observes ten times a second."""
    return run("--provider", "simulator", *FAST)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Return the examples of executables."""
    return Examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def mark() -> Iterator[str]:
    """Return a mark for one test's processes, and check that all of them end with the test."""
    mark = f"test-{uuid.uuid4().hex}"
    yield mark
    eventually(lambda: kill_all(f"PYINFRAKIT_MARK={mark}"), "all of the test's processes end")
    remove_empty_groups(mark)


@pytest.fixture
def start(mark: str, run: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """Return a function that starts daemons whose instances are processes."""

    def start_daemon(*arguments: str, grace: float = 1, **settings: Any) -> Daemon:
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

    return start_daemon


@pytest.fixture
def instances(mark: str) -> Instances:
    """Return the processes of the test's instances."""
    return Instances(mark)
