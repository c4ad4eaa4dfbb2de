"""Instances live, break, heal and go while tests edit the simulator's world behind the plugin's back."""

import fcntl
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyinfrakit.rpc.client import RemoteError
from support.harness import Daemon, eventually

Run = Callable[..., Daemon]

SIMULATED = ("--provider", "simulator", "--sync-interval", "0.1")
GROUP = {"infrakit_group": "w"}


def set_functional(daemon: Daemon, functional: bool, *ids: str) -> None:
    with daemon.world.change() as scene:
        for id in ids:
            scene.machines[id].functional = functional
            scene.machines[id].reason = "" if functional else "the fan stands still"


def set_stuck(daemon: Daemon, stuck: bool, id: str) -> None:
    """Set whether a machine refuses to be destroyed."""
    with daemon.world.change() as scene:
        scene.machines[id].stuck = stuck


def read_state(daemon: Daemon, id: str) -> str | None:
    record = daemon.record(id)
    return record.State if record else None


def read_reason(daemon: Daemon, id: str) -> str:
    record = daemon.record(id)
    return record.Reason if record else ""


def wait_for_observations(daemon: Daemon, count: int) -> None:
    """Wait for *count* more observations. The second one has seen everything that was there before."""
    for _ in range(count):
        _wait_for_next(daemon, read_observed(daemon))


def _wait_for_next(daemon: Daemon, last: float | None) -> None:
    eventually(lambda: read_observed(daemon) != last, "an observation")


def read_observed(daemon: Daemon) -> float | None:
    with daemon.remote() as plugin:
        return plugin.status().Observed


def test_a_slow_provision_delays_nothing_else(run: Run) -> None:
    """A provision that takes 30 s does not delay a describe, another provision, or a stop."""
    daemon = run(*SIMULATED, "--provision-wait", "1")
    slow = daemon.provision({"delay": 30})
    assert [slow] == daemon.described()
    assert "provisioning" == read_state(daemon, slow)
    quick = daemon.provision()
    assert {slow, quick} == set(daemon.described())
    began = time.monotonic()
    assert 0 == daemon.stop()
    assert time.monotonic() - began < 10


def test_a_provision_longer_than_the_wait_continues(run: Run) -> None:
    """A provision answers with its ID after the wait, and the instance becomes ready later."""
    daemon = run(*SIMULATED, "--provision-wait", "0.2")
    id = daemon.provision({"delay": 5})
    assert "provisioning" == read_state(daemon, id)
    eventually(lambda: read_state(daemon, id) == "ready")


def test_a_destroy_during_a_provision_waits_for_it(run: Run) -> None:
    """A destroy during a provision is acknowledged at once, hides the instance, and completes after the provision."""
    daemon = run(*SIMULATED, "--provision-wait", "0.2")
    id = daemon.provision({"delay": 5})
    daemon.call("Instance.Destroy", Instance=id)
    daemon.call("Instance.Destroy", Instance=id)
    assert [] == daemon.described()
    assert "destroying" == read_state(daemon, id)
    assert [id] == list(daemon.world.look().machines), "the provision still runs"
    eventually(lambda: read_state(daemon, id) is None)
    assert {} == daemon.world.look().machines
    with pytest.raises(RemoteError, match=id):
        daemon.call("Instance.Destroy", Instance=id)


def test_a_failed_provision_leaves_nothing(simulated: Daemon) -> None:
    """The caller of a failed provision gets the reason, and the provider's leftovers are destroyed."""
    with pytest.raises(RemoteError, match="provision failed: the simulator's failure rate struck") as error:
        simulated.provision({"failure_rate": 1, "delay": 0.2})
    assert "give-up" == error.value.kind
    assert [] == simulated.described()
    eventually(lambda: not simulated.world.look().machines)
    eventually(lambda: simulated.saved()["NonFunctional"] == [])


def test_a_full_world_refuses_a_provision(simulated: Daemon) -> None:
    """A full world refuses a provision, and the error states its capacity and the number of machines."""
    with simulated.world.change() as scene:
        scene.capacity = 1
    simulated.provision()
    with pytest.raises(RemoteError, match="capacity is 1, and 1 machines exist") as error:
        simulated.provision()
    assert "no-capacity" == error.value.kind


def test_a_broken_instance_is_set_aside_and_comes_back_to_the_front(simulated: Daemon) -> None:
    """A broken instance is kept with its reason but not described, and comes first once it works again."""
    one, two, three = (simulated.provision(**GROUP) for _ in range(3))
    assert [one, two, three] == simulated.described(**GROUP)
    set_functional(simulated, False, two)
    eventually(lambda: simulated.described(**GROUP) == [one, three])
    assert ("non-functional", "the fan stands still") == (read_state(simulated, two), read_reason(simulated, two))
    eventually(lambda: [each["ID"] for each in simulated.saved()["NonFunctional"]] == [two])
    set_functional(simulated, True, two)
    eventually(lambda: simulated.described(**GROUP) == [two, one, three])
    eventually(lambda: [each["ID"] for each in simulated.saved()["Instances"]] == [two, one, three])


def test_an_instance_breaks_heals_and_dies_by_its_properties(simulated: Daemon) -> None:
    """The simulator's machines break, heal and die as their properties say."""
    id = simulated.provision({"breaks_after": 0.5, "heals_after": 6})
    dying = simulated.provision({"dies_after": 0.5})
    eventually(lambda: read_state(simulated, id) == "non-functional")
    eventually(lambda: read_state(simulated, id) == "ready")
    eventually(lambda: read_state(simulated, dying) is None)


def test_a_flapping_machine_is_not_replaced(run: Run) -> None:
    """A machine that is never broken for enough consecutive observations stays described."""
    daemon = run(*SIMULATED, "--broken-after", "50")
    id = daemon.provision()
    for _ in range(5):
        set_functional(daemon, False, id)
        wait_for_observations(daemon, 3)
        set_functional(daemon, True, id)
        wait_for_observations(daemon, 2)
        assert [id] == daemon.described()
    assert "broken" not in daemon.log


def test_a_flapping_machine_does_not_come_back(run: Run) -> None:
    """A machine that was set aside comes back only after enough consecutive observations of it working."""
    daemon = run(*SIMULATED, "--healed-after", "50")
    id = daemon.provision()
    set_functional(daemon, False, id)
    eventually(lambda: read_state(daemon, id) == "non-functional")
    for _ in range(3):
        set_functional(daemon, True, id)
        wait_for_observations(daemon, 3)
        set_functional(daemon, False, id)
        wait_for_observations(daemon, 2)
        assert [] == daemon.described()


def test_a_vanished_machine_is_dropped(simulated: Daemon) -> None:
    """The record of a vanished machine is dropped after several observations."""
    kept, gone = simulated.provision(), simulated.provision()
    with simulated.world.change() as scene:
        del scene.machines[gone]
    eventually(lambda: simulated.described() == [kept])
    assert read_state(simulated, gone) is None
    assert "missing from 3 consecutive observations" in simulated.log


def test_an_unobservable_world_changes_nothing(simulated: Daemon) -> None:
    """Nothing changes while the world cannot be observed, and the status shows the trouble."""
    id = simulated.provision()
    with simulated.world.change() as scene:
        scene.unreachable = True
        machine = scene.machines.pop(id)
    content = simulated.world.path.read_bytes()
    with simulated.remote() as plugin:
        for written, trouble in [(b"out of order", "the simulator's world /"), (content, "unreachable")] * 3:
            simulated.world.path.write_bytes(written)
            eventually(lambda: trouble in plugin.status().Trouble, trouble)  # noqa: B023
    assert [id] == simulated.described()
    with simulated.world.change() as scene:
        scene.unreachable = False
        scene.machines[id] = machine
    eventually(lambda: "can be observed again" in simulated.log)
    assert [id] == simulated.described()


def test_a_healed_member_whose_logical_id_is_in_use_stays_aside(simulated: Daemon) -> None:
    """A healed member stays set aside while a replacement has its logical ID, and then comes back."""
    old = simulated.provision(logical="node-1", **GROUP)
    set_functional(simulated, False, old)
    eventually(lambda: simulated.described() == [])
    new = simulated.provision(logical="node-1", **GROUP)
    assert new != old
    set_functional(simulated, True, old)
    eventually(lambda: read_reason(simulated, old) == f"works again, but {new} has its logical ID node-1 now")
    wait_for_observations(simulated, 5)
    assert [new] == simulated.described()
    with pytest.raises(RemoteError, match=f"{old}: not restored, as {new} has its logical ID"):
        simulated.call("Operator.Restore", Instance=old)
    simulated.call("Instance.Destroy", Instance=new)
    eventually(lambda: simulated.described() == [old])


def test_a_healed_member_of_an_older_configuration_stays_aside(simulated: Daemon) -> None:
    """A healed member with an older configuration stays set aside, as the next update would replace it, unless forced."""
    old = simulated.provision(infrakit_config_hash="one", **GROUP)
    set_functional(simulated, False, old)
    eventually(lambda: simulated.described() == [])
    new = simulated.provision(infrakit_config_hash="two", **GROUP)
    set_functional(simulated, True, old)
    eventually(lambda: f"its configuration is not that of {new}" in read_reason(simulated, old))
    assert [new] == simulated.described()
    simulated.call("Operator.Restore", Instance=old, Force=True)
    assert [old, new] == simulated.described()


def test_mass_loss_is_held(simulated: Daemon) -> None:
    """If 50 instances vanish at once, none is dropped until an operator confirms the loss."""
    with ThreadPoolExecutor(8) as pool:
        ids = sorted(pool.map(lambda _: simulated.provision(), range(50)))
    wait_for_observations(simulated, 2)
    with simulated.world.change() as scene:
        machines, scene.machines = scene.machines, {}
    eventually(lambda: "50 instances seem lost at once" in simulated.log)
    wait_for_observations(simulated, 3)
    assert ids == sorted(simulated.described())
    with simulated.world.change() as scene:
        scene.machines = machines
    eventually(lambda: "no losses are held any more" in simulated.log)
    with simulated.remote() as plugin:
        assert [] == list(plugin.status().Held)
        assert [] == list(plugin.confirm())
    with simulated.world.change() as scene:
        scene.machines = {}
    with simulated.remote() as plugin:
        eventually(lambda: len(plugin.status().Held) == 50)
        assert ids == sorted(simulated.described())
        assert ids == sorted(plugin.confirm())
        eventually(lambda: simulated.described() == [])


def test_held_losses_survive_a_restart(simulated: Daemon) -> None:
    """A held loss stays held after a restart, even if some of its instances are observed working."""
    with ThreadPoolExecutor(8) as pool:
        ids = sorted(pool.map(lambda _: simulated.provision(), range(10)))
    wait_for_observations(simulated, 2)
    with simulated.world.change() as scene:
        machines = {id: scene.machines.pop(id) for id in ids[:4]}
    eventually(lambda: "4 instances seem lost at once" in simulated.log)
    simulated.kill()
    simulated.start()
    with simulated.world.change() as scene:
        scene.machines[ids[0]] = machines[ids[0]]
    wait_for_observations(simulated, 8)
    assert ids == sorted(simulated.described())
    with simulated.remote() as plugin:
        assert ids[1:4] == list(plugin.status().Held)
        plugin.confirm()
    eventually(lambda: sorted(simulated.described()) == [ids[0], *ids[4:]])


def test_losses_count_across_restarts(simulated: Daemon) -> None:
    """A daemon that restarts repeatedly loses no more instances than one that does not."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: simulated.provision(), range(20)))
    for _ in range(3):
        with simulated.world.change() as scene:
            for id in sorted(scene.machines)[:3]:
                del scene.machines[id]
        wait_for_observations(simulated, 6)
        simulated.kill()
        simulated.start()
    wait_for_observations(simulated, 6)
    assert 17 == len(simulated.described())


def test_an_acknowledged_destroy_survives_an_empty_world(simulated: Daemon) -> None:
    """An acknowledged destroy stays pending although its machine is not observed for a while."""
    with ThreadPoolExecutor(8) as pool:
        ids = sorted(pool.map(lambda _: simulated.provision({"destroy_delay": 60}), range(12)))
    with simulated.world.change() as scene:
        for machine in scene.machines.values():
            machine.mark = "hidden"
    for id in ids[:6]:
        simulated.call("Instance.Destroy", Instance=id)
    wait_for_observations(simulated, 6)
    assert ids[6:] == sorted(simulated.described())
    assert ["destroying"] * 6 == [read_state(simulated, id) for id in ids[:6]]


def test_an_instance_set_aside_by_hand_stays_until_restored(simulated: Daemon) -> None:
    """An instance set aside by hand stays so although it works, and comes to the front when restored."""
    one, two = simulated.provision(), simulated.provision()
    simulated.call("Operator.SetAside", Instance=two, Reason="new disk")
    wait_for_observations(simulated, 6)
    assert [one] == simulated.described()
    assert "new disk" == read_reason(simulated, two)
    simulated.call("Operator.Restore", Instance=two)
    assert [two, one] == simulated.described()
    with pytest.raises(RemoteError, match=f"{two}: is ready, so it can't be restored"):
        simulated.call("Operator.Restore", Instance=two)


def test_a_repeat_of_a_logical_id_is_the_same_instance(run: Run) -> None:
    """A repeated provision returns the instance with its logical ID, or an error that names it if the specs differ."""
    daemon = run(*SIMULATED, "--provision-wait", "0.2")
    one = daemon.provision({"delay": 1}, logical="node-1", **GROUP)
    assert one == daemon.provision({"delay": 1}, logical="node-1", **GROUP)
    with pytest.raises(RemoteError, match=f"{one}: has logical ID node-1 already, with another spec"):
        daemon.provision({"delay": 2}, logical="node-1", **GROUP)
    assert one != daemon.provision(logical="node-1", infrakit_group="other")
    eventually(lambda: read_state(daemon, one) == "ready")
    daemon.call("Instance.Label", Instance=one, Labels={"added": "later"})
    assert one == daemon.provision({"delay": 1}, logical="node-1", **GROUP)
    assert 2 == len(daemon.world.look().machines)


def test_equal_specs_are_different_instances(simulated: Daemon) -> None:
    """Identical parallel provisions create different instances, as InfraKit requests members of a group this way."""
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: simulated.provision({"delay": 0.2}, **GROUP), range(8)))
    assert 8 == len(set(ids))
    assert set(ids) == set(simulated.world.look().machines)


def test_parallel_repeats_of_a_logical_id_create_one_machine(simulated: Daemon) -> None:
    """Simultaneous provisions with one logical ID create one machine."""
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: simulated.provision({"delay": 0.2}, logical="node-1", **GROUP), range(8)))
    assert 1 == len(set(ids))
    assert set(ids) == set(simulated.world.look().machines)


def test_a_logical_id_moves_after_its_machine_is_gone(run: Run) -> None:
    """The provider creates a logical ID's new machine only after the old one is gone."""
    daemon = run(*SIMULATED, "--provision-wait", "0.2")
    old = daemon.provision({"destroy_delay": 1}, logical="node-1", **GROUP)
    set_stuck(daemon, True, old)
    daemon.call("Instance.Destroy", Instance=old)
    new = daemon.provision({"destroy_delay": 1}, logical="node-1", **GROUP)
    assert new != old
    assert [new] == daemon.described()
    assert [old] == list(daemon.world.look().machines)
    set_stuck(daemon, False, old)
    while read_state(daemon, new) == "provisioning":
        assert 1 >= len(daemon.world.look().machines), "both machines exist at once"
    assert [new] == list(daemon.world.look().machines)


def test_a_restart_does_not_move_a_logical_id_early(simulated: Daemon) -> None:
    """After a restart, a logical ID's new machine still waits for the old one, even if that cannot be destroyed yet."""
    old = simulated.provision({"destroy_delay": 60}, logical="node-1", **GROUP)
    simulated.call("Instance.Destroy", Instance=old)
    with simulated.world.change() as scene:
        scene.unreachable = True
    simulated.kill()
    simulated.arguments = (*SIMULATED, "--provision-wait", "0.2")
    simulated.start()
    new = simulated.provision(logical="node-1", **GROUP)
    simulated.call("Instance.Label", Instance=new, Labels={"added": "later"})
    time.sleep(0.5)
    assert [old] == list(simulated.world.look().machines)
    with simulated.world.change() as scene:
        scene.machines[old].destroy_delay = 0
        scene.unreachable = False
    eventually(lambda: list(simulated.world.look().machines) == [new])


def test_holders_without_machines_do_not_wait_for_each_other(run: Run) -> None:
    """If several holders of a logical ID wait for the first to go, only the last one gets a machine."""
    daemon = run("--provider", "simulator", "--sync-interval", "1000", "--provision-wait", "0.1")
    ids = [daemon.provision({"destroy_delay": 1.5}, logical="node-1", **GROUP)]
    for _ in range(3):
        daemon.call("Instance.Destroy", Instance=ids[-1])
        ids.append(daemon.provision(logical="node-1", **GROUP))
    eventually(lambda: read_state(daemon, ids[-1]) == "ready")
    assert [ids[-1]] == list(daemon.world.look().machines)
    assert [None] * 3 == [read_state(daemon, id) for id in ids[:-1]]


def test_a_restored_holder_waits_for_a_later_one_to_go(run: Run) -> None:
    """A holder that was set aside before its machine existed, and is restored, waits until its successor is gone."""
    daemon = run("--provider", "simulator", "--sync-interval", "1000", "--provision-wait", "0.1")
    first = daemon.provision(logical="node-1", **GROUP)
    set_stuck(daemon, True, first)
    daemon.call("Instance.Destroy", Instance=first)
    aside = daemon.provision(logical="node-1", **GROUP)
    daemon.call("Operator.SetAside", Instance=aside, Reason="wait")
    set_stuck(daemon, False, first)
    later = daemon.provision({"destroy_delay": 1.5}, logical="node-1", **GROUP)
    eventually(lambda: read_state(daemon, later) == "ready")
    daemon.call("Instance.Destroy", Instance=later)
    daemon.call("Operator.Restore", Instance=aside)
    while read_state(daemon, aside) == "provisioning":
        assert 1 >= len(daemon.world.look().machines)
    assert [aside] == list(daemon.world.look().machines)


def test_a_label_creates_no_second_holder(simulated: Daemon) -> None:
    """A label cannot move an instance into a group that uses its logical ID."""
    one = simulated.provision(logical="node-1", infrakit_group="one")
    two = simulated.provision(logical="node-1", infrakit_group="two")
    with pytest.raises(RemoteError, match=f"{two}: {one} has logical ID node-1 in group one already"):
        simulated.call("Instance.Label", Instance=two, Labels={"infrakit.group": "one"})
    assert [one] == simulated.described(infrakit_group="one")


def test_an_instance_set_aside_early_is_provisioned_when_restored(run: Run) -> None:
    """An instance that was set aside before its machine existed is provisioned when restored."""
    daemon = run("--provider", "simulator", "--sync-interval", "1000", "--provision-wait", "0.1")
    old = daemon.provision(logical="node-1", **GROUP)
    set_stuck(daemon, True, old)
    daemon.call("Instance.Destroy", Instance=old)
    new = daemon.provision(logical="node-1", **GROUP)
    daemon.call("Operator.SetAside", Instance=new, Reason="wait")
    set_stuck(daemon, False, old)
    eventually(lambda: read_state(daemon, old) is None)
    assert ("non-functional", []) == (read_state(daemon, new), list(daemon.world.look().machines))
    daemon.call("Operator.Restore", Instance=new)
    eventually(lambda: read_state(daemon, new) == "ready")
    assert [new] == list(daemon.world.look().machines)


def test_an_instance_that_the_c_demo_set_aside_does_not_heal(run: Run, home: Path) -> None:
    """An instance that the C demo set aside stays so until it is restored by hand."""
    (home / "state").mkdir(parents=True)
    entries = {"Instances": [{"ID": "InfraKit-1"}], "NonFunctional": [{"ID": "InfraKit-2"}]}
    (home / "state" / "rack1.json").write_text(json.dumps({"Provider": {}, **entries}))
    daemon = run("--sync-interval", "0.1")
    wait_for_observations(daemon, 6)
    assert ["InfraKit-1"] == daemon.described()
    daemon.call("Operator.Restore", Instance="InfraKit-2")
    wait_for_observations(daemon, 6)
    assert ["InfraKit-2", "InfraKit-1"] == daemon.described()


def test_hanging_threads_block_neither_the_store_nor_the_daemon(run: Run) -> None:
    """The plugin answers other calls and stops in time while all threads of the provider hang."""
    daemon = run(*SIMULATED, "--provision-wait", "0.2")
    id = daemon.provision()
    with daemon.world.path.with_name(f"{daemon.world.path.name}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(16) as pool:
            stuck = list(pool.map(lambda _: daemon.provision(), range(40)))
        daemon.call("Instance.Label", Instance=id, Labels={"added": "later"})
        assert [id] == daemon.described(added="later")
        assert {id, *stuck} == set(daemon.described())
        began = time.monotonic()
        assert 0 == daemon.stop()
        assert time.monotonic() - began < 15
    daemon.start()
    eventually(lambda: set(daemon.world.look().machines) == {id, *stuck}, "each machine exists once")


def test_a_rolling_update_is_paced(run: Run) -> None:
    """A rolling update destroys no member while another is provisioning: it waits, and then fails with that one's ID."""
    daemon = run(*SIMULATED, "--provision-wait", "0.2")
    old = daemon.provision(**GROUP)
    daemon.provision({"delay": 60}, infrakit_group="other")
    new = daemon.provision({"delay": 3}, **GROUP)
    with pytest.raises(
        RemoteError, match=f"{old}: not destroyed, as {new}, of the same group, is still being provisioned"
    ):
        daemon.call("Instance.Destroy", Instance=old, Context={"Reason": "rolling_update"})
    assert "ready" == read_state(daemon, old)
    eventually(lambda: read_state(daemon, new) == "ready")
    daemon.call("Instance.Destroy", Instance=old, Context={"Reason": "rolling_update"})
    assert [new] == daemon.described(**GROUP)


def test_pacing_delays_only_rolling_updates(run: Run) -> None:
    """Pacing delays no destroy for another reason, and none with --no-paced-updates."""
    daemon = run(*SIMULATED, "--provision-wait", "0.2")
    first, second = daemon.provision(**GROUP), daemon.provision(**GROUP)
    daemon.provision({"delay": 60}, **GROUP)
    daemon.call("Instance.Destroy", Instance=first, Context={"Reason": "terminate"})
    assert first not in daemon.described()
    daemon.stop()
    again = run(*SIMULATED, "--no-paced-updates")
    again.call("Instance.Destroy", Instance=second, Context={"Reason": "rolling_update"})
    assert second not in again.described()


def test_labels_reach_the_provider(simulated: Daemon) -> None:
    """Labels are acknowledged once stored, and reach the machine in the background, with retries."""
    id = simulated.provision(tier="web", **GROUP)
    content = simulated.world.path.read_bytes()
    simulated.world.path.write_bytes(b"out of order")
    simulated.call("Instance.Label", Instance=id, Labels={"tier": "db", "added": "later"})
    simulated.call("Instance.Label", Instance=id, Labels={"again": "x"})
    wanted = {"infrakit.group": "w", "tier": "db", "added": "later", "again": "x"}
    assert [id] == simulated.described(tier="db", added="later", again="x")
    eventually(lambda: f"{id}: the simulator's world" in simulated.log, "the provider fails")
    simulated.kill()
    simulated.world.path.write_bytes(content)
    simulated.start()
    eventually(lambda: simulated.world.look().machines[id].tags == wanted, "the next daemon retries")
    with pytest.raises(RemoteError, match="no instance 'nobody'"):
        simulated.call("Instance.Label", Instance="nobody", Labels={})


def test_a_failed_destroy_is_retried(simulated: Daemon) -> None:
    """A failed destroy is retried, and the instance stays `destroying` until the provider reports it gone."""
    id = simulated.provision()
    content = simulated.world.path.read_bytes()
    simulated.world.path.write_bytes(b"out of order")
    simulated.call("Instance.Destroy", Instance=id)
    eventually(lambda: f"work on {id}: the simulator's world" in simulated.log)
    assert "destroying" == read_state(simulated, id)
    assert [] == simulated.described()
    simulated.world.path.write_bytes(content)
    eventually(lambda: read_state(simulated, id) is None)
    assert {} == simulated.world.look().machines


def test_a_machine_that_never_works_is_set_aside(run: Run) -> None:
    """A machine that does not work within the deadline is set aside, and comes back once it works."""
    daemon = run(*SIMULATED, "--provision-wait", "0.2", "--provision-deadline", "3")
    id = daemon.provision({"delay": 10})
    assert [id] == daemon.described()
    eventually(lambda: read_state(daemon, id) == "non-functional")
    assert "starting" in read_reason(daemon, id)
    eventually(lambda: read_state(daemon, id) == "ready")


def test_an_old_non_functional_instance_is_destroyed(run: Run) -> None:
    """An old non-functional instance is destroyed if the operator set an age, except one set aside by hand."""
    daemon = run(*SIMULATED, "--non-functional-age", "1")
    broken, by_hand = daemon.provision(), daemon.provision()
    daemon.call("Operator.SetAside", Instance=by_hand, Reason="new disk")
    set_functional(daemon, False, broken)
    eventually(lambda: broken not in daemon.world.look().machines)
    eventually(lambda: read_state(daemon, broken) is None)
    wait_for_observations(daemon, 5)
    assert "non-functional" == read_state(daemon, by_hand)


def test_orphans_are_reported_and_left_alone(simulated: Daemon) -> None:
    """A machine with this plugin's mark but no record is reported as an orphan; another plugin's machine is ignored."""
    id = simulated.provision()
    with simulated.world.change() as scene:
        scene.machines["stray"] = scene.machines[id]
    with simulated.world.change() as scene:
        scene.machines["stranger"] = scene.machines[id]
        scene.machines["stranger"].mark = "another plugin's"
    with simulated.remote() as plugin:
        eventually(lambda: list(plugin.status().Orphans) == ["stray"])
    assert [id] == simulated.described()
    assert {id, "stray", "stranger"} == set(simulated.world.look().machines)


def test_simultaneous_destroys_of_one_instance_agree(simulated: Daemon) -> None:
    """Repeated destroys of an instance succeed until it is gone, and then fail."""
    id = simulated.provision({"destroy_delay": 5})
    errors: list[str] = []

    def destroy() -> None:
        try:
            simulated.call("Instance.Destroy", Instance=id)
        except RemoteError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=destroy) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == errors
    eventually(lambda: read_state(simulated, id) is None)
    destroy()
    assert [f"no instance '{id}': it never existed here, or is gone"] == errors
