"""A channel to a plugin, against plugins that answer with any bytes at all."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pyinfrakit.errors import TryAgain, Unreachable
from pyinfrakit.rpc.channel import MAX_CHANGES, MAX_QUESTIONS, TURNS, Channel
from pyinfrakit.rpc.client import RemoteError
from support.sockets import Respond, encode_http, encode_reply, serve_bytes


@asynccontextmanager
async def open_channel(path: Path, timeout: float = 15) -> AsyncIterator[Channel]:
    channel = Channel(path, timeout)
    try:
        yield channel
    finally:
        await channel.close()


def send(data: bytes, then_close: bool = False) -> Respond:
    async def respond(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()

    return respond


async def hang(body: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def send_without_end(body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(100):
        writer.write(b" " * 1_000_000)
        await writer.drain()


FAULTS: dict[str, tuple[Respond, str]] = {
    "garbage": (send(b"\x00\x01 hello\r\n\r\n", then_close=True), "answered, but not in HTTP"),
    "no JSON": (send(encode_http(b"<html>")), "answered, but is no plugin: b'<html>'"),
    "empty body": (send(encode_http(b"")), "answered, but is no plugin: b''"),
    "half a reply": (send(encode_http(b"x" * 100)[:-50], then_close=True), "in the middle of its reply"),
    "no reply": (send(b"", then_close=True), "closed the connection before it answered"),
    "too large": (send_without_end, "sent a reply of more than 64 MiB"),
    "wrong ID": (send(encode_http(b'{"result":{},"id":"me"}')), "answered another call: b'\"me\"' instead of"),
    "status 500": (send(encode_http(b"broken\n", "500 Oops")), "answered 500: broken"),
    "redirect": (send(encode_http(b"", "302 Found\r\nLocation: http://elsewhere/")), "answered 302"),
    "hang": (hang, "did not answer in 0.5 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["ask", "change"])
def test_a_faulty_reply_is_one_clear_error(home: Path, fault: str, way: str) -> None:
    """Each faulty reply raises `Unreachable` with one line that names the socket, and leaves no connection open."""
    respond, problem = FAULTS[fault]

    async def check() -> None:
        path = home / "rack1"
        before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        async with serve_bytes(path, respond), open_channel(path, 0.5 if fault == "hang" else 15) as channel:
            with pytest.raises(Unreachable) as error:
                await getattr(channel, way)("Instance.Validate", {})
            assert str(path) in str(error.value)
            assert problem in str(error.value)
            assert "\n" not in str(error.value)
        await asyncio.sleep(0)
        if before:
            assert before == len(os.listdir("/proc/self/fd"))

    asyncio.run(check())


def test_a_missing_or_dead_socket_is_named(home: Path) -> None:
    """The errors about a socket that does not exist, and about one without a listener, say so."""

    async def check() -> None:
        async with open_channel(home / "rack1") as channel:
            with pytest.raises(Unreachable, match="there is no such socket"):
                await channel.ask("Instance.Validate", {})
            async with serve_bytes(home / "other", hang):
                os.rename(home / "other", home / "rack1")
            with pytest.raises(Unreachable, match="nothing listens there any more"):
                await channel.change("Instance.Provision", {})

    asyncio.run(check())


def test_only_a_question_is_sent_again(home: Path) -> None:
    """A question on a kept connection that the plugin has closed is sent again. A change is never sent twice."""
    received: list[str] = []

    async def answer_once(body: bytes, writer: asyncio.StreamWriter) -> None:
        received.append(json.loads(body)["method"])
        if received.count("Instance.Provision") or len(received) == 2:
            writer.close()
        else:
            writer.write(encode_reply(body, {}))

    async def check() -> None:
        async with serve_bytes(home / "rack1", answer_once), open_channel(home / "rack1") as channel:
            await channel.ask("A", {})
            await channel.ask("B", {})
            with pytest.raises(Unreachable, match="closed the connection before it answered"):
                await channel.change("Instance.Provision", {})

    asyncio.run(check())
    assert ["A", "B", "B", "Instance.Provision"] == received


def test_errors_of_a_plugin_have_its_words_and_kind(home: Path) -> None:
    """An error reply raises `RemoteError` with the plugin's text, also if it is no object, as before JSON-RPC 2.0."""
    errors = iter(
        [
            {"code": -32000, "message": "no room", "data": {"Kind": "no-capacity"}},
            "no room",
            {"message": "no room"},
        ]
    )

    async def refuse(body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_http(json.dumps({"result": None, "error": next(errors), "id": None}).encode()))

    async def check() -> list[str]:
        kinds = []
        async with serve_bytes(home / "rack1", refuse), open_channel(home / "rack1") as channel:
            for _ in range(3):
                with pytest.raises(RemoteError, match=r"^no room$") as error:
                    await channel.change("Instance.Provision", {})
                kinds.append(error.value.kind)
        return kinds

    assert ["no-capacity", "", ""] == asyncio.run(check())


@pytest.mark.parametrize(("way", "limit"), [("ask", MAX_QUESTIONS), ("change", MAX_CHANGES)])
def test_calls_under_way_are_limited(home: Path, way: str, limit: int) -> None:
    """A channel has at most its limit of calls under way. The others wait for their turn, and all are answered."""
    open_calls, peak = 0, 0

    async def answer_late(body: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal open_calls, peak
        open_calls += 1
        peak = max(peak, open_calls)
        await asyncio.sleep(0.02)
        open_calls -= 1
        writer.write(encode_reply(body, {}))

    async def check() -> None:
        async with serve_bytes(home / "rack1", answer_late), open_channel(home / "rack1") as channel:
            call: Callable[[str, object], object] = getattr(channel, way)
            await asyncio.gather(*(call("Instance.Validate", {}) for _ in range(3 * limit)))  # type: ignore[call-overload]

    asyncio.run(check())
    assert limit == peak


def test_a_call_without_its_turn_is_not_sent(home: Path) -> None:
    """If a plugin hangs, changes that wait too long for a place fail with an error that says they were not sent."""
    sent = 0

    async def hang_and_count(body: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        sent += 1
        await hang(body, writer)

    async def check() -> None:
        async with serve_bytes(home / "rack1", hang_and_count), open_channel(home / "rack1", 0.5) as channel:
            calls = [channel.change("Instance.Provision", {}) for _ in range(2 * TURNS * MAX_CHANGES)]
            errors = await asyncio.gather(*calls, return_exceptions=True)
        unsent = [each for each in errors if isinstance(each, TryAgain)]
        assert unsent
        assert all("this one was not sent" in str(each) for each in unsent)
        assert {TryAgain, Unreachable} == set(map(type, errors))
        assert len(errors) - len(unsent) >= sent >= MAX_CHANGES

    asyncio.run(check())
