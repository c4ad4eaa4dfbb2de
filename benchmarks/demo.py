"""The C demo's way: read, parse, change and rewrite the whole file, in place, for each call.

`python -m benchmarks.demo SOCKET FOLDER`, then POST to ``/STATE-FILE``. Nothing is synced. The file is written by
`json.dumps`, which is several times as fast as `json.dump`: the comparison is with the best that this way can do.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.stack import serve

Entry = dict[str, Any]
Method = Callable[[dict[str, Any], dict[str, Any]], Entry]


def describe(state: dict[str, Any], params: dict[str, Any]) -> Entry:
    """Look through all instances for those that have all the tags."""
    wanted = (params["Tags"] or {}).items()
    found = [entry for entry in state["Instances"] if wanted <= entry["Tags"].items()]
    keys = ("ID", "LogicalID", "Tags", "Properties")
    return {"Type": "", "Descriptions": [{key: entry.get(key) for key in keys} for entry in found]}


def provision(state: dict[str, Any], params: dict[str, Any]) -> Entry:
    """Append an instance; its ID is a count."""
    state["Provider"]["Count"] = count = state["Provider"].get("Count", 0) + 1
    id = f"InfraKit-{count:010}"
    state["Instances"].append({"ID": id, **params["Spec"]})
    return {"Type": "", "ID": id}


def label(state: dict[str, Any], params: dict[str, Any]) -> Entry:
    """Find the instance, and merge its tags."""
    entry = next(entry for entry in state["Instances"] if entry["ID"] == params["Instance"])
    entry["Tags"] |= params["Labels"]
    return {"Type": "", "OK": True}


def destroy(state: dict[str, Any], params: dict[str, Any]) -> Entry:
    """Find the instance, and forget it."""
    entry = next(entry for entry in state["Instances"] if entry["ID"] == params["Instance"])
    state["Instances"].remove(entry)
    return {"Type": "", "OK": True}


METHODS: dict[str, Method] = {
    "Instance.DescribeInstances": describe,
    "Instance.Provision": provision,
    "Instance.Label": label,
    "Instance.Destroy": destroy,
}


def answer(file: Path, body: bytes) -> bytes:
    """Do a call on the state in *file*."""
    request = json.loads(body)
    state = json.loads(file.read_text())
    method = METHODS[request["method"]]
    result = method(state, request["params"])
    if method is not describe:
        file.write_text(json.dumps(state))
    return json.dumps({"jsonrpc": "2.0", "result": result, "id": request["id"]}).encode()


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    serve(sys.argv[1], lambda path, body: answer(folder / path[1:], body))
