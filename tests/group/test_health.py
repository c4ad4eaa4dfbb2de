"""Health checks and drains against real servers on the loopback address, and with real commands."""

import asyncio
import json
import os
import re
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from msgspec import Raw

from pyinfrakit.errors import PyInfrakitError, Unreachable
from pyinfrakit.group import spec as specs
from pyinfrakit.group.drain import drain
from pyinfrakit.group.flavors import Flavor, Health, Index
from pyinfrakit.group.health import AT_ONCE, AT_ONCE_PER_GROUP, HealthChecks
from pyinfrakit.group.judgment import Outcome
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.probes import probe
from pyinfrakit.group.spec import Allocation, Check, DrainHook, Duration, GroupSpec, decode_field
from pyinfrakit.group.templates import check_template
from pyinfrakit.record import Spec
from pyinfrakit.schema.decode import decode
from support.harness import ROOT, eventually, root_only, until
from test_child import is_gone

SECOND = Duration(1)
FAST = Duration(0.05)
PATIENT = Duration(30)
TLS = Path(__file__).parents[1] / "tls"

Test = Callable[[], Awaitable[None]]


class Judge(Flavor):
    """A flavor that answers as it is set to, and notes the members that it drains."""

    def __init__(self) -> None:
        self.answer: Health | PyInfrakitError = Health.HEALTHY
        self.hangs = False
        self.asked = 0
        self.drained: list[str] = []

    async def validate(self, properties: Raw | None, allocation: Allocation) -> None:
        pass

    async def prepare(self, properties: Raw | None, spec: Spec, allocation: Allocation, index: Index) -> Spec:
        return spec

    async def healthy(self, properties: Raw | None, member: Description) -> Health:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if isinstance(self.answer, PyInfrakitError):
            raise self.answer
        return self.answer

    async def drain(self, properties: Raw | None, member: Description) -> None:
        if isinstance(self.answer, PyInfrakitError):
            raise self.answer
        self.drained.append(member.id)


@asynccontextmanager
async def serve_http(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], **settings: Any
) -> AsyncIterator[int]:
    """Serve HTTP on a port of the loopback address, and yield the port."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, **settings)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def answer_status(request: web.Request) -> web.Response:
    """Answer ``/N`` with status N."""
    return web.Response(status=int(request.path[1:]), headers={"Location": "/500"})


@asynccontextmanager
async def serve_tcp(host: str = "127.0.0.1", talk: bytes = b"", hangs: bool = False) -> AsyncIterator[int]:
    """Accept connections on a port of a loopback address, write *talk*, and close or hang."""

    handlers: set[asyncio.Task[Any] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        writer.write(talk)
        if hangs:
            await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, host, 0) as server:
        yield server.sockets[0].getsockname()[1]
        # Every test connects. A handler that outlives the event loop leaves its socket open.
        await until(lambda: bool(handlers) and all(each is None or each.done() for each in handlers))


@contextmanager
def find_closed_port() -> Iterator[int]:
    """Yield a port on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def hold_all_files() -> Iterator[None]:
    """Let this process open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)


def make_member(id: str = "i-1", state: str = "ready", reason: str = "", **properties: Any) -> Description:
    return Description(id, properties=Raw(msgspec.json.encode(properties)), state=state, reason=reason)


def make_spec(*checks: Check, flavor: str = "vanilla", id: str = "web", **settings: Any) -> GroupSpec:
    properties = specs.Properties(health=list(checks), flavor=specs.PluginSpec(flavor), **settings)
    return GroupSpec(id, properties, Raw(b"{}"))


def check(check: Check, **properties: Any) -> tuple[Outcome, str]:
    return asyncio.run(probe(check, make_member(**properties)))


# Probes over HTTP


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, Outcome.SUCCESS), (204, Outcome.SUCCESS), (302, Outcome.SUCCESS), (404, Outcome.FAILURE),
     (503, Outcome.FAILURE)],
)  # fmt: skip
def test_an_http_check_succeeds_with_a_status_below_400(status: int, outcome: Outcome) -> None:
    """An HTTP check takes the first status that it gets, and follows no redirect."""

    async def test() -> None:
        async with serve_http(answer_status) as port:
            template = f"http://user:password@{{Properties.address}}:{port}/{status}?token=secret"
            reason = f"GET http://127.0.0.1:{port}/{status}: status {status}"
            expected = (outcome, reason if outcome is Outcome.FAILURE else "")
            assert expected == await probe(Check(http=template), make_member(address="127.0.0.1"))

    asyncio.run(test())


def test_an_http_check_reads_no_body_and_ignores_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless body does not delay an HTTP check, and the environment's proxy is not used."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))

    async def test() -> None:
        async with serve_http(stream) as port:
            assert (Outcome.SUCCESS, "") == await probe(
                Check(http=f"http://127.0.0.1:{port}/", timeout=PATIENT), make_member()
            )

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    asyncio.run(test())


def test_an_http_check_verifies_certificates() -> None:
    """A certificate that this host does not trust is a failure."""

    async def test() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
        async with serve_http(answer_status, ssl_context=context) as port:
            outcome, reason = await probe(Check(http=f"https://127.0.0.1:{port}/200"), make_member())
            assert Outcome.FAILURE is outcome
            assert reason.startswith(f"GET https://127.0.0.1:{port}/200: TLS: self-signed certificate")

    asyncio.run(test())


@pytest.mark.parametrize("talk", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000])
def test_a_server_that_speaks_no_http_fails_an_http_check(talk: bytes) -> None:
    """A reply that is not HTTP, or ends early, is a failure with a reason in one line."""

    async def test() -> None:
        async with serve_tcp(talk=talk) as port:
            outcome, reason = await probe(Check(http=f"http://127.0.0.1:{port}/"), make_member())
            assert Outcome.FAILURE is outcome
            assert reason.startswith(f"GET http://127.0.0.1:{port}/: ")
            assert reason.isprintable()

    asyncio.run(test())


def test_checks_time_out() -> None:
    """A server that accepts a connection and stays silent passes a TCP check, and fails an HTTP check."""

    async def test() -> None:
        async with serve_tcp(hangs=True) as port:
            assert (Outcome.SUCCESS, "") == await probe(Check(tcp=f"127.0.0.1:{port}"), make_member())
            expected = (Outcome.FAILURE, f"GET http://127.0.0.1:{port}/: no answer within 0.3s")
            assert expected == await probe(
                Check(http=f"http://127.0.0.1:{port}/", timeout=Duration(0.3)), make_member()
            )

    asyncio.run(test())


# Probes over TCP


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_tcp_check_connects(host: str) -> None:
    """A TCP check succeeds if the port accepts a connection, on IPv4 and IPv6."""

    async def test() -> None:
        async with serve_tcp(host, b"hello\n") as port:
            member = make_member(address=host, port=port)
            assert (Outcome.SUCCESS, "") == await probe(Check(tcp="{Properties.address}:{Properties.port}"), member)

    asyncio.run(test())


def test_a_check_finds_its_host_by_name() -> None:
    """A check tries all addresses of a host name: localhost has one of IPv6 too, on which nobody listens here."""

    async def test() -> None:
        async with serve_http(answer_status) as port:
            assert (Outcome.SUCCESS, "") == await probe(Check(tcp=f"localhost:{port}"), make_member())
            assert (Outcome.SUCCESS, "") == await probe(Check(http=f"http://localhost:{port}/200"), make_member())

    asyncio.run(test())


def test_a_refused_connection_is_a_failure() -> None:
    """A port without a listener fails TCP and HTTP checks."""
    with find_closed_port() as port:
        assert (Outcome.FAILURE, f"TCP 127.0.0.1:{port}: Connection refused") == check(Check(tcp=f"127.0.0.1:{port}"))
        expected = (Outcome.FAILURE, f"GET http://127.0.0.1:{port}/: Connection refused")
        assert expected == check(Check(http=f"http://127.0.0.1:{port}/"))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Check(tcp="{Properties.address}:80"), "can't be checked: the member has no Properties.address"),
        (Check(tcp="10.0.0.1"), "TCP 10.0.0.1: can't be checked: expected HOST:PORT"),
        (Check(tcp="10.0.0.1:http"), "TCP 10.0.0.1:http: can't be checked: expected HOST:PORT"),
        (Check(tcp="10.0.0.1:70000"), "TCP 10.0.0.1:70000: can't be checked: expected HOST:PORT"),
        (Check(http="10.0.0.1"), "GET 10.0.0.1: can't be checked: expected a URL such as http://10.0.0.1:80/"),
        (Check(http="ftp://10.0.0.1/"), "GET ftp://10.0.0.1/: can't be checked: expected a URL such as http://10.0.0.1:80/"),
        (Check(http="http:///"), "GET http:///: can't be checked: expected a URL such as http://10.0.0.1:80/"),
        (Check(exec=["/no/such"]), "Exec /no/such: can't be checked: can't be run: there is no executable /no/such"),
    ],
)  # fmt: skip
def test_a_check_that_cannot_be_made_is_unknown(asked: Check, reason: str) -> None:
    """A check without an address or a command says nothing about the member."""
    assert (Outcome.UNKNOWN, reason) == check(asked)


@pytest.mark.parametrize("asked", [Check(tcp="no-such-host.invalid:80"), Check(http="http://no-such-host.invalid/")])
def test_a_host_name_that_cannot_be_resolved_is_unknown(asked: Check) -> None:
    """A name service that is down must not make members unhealthy."""
    outcome, reason = check(asked)
    assert Outcome.UNKNOWN is outcome
    assert "can't be checked: the host name can't be resolved: " in reason


@pytest.mark.parametrize("kind", ["http", "tcp", "exec"])
def test_a_host_without_free_files_is_unknown(kind: str) -> None:
    """If this process can open no more files, checks say nothing about the members."""
    texts: dict[str, Any] = {"http": "http://127.0.0.1:1/", "tcp": "127.0.0.1:1", "exec": ["true"]}

    async def test() -> None:
        with hold_all_files():
            outcome, reason = await probe(Check(**{kind: texts[kind]}), make_member())
        assert Outcome.UNKNOWN is outcome
        assert reason.endswith("Too many open files")

    asyncio.run(test())


# Probes by a command


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo fine", (Outcome.SUCCESS, "")),
        ("echo one; echo 'disk full' >&2; exit 2", (Outcome.FAILURE, "exit status 2: disk full")),
        ("exit 1", (Outcome.FAILURE, "exit status 1")),
        ("printf 'a\\033[31mb\\n\\n'; exit 1", (Outcome.FAILURE, "exit status 1: a\\x1b[31mb")),
        ("echo 'wrong password hunter2'; exit 1", (Outcome.FAILURE, "exit status 1: wrong password ***")),
        ("yes | head -c 1000000; echo end; exit 1", (Outcome.FAILURE, "exit status 1: end")),
        ("cat; env | grep -q PYTEST && exit 1; exit 0", (Outcome.SUCCESS, "")),
        ("[ $(pwd) = / ] && [ {ID} = i-1 ]", (Outcome.SUCCESS, "")),
        ("no-such-command", (Outcome.UNKNOWN, "can't be checked: exit status 127: /bin/sh: 1: no-such-command: not found")),
        ("kill -9 $$", (Outcome.UNKNOWN, "can't be checked: ended by signal 9")),
        ("sleep 60 & echo begun; wait", (Outcome.FAILURE, "no answer within 0.5s")),
    ],
)  # fmt: skip
def test_a_command_checks_by_its_exit_status(script: str, expected: tuple[Outcome, str]) -> None:
    """A command's status is the outcome, and the last line of its output the reason, on one line and without secrets."""
    outcome, reason = expected
    timeout = Duration(0.5) if "sleep" in script else PATIENT
    asked = Check(exec=["/bin/sh", "-c", script], timeout=timeout)
    assert (outcome, f"Exec /bin/sh: {reason}" if reason else "") == check(asked, admin={"password": "hunter2"})


def test_a_command_leaves_no_process_behind(tmp_path: Path) -> None:
    """Everything that a check's command started ends with it."""
    script = f"sleep 600 & echo $! >{tmp_path}/pid"
    assert (Outcome.SUCCESS, "") == check(Check(exec=["sh", "-c", script], timeout=PATIENT))
    eventually(lambda: is_gone(tmp_path / "pid"), "the background process is gone")


@root_only
def test_root_runs_no_command_that_others_can_change(home: Path) -> None:
    """If root runs the controller, a command that another user can change is not run, and the check is unknown."""
    home.mkdir()
    script = home / "check"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert (Outcome.SUCCESS, "") == check(Check(exec=[str(script)], timeout=PATIENT))
    script.chmod(0o777)
    outcome, reason = check(Check(exec=[str(script)], timeout=PATIENT))
    assert Outcome.UNKNOWN is outcome
    assert f"Exec {script}: can't be checked: {script}: {script} may be written by others" in reason


# The checks of groups


class Watcher:
    """Health checks with a flavor, and the groups that they reported as changed."""

    def __init__(self, interval: float = 0.05) -> None:
        self.flavor = Judge()
        self.flavors: dict[str, Flavor] = {"judge": self.flavor}
        self.changed: list[str] = []
        self.checks = HealthChecks(self.find, self.changed.append, interval, ["vanilla"])

    async def find(self, name: str) -> Flavor:
        if name not in self.flavors:
            raise Unreachable(f"plugin {name} does not answer")
        return self.flavors[name]

    async def __aenter__(self) -> "Watcher":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.checks.stop()
        assert {asyncio.current_task()} == asyncio.all_tasks()

    def health(self, id: str = "i-1", group: str = "web") -> Health:
        return self.checks.health(group, id)[0]

    def reason(self, id: str = "i-1", group: str = "web") -> str:
        return self.checks.health(group, id)[1]

    async def until(self, health: Health, id: str = "i-1", group: str = "web") -> None:
        await until(lambda: self.health(id, group) is health)


def test_members_without_checks_are_healthy_at_once() -> None:
    """A member without checks and with a built-in flavor is as healthy as its plugin says, and needs no task."""

    async def test() -> None:
        async with Watcher() as watcher:
            states = {"a": "ready", "b": "", "c": "provisioning", "d": "non-functional"}
            members = [make_member(id, state, "disk") for id, state in states.items()]
            watcher.checks.update(make_spec(), members)
            expected = [Health.HEALTHY, Health.HEALTHY, Health.UNKNOWN, Health.UNHEALTHY]
            assert expected == [watcher.health(id) for id in states]
            assert ["", "", "being provisioned", "disk"] == [watcher.reason(id) for id in states]
            assert {asyncio.current_task()} == asyncio.all_tasks()
            watcher.checks.update(make_spec(), [make_member("c")])
            assert (Health.HEALTHY, Health.UNKNOWN) == (watcher.health("c"), watcher.health("a"))
            assert "not seen yet" == watcher.reason("a")
            assert Health.UNKNOWN is watcher.health("c", "db")
            assert [] == watcher.changed

    asyncio.run(test())


def test_a_member_turns_unhealthy_and_healthy_with_its_server() -> None:
    """A member follows its server, and each change is reported once."""
    statuses = {"now": 200}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=statuses["now"])

    async def test() -> None:
        async with serve_http(answer) as port, Watcher() as watcher:
            asked = Check(http="http://127.0.0.1:{Properties.port}/", interval=FAST, timeout=PATIENT, healthy=2)
            watcher.checks.update(make_spec(asked), [make_member(port=port), make_member("i-2")])
            assert "not checked yet" == watcher.reason()
            await watcher.until(Health.HEALTHY)
            since = watcher.checks.health("web", "i-1")[2]
            statuses["now"] = 503
            await watcher.until(Health.UNHEALTHY)
            assert f"GET http://127.0.0.1:{port}/: status 503" == watcher.reason()
            assert since < watcher.checks.health("web", "i-1")[2]
            statuses["now"] = 200
            await watcher.until(Health.HEALTHY)
            assert ["web"] * 3 == watcher.changed
            assert Health.UNKNOWN is watcher.health("i-2")
            assert "can't be checked: the member has no Properties.port" == watcher.reason("i-2")

    asyncio.run(test())


def test_a_member_that_is_provisioned_is_checked_once_it_is_ready() -> None:
    """Checks of a member begin when its plugin calls it ready; its grace too."""
    requests: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response(status=500)

    async def test() -> None:
        async with serve_http(answer) as port, Watcher() as watcher:
            url = f"http://127.0.0.1:{port}/{{ID}}"
            spec = make_spec(Check(http=url, interval=FAST, timeout=PATIENT, grace=Duration(3600)))
            watcher.checks.update(spec, [make_member("a"), make_member("b", "provisioning")])
            await until(lambda: len(requests) > 5)
            assert {"/a"} == set(requests)
            assert (Health.UNKNOWN, Health.UNKNOWN) == (watcher.health("a"), watcher.health("b"))
            assert "being provisioned" == watcher.reason("b")
            assert watcher.reason("a").endswith("/a: status 500 (in its grace)")
            watcher.checks.update(spec, [make_member("b")])
            await until(lambda: requests[-5:] == ["/b"] * 5)

    asyncio.run(test())


def test_a_commit_resets_only_the_checks_that_it_changes(tmp_path: Path) -> None:
    """A check that is the same in the new spec keeps its streak, and a removed one ends."""

    async def test() -> None:
        async with Watcher() as watcher:
            counted = Check(exec=["sh", "-c", f"echo x >>{tmp_path}/one"], interval=Duration(3600), timeout=PATIENT)
            other = Check(exec=["sh", "-c", f"echo x >>{tmp_path}/two; false"], interval=FAST, timeout=PATIENT)
            watcher.checks.update(make_spec(counted, other), [make_member()])
            await watcher.until(Health.UNHEALTHY)
            watcher.checks.update(make_spec(counted), [make_member()])
            assert Health.HEALTHY is watcher.health()
            watcher.checks.update(make_spec(counted, Check(exec=["true"], timeout=PATIENT)), [make_member()])
            assert Health.UNKNOWN is watcher.health()
            await watcher.until(Health.HEALTHY)
            assert "x\n" == (tmp_path / "one").read_text()

    asyncio.run(test())


def test_a_flavor_must_find_a_member_unhealthy_three_times() -> None:
    """A flavor judges each member; a single bad answer changes nothing."""

    async def test() -> None:
        async with Watcher() as watcher:
            watcher.checks.update(make_spec(flavor="judge"), [make_member()])
            assert Health.UNKNOWN is watcher.health()
            await watcher.until(Health.HEALTHY)
            watcher.flavor.answer = Health.UNHEALTHY
            await until(lambda: "judge finds it unhealthy (1 of 3 failures" in watcher.reason())
            watcher.flavor.answer = Health.HEALTHY
            await until(lambda: watcher.reason() == "")
            assert ["web"] == watcher.changed
            watcher.flavor.answer = Health.UNHEALTHY
            await watcher.until(Health.UNHEALTHY)
            assert "flavor judge finds it unhealthy" == watcher.reason()

    asyncio.run(test())


@pytest.mark.parametrize("trouble", [Unreachable("does not answer"), PyInfrakitError("no"), Health.UNKNOWN])
def test_a_flavor_that_cannot_tell_makes_no_member_unhealthy(trouble: Health | PyInfrakitError) -> None:
    """An error of a flavor is unknown, however often it comes."""

    async def test() -> None:
        async with Watcher(0.01) as watcher:
            watcher.flavor.answer = trouble
            watcher.checks.update(make_spec(flavor="judge"), [make_member()])
            watcher.checks.update(make_spec(flavor="gone", id="db"), [make_member()])
            await until(lambda: watcher.flavor.asked > 10)
            assert (Health.UNKNOWN, Health.UNKNOWN) == (watcher.health(), watcher.health(group="db"))
            assert "flavor gone: plugin gone does not answer" == watcher.reason(group="db")

    asyncio.run(test())


def test_a_group_whose_checks_hang_does_not_stop_the_others() -> None:
    """A group has a limit of its own on checks at once, so that others are checked meanwhile."""

    async def test() -> None:
        async with Watcher() as watcher:
            watcher.flavor.hangs = True
            watcher.flavors["other"] = Judge()
            watcher.checks.update(make_spec(flavor="judge"), [make_member(f"i-{n}") for n in range(AT_ONCE)])
            await until(lambda: watcher.flavor.asked == AT_ONCE_PER_GROUP)
            watcher.checks.update(make_spec(flavor="other", id="db"), [make_member()])
            await watcher.until(Health.HEALTHY, group="db")
            assert AT_ONCE_PER_GROUP == watcher.flavor.asked

    asyncio.run(test())


def test_a_forgotten_group_is_checked_no_longer() -> None:
    """A group that is forgotten has no members and no tasks here."""

    async def test() -> None:
        async with Watcher() as watcher:
            watcher.checks.update(make_spec(flavor="judge"), [make_member()])
            await watcher.until(Health.HEALTHY)
            watcher.checks.forget("web")
            assert Health.UNKNOWN is watcher.health()
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    asyncio.run(test())


def test_a_stop_ends_running_commands(tmp_path: Path) -> None:
    """A stop kills the commands of checks under way."""

    async def test() -> None:
        async with Watcher() as watcher:
            script = f"trap '' TERM; echo $$ >{tmp_path}/pid; sleep 600"
            watcher.checks.update(make_spec(Check(exec=["sh", "-c", script], timeout=PATIENT)), [make_member()])
            await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")

    asyncio.run(test())
    eventually(lambda: is_gone(tmp_path / "pid"), "the command is gone")


# Drains


def drain_member(hook: DrainHook | None, flavor: Flavor, **settings: Any) -> str:
    return asyncio.run(drain(hook, flavor, make_spec(flavor="judge", drain=hook, **settings), make_member()))


def test_a_drain_asks_the_flavor_and_then_the_hook(tmp_path: Path) -> None:
    """A drain by the flavor and a command succeeds without a word."""
    flavor = Judge()
    hook = DrainHook(exec=["sh", "-c", f"echo {{ID}} >{tmp_path}/drained"])
    assert "" == drain_member(hook, flavor)
    assert (["i-1"], "i-1\n") == (flavor.drained, (tmp_path / "drained").read_text())
    assert "" == drain_member(None, flavor)


def test_a_drain_that_fails_says_why() -> None:
    """A drain goes on after a failure, and returns all that failed in one line."""
    flavor = Judge()
    flavor.answer = Unreachable("plugin judge does not answer")
    problem = drain_member(DrainHook(exec=["sh", "-c", "echo still busy; exit 3"]), flavor)
    assert (
        "flavor judge: the drain failed: plugin judge does not answer; drain hook: sh: exit status 3: still busy"
        == problem
    )
    assert "" == drain_member(None, flavor, skip_before_instance_destroy="drain")


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (DrainHook(exec=["sleep", "60"], timeout=Duration(0.2)), "timed out after 0.2s"),
        (DrainHook(exec=["/no/such"]), "can't be run: there is no executable /no/such"),
        (DrainHook(exec=["echo", "{Properties.address}"]), "the member has no Properties.address"),
        (DrainHook(http="http://{Properties.address}/"), "the member has no Properties.address"),
        (DrainHook(http="nowhere"), "expected a URL such as http://10.0.0.1:80/"),
    ],
)
def test_a_hook_that_cannot_run_prevents_nothing(hook: DrainHook, problem: str) -> None:
    """A hook that times out or can't run returns the problem."""
    assert f"drain hook: {problem}" == drain_member(hook, Judge())


def test_a_drain_hook_posts() -> None:
    """An HTTP hook is a POST, which succeeds with a status of 200-299."""
    methods: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        methods.append(request.method)
        return await answer_status(request)

    async def test() -> None:
        async with serve_http(answer) as port:
            url = f"http://127.0.0.1:{port}"
            answers = [
                await drain(DrainHook(http=f"{url}/{n}"), Judge(), make_spec(), make_member()) for n in (200, 302)
            ]
            assert ["", f"drain hook: POST {url}/302: status 302"] == answers
            assert ["POST", "POST"] == methods

    asyncio.run(test())


# docs/health.md


PAGE = (ROOT / "docs" / "health.md").read_text()


@pytest.mark.parametrize("example", re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
def test_the_examples_of_the_page_are_valid(example: str) -> None:
    """The checks and hooks of each example can be decoded, and their templates are valid."""
    parts = json.loads(example)
    checks = decode(json.dumps(parts.get("Health", [])).encode(), list[Check], "Health", decode_field)
    hook = decode(json.dumps(parts.get("Drain")).encode(), DrainHook | None, "Drain", decode_field)  # type: ignore[arg-type]
    assert checks or hook
    texts = [text for each in checks for text in (each.http, each.tcp, *(each.exec or ())) if text]
    texts += [hook.http or "", *(hook.exec or ())] if hook is not None else []
    for text in texts:
        check_template(text)


@pytest.mark.parametrize(("shape", "heading"), [(Check, "Checks"), (DrainHook, "Drains")])
def test_the_page_has_all_fields_with_their_defaults(shape: type[msgspec.Struct], heading: str) -> None:
    """docs/health.md has a table of the fields of checks and of drain hooks."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for field in msgspec.structs.fields(shape):
        default = "" if field.default in (None, msgspec.NODEFAULT) else str(field.default)
        shown = f"`{default}`" if default.endswith("s") else default
        assert f"| `{field.encode_name}` | {shown} |".replace("|  |", "| |") in section
