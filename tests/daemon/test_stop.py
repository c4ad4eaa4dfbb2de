"""The daemon's stop, which ends within its bound, whatever a provider or the disk does."""

import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyinfrakit.daemon.stop import CUT_OFF, IMPATIENCE
from support.harness import PROGRAMS, Daemon, eventually

Run = Callable[..., Daemon]


def run_stubborn(run: Run, kind: str) -> Daemon:
    return run("--provider", f"{PROGRAMS / 'stubborn.py'}:{kind}", "--sync-interval", "0.1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "kind",
    ["IgnoresSignals", "HandlesSignals", "TakesSignals", "RemovesHandlers", "BlocksSignals", "IgnoresSignalsInC"],
)
def test_a_provider_can_not_keep_signals_from_the_daemon(run: Run, kind: str, number: signal.Signals) -> None:
    """A daemon stops cleanly at a signal, even if its provider handles, ignores or blocks signals."""
    daemon = run_stubborn(run, kind)
    id = daemon.provision()
    time.sleep(0.5)  # the daemon repairs its handlers ten times a second
    assert daemon.stop(number) == 0
    assert ["rack1.json"] == [path.name for path in daemon.state.parent.iterdir()]
    assert [id] == [instance["ID"] for instance in daemon.saved()["Instances"]]


@pytest.mark.parametrize(
    "kind", ["HasThreads", "HasChildren", "HangsAtExit", "NeverStops", "StopsLoop", "ExitsInCallback"]
)
def test_what_a_provider_leaves_behind_does_not_delay_a_stop(run: Run, kind: str) -> None:
    """A daemon stops cleanly, even if threads, child processes, exit handlers or calls of its provider never end."""
    daemon = run_stubborn(run, kind)
    id = daemon.provision()
    assert [id] == daemon.described()
    assert daemon.stop() == 0
    assert ["rack1.json"] == [path.name for path in daemon.state.parent.iterdir()]
    assert [id] == [instance["ID"] for instance in daemon.saved()["Instances"]]


def test_a_signal_to_a_child_process_is_its_own(run: Run) -> None:
    """A provider can end its forked child by a signal, and the daemon goes on."""
    daemon = run_stubborn(run, "EndsForks")
    ids = [daemon.provision() for _ in range(2)]
    assert sorted(ids) == sorted(daemon.described())
    assert daemon.stop() == 0


@pytest.mark.parametrize("kind", ["BlocksLoop", "SpinsLoop", "IgnoresSignalsAndBlocks", "HangsInStop"])
def test_a_stop_that_hangs_is_cut_off(run: Run, kind: str) -> None:
    """If a provider blocks the event loop, a stop is cut off with status 3, and the next start has all instances."""
    daemon = run_stubborn(run, kind)
    id = daemon.provision()
    time.sleep(1)
    assert daemon.stop() == CUT_OFF
    assert "the stop was cut off" in daemon.log
    daemon.start()
    assert [id] == daemon.described()


def test_the_system_ends_a_daemon_that_can_not_end_itself(run: Run) -> None:
    """A daemon whose stop never gets the interpreter back is ended by SIGALRM."""
    daemon = run_stubborn(run, "HoldsInterpreter")
    daemon.provision()
    assert daemon.stop() == -signal.SIGALRM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_daemon_at_once(run: Run, number: signal.Signals) -> None:
    """A signal at least a second after the first one ends a daemon at once, with the status of that signal."""
    daemon = run_stubborn(run, "BlocksLoop")
    id = daemon.provision()
    time.sleep(1)
    assert daemon.process is not None
    daemon.process.send_signal(number)
    time.sleep(IMPATIENCE + 0.2)
    assert daemon.stop(number) == 128 + number
    daemon.start()
    assert [id] == daemon.described()


def test_two_signals_together_count_as_one(run: Run) -> None:
    """A daemon that gets two signals at once, as from a terminal and a wrapper, stops cleanly."""
    daemon = run_stubborn(run, "NeverStops")
    daemon.provision()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.stop(signal.SIGTERM) == 0


def test_a_disk_that_hangs_does_not_keep_the_daemon(run: Run, home: Path) -> None:
    """If a sync never ends, a stop is cut off with status 3. The next start has all that was acknowledged."""
    hanging = home / "hanging"
    program = (sys.executable, str(PROGRAMS / "hanging_disk.py"), str(hanging))
    daemon = run(program=program)
    id = daemon.provision()
    hanging.touch()
    with ThreadPoolExecutor() as pool:
        unanswered = pool.submit(daemon.provision)
        time.sleep(1)
        assert not unanswered.done()
        assert daemon.stop() == CUT_OFF
        assert unanswered.exception() is not None
    assert "all acknowledged changes are on disk" in daemon.log
    hanging.unlink()
    daemon.start()
    assert id in eventually(daemon.described)
