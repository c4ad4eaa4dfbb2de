"""A crash at any step of a provision or a destroy loses and doubles no machine."""

import contextlib
import sys
from collections.abc import Callable

import pytest

from dying import STEPS
from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import RemoteError
from support.harness import PROGRAMS, Daemon, eventually

SLOW = {"delay": 0.3, "destroy_delay": 0.3}
DYING = PROGRAMS / "dying.py"


def dying(run: Callable[..., Daemon], step: str) -> Daemon:
    return run(program=(sys.executable, str(DYING), step))


def at_rest(daemon: Daemon) -> bool:
    """Is there nothing left to do, and do records and machines agree?"""
    records = daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]
    return all(each["State"] == "ready" for each in records) and {each["ID"] for each in records} == set(
        machines(daemon)
    )


def machines(daemon: Daemon) -> list[str]:
    return sorted(daemon.world.look().machines)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_a_provision_leaves_one_machine_or_none(run: Callable[..., Daemon], step: str) -> None:
    """Before the record is written there is nothing after the restart, from then on exactly one instance with one machine."""
    first = dying(run, f"provision: {step}")
    with pytest.raises(Unreachable):
        first.provision(SLOW, infrakit_group="w")
    assert first.process is not None
    assert first.process.wait() == -9

    second = run("--provider", "simulator", "--sync-interval", "0.1")
    eventually(lambda: at_rest(second), "records and machines agree")
    assert (0 if step == "before the record" else 1) == len(machines(second))
    assert machines(second) == second.described(infrakit_group="w")


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_a_destroy_ends_with_all_or_nothing_done(run: Callable[..., Daemon], step: str) -> None:
    """Before the record is written the instance lives on, from then on it is destroyed, also by the next daemon."""
    before = run("--provider", "simulator", "--sync-interval", "0.1")
    kept, lost = before.provision(SLOW), before.provision(SLOW)
    before.stop()

    first = dying(run, f"destroy: {step}")
    with contextlib.suppress(Unreachable):  # the reply may come before the provider is called
        first.call("Instance.Destroy", Instance=lost)
    assert first.process is not None
    assert first.process.wait() == -9

    second = run("--provider", "simulator", "--sync-interval", "0.1")
    eventually(lambda: at_rest(second), "records and machines agree")
    left = [kept, lost] if step == "before the record" else [kept]
    assert sorted(left) == machines(second)
    assert sorted(left) == sorted(second.described())


def test_a_failed_provision_is_cleaned_up_by_the_next_daemon(run: Callable[..., Daemon]) -> None:
    """A caller that was told of a failure is never left with a machine, though the daemon dies before it cleaned up."""
    first = dying(run, "destroy: before the call")
    with pytest.raises((RemoteError, Unreachable)):
        first.provision({"failure_rate": 1})
    assert first.process is not None
    assert first.process.wait() == -9
    assert 1 == len(machines(first)), "the failed provision left something behind"

    second = run("--provider", "simulator", "--sync-interval", "0.1")
    eventually(lambda: not machines(second), "it is cleaned up")
    eventually(lambda: at_rest(second), "its record is dropped")
    assert [] == second.described()


def test_work_is_taken_up_after_the_first_observation(run: Callable[..., Daemon]) -> None:
    """While the provider can't be observed, what an earlier daemon left is not gone on with."""
    first = dying(run, "provision: in the call")
    with pytest.raises(Unreachable):
        first.provision(SLOW)
    with first.world.change() as scene:
        scene.unreachable = True
        scene.machines.clear()
    second = run("--provider", "simulator", "--sync-interval", "0.1")
    eventually(lambda: "can't be observed" in second.log, "the trouble is told")
    id = second.described()[0]
    assert [] == machines(second)
    with second.world.change() as scene:
        scene.unreachable = False
    eventually(lambda: machines(second) == [id], "the provision is taken up, with the same ID")
