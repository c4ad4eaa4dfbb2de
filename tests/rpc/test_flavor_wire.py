"""The Flavor interface: served, and called, as in the recordings of InfraKit's real programs."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from pyinfrakit.errors import InvalidSpec, Unreachable
from pyinfrakit.group.builtin import Vanilla
from pyinfrakit.group.flavors import Flavor, Health, Index
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Allocation
from pyinfrakit.record import Spec
from pyinfrakit.rpc.channel import Channel
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.finder import Finder
from pyinfrakit.rpc.flavor.client import RemoteFlavor
from pyinfrakit.rpc.flavor.service import FlavorService
from pyinfrakit.rpc.flavor.types import CheckParams, MemberParams, PrepareParams
from pyinfrakit.rpc.instance.types import own, read
from support.harness import ROOT, Daemon, read_reply
from support.sockets import encode_http, encode_reply, serve_bytes

RECORDINGS = sorted((ROOT / "tests" / "wire").glob("flavor-interface-*.jsonl"))
SERVE = "import sys; from pyinfrakit.daemon.flavor import run_builtin_flavor; from pyinfrakit import paths; "
SIZE = Allocation(size=2)


def serve(kind: str) -> tuple[str, ...]:
    """Return the program that serves a flavor. It takes `--name NAME`."""
    return (sys.executable, "-c", f"{SERVE}run_builtin_flavor(sys.argv[2], {kind!r}, paths.plugins())")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_served_flavors_answer_as_recorded(path: Path, run: Callable[..., Daemon]) -> None:
    """The served vanilla flavor's reply to each recorded request has all that the real flavor's has."""
    daemon = run(name="vanilla", program=serve("vanilla"))
    with daemon.connect() as connection:
        for line in read_lines(path):
            connection.sendall((line["head"] + line["body"]).encode())
            status, _, body = read_reply(connection)
            assert 200 == status
            compare(json.loads(line["reply"]), json.loads(body))


def compare(expected: Any, actual: Any) -> None:
    """Compare JSON. Objects may have more fields, and lists of versions more elements, than expected."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict)
        assert expected.keys() <= actual.keys()
        for key, value in expected.items():
            compare(value, actual[key])
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        assert all(each in actual for each in expected)
    else:
        assert expected == actual


async def repeat(flavor: Flavor, call: dict[str, Any]) -> None:
    """Make a recorded call through *flavor*."""
    params = Raw(json.dumps(call["params"]).encode())
    if call["method"] == "Flavor.Validate":
        check = read(params, CheckParams)
        assert check.Allocation is not None
        await flavor.validate(own(check.Properties), check.Allocation.to_allocation())
    elif call["method"] == "Flavor.Prepare":
        prepare = read(params, PrepareParams)
        assert prepare.Spec is not None
        assert prepare.Allocation is not None
        index = Index("workers", 2) if prepare.Index is None else prepare.Index.to_index()
        allocation = prepare.Allocation.to_allocation()
        await flavor.prepare(own(prepare.Properties), prepare.Spec.to_spec(), allocation, index)
    else:
        member = read(params, MemberParams)
        assert member.Instance is not None
        make = flavor.healthy if call["method"] == "Flavor.Healthy" else flavor.drain
        await make(own(member.Properties), member.Instance.to_description())


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_requests_are_those_of_infrakits_controllers(path: Path, home: Path) -> None:
    """To a flavor of each generation, the controller sends the request that this generation's controller sends."""
    lines = read_lines(path)
    replies = {call["method"]: json.loads(line["reply"]) for line in lines for call in [json.loads(line["body"])]}
    calls = [
        json.loads(line["body"])
        for line in lines
        if ".Implements" not in line["body"] and "Handshake" not in line["body"]
    ]
    sent: list[dict[str, Any]] = []

    async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
        call = json.loads(body)
        if call["method"].startswith("Flavor."):
            sent.append(call)
        if call["method"] in replies:
            writer.write(encode_reply(body, replies[call["method"]]["result"]))
        else:
            error = {"code": -32000, "message": f"rpc: can't find method {call['method']!r}"}
            writer.write(encode_http(json.dumps({"jsonrpc": "2.0", "error": error, "id": call["id"]}).encode()))

    async def check() -> None:
        channel = Channel(home / "rv")
        async with serve_bytes(home / "rv", respond):
            for call in calls:
                await repeat(RemoteFlavor(channel), call)
            await channel.close()

    asyncio.run(check())
    assert [{**call, "id": 0} for call in calls] == [{**call, "id": 0} for call in sent]


def test_a_served_flavor_is_the_same_as_a_built_in_one(run: Callable[..., Daemon]) -> None:
    """A combo behind a socket finds flavors behind other sockets, and does what the built-in flavors do."""
    daemon = run(name="parts", program=serve("combo"))
    run(name="vanilla", program=serve("vanilla"))
    properties = Raw(b'[{"Plugin": "vanilla", "Properties": {"Init": ["a"]}}, {"Plugin": "flavor-vanilla"}]')

    async def check() -> None:
        finder = Finder(daemon.socket.parent, {})
        flavor = await finder.find_flavor("parts")
        assert isinstance(flavor, RemoteFlavor)
        assert isinstance(await finder.find_flavor("vanilla"), RemoteFlavor)
        assert isinstance(await finder.find_flavor("flavor-vanilla"), Vanilla)
        await flavor.validate(properties, SIZE)
        spec = Spec(properties=Raw(b'{"x":1}'), tags={"a": "1"}, logical_id="n1")
        prepared = await flavor.prepare(properties, spec, Allocation(logical_ids=["n1"]), Index("workers", 0))
        assert Spec(properties=Raw(b'{"x":1}'), tags={"a": "1"}, logical_id="n1", init="a") == prepared
        assert Health.HEALTHY is await flavor.healthy(properties, Description("i-1"))
        await flavor.drain(properties, Description("i-1"))
        with pytest.raises(InvalidSpec, match=r"^Properties\[0\]\.Properties\.Init: expected an array"):
            await flavor.validate(Raw(b'[{"Plugin": "vanilla", "Properties": {"Init": 1}}]'), SIZE)
        with pytest.raises(Unreachable, match=r"Failed to find Flavor plugin 'gone': no plugin at .*/gone"):
            await finder.find_flavor("gone")
        with pytest.raises(RemoteError, match=r"Failed to find Flavor plugin 'gone': no plugin at .*/gone"):
            await flavor.prepare(Raw(b'[{"Plugin": "gone"}]'), spec, SIZE, Index("workers", 0))
        with pytest.raises(Unreachable, match=r"Failed to find Instance plugin 'parts': .*, but not Instance/"):
            await finder.find_plugin("parts")
        with pytest.raises(Unreachable, match=r"Failed to find Flavor plugin 'parts/x': .* no sub-type 'x'"):
            await finder.find_flavor("parts/x")
        with pytest.raises(Unreachable, match=r"Failed to find Instance plugin '\.\./x': name '\.\.'"):
            await finder.find_plugin("../x")
        await finder.close()

    asyncio.run(check())
    assert 0 == daemon.stop()
    with daemon.start().client() as client:
        assert "Flavor" == json.loads(client.get("/info/api.json"))["Implements"][0]["Name"]
        with pytest.raises(RemoteError, match="no-plugin:x"):
            client.call("Flavor.Validate", {"Type": "x"})
        with pytest.raises(RemoteError, match=r"Instance\.ID: expected an instance's ID, got nothing"):
            client.call("Flavor.Drain", {})


@pytest.mark.parametrize(
    ("method", "result", "problem"),
    [
        ("Healthy", {"Health": 3}, "Health: expected 0, 1 or 2, got 3"),
        ("Healthy", {}, "Health: expected 0, 1 or 2, got None"),
        ("Healthy", {"Health": "good"}, 'Health: expected an integer or null, got "good"'),
        ("Prepare", {"Type": ""}, "Spec: expected a spec, got nothing"),
        ("Prepare", {"Spec": {"Tags": []}}, "Spec.Tags: expected an object or null, got an array"),
        ("Drain", None, "expected an object, got null"),
    ],
)
def test_a_flavor_that_lies_is_a_clear_error(home: Path, method: str, result: Any, problem: str) -> None:
    """A flavor's reply of the wrong form raises `Unreachable` with the field."""

    async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
        is_call = json.loads(body)["method"].startswith("Flavor.")
        hello = {"Objects": {"Flavor/0.1.1": [{"Name": "."}]}}
        writer.write(encode_reply(body, result if is_call else hello))

    async def check() -> None:
        channel = Channel(home / "rv")
        flavor = RemoteFlavor(channel)
        calls: dict[str, Callable[[], Any]] = {
            "Healthy": lambda: flavor.healthy(None, Description("i-1")),
            "Prepare": lambda: flavor.prepare(None, Spec(), SIZE, Index("workers", 0)),
            "Drain": lambda: flavor.drain(None, Description("i-1")),
        }
        async with serve_bytes(home / "rv", respond):
            with pytest.raises(Unreachable) as error:
                await calls[method]()
            await channel.close()
        assert problem in str(error.value)

    asyncio.run(check())


def test_sub_types_of_flavors_are_asked_for(home: Path) -> None:
    """A name with a slash asks for the sub-type of a flavor plugin, such as swarm's manager."""
    types: list[str] = []

    async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
        call = json.loads(body)
        if call["method"].startswith("Flavor."):
            types.append(call["params"]["Type"])
        hello = {"Objects": {"Flavor/0.1.0": [{"Name": "manager"}, {"Name": "worker"}]}}
        writer.write(encode_reply(body, {"Type": "manager", "OK": True} if types else hello))

    async def check() -> None:
        finder = Finder(home, {})
        async with serve_bytes(home / "swarm", respond):
            await (await finder.find_flavor("swarm/manager")).validate(None, SIZE)
        await finder.close()

    asyncio.run(check())
    assert ["manager"] == types


def test_the_service_has_every_method_of_the_interface() -> None:
    """The served methods are the four handshakes and the four calls of the Flavor interface."""
    flavor = [name for name in FlavorService(Vanilla()).methods if name.startswith("Flavor.")]
    assert ["Flavor.Validate", "Flavor.Prepare", "Flavor.Healthy", "Flavor.Drain"] == flavor
