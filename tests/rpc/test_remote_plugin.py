"""The controller's view of instance plugins behind sockets: ours, and others of every generation."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

import raw_plugins as raw
from pyinfrakit.errors import (
    GiveUp,
    InvalidSpec,
    NoCapacity,
    PyInfrakitError,
    Refused,
    TryAgain,
    UnknownInstance,
    Unreachable,
)
from pyinfrakit.events import LOST, LoggedEvent
from pyinfrakit.record import Attachment, Spec
from pyinfrakit.rpc.channel import Channel
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.events import encode_frame
from pyinfrakit.rpc.instance.remote import RemotePlugin
from support.harness import PATIENCE, Daemon, until
from support.sockets import encode_http, encode_reply, serve_bytes

WORKERS = Spec(
    properties=Raw(b'{"Note": "a<b"}'),
    tags={"infrakit.group": "workers", "tier": "web"},
    init="echo hi",
    attachments=(Attachment("vol1", "ebs"),),
)


@asynccontextmanager
async def connect(path: Path, sub_type: str = "", timeout: float = 15) -> AsyncIterator[RemotePlugin]:
    channel = Channel(path, timeout)
    plugin = RemotePlugin(channel, sub_type)
    try:
        yield plugin
    finally:
        await plugin.close()
        await channel.close()


class Early(raw.Plugin):
    """A plugin of InfraKit 0.3 or 0.4."""

    versions = {"Handshake.Implements": {"APIs": [{"Name": "Instance", "Version": "0.3.0"}]}}


class Middle(raw.Plugin):
    """A plugin of InfraKit 0.5."""

    versions = {key: raw.Plugin.versions[key] for key in ("Handshake.Implements", "Handshake.Types")}


GENERATIONS: list[tuple[type[raw.Plugin], str]] = [
    (raw.Old, ""),
    (Early, ""),
    (Middle, ""),
    (raw.Plugin, ""),
    (raw.SubTyped, "compute"),
    (raw.LowerCaseNames, ""),
    (raw.AnnouncesClose, ""),
    (raw.ClosesWithoutSaying, ""),
]


@pytest.mark.parametrize(("make", "sub_type"), GENERATIONS)
def test_a_plugin_of_any_generation_can_be_used(home: Path, make: type[raw.Plugin], sub_type: str) -> None:
    """An instance of any correct plugin is provisioned, described and destroyed. The plugin gets the whole spec."""
    home.mkdir()
    other = make()

    async def check() -> None:
        async with connect(path, sub_type) as plugin:
            await plugin.validate(WORKERS.properties)
            assert [] == await plugin.describe("workers")
            id = await plugin.provision(WORKERS)
            (member,) = await plugin.describe("workers")
            assert (id, None, WORKERS.tags, "", "") == (member.id, member.logical_id, member.tags, member.state, "")
            assert [] == await plugin.describe("managers")
            await plugin.destroy(id, "terminate")
            assert [] == await plugin.describe("workers")
            assert plugin.is_certain is False

    with raw.serve(other, home / "other") as path:
        asyncio.run(check())
    (spec,) = other.provisioned
    assert {
        "Properties": {"Note": "a<b"},
        "Tags": {"infrakit.group": "workers", "tier": "web"},
        "Init": "echo hi",
        "LogicalID": None,
        "Attachments": [{"ID": "vol1", "Type": "ebs"}],
    } == spec


@pytest.mark.parametrize(("make", "expected"), [(raw.Old, None), (Early, None), (Middle, WORKERS.properties)])
def test_properties_come_from_versions_that_have_them(home: Path, make: type[raw.Plugin], expected: Raw | None) -> None:
    """A description has the instance's properties if the plugin's version of the interface has them."""
    home.mkdir()

    async def check() -> Raw | None:
        async with connect(path) as plugin:
            await plugin.provision(WORKERS)
            (member,) = await plugin.describe("workers")
            return member.properties

    with raw.serve(make(), home / "other") as path:
        assert expected == asyncio.run(check())


def test_a_plugin_without_labels_says_so(home: Path) -> None:
    """A label at a plugin of version 0.1.0, which has no labels, raises `GiveUp` before the plugin is asked."""
    home.mkdir()

    async def check() -> None:
        async with connect(path) as plugin:
            with pytest.raises(GiveUp, match=r"older than Instance/0\.3\.0"):
                await plugin.label("i-1", {"a": "b"})

    with raw.serve(raw.Old(), home / "other") as path:
        asyncio.run(check())


@pytest.mark.parametrize(
    ("make", "sub_type", "problem"),
    [
        (raw.SubTyped, "", "plugin other has sub-types: use other/compute"),
        (raw.SubTyped, "disk", "plugin other has no sub-type 'disk': use other/compute"),
        (raw.Plugin, "disk", "plugin other has no sub-type 'disk': use other"),
        (raw.Old, "disk", "plugin other has no sub-type 'disk': use other"),
        (raw.NoInstancePlugin, "", "can't be used: it has Flavor/0.1.0, but not Instance/0.6.1 or"),
    ],
)
def test_a_wrong_name_is_a_clear_error(home: Path, make: type[raw.Plugin], sub_type: str, problem: str) -> None:
    """The error about a sub-type or an interface that a plugin does not have says what it has."""
    home.mkdir()

    async def check() -> None:
        async with connect(path, sub_type) as plugin:
            with pytest.raises(PyInfrakitError) as error:
                await plugin.describe("workers")
            assert problem in str(error.value)

    with raw.serve(make(), home / "other") as path:
        asyncio.run(check())


def test_another_plugin_on_the_socket_shakes_hands_again(home: Path) -> None:
    """After a newer plugin took over the socket, calls use its version of the interface."""
    home.mkdir()

    async def check() -> list[int]:
        counts = []
        async with connect(home / "other") as plugin:
            for make in (raw.Old, raw.Plugin):
                with raw.serve(make(), home / "other"):
                    await plugin.provision(WORKERS)
                    counts.append(sum(each.properties is not None for each in await plugin.describe("workers")))
                (home / "other").unlink()
        return counts

    assert [0, 1] == asyncio.run(check())


WRONG_DESCRIPTIONS: dict[str, tuple[Any, str]] = {
    "null": (None, "expected an object, got null"),
    "no list": ({"Type": ""}, "missing required field Descriptions"),
    "no array": ({"Descriptions": {}}, "Descriptions: expected an array or null, got an object"),
    "no ID": ({"Descriptions": [{"LogicalID": "a"}]}, "missing required field ID"),
    "empty ID": ({"Descriptions": [{"ID": "", "Tags": {"infrakit.group": "workers"}}]}, "it has an empty ID"),
    "number": ({"Descriptions": [{"ID": 7}]}, "Descriptions[0].ID: expected a string, got 7"),
    "twice": ({"Descriptions": [{"ID": "a", "Tags": {"infrakit.group": "workers"}}] * 2}, "it has the ID 'a' twice"),
    "another group": (
        {"Descriptions": [{"ID": "a", "Tags": {"infrakit.group": "managers"}}]},
        "a does not have the tag infrakit.group=workers",
    ),
    "no tags": ({"Descriptions": [{"ID": "a"}]}, "a does not have the tag infrakit.group=workers"),
}


@pytest.mark.parametrize("name", WRONG_DESCRIPTIONS)
def test_a_wrong_description_is_never_empty(home: Path, name: str) -> None:
    """A description that can't be true raises `Unreachable` and says what is wrong: it does not count as no members."""
    result, problem = WRONG_DESCRIPTIONS[name]

    async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
        call = json.loads(body)
        if call["method"] == "Instance.DescribeInstances":
            writer.write(encode_reply(body, result))
        elif call["method"] in raw.Plugin.versions:
            writer.write(encode_reply(body, raw.Plugin.versions[call["method"]]))
        else:
            error = {"code": -32000, "message": 'rpc: can\'t find service "Operator.Records"'}
            writer.write(encode_http(json.dumps({"jsonrpc": "2.0", "error": error, "id": call["id"]}).encode()))

    async def check() -> None:
        async with serve_bytes(home / "other", respond), connect(home / "other") as plugin:
            with pytest.raises(Unreachable) as error:
                await plugin.describe("workers")
            assert problem in str(error.value)

    asyncio.run(check())


ERRORS: list[tuple[str, Any, type[PyInfrakitError], str]] = [
    ("Provision", {"Kind": "no-capacity"}, NoCapacity, "all 3 racks are busy"),
    ("Provision", {"Kind": "wrong-spec"}, InvalidSpec, "Properties.size: expected a number"),
    ("Provision", {"Kind": "try-again"}, TryAgain, "later"),
    ("Provision", {"Kind": "give-up"}, GiveUp, "no such image"),
    ("Provision", {"Kind": "refused"}, Refused, "0abc-1: has logical ID a already"),
    ("Destroy", {"Kind": "unknown-instance"}, UnknownInstance, "no instance 'i-1': it never existed here, or is gone"),
    ("Provision", None, NoCapacity, "InsufficientInstanceCapacity: We currently do not have sufficient m4.large"),
    ("Provision", None, NoCapacity, "Quota 'CPUS' exceeded. Limit: 24.0 in region us-central1."),
    ("Provision", None, NoCapacity, "VcpuLimitExceeded: You have requested more vCPU capacity"),
    ("Provision", None, NoCapacity, "no free machine: 3 of 5 match"),
    ("Provision", "trace", PyInfrakitError, "Insufficient permissions for this operation"),
    ("Provision", None, PyInfrakitError, "boom"),
    ("Validate", None, InvalidSpec, "Properties: size is missing"),
]


@pytest.mark.parametrize(("method", "data", "expected", "text"), ERRORS)
def test_an_error_says_what_to_do_next(
    home: Path, method: str, data: Any, expected: type[PyInfrakitError], text: str
) -> None:
    """A plugin's error becomes the exception of its kind, or the one that its text tells, with the same text."""

    async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
        call = json.loads(body)
        if call["method"] in raw.Plugin.versions:
            writer.write(encode_reply(body, raw.Plugin.versions[call["method"]]))
        else:
            error = {"code": -32000, "message": text.removeprefix("Properties: "), "data": data}
            writer.write(encode_http(json.dumps({"jsonrpc": "2.0", "error": error, "id": call["id"]}).encode()))

    async def check() -> PyInfrakitError:
        async with serve_bytes(home / "other", respond), connect(home / "other") as plugin:
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "Provision": lambda: plugin.provision(WORKERS),
                "Destroy": lambda: plugin.destroy("i-1", "terminate"),
                "Validate": lambda: plugin.validate(None),
            }
            with pytest.raises(PyInfrakitError) as error:
                await calls[method]()
            return error.value

    error = asyncio.run(check())
    assert expected is (PyInfrakitError if isinstance(error, RemoteError) else type(error))
    assert text == str(error)


def test_a_plugin_of_ours_tells_every_state(simulated: Daemon) -> None:
    """Our own plugin describes members that InfraKit does not see, with state and reason, and sets members aside."""

    async def check() -> None:
        async with connect(simulated.socket) as plugin:
            one, two = [await plugin.provision(replace(WORKERS, properties=None)) for _ in range(2)]
            await plugin.set_aside(one, "to look at it")
            states = {each.id: (each.state, each.reason) for each in await plugin.describe("workers")}
            assert {one: ("non-functional", "to look at it"), two: ("ready", "")} == states
            assert plugin.is_certain
            await plugin.label(two, {"infrakit.protected": "yes"})
            tags = {each.id: each.tags for each in await plugin.describe("workers")}
            assert {**WORKERS.tags, "infrakit.protected": "yes"} == tags[two]
            with pytest.raises(UnknownInstance):
                await plugin.destroy("gone", "terminate")
            with pytest.raises(UnknownInstance):
                await plugin.set_aside("gone", "")

    asyncio.run(check())


def test_a_plugin_of_others_sets_nothing_aside(home: Path) -> None:
    """A plugin without the Operator interface is not asked to set a member aside: that raises `GiveUp`."""
    home.mkdir()

    async def check() -> None:
        async with connect(path) as plugin:
            with pytest.raises(GiveUp, match="plugin other has no Operator interface"):
                await plugin.set_aside("i-1", "broken")

    with raw.serve(raw.Plugin(), home / "other") as path:
        asyncio.run(check())


def test_all_callers_of_a_plugin_that_hangs_wait_at_once(daemon: Daemon) -> None:
    """The calls of many groups to a plugin that hangs fail together, and succeed once it goes on."""

    async def check() -> None:
        async with connect(daemon.socket, timeout=1) as plugin:
            daemon.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
            async with asyncio.timeout(10):
                calls = [plugin.describe(f"group{n}") for n in range(200)]
                errors = await asyncio.gather(*calls, return_exceptions=True)
            assert {f"{daemon.socket} did not answer in 1 s"} == {str(each) for each in errors}
            daemon.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
            assert [] == await plugin.describe("workers")

    asyncio.run(check())


def frame(subject: str, type: str = "ready") -> bytes:
    return encode_frame(LoggedEvent(1, 0.0, subject, type))


class Eventful:
    """A plugin of ours with members of two groups, and a stream of events that a test pushes."""

    MEMBERS = {"a1": "a", "b1": "b", "b2": "b"}

    def __init__(self) -> None:
        self.streams: list[asyncio.StreamWriter] = []
        self.paths: list[bytes] = []

    async def respond(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        if body.startswith(b"GET"):
            self.paths.append(body.split(b" ")[1])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n")
            self.streams.append(writer)
            return
        call = json.loads(body)
        if call["method"] in raw.Plugin.versions:
            writer.write(encode_reply(body, raw.Plugin.versions[call["method"]]))
            return
        tags, ids = call["params"].get("Tags") or {}, call["params"].get("Instances")
        group = tags.get("infrakit.group")
        records = [
            {"ID": id, "Tags": {"infrakit.group": each}, "State": "ready"}
            for id, each in self.MEMBERS.items()
            if group in (None, each) and (ids is None or id in ids)
        ]
        writer.write(encode_reply(body, {"Records": records}))


def test_events_tell_whose_members_changed(home: Path) -> None:
    """An event calls back for the group of its instance: from the last description, or from the plugin if it is new."""
    eventful = Eventful()
    changed: list[str] = []

    async def check() -> None:
        async with serve_bytes(home / "other", eventful.respond), connect(home / "other") as plugin:
            await plugin.describe("a")
            end = plugin.follow(changed.append)
            await until(lambda: changed == ["a"])  # what changed before the stream began
            changed.clear()
            eventful.streams[-1].write(frame("instance/other/a1"))
            await until(lambda: changed == ["a"])
            changed.clear()
            eventful.streams[-1].write(frame("instance/other/b2"))
            await until(lambda: changed == ["b"])
            changed.clear()
            eventful.streams[-1].write(frame("instance/other/gone") + frame("instance/other/a1") * 100)
            await until(lambda: changed == ["a"])
            changed.clear()
            eventful.streams[-1].write(b"data: garbage\n\n" + frame("instance/other/b2", LOST))
            await until(lambda: changed == ["a"])  # of all that were described
            eventful.streams[-1].close()
            await until(lambda: len(eventful.streams) == 2)
            end()
            await until(lambda: eventful.streams[-1].is_closing() or len(asyncio.all_tasks()) < 4)

    asyncio.run(check())
    assert {b"/events?topic=instance/other/"} == set(eventful.paths)


def test_a_plugin_of_ours_tells_changes_at_once(simulated: Daemon) -> None:
    """A daemon's events call back for the group of a new member, and of one that ends."""
    changed: list[str] = []

    async def check() -> None:
        async with connect(simulated.socket) as plugin:
            await until_describes(plugin)
            plugin.follow(changed.append)
            id = await plugin.provision(replace(WORKERS, properties=None))
            await until(lambda: "workers" in changed)
            await until_describes(plugin, "ready")
            changed.clear()
            await plugin.destroy(id, "terminate")
            await until(lambda: "workers" in changed)
            await until_describes(plugin)

    asyncio.run(check())


async def until_describes(plugin: RemotePlugin, *states: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while list(states) != [each.state for each in await plugin.describe("workers")]:
            await asyncio.sleep(0.05)


def test_a_plugin_without_events_is_left_to_polling(home: Path) -> None:
    """A plugin that has no events can be followed, described and left: nothing calls back."""
    home.mkdir()
    changed: list[str] = []

    async def check() -> None:
        async with connect(path) as plugin:
            plugin.follow(changed.append)
            await plugin.provision(WORKERS)
            assert 1 == len(await plugin.describe("workers"))
            await asyncio.sleep(0.2)

    with raw.serve(raw.Plugin(), home / "other") as path:
        asyncio.run(check())
    assert [] == changed
