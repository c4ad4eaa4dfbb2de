"""The documents under ``/info``, which InfraKit's tools show."""

from collections.abc import Mapping
from typing import Any

import msgspec

from pyinfrakit import __version__
from pyinfrakit.rpc.instance.types import VERSIONS

FUNCTIONS = b"{}"
"""Template functions: our plugins have none."""

_ID = "0vp5l8q2k1ca-7m0t3e"


def encode_api(example: Mapping[str, Any], sub_type: str = "") -> bytes:
    """Return ``/info/api.json``; *example* is valid properties for the provider of *sub_type*."""
    tags = {"infrakit.group": "workers"}
    spec = {"Properties": example, "Tags": tags, "Init": "", "LogicalID": None, "Attachments": None}
    ok = {"Type": sub_type, "OK": True}
    description = {"ID": _ID, "LogicalID": None, "Tags": tags, "Properties": example}
    version = {"Name": "Instance", "Version": VERSIONS[0], "Sub": ""}
    methods = [
        _describe_method(
            "DescribeInstances",
            {"Type": sub_type, "Tags": tags, "Properties": True},
            {"Type": "", "Descriptions": [description]},
        ),
        _describe_method("Destroy", {"Type": sub_type, "Instance": _ID, "Context": {"Reason": "terminate"}}, ok),
        _describe_method("Label", {"Type": sub_type, "Instance": _ID, "Labels": {"tier": "web"}}, ok),
        _describe_method("Provision", {"Type": sub_type, "Spec": spec}, {"Type": sub_type, "ID": _ID}),
        _describe_method("Validate", {"Type": sub_type, "Properties": example}, ok),
    ]
    document = {
        "Vendor": {"Name": "pyinfrakit", "Version": __version__, "Sub": "", "URL": ""},
        "Implements": [version],
        "Interfaces": [{**version, "Methods": methods}],
    }
    return msgspec.json.encode(document)


def _describe_method(name: str, params: Mapping[str, Any], result: Mapping[str, Any]) -> Any:
    request = {"jsonrpc": "2.0", "method": f"Instance.{name}", "params": params, "id": "1"}
    return {"Request": request, "Response": {"result": result, "id": "1"}}
