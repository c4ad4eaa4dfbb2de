"""No exception of a provider, and no task or callback that it leaves behind, ends the daemon or its reconcile loop."""

from collections.abc import Callable

import pytest

from support.harness import PROGRAMS, Daemon, eventually

PROVIDER = PROGRAMS / "wild.py"

ASYNC = (
    "exit_in_a_gathered_task", "exit_in_a_background_task", "exit_in_a_task_group", "exit_in_a_callback",
    "exit_in_a_timer", "interrupt_in_a_callback", "exit_in_a_reader", "exit_in_a_done_callback",
    "exit_in_an_exception_handler", "stop_the_loop", "cancel_itself", "cancel_all_tasks", "cancel_all_tasks_later",
    "raise_a_cancellation", "close_its_generator", "raise_a_foreign_exception",
)  # fmt: skip
PLAIN = (
    "raise_an_error_without_a_text", "return_an_object_without_a_truth", "return_texts_of_its_own",
    "return_other_objects", "break_off", "raise_a_foreign_exception", "close_its_generator", "raise_a_cancellation",
    "interrupt", "run_out_of_memory", "recurse", "exit_in_a_thread", "interrupt_in_a_thread", "leave_litter",
)  # fmt: skip
BEHAVED = ("return_texts_of_its_own", "exit_in_a_thread")
"""What a provider may do without a word in the log."""


def await_observations(daemon: Daemon, count: int = 3) -> None:
    """Wait for *count* good observations, the last of which began after this call."""
    seen: set[float] = set()

    def look() -> bool:
        seen.add(daemon.call("Operator.Status")["Observed"])
        return len(seen) > count

    eventually(look, "further observations")


@pytest.mark.parametrize("case", [*(f"Async.{mode}" for mode in ASYNC), *(f"Plain.{mode}" for mode in PLAIN)])
def test_the_daemon_survives_its_provider(run: Callable[..., Daemon], case: str) -> None:
    """The daemon logs what the provider did, goes on to observe, provisions as before, and stops without an error."""
    kind, mode = case.split(".")
    daemon = run("--provider", f"{PROVIDER}:{kind}", "--sync-interval", "0.05")
    kept = daemon.provision()
    await_observations(daemon)
    before = len(daemon.log)
    (daemon.state.parent / "mode").write_text(mode)
    eventually(lambda: not (daemon.state.parent / "mode").exists(), "the provider is asked")
    await_observations(daemon)
    eventually(lambda: not daemon.call("Operator.Status")["Trouble"], "the provider is observed again")
    assert {kept, daemon.provision()} == set(daemon.described())
    assert "ended the reconcile loop" not in daemon.log
    assert mode in BEHAVED or daemon.log[before:]
    assert 0 == daemon.stop()


def test_a_provider_changes_no_record(run: Callable[..., Daemon]) -> None:
    """A provider that changes the specs, records and tags that it gets changes only its copies."""
    daemon = run("--provider", f"{PROVIDER}:Greedy", "--sync-interval", "0.05")
    id = daemon.provision(infrakit_group="workers", rack="7")
    assert [id] == daemon.described(infrakit_group="workers", rack="7")
    daemon.call("Instance.Label", Instance=id, Labels={"rack": "8"})
    await_observations(daemon)
    assert [id] == daemon.described(infrakit_group="workers", rack="8")
    daemon.call("Instance.Destroy", Instance=id)
    await_observations(daemon)
    daemon.stop()
    daemon.start()
    await_observations(daemon)
    daemon.stop()
    assert [{"infrakit.group": "workers", "rack": "8"}] == [each["Tags"] for each in daemon.saved()["NonFunctional"]]


def test_a_provider_does_not_disturb_the_stop(run: Callable[..., Daemon]) -> None:
    """A provider that cancels all tasks, stops the event loop and exits in its `stop` prevents no last write."""
    daemon = run("--provider", f"{PROVIDER}:Rude", "--sync-interval", "0.05")
    ids = {daemon.provision() for _ in range(3)}
    assert 0 == daemon.stop()
    assert [daemon.state] == list(daemon.state.parent.glob("rack1.json*"))
    assert ids == {each["ID"] for each in daemon.saved()["Instances"]}
