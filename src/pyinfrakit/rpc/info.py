"""The documents under ``/info``: what InfraKit's tools show of a plugin."""

from collections.abc import Mapping
from typing import Any

import msgspec

from pyinfrakit import __version__
from pyinfrakit.rpc.instance import types

FUNCTIONS = b"{}"
"""Template functions: there are none."""

_ID = "0vp5l8q2k1ca-7m0t3e"


def api(example: Mapping[str, Any], type: str = "") -> bytes:
    """Write ``/info/api.json``; *example* is properties that the provider of sub-type *type* takes."""
    tags = {"infrakit.group": "workers"}
    spec = {"Properties": example, "Tags": tags, "Init": "", "LogicalID": None, "Attachments": None}
    ok = {"Type": type, "OK": True}
    description = {"ID": _ID, "LogicalID": None, "Tags": tags, "Properties": example}
    version = {"Name": "Instance", "Version": types.VERSIONS[0], "Sub": ""}
    methods = [
        _method(
            "DescribeInstances", {"Type": type, "Tags": tags, "Properties": True}, {"Type": "", "Descriptions": [description]}
        ),
        _method("Destroy", {"Type": type, "Instance": _ID, "Context": {"Reason": "terminate"}}, ok),
        _method("Label", {"Type": type, "Instance": _ID, "Labels": {"tier": "web"}}, ok),
        _method("Provision", {"Type": type, "Spec": spec}, {"Type": type, "ID": _ID}),
        _method("Validate", {"Type": type, "Properties": example}, ok),
    ]
    document = {
        "Vendor": {"Name": "pyinfrakit", "Version": __version__, "Sub": "", "URL": ""},
        "Implements": [version],
        "Interfaces": [{**version, "Methods": methods}],
    }
    return msgspec.json.encode(document)


def _method(name: str, params: Mapping[str, Any], result: Mapping[str, Any]) -> Any:
    request = {"jsonrpc": "2.0", "method": f"Instance.{name}", "params": params, "id": "1"}
    return {"Request": request, "Response": {"result": result, "id": "1"}}
