"""The real controller with real plugins: none of the faults of InfraKit's controllers can be provoked."""

import json
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyinfrakit.rpc.client import RemoteError
from support.harness import INFRAKIT, PATIENCE, Daemon, command, eventually

GROUP = (str(Path(sys.executable).with_name("infrakit-group")),)
QUICK = ("--poll-interval", "500ms")


@pytest.fixture
def controller(simulated: Daemon, run: Callable[..., Daemon]) -> Daemon:
    """Start a controller beside a plugin with the simulator."""
    return run(*QUICK, name="group", program=GROUP)


def commit(controller: Daemon, size: int = 2, id: str = "web", instance: Any = None, **more: Any) -> str:
    """Commit a group of simulated machines, and return InfraKit's text."""
    plugin = {"Plugin": "rack1", "Properties": instance or {}}
    properties = {"Allocation": {"Size": size}, "Instance": plugin, **more}
    return str(controller.call("Group.CommitGroup", Spec={"ID": id, "Properties": properties})["Details"])


def status(controller: Daemon, id: str = "web") -> Any:
    return controller.call("Groups.Status", ID=id)


def members(controller: Daemon, id: str = "web") -> list[str]:
    return [each["ID"] for each in status(controller, id)["Members"]]


def settle(controller: Daemon, size: int, id: str = "web") -> list[str]:
    """Wait until a group has *size* members and nothing to do. Return their IDs."""

    def is_settled() -> bool:
        now = status(controller, id)
        return not now["Steps"] and not now["Trouble"] and len(now["Members"]) == size and now["Phase"] == "idle"

    eventually(is_settled, f"{id} settles at {size}")
    return members(controller, id)


def size(controller: Daemon, id: str = "web") -> int:
    return int(controller.call("Group.Size", ID=id)["Size"])


def restart(controller: Daemon) -> None:
    assert 0 == controller.stop()
    controller.start()


def test_no_member_no_shrink(controller: Daemon) -> None:
    """`DestroyInstances` with an ID that is no member is an error, and the group keeps its size and members."""
    commit(controller, 3)
    before = settle(controller, 3)
    for ids in (["x"], [before[0], "x"]):
        with pytest.raises(RemoteError, match="'x'"):
            controller.call("Group.DestroyInstances", ID="web", Instances=ids)
    assert (3, before) == (size(controller), settle(controller, 3))


def test_destroyed_instances_stay_destroyed(controller: Daemon) -> None:
    """`DestroyInstances` changes the stored size, so that a restart brings no member back."""
    commit(controller, 3)
    first, *others = settle(controller, 3)
    controller.call("Group.DestroyInstances", ID="web", Instances=[first])
    assert others == settle(controller, 2)
    restart(controller)
    assert (2, others) == (size(controller), settle(controller, 2))


def test_a_member_shrinks_its_group_once(controller: Daemon) -> None:
    """`DestroyInstances` of a member that is being destroyed already is an error, and the group keeps its size."""
    commit(controller, 3, instance={"destroy_delay": 3})
    first, *_ = settle(controller, 3)
    controller.call("Group.DestroyInstances", ID="web", Instances=[first, first])
    with pytest.raises(RemoteError, match="it is being destroyed already"):
        controller.call("Group.DestroyInstances", ID="web", Instances=[first])
    assert 2 == size(controller)
    settle(controller, 2)


def test_an_invalid_spec_is_not_stored(controller: Daemon) -> None:
    """A spec that its plugin refuses is not stored: neither now nor after a restart is there a group."""
    with pytest.raises(RemoteError):
        commit(controller, instance={"delay": "never"})
    assert controller.call("Group.InspectGroups")["Groups"] is None
    restart(controller)
    assert controller.call("Group.InspectGroups")["Groups"] is None


def test_an_invalid_change_is_not_stored(controller: Daemon) -> None:
    """A refused change leaves the group as it was committed before."""
    commit(controller)
    before = settle(controller, 2)
    with pytest.raises(RemoteError):
        commit(controller, 5, instance={"delay": "never"})
    restart(controller)
    assert (2, before) == (size(controller), settle(controller, 2))


@pytest.mark.parametrize("number", [-1, 2**64 - 1])
def test_a_wrong_size_is_refused(controller: Daemon, number: int) -> None:
    """`SetSize` refuses a size below 0 and one that only an overflow explains."""
    commit(controller)
    with pytest.raises(RemoteError, match="Size"):
        controller.call("Group.SetSize", ID="web", Size=number)
    assert 2 == size(controller)


def test_a_group_may_be_empty(controller: Daemon, simulated: Daemon) -> None:
    """A group of size 0 is accepted, at its first commit and later."""
    commit(controller, 0)
    settle(controller, 0)
    controller.call("Group.SetSize", ID="web", Size=2)
    settle(controller, 2)
    controller.call("Group.SetSize", ID="web", Size=0)
    settle(controller, 0)
    eventually(lambda: simulated.machines() == [], "no machine is left")


@pytest.mark.parametrize("flavor", [{"Plugin": "vanilla"}, {}], ids=str)
def test_a_flavor_needs_no_properties(controller: Daemon, flavor: Any) -> None:
    """A group whose flavor has no `Properties` gets its members."""
    commit(controller, Flavor=flavor)
    settle(controller, 2)


def test_an_unhealthy_member_stops_the_update(controller: Daemon) -> None:
    """An update stops at the first replacement that is unhealthy; `undo` brings the configuration back."""
    commit(controller, 3)
    settle(controller, 3)
    (worked,) = controller.call("Group.InspectGroups")["Groups"]
    check = {"Exec": ["false"], "Interval": "100ms", "Unhealthy": 1}
    commit(controller, 3, instance={"delay": 0.1}, Health=[check], Updating={"Deadline": "2s"})
    eventually(lambda: status(controller)["Phase"] == "stopped", "the update stops")
    assert 3 >= len(members(controller))
    controller.call("Groups.Undo", ID="web")
    settle(controller, 3)
    assert [worked] == controller.call("Group.InspectGroups")["Groups"]
    assert {"current"} == {each["Config"] for each in status(controller)["Members"]}


def plan(controller: Daemon, size: int, **more: Any) -> tuple[int, list[str]]:
    """Return the exit status of `infrakit group plan`, and its lines after the heads."""
    instance = {"Plugin": "rack1", "Properties": {"delay": 0.1}}
    spec = {"ID": "web", "Properties": {"Allocation": {"Size": size}, "Instance": instance, **more}}
    done = command(controller.home, "group", "plan", "-", input=json.dumps(spec), program=INFRAKIT)
    assert "" == done.stderr
    return done.returncode, [" ".join(line.split()) for line in done.stdout.splitlines()[2:]]


def test_a_plan_comes_true(controller: Daemon) -> None:
    """`plan` says which member is replaced in each step, and a commit replaces them in this order."""
    commit(controller, 3)
    before = sorted(settle(controller, 3))
    reason = "its configuration is outdated; it goes first"
    expected = [f"{number} replace {id} rack1 {reason}" for number, id in enumerate(before, 1)]
    assert (2, expected) == plan(controller, 3)
    controller.call("Groups.Protect", ID="web", Instance=before[0])
    held = f"- hold {before[0]} - outdated; not replaced yet: it is protected"
    expected = [f"{number} replace {id} rack1 {reason}" for number, id in enumerate(before[1:], 1)]
    assert (2, [*expected, held]) == plan(controller, 3)

    controller.call("Groups.Protect", ID="web", Instance=before[0], Protected=False)
    commit(controller, 3, instance={"delay": 0.1})
    settle(controller, 3)
    destroyed = [each["Subject"] for each in read_events(controller) if each["Type"] == "destroy"]
    assert [f"group/web/{id}" for id in before] == destroyed
    assert (0, []) == plan(controller, 3)


def test_a_member_set_aside_by_hand_is_kept(controller: Daemon, simulated: Daemon) -> None:
    """A member that an operator sets aside is replaced and kept, also over a restart, until the operator destroys it."""
    commit(controller, 2)
    first, second = settle(controller, 2)
    simulated.call("Operator.SetAside", Instance=first, Reason="new disk")
    reason = "set aside by hand: new disk; kept until an operator restores or destroys it"
    held = [{"Verb": "hold", "Subject": first, "Reason": reason}]

    def is_replaced() -> bool:
        now = status(controller)
        return (held, 2) == (now["Steps"], now["Healthy"])

    eventually(is_replaced, "the member is replaced, and kept")
    restart(controller)
    eventually(is_replaced, "the member is still kept")
    assert first in simulated.machines()
    simulated.call("Instance.Destroy", Type="", Instance=first)
    eventually(lambda: first not in simulated.machines(), "the operator destroys it")
    assert second in settle(controller, 2)


def test_a_member_set_aside_by_the_controller_is_not_kept_by_hand(controller: Daemon, simulated: Daemon) -> None:
    """A member that the controller set aside is kept as long as `Keep` says, also over a restart."""
    sick = controller.home / "sick"
    sick.write_text("none")
    check = {"Exec": ["sh", "-c", f"test {{ID}} != $(cat {sick})"], "Interval": "100ms", "Unhealthy": 1}
    commit(controller, 2, Health=[check], Keep=1)
    first, _ = settle(controller, 2)
    sick.write_text(first)
    eventually(lambda: state_of(controller, first) == "non-functional", "the unhealthy member is set aside")
    eventually(lambda: 2 == status(controller)["Healthy"], "it is replaced")
    restart(controller)
    commit(controller, 2, Health=[check], Keep=0)
    eventually(lambda: first not in simulated.machines(), "it is destroyed")
    settle(controller, 2)


def test_a_group_ends_with_the_members_set_aside(controller: Daemon, simulated: Daemon) -> None:
    """`DestroyGroup` destroys all members, also one that an operator set aside."""
    commit(controller, 2)
    first, _ = settle(controller, 2)
    simulated.call("Operator.SetAside", Instance=first, Reason="new disk")
    eventually(lambda: state_of(controller, first) == "non-functional", "the member is set aside")
    controller.call("Group.DestroyGroup", ID="web")
    eventually(lambda: simulated.machines() == [], "no machine is left")


def state_of(controller: Daemon, id: str) -> str:
    return next((str(each["State"]) for each in status(controller)["Members"] if each["ID"] == id), "")


def test_members_held_for_one_reason_make_one_event(controller: Daemon) -> None:
    """At the start of an update, one event names some of the members that wait; `why` has the reason of each."""
    commit(controller, 6)
    settle(controller, 6)
    commit(controller, 6, instance={"delay": 30})
    eventually(lambda: len(held_members(controller)) >= 5, "the others wait")
    events = [each for each in read_events(controller) if each["Type"] == "held" and "outdated" in each["Reason"]]
    assert ["group/web"] == [each["Subject"] for each in events]
    first, second, third, *_ = held_members(controller)
    names = f"5 members ({first}, {second}, {third} and 2 more): "
    assert events[0]["Reason"].startswith(f"{names}outdated; not replaced yet: 1 replacement under way")


def held_members(controller: Daemon) -> list[str]:
    return sorted(each["Subject"] for each in status(controller)["Steps"] if each["Verb"] == "hold")


def read_events(controller: Daemon) -> list[dict[str, Any]]:
    done = command(controller.home, "events", "group/web", "-o", "json", program=INFRAKIT)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_long_plan_is_short_to_read(controller: Daemon) -> None:
    """More than ten steps that are alike share a line."""
    lines = ["1 create 40: - rack1 a member is missing"]
    assert (2, lines) == plan(controller, 40)


def test_a_plan_for_a_takeover_sees_the_members(controller: Daemon, simulated: Daemon) -> None:
    """`plan` for a group that the controller does not have yet counts the members that its plugin has."""
    tags = {"infrakit.group": "web", "infrakit.config_sha": "bootstrap"}
    (id,) = [simulated.call("Instance.Provision", Type="", Spec={"Properties": {}, "Tags": tags})["ID"]]
    lines = [
        f"1 adopt {id} - adopt the member, which has the hash bootstrap",
        "1 create - rack1 a member is missing",
    ]
    assert (2, lines) == plan(controller, 2)


def test_a_damaged_state_stops_the_start(controller: Daemon) -> None:
    """A damaged file stops the start: the message names it, and the file stays as it is."""
    commit(controller)
    controller.stop()
    path = controller.home / "state" / "group.groups" / "web.json"
    path.write_bytes(damaged := path.read_bytes()[:-9])
    done = command(controller.home, program=GROUP)
    assert 0 != done.returncode
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    assert damaged == path.read_bytes()


def corrupt(place: str, value: Any) -> Callable[[Any], None]:
    """Return what puts a value at a place, such as `Properties/Allocation/Size`, of a stored record."""

    def change(record: Any) -> None:
        *path, last = [int(part) if part.isdigit() else part for part in place.split("/")]
        for part in path:
            record = record[part]
        record[last] = value

    return change


REFUSED = {
    "Properties.Allocation.Size": (
        corrupt("Properties/Allocation/Size", -1),
        "expected a number from 0 to 1000000, got -1",
    ),
    "Properties.Updating.OnFailure": (corrupt("Properties/Updating", {"OnFailure": "retry"}), '"pause"'),
    "Properties": (corrupt("Properties/Colour", "red"), "has an unknown field Colour"),
    "Previous.Instance.Plugin": (
        corrupt("Previous", {"Allocation": {"Size": 1}}),
        "expected the name of an instance plugin",
    ),
    "History[0].Properties.Allocation": (corrupt("History/0/Properties/Allocation", {}), "must not be blank"),
    "Phase": (corrupt("Phase", "jumping"), '"rolling"'),
}


@pytest.mark.parametrize("where", REFUSED)
def test_a_stored_spec_that_makes_no_sense_stops_the_start(controller: Daemon, where: str) -> None:
    """A record that this version refuses stops the start, also of other groups: it says where and why, and touches none.

    With the file as it was, both groups keep their members.
    """
    before = {}
    for id in ("db", "web"):
        commit(controller, id=id)
        before[id] = settle(controller, 2, id)
    controller.stop()
    path = controller.home / "state" / "group.groups" / "web.json"
    sound = path.read_bytes()
    entry = json.loads(sound)
    change, problem = REFUSED[where]
    change(entry["Value"])
    path.write_text(refused := json.dumps(entry))

    done = command(controller.home, program=GROUP)
    assert 2 == done.returncode
    (line,) = done.stderr.splitlines()
    assert f"{path}: Value.{where}: " in line
    assert problem in line
    assert line.endswith("it was left untouched; restore it from a copy, or correct it with the controller stopped")
    assert refused == path.read_text()

    path.write_bytes(sound)
    controller.start()
    assert before == {id: settle(controller, 2, id) for id in before}


def test_two_controllers_on_one_state(controller: Daemon) -> None:
    """A second controller on the state of a running one is refused, also under another name."""
    state = controller.home / "state" / "group.groups"
    for arguments in ((), ("--name", "other", "--state", str(state))):
        done = command(controller.home, *arguments, program=GROUP)
        assert 0 != done.returncode
        assert "group" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_update_survives_a_kill(controller: Daemon, simulated: Daemon) -> None:
    """An update that SIGKILL interrupts goes on after a restart, until no outdated machine is left."""
    commit(controller, 4)
    before = settle(controller, 4)
    commit(controller, 4, instance={"delay": 0.3})
    eventually(lambda: status(controller)["Phase"] == "rolling", "the update begins")
    controller.stop(signal.SIGKILL)
    controller.start()
    after = settle(controller, 4)
    assert set() == set(before) & set(after)
    eventually(lambda: simulated.machines() == sorted(after), "no machine is left over")


def test_a_hanging_plugin_stops_no_other_group(controller: Daemon) -> None:
    """A plugin that accepts connections and never answers delays only the commit of its own group."""
    with socket.socket(socket.AF_UNIX) as silent, controller.connect() as waiting:
        silent.bind(str(controller.socket.with_name("silent")))
        silent.listen()
        properties = {"Allocation": {"Size": 1}, "Instance": {"Plugin": "silent"}}
        params = {"Spec": {"ID": "stuck", "Properties": properties}}
        body = json.dumps({"jsonrpc": "2.0", "method": "Group.CommitGroup", "params": params, "id": 1})
        head = f"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        waiting.sendall((head + body).encode())
        silent.settimeout(PATIENCE)
        with silent.accept()[0]:
            commit(controller)
            settle(controller, 2)


def test_many_groups_survive_a_restart(controller: Daemon) -> None:
    """Sixty groups keep their members over a restart."""
    ids = [f"g{number}" for number in range(60)]
    for id in ids:
        commit(controller, 1, id=id)
    before = {id: settle(controller, 1, id) for id in ids}
    restart(controller)
    assert before == {id: settle(controller, 1, id) for id in ids}
