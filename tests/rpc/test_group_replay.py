"""The real controller answers every recorded request of InfraKit's clients so that each of them takes the reply."""

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import FAST
from support.harness import INFRAKIT, ROOT, Daemon, eventually, read_reply

RECORDINGS = sorted((ROOT / "tests" / "wire").glob("group-interface-*.jsonl"))
RECORDED_ID = re.compile(r"instance-\d+")
HASH_TAGS = {"infrakit.config_sha", "infrakit.config.hash"}
CONTROLLER = (sys.executable, "-c", "from pyinfrakit.cli import run_group; run_group()", "--poll-interval", "0.2")


@pytest.fixture
def controller(run: Callable[..., Daemon]) -> Daemon:
    """Start the plugin and the flavors that the recorded groups name, and a controller."""
    run("--provider", "file", *FAST, name="finst")
    for name in ("rv", "recf"):
        run(name=name, program=(*INFRAKIT, "flavor", "vanilla"))
    return run(name="group", program=CONTROLLER)


@pytest.fixture
def connection(controller: Daemon) -> Iterator[socket.socket]:
    with controller.connect() as connection:
        yield connection


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_recorded_reply_is_matched(path: Path, controller: Daemon, connection: socket.socket) -> None:
    """Each reply has all of the recorded one's fields, with their values. The group settles between requests."""
    for line in map(json.loads, path.read_text().splitlines()):
        settle(controller)
        recorded = json.loads(line["reply"])
        actual = json.loads(send(connection, line, controller))
        assert recorded["id"] == actual["id"]
        if "error" in recorded:  # ours says its kind in `data`, in which InfraKit has null
            assert recorded["error"] == {**actual["error"], "data": None}
        if "result" in recorded:
            compare(recorded["result"], actual["result"])


def settle(controller: Daemon) -> None:
    """Wait until every group is as it should be."""

    def is_settled() -> bool:
        groups = controller.call("Group.InspectGroups")["Groups"] or []
        return all(controller.call("Group.DescribeGroup", ID=g["ID"])["Description"]["Converged"] for g in groups)

    eventually(is_settled, "the groups settle")


def send(connection: socket.socket, line: dict[str, Any], controller: Daemon) -> bytes:
    """Send a recorded request, with a real member in place of the recorded one. Return the reply's body."""
    body = line["body"]
    if RECORDED_ID.search(body):
        member = controller.call("Group.DescribeGroup", ID="workers")["Description"]["Instances"][0]["ID"]
        body = RECORDED_ID.sub(member, body)
    head = re.sub(r"(?<=Content-Length: )\d+", str(len(body.encode())), line["head"])
    connection.sendall((head + body).encode())
    status, _, reply = read_reply(connection)
    assert 200 == status
    return reply


def compare(recorded: Any, actual: Any) -> None:
    """Check that *actual* has all that the client relies on in a recorded result."""
    for api in recorded.get("APIs", ()):
        assert api["Name"] == "Metadata" or api in actual["APIs"]
    for kind in ("Types", "Objects"):
        for interface, objects in recorded.get(kind, {}).items():
            assert interface.startswith("Metadata") or [] == [o for o in objects if o not in actual[kind][interface]]
    for field in ("Name", "ID", "OK", "Details", "Size"):
        assert recorded.get(field, actual.get(field)) == actual.get(field)
    for expected, group in zip(recorded.get("Groups", ()), actual.get("Groups", ()), strict=True):
        assert expected["ID"] == group["ID"]
        assert expected["Properties"] == {name: group["Properties"][name] for name in expected["Properties"]}
    if description := recorded.get("Description"):
        assert description["Converged"] == actual["Description"]["Converged"]
        for expected, member in zip(description["Instances"], actual["Description"]["Instances"], strict=True):
            assert expected["LogicalID"] == member["LogicalID"]
            assert without_hashes(expected["Tags"]) == without_hashes(member["Tags"])
            assert "Properties" not in expected or "Properties" in member
            assert HASH_TAGS & expected["Tags"].keys() <= member["Tags"].keys()


def without_hashes(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key not in HASH_TAGS}
