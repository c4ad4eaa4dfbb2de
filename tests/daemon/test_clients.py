"""Clients that take up connections and memory, and what is left for others."""

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import psutil  # type: ignore[import-untyped]
import pytest
from msgspec.json import encode

from pyinfrakit.daemon.bodies import MAX_BODIES, MAX_BODY
from pyinfrakit.daemon.events import MAX_STREAMS
from pyinfrakit.daemon.http import MAX_REPLIES
from support.clients import BODY, HEAD, assert_answers, connect_many, format_request
from support.harness import COMMAND, PATIENCE, Daemon, eventually, read_reply

MEBIBYTE = 1024 * 1024


def format_call(method: str, **params: object) -> bytes:
    return format_request(encode({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}))


def is_accepted(daemon: Daemon) -> bool:
    """Return whether a new connection gets an answer, rather than 503."""
    with daemon.connect(60) as connection:
        return exchange(connection, format_request()) == 200


def fill(daemon: Daemon, count: int) -> None:
    """Provision instances until a description of all takes some megabytes."""
    for _ in range(count // 100):
        calls = [{"jsonrpc": "2.0", "method": "Instance.Provision", "params": {"Spec": {"Tags": {"note": "x" * 9000}}}}]
        daemon.post(encode([{**calls[0], "id": number} for number in range(100)]))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"POST / HT",
        HEAD + b"Content-Length: 100\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{",
        format_request(),
        format_call("Instance.DescribeInstances"),
        format_call("Instance.DescribeInstances") * 20,
        b"GET /info/api.json HTTP/1.1\r\nHost: h\r\n\r\n" * 500,
    ],
    ids=["silent", "head", "body", "chunk", "idle", "reply", "replies", "documents"],
)
def test_connections_that_wait_for_their_clients_make_room(daemon: Daemon, data: bytes) -> None:
    """Other clients get answers within seconds, while 1,000 connections wait for theirs."""
    fill(daemon, 300)
    with connect_many(daemon, 1000, data):
        for _ in range(3):
            assert eventually(lambda: is_accepted(daemon), "another client gets an answer", 60)


@pytest.mark.usefixtures("many_files")
def test_calls_in_progress_make_no_room(simulated: Daemon) -> None:
    """A call in progress keeps its connection while clients that send nothing lose theirs."""
    with ThreadPoolExecutor() as pool:
        call = pool.submit(simulated.provision, {"delay": 6})
        eventually(simulated.described, "the call has begun")
        with connect_many(simulated, 1000, b""):
            assert eventually(lambda: is_accepted(simulated), "another client gets an answer", 20)
            assert [call.result()] == simulated.described()


@pytest.mark.usefixtures("many_files")
def test_streams_that_nobody_reads_make_room(daemon: Daemon) -> None:
    """A new event stream begins, although all streams are in use by readers that read nothing."""
    request = b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n"
    with connect_many(daemon, MAX_STREAMS, request):

        def begin() -> bool:
            with daemon.connect() as connection:
                connection.sendall(request)
                return connection.recv(12) == b"HTTP/1.1 200"

        assert not begin()
        assert eventually(begin, "another stream begins", 20)


def take_slowly(connection: socket.socket, count: int, done: threading.Event) -> None:
    """Take *count* bytes twice a second, until *done*."""
    with suppress(ConnectionError):
        while not done.wait(0.5):
            connection.recv(count)


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_reply_has_a_time_limit(daemon: Daemon) -> None:
    """A connection closes if its client takes nothing of its replies, or only some bytes a second."""
    fill(daemon, 300)
    process = psutil.Process(daemon.pid)
    assert_answers(daemon)
    before = process.num_fds()
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        connections = [stack.enter_context(daemon.connect(120)) for _ in range(5)]
        for connection in connections[:3]:
            connection.sendall(format_call("Instance.DescribeInstances"))
        connections[3].sendall(format_call("Instance.DescribeInstances") * 2)
        connections[4].sendall(b"GET /info/functions.json HTTP/1.1\r\nHost: h\r\n\r\n" * 2000)
        done = threading.Event()
        stack.callback(done.set)
        pool.submit(take_slowly, connections[0], 1, done)
        pool.submit(take_slowly, connections[1], 4096, done)
        pool.submit(take_slowly, connections[2], 20_000, done)
        assert eventually(lambda: process.num_fds() <= before + 1, "all but one are closed", 100)
        done.set()
        connections[2].settimeout(PATIENCE)
        while b']},"id":1}' not in connections[2].recv(65536):
            pass


@pytest.mark.parametrize("start", [b"Content-Length: 4194304\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n400000\r\n"])
def test_unfinished_bodies_share_a_limit(daemon: Daemon, start: bytes) -> None:
    """400 unfinished bodies take little more memory than the limit, and give it back. Others get answers meanwhile."""
    process = psutil.Process(daemon.pid)
    assert_answers(daemon)
    before = process.memory_info().rss
    with connect_many(daemon, 400, HEAD + start + b" " * (MAX_BODY - 100)):
        assert process.memory_info().rss - before < 2.5 * MAX_BODIES
        assert_answers(daemon)
        whole = BODY + b" " * (MAX_BODY - len(BODY))
        assert 200 == daemon.post(whole)[0]
    assert eventually(lambda: process.memory_info().rss - before < 40 * MEBIBYTE, "the memory is given back")


@pytest.mark.usefixtures("many_files")
def test_replies_share_a_limit(daemon: Daemon) -> None:
    """1,000 replies that nobody takes, megabytes each, take little more memory than the limit, and give it back."""
    fill(daemon, 300)
    process = psutil.Process(daemon.pid)
    before = process.memory_info().rss
    with connect_many(daemon, 1000, format_call("Instance.DescribeInstances")):
        assert eventually(lambda: is_accepted(daemon), "another client gets an answer", 60)
        assert process.memory_info().rss - before < 2 * MAX_REPLIES
    assert eventually(lambda: process.memory_info().rss - before < 60 * MEBIBYTE, "the memory is given back")


def test_bodies_of_waiting_calls_share_the_limit(simulated: Daemon) -> None:
    """Calls with large bodies that wait for the provider take no more than the limit. Later ones are refused by 503."""
    spec = {"Properties": {"delay": 30, "note": "x" * (MAX_BODY - 1000)}}
    request = format_call("Instance.Provision", Spec=spec)
    with ExitStack() as stack:
        connections = [stack.enter_context(simulated.connect()) for _ in range(30)]
        with ThreadPoolExecutor(30) as pool:
            statuses = list(pool.map(lambda connection: exchange(connection, request), connections))
    assert {200, 503} == set(statuses)
    assert_answers(simulated)


def exchange(connection: socket.socket, request: bytes) -> int:
    with suppress(BrokenPipeError):
        connection.sendall(request)
    return read_reply(connection)[0]


def test_pipelined_requests_take_little_memory(simulated: Daemon) -> None:
    """A client that sends requests without end while its first call waits does not fill the daemon's memory."""
    process = psutil.Process(simulated.pid)
    with ThreadPoolExecutor() as pool, simulated.connect(2) as connection:
        assert_answers(simulated)
        before = process.memory_info().rss
        connection.sendall(format_call("Instance.Provision", Spec={"Properties": {"delay": 60}}))
        pool.submit(send_all, connection, format_request() * 1000)
        time.sleep(2)
        assert_answers(simulated)
        assert process.memory_info().rss - before < 20 * MEBIBYTE
        connection.shutdown(socket.SHUT_RDWR)


def send_all(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        for _ in range(1000):
            connection.sendall(data)


@pytest.mark.parametrize("number", [128, 64])
def test_few_files_are_enough(run: Callable[..., Daemon], number: int) -> None:
    """Under a hard limit on open files, a daemon takes fewer connections, and still provisions, describes and stops."""
    daemon = run(program=("/bin/sh", "-c", f'ulimit -n {number}; exec "$0" "$@"', *COMMAND))
    assert f"at most {number} files" in daemon.log
    ids = [daemon.provision()]
    with connect_many(daemon, 2 * number, b"") as connections:
        assert b"503" in b"".join(connection.recv(100) for connection in connections[-3:])
        assert eventually(lambda: is_accepted(daemon), "another client gets an answer", 20)
        with suppress(ConnectionError):
            ids += [eventually(lambda: try_provision(daemon), "an instance is provisioned", 20)]
    assert sorted(ids) == sorted(eventually(daemon.described))
    assert daemon.stop() == 0


def try_provision(daemon: Daemon) -> str:
    with daemon.connect() as connection:
        with suppress(BrokenPipeError):
            connection.sendall(format_call("Instance.Provision", Spec={"Properties": {}}))
        status, _, body = read_reply(connection)
    return body.split(b'"ID":"')[1].split(b'"')[0].decode() if status == 200 else ""
