"""The documents under ``/info``, which InfraKit's tools show."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pyinfrakit import __version__
from pyinfrakit.rpc.flavor import types as flavor
from pyinfrakit.rpc.group import types as group
from pyinfrakit.rpc.instance import types as instance

FUNCTIONS = b"{}"
"""Template functions: our plugins have none."""

_ID = "0vp5l8q2k1ca-7m0t3e"


def encode_api(example: Mapping[str, Any], sub_type: str = "") -> bytes:
    """Return ``/info/api.json`` of an instance plugin; *example* is valid properties for the provider of *sub_type*."""
    tags = {"infrakit.group": "workers"}
    spec = {"Properties": example, "Tags": tags, "Init": "", "LogicalID": None, "Attachments": None}
    ok = {"Type": sub_type, "OK": True}
    description = {"ID": _ID, "LogicalID": None, "Tags": tags, "Properties": example}
    methods = [
        _describe_method(
            "Instance.DescribeInstances",
            {"Type": sub_type, "Tags": tags, "Properties": True},
            {"Type": "", "Descriptions": [description]},
        ),
        _describe_method(
            "Instance.Destroy", {"Type": sub_type, "Instance": _ID, "Context": {"Reason": "terminate"}}, ok
        ),
        _describe_method("Instance.Label", {"Type": sub_type, "Instance": _ID, "Labels": {"tier": "web"}}, ok),
        _describe_method("Instance.Provision", {"Type": sub_type, "Spec": spec}, {"Type": sub_type, "ID": _ID}),
        _describe_method("Instance.Validate", {"Type": sub_type, "Properties": example}, ok),
    ]
    return _encode("Instance", instance.VERSIONS[0], methods)


def encode_group_api(name: str) -> bytes:
    """Return ``/info/api.json`` of the group controller *name*."""
    group_id = {"Name": name, "ID": "workers"}
    ok = {**group_id, "OK": True}
    part = {"Plugin": "rack1", "Properties": {}}
    properties = {"Allocation": {"Size": 3}, "Instance": part, "Flavor": {**part, "Plugin": "vanilla"}}
    spec = {"ID": "workers", "Properties": properties}
    member = {"ID": _ID, "LogicalID": None, "Tags": {"infrakit.group": "workers"}}
    methods = [
        _describe_method(
            "Group.CommitGroup",
            {"Name": name, "Spec": spec, "Pretend": False},
            {**group_id, "Details": "Managing 3 instances"},
        ),
        _describe_method(
            "Group.DescribeGroup", group_id, {**group_id, "Description": {"Instances": [member], "Converged": True}}
        ),
        _describe_method("Group.DestroyGroup", group_id, ok),
        _describe_method("Group.DestroyInstances", {**group_id, "Instances": [_ID]}, ok),
        _describe_method("Group.FreeGroup", group_id, ok),
        _describe_method("Group.InspectGroups", {"Name": name, "ID": ""}, {"Name": name, "ID": "", "Groups": [spec]}),
        _describe_method("Group.SetSize", {**group_id, "Size": 5}, ok),
        _describe_method("Group.Size", group_id, {**group_id, "Size": 3}),
    ]
    return _encode("Group", group.VERSIONS[0], methods)


def encode_flavor_api(example: Any) -> bytes:
    """Return ``/info/api.json`` of a flavor plugin; *example* is valid properties for it."""
    part = {"Type": "", "Properties": example}
    ok = {"Type": "", "OK": True}
    tags = {"infrakit.group": "workers"}
    spec = {"Properties": {}, "Tags": tags, "Init": "", "LogicalID": None, "Attachments": None}
    member = {**part, "Instance": {"ID": _ID, "LogicalID": None, "Tags": tags, "Properties": {}}}
    check = {**part, "Allocation": {"Size": 3, "LogicalIDs": None}}
    index = {"Group": "workers", "Sequence": 0}
    methods = [
        _describe_method("Flavor.Drain", member, ok),
        _describe_method("Flavor.Healthy", member, {"Type": "", "Health": 1}),
        _describe_method("Flavor.Prepare", {**check, "Spec": spec, "Index": index}, {"Type": "", "Spec": spec}),
        _describe_method("Flavor.Validate", check, ok),
    ]
    return _encode("Flavor", flavor.VERSIONS[0], methods)


def _encode(interface: str, newest: str, methods: Sequence[Any]) -> bytes:
    version = {"Name": interface, "Version": newest, "Sub": ""}
    document = {
        "Vendor": {"Name": "pyinfrakit", "Version": __version__, "Sub": "", "URL": ""},
        "Implements": [version],
        "Interfaces": [{**version, "Methods": methods}],
    }
    return msgspec.json.encode(document)


def _describe_method(name: str, params: Mapping[str, Any], result: Mapping[str, Any]) -> Any:
    request = {"jsonrpc": "2.0", "method": name, "params": params, "id": "1"}
    return {"Request": request, "Response": {"result": result, "id": "1"}}
