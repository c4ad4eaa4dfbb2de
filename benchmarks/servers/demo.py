"""The C demo's method: read, parse, change, and rewrite the whole file in place for each call.

`python -m benchmarks.servers.demo SOCKET FOLDER` answers a POST to ``/STATE-FILE``.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.servers.stack import serve

Object = dict[str, Any]
Method = Callable[[Object, Object], Object]
"""Takes the state and a call's parameters, and returns the result. It may change the state."""


def describe(state: Object, params: Object) -> Object:
    """Return all instances that have all the tags, after a search of the whole list."""
    tags = (params["Tags"] or {}).items()
    matches = [entry for entry in state["Instances"] if tags <= entry["Tags"].items()]
    keys = ("ID", "LogicalID", "Tags", "Properties")
    return {"Type": "", "Descriptions": [{key: entry.get(key) for key in keys} for entry in matches]}


def provision(state: Object, params: Object) -> Object:
    """Append an instance. Its ID is a counter."""
    state["Provider"]["Count"] = count = state["Provider"].get("Count", 0) + 1
    id = f"InfraKit-{count:010}"
    state["Instances"].append({"ID": id, **params["Spec"]})
    return {"Type": "", "ID": id}


def label(state: Object, params: Object) -> Object:
    """Merge tags into an instance's tags."""
    _find_entry(state, params)["Tags"] |= params["Labels"]
    return {"Type": "", "OK": True}


def destroy(state: Object, params: Object) -> Object:
    """Remove an instance from the list."""
    state["Instances"].remove(_find_entry(state, params))
    return {"Type": "", "OK": True}


def _find_entry(state: Object, params: Object) -> Object:
    entries: list[Object] = state["Instances"]
    return next(entry for entry in entries if entry["ID"] == params["Instance"])


METHODS: dict[str, Method] = {
    "Instance.DescribeInstances": describe,
    "Instance.Provision": provision,
    "Instance.Label": label,
    "Instance.Destroy": destroy,
}


def answer(file: Path, body: bytes) -> bytes:
    """Return the reply to a call on the state in *file*."""
    request = json.loads(body)
    state = json.loads(file.read_text())
    method = METHODS[request["method"]]
    result = method(state, request["params"])
    if method is not describe:
        # The comparison is with the best case of this method: `json.dumps` is several times as fast as `json.dump`,
        # and nothing is synced.
        file.write_text(json.dumps(state))
    return json.dumps({"jsonrpc": "2.0", "result": result, "id": request["id"]}).encode()


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    serve(sys.argv[1], lambda path, body: answer(folder / path[1:], body))
