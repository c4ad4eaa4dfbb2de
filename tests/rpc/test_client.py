"""The client's end of the wire, against plugins that are not ours."""

import json
from pathlib import Path
from typing import Any

import pytest

import raw_plugins as raw
from pyinfrakit.rpc.client import Client, RemoteError


class Refusing(raw.Plugin):
    """A plugin that refuses each call, with *data* in its error."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self._data = data

    def answer(self, body: bytes) -> bytes:
        error = {"code": -32000, "message": "no room", "data": self._data}
        return json.dumps({"jsonrpc": "2.0", "error": error, "id": 1}).encode()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"Kind": "no-capacity"}, "no-capacity"),
        ({"Kind": "later", "More": 1}, "later"),
        (None, ""),
        ("stack trace", ""),
        (["Kind"], ""),
        ({"Kind": 7}, ""),
        ({"kind": "no-capacity"}, ""),
    ],
)
def test_an_error_has_the_kind_in_its_data(home: Path, data: Any, kind: str) -> None:
    """A remote error has the kind that its data names, and none if a plugin puts something else there."""
    home.mkdir()
    with (
        raw.serve(Refusing(data), home / "refusing") as path,
        Client(path) as client,
        pytest.raises(RemoteError, match="no room") as error,
    ):
        client.call("Instance.Provision", {})
    assert kind == error.value.kind
