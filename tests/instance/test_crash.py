"""A crash at any step of a provision or a destroy neither loses nor duplicates a machine."""

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


def start_dying(run: Callable[..., Daemon], step: str) -> Daemon:
    """Start a daemon that dies at *step*."""
    return run(program=(sys.executable, str(DYING), step))


def is_at_rest(daemon: Daemon) -> bool:
    """Check that nothing is left to do, and that records and machines agree."""
    records = daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]
    return all(each["State"] == "ready" for each in records) and {each["ID"] for each in records} == set(
        daemon.machines()
    )


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_a_provision_leaves_one_machine_or_none(run: Callable[..., Daemon], step: str) -> None:
    """A crash in a provision leaves one instance with one machine if its record was written, and nothing otherwise."""
    first = start_dying(run, f"provision: {step}")
    with pytest.raises(Unreachable):
        first.provision(SLOW, infrakit_group="w")
    assert first.process is not None
    assert first.process.wait() == -9

    second = run("--provider", "simulator", "--sync-interval", "0.1")
    eventually(lambda: is_at_rest(second), "records and machines agree")
    assert (0 if step == "before the record" else 1) == len(second.machines())
    assert second.machines() == second.described(infrakit_group="w")


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_a_destroy_leaves_all_or_nothing_done(run: Callable[..., Daemon], step: str) -> None:
    """After a crash in a destroy, the instance lives on if its record was not yet written; otherwise it is destroyed."""
    before = run("--provider", "simulator", "--sync-interval", "0.1")
    kept, lost = before.provision(SLOW), before.provision(SLOW)
    before.stop()

    first = start_dying(run, f"destroy: {step}")
    with contextlib.suppress(Unreachable):  # The reply may come before the provider is called.
        first.call("Instance.Destroy", Instance=lost)
    assert first.process is not None
    assert first.process.wait() == -9

    second = run("--provider", "simulator", "--sync-interval", "0.1")
    eventually(lambda: is_at_rest(second), "records and machines agree")
    left = [kept, lost] if step == "before the record" else [kept]
    assert sorted(left) == second.machines()
    assert sorted(left) == sorted(second.described())


def test_a_failed_provision_is_cleaned_up_by_the_next_daemon(run: Callable[..., Daemon]) -> None:
    """The next daemon cleans up a failed provision if its daemon died before the cleanup."""
    first = start_dying(run, "destroy: before the call")
    with pytest.raises((RemoteError, Unreachable)):
        first.provision({"failure_rate": 1})
    assert first.process is not None
    assert first.process.wait() == -9
    assert 1 == len(first.machines()), "the failed provision left a machine behind"

    second = run("--provider", "simulator", "--sync-interval", "0.1")
    eventually(lambda: not second.machines(), "the machine is destroyed")
    eventually(lambda: is_at_rest(second), "the record is dropped")
    assert [] == second.described()


def test_work_resumes_after_the_first_observation(run: Callable[..., Daemon]) -> None:
    """A daemon resumes earlier work only once it can observe the provider."""
    first = start_dying(run, "provision: in the call")
    with pytest.raises(Unreachable):
        first.provision(SLOW)
    with first.world.change() as scene:
        scene.unreachable = True
        scene.machines.clear()
    second = run("--provider", "simulator", "--sync-interval", "0.1")
    eventually(lambda: "can't be observed" in second.log, "the trouble is logged")
    id = second.described()[0]
    assert [] == second.machines()
    with second.world.change() as scene:
        scene.unreachable = False
    eventually(lambda: second.machines() == [id], "the provision resumes with the same ID")
