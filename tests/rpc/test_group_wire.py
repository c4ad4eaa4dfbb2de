"""The Group interface on a real socket, for clients of all InfraKit generations."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pyinfrakit.rpc.client import RemoteError
from support.harness import PROGRAMS, Daemon

PAPER = (sys.executable, str(PROGRAMS / "paper_groups.py"))
PROPERTIES = {"Allocation": {"Size": 2}, "Instance": {"Plugin": "rack1"}, "Flavor": {"Plugin": "vanilla"}}


@pytest.fixture
def controller(run: Callable[..., Daemon]) -> Daemon:
    """Start a controller that has the group `workers` of two members."""
    daemon = run(name="group", program=PAPER)
    commit(daemon, "workers", PROPERTIES)
    return daemon


def commit(daemon: Daemon, id: str, properties: Any, **params: Any) -> Any:
    return daemon.call("Group.CommitGroup", Spec={"ID": id, "Properties": properties}, **params)


def inspect(daemon: Daemon, id: str) -> str:
    """Return a group's properties as they are on the wire."""
    _, _, reply = daemon.post('{"jsonrpc":"2.0","method":"Group.InspectGroups","params":{},"id":1}')
    return reply.decode().partition(f'{{"ID":"{id}","Properties":')[2].partition("}]}")[0]


def test_a_client_of_each_generation_finds_its_version(controller: Daemon) -> None:
    """Each handshake lists the versions 0.1.0 and 0.1.1 of the interface."""
    apis = [{"Name": "Group", "Version": "0.1.1"}, {"Name": "Group", "Version": "0.1.0"}]
    assert {"APIs": apis} == controller.call("Plugin.Implements")
    assert {"APIs": apis} == controller.call("Handshake.Implements")
    assert "." in controller.call("Handshake.Types")["Types"]["Group/0.1.0"]
    assert {"Name": ".", "ProxyFor": ""} in controller.call("Handshake.Hello")["Objects"]["Group/0.1.1"]


def test_the_handshake_lists_the_objects_of_the_last_manager(controller: Daemon) -> None:
    """The last release's clients find the object `groups`, and each group, as in the last manager."""
    objects = controller.call("Handshake.Hello")["Objects"]["Group/0.1.1"]
    assert [".", "groups", "workers"] == [each["Name"] for each in objects]


@pytest.mark.parametrize("name", ["group", "group/workers", "group/groups", "", None])
def test_a_reply_echoes_the_name_of_its_request(controller: Daemon, name: str | None) -> None:
    """A reply has the `Name` and the `ID` of the request."""
    reply = controller.call("Group.Size", Name=name, ID="workers")
    assert {"Name": name or "", "ID": "workers", "Size": 2} == reply


def test_an_address_may_name_the_group(controller: Daemon) -> None:
    """A request to `group/workers` without an ID is about the group `workers`."""
    assert 2 == controller.call("Group.Size", Name="group/workers")["Size"]
    with pytest.raises(RemoteError, match="ID: expected a group's ID, got nothing"):
        controller.call("Group.Size", Name="group/groups")


def test_parameters_match_in_any_case(controller: Daemon) -> None:
    """Names of parameters match in any case, and unknown ones are ignored."""
    spec = {"id": "db", "PROPERTIES": PROPERTIES}
    assert "Managing 2 instances" == controller.call("Group.CommitGroup", SPEC=spec, pretend=True, More=1)["Details"]
    assert ["workers"] == [each["ID"] for each in controller.call("Group.InspectGroups")["Groups"]]


def test_inspect_completes_what_infrakit_shows(controller: Daemon) -> None:
    """Properties have all of InfraKit's fields; each committed part is the same, byte for byte."""
    body = (
        '{"jsonrpc":"2.0","method":"Group.CommitGroup","id":1,"params":{"Spec":{"ID":"db","Properties":'
        '{"Keep":1,"Allocation":{"Size":1},"Updating":{"Duration":"30s"},"Flavor":{"Plugin":"v"},'
        '"Instance":{"Plugin":"p","Properties":{"b": 1.50, "a":"\\u003c"}}}}}}'
    )
    assert b"Managing 1 instances" in controller.post(body)[2]
    expected = (
        '{"Instance":{"Plugin":"p","Properties":{"b": 1.50, "a":"\\u003c"}},"Flavor":{"Plugin":"v"},'
        '"Allocation":{"Size":1,"LogicalIDs":null},'
        '"Updating":{"Duration":"30s","Count":0,"SkipBeforeInstanceDestroy":null},"Keep":1}'
    )
    assert expected == inspect(controller, "db")


def test_inspected_properties_can_be_committed(controller: Daemon) -> None:
    """A commit of what `InspectGroups` returns changes nothing."""
    (group,) = controller.call("Group.InspectGroups")["Groups"]
    assert "Noop" == commit(controller, group["ID"], group["Properties"])["Details"]


def test_no_groups_are_null(controller: Daemon) -> None:
    """`InspectGroups` of a controller without groups returns null, as Go does."""
    controller.call("Group.FreeGroup", ID="workers")
    assert {"Name": "", "ID": "", "Groups": None} == controller.call("Group.InspectGroups")


def test_describe_shows_the_members_that_infrakit_sees(controller: Daemon) -> None:
    """A description leaves out members that do not work, as plugins do towards InfraKit."""
    properties = {"Allocation": {"LogicalIDs": ["a", "lost"]}, "Instance": {"Plugin": "rack1"}}
    commit(controller, "db", properties)
    description = controller.call("Group.DescribeGroup", ID="db")["Description"]
    member = {
        "ID": "db-0",
        "LogicalID": "a",
        "Tags": {"infrakit.group": "db", "tier": "web"},
        "Properties": {"address": "10.0.0.0"},
    }
    assert {"Instances": [member], "Converged": False} == description
    assert ["db-0", "db-1"] == [each["ID"] for each in controller.call("Groups.Status", ID="db")["Members"]]


@pytest.mark.parametrize("method", ["FreeGroup", "DescribeGroup", "DestroyGroup"])
def test_an_unknown_group_is_an_error_with_infrakits_text(controller: Daemon, method: str) -> None:
    """A call about an unknown group fails with the text that InfraKit's clients look for."""
    with pytest.raises(RemoteError, match=r"^Group 'x' is not being watched$") as caught:
        controller.call(f"Group.{method}", ID="x")
    assert -32000 == caught.value.code


def test_the_size_of_an_unknown_group_is_an_error_with_infrakits_text(controller: Daemon) -> None:
    """`Size` has a text of its own for an unknown group."""
    with pytest.raises(RemoteError, match=r"^group x not found$"):
        controller.call("Group.Size", ID="x")


@pytest.mark.parametrize("size", ["-1", "1.5", "18446744073709551615", "1e30", '"3"', "null", "true", "1000001"])
def test_set_size_takes_a_number_of_members_only(controller: Daemon, size: str) -> None:
    """`SetSize` refuses everything but an integer from 0 to a million, names the field, and changes nothing."""
    params = f'{{"ID":"workers","Size":{size}}}'
    _, _, reply = controller.post(f'{{"jsonrpc":"2.0","method":"Group.SetSize","params":{params},"id":1}}')
    error = json.loads(reply)["error"]
    assert -32602 == error["code"]
    assert error["message"].startswith("Size: ")
    assert 2 == controller.call("Group.Size", ID="workers")["Size"]


def test_set_size_takes_zero(controller: Daemon) -> None:
    """A group may have no members."""
    controller.call("Group.SetSize", ID="workers", Size=0)
    assert 0 == controller.call("Group.Size", ID="workers")["Size"]


def test_destroy_instances_wants_members(controller: Daemon) -> None:
    """`DestroyInstances` refuses an empty list, and an ID that is no member."""
    with pytest.raises(RemoteError, match="Instances: expected the IDs of members, got none"):
        controller.call("Group.DestroyInstances", ID="workers", Instances=[])
    with pytest.raises(RemoteError, match="no member 'x'"):
        controller.call("Group.DestroyInstances", ID="workers", Instances=["x"])
    controller.call("Group.DestroyInstances", ID="workers", Instances=["workers-0"])
    assert 1 == controller.call("Group.Size", ID="workers")["Size"]


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        (None, "Allocation must not be blank"),
        ({"Allocation": {"Size": 1, "LogicalIDs": ["a"]}}, "Only one Allocation method may be used"),
        ([], "Properties: expected an object, got an array"),
        ("x", 'Properties: expected an object, got "x"'),
    ],
)
def test_an_invalid_spec_is_an_error(controller: Daemon, properties: Any, text: str) -> None:
    """A commit of an invalid spec fails with InfraKit's text, and is not stored."""
    with pytest.raises(RemoteError, match=text):
        commit(controller, "db", properties)
    with pytest.raises(RemoteError, match="Group ID must not be blank"):
        commit(controller, "", PROPERTIES)
    assert ["workers"] == [each["ID"] for each in controller.call("Group.InspectGroups")["Groups"]]


def test_the_history_has_who_asked(controller: Daemon) -> None:
    """The history has the `By` of a commit, or names an InfraKit client if there is none."""
    commit(controller, "workers", PROPERTIES, By="ada@rack")
    commits = controller.call("Groups.History", ID="workers")["Commits"]
    assert [(1, "an InfraKit client"), (2, "ada@rack")] == [(each["Number"], each["By"]) for each in commits]
    assert [PROPERTIES, PROPERTIES] == [each["Properties"] for each in commits]
