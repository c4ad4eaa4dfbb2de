"""Whatever a provider does, no record is lost, and the daemon goes on, and stops."""

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


def answered(daemon: Daemon) -> str:
    """Ask for an instance; give its ID, or what is wrong."""
    try:
        return daemon.provision()
    except RemoteError as error:
        return str(error)


@pytest.mark.parametrize("mode", MODES)
def test_a_misbehaving_provider_loses_no_record_and_stops_nothing(
    run: Callable[..., Daemon], home: Path, mode: str
) -> None:
    """It is described as before, a provision has an answer, a stop has its bound; when it behaves again all is as it was."""
    (home / "state").mkdir(parents=True)
    (home / "state" / "mode").write_text("behave")
    wait = "0.5" if mode in HANGING else "10"
    daemon = run(
        "--provider", f"{PROVIDER}:Misbehaving", "--sync-interval", "0.1", "--provision-wait", wait, "--log", "4"
    )
    made = {daemon.provision() for _ in range(COUNT)}
    doomed = min(made)
    set_mode(daemon, mode)
    daemon.call("Instance.Destroy", Instance=doomed)
    kept = made - {doomed}
    asked = answered(daemon)
    if mode == "lie":
        eventually(lambda: daemon.call("Operator.Status")["Held"], "its losses are held")
    elif mode in HANGING:
        assert daemon.record(asked) is not None
    else:
        eventually(lambda: daemon.call("Operator.Status")["Trouble"], "its trouble is told")
        assert "the provider has a bug" in asked
    assert kept <= set(daemon.described())
    assert 0 == daemon.stop()
    assert kept <= {each["ID"] for each in daemon.saved()["Instances"]}
    set_mode(daemon, "behave")
    daemon.start()
    eventually(lambda: daemon.record(doomed) is None, "the destroy is taken up")
    assert kept <= set(daemon.described())
