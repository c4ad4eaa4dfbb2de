"""A misbehaving provider loses no record, and the daemon still answers and stops."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyinfrakit.rpc.client import RemoteError
from support.harness import PROGRAMS, Daemon, eventually

PROVIDER = PROGRAMS / "misbehaving.py"
HANGING = ("hang", "stay busy")
MODES = ("raise", "exit", *HANGING, "talk nonsense", "lie")
COUNT = 6


def set_mode(daemon: Daemon, mode: str) -> None:
    (daemon.state.parent / "mode").write_text(mode)


def try_provision(daemon: Daemon) -> str:
    """Provision an instance and return its ID or the error's text."""
    try:
        return daemon.provision()
    except RemoteError as error:
        return str(error)


@pytest.mark.parametrize("mode", MODES)
def test_a_misbehaving_provider_loses_no_record(run: Callable[..., Daemon], home: Path, mode: str) -> None:
    """A misbehaving provider delays no answer or stop, keeps its instances described, and recovers once it behaves."""
    (home / "state").mkdir(parents=True)
    (home / "state" / "mode").write_text("behave")
    wait = "0.5" if mode in HANGING else "10"
    daemon = run(
        "--provider", f"{PROVIDER}:Misbehaving", "--sync-interval", "0.1", "--provision-wait", wait, "--log", "4"
    )
    ids = {daemon.provision() for _ in range(COUNT)}
    destroyed = min(ids)
    set_mode(daemon, mode)
    daemon.call("Instance.Destroy", Instance=destroyed)
    kept = ids - {destroyed}
    outcome = try_provision(daemon)
    if mode == "lie":
        eventually(lambda: daemon.call("Operator.Status")["Held"], "the losses are held")
    elif mode in HANGING:
        assert daemon.record(outcome) is not None
    else:
        eventually(lambda: daemon.call("Operator.Status")["Trouble"], "the trouble is reported")
        assert "the provider has a bug" in outcome
    assert kept <= set(daemon.described())
    assert 0 == daemon.stop()
    assert kept <= {each["ID"] for each in daemon.saved()["Instances"]}
    set_mode(daemon, "behave")
    daemon.start()
    eventually(lambda: daemon.record(destroyed) is None, "the destroy completes")
    assert kept <= set(daemon.described())
