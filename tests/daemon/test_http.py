"""The daemon as a server: its socket, its locks, how it stops, and a limit on everything that a client could have too much of."""

import contextlib
import os
import resource
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from msgspec.json import decode, encode

from pyinfrakit.errors import Unreachable
from support.harness import COMMAND, PATIENCE, Daemon, command, environment, eventually, read_reply

MAX_BODY = 4 * 1024 * 1024
BODY = b'{"jsonrpc":"2.0","method":"Instance.Validate","params":{},"id":1}'
HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
REPLY = b'"result":{"Type":"","OK":true}'


def request(body: bytes = BODY) -> bytes:
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def connected(daemon: Daemon, timeout: float = PATIENCE) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.settimeout(timeout)
        yield connection


def assert_works(connection: socket.socket) -> None:
    """Make a call on a connection."""
    connection.sendall(request())
    status, _, body = read_reply(connection)
    assert (200, True) == (status, REPLY in body), body


def assert_answers(daemon: Daemon) -> None:
    """Make a call on a connection of its own."""
    with connected(daemon) as connection:
        assert_works(connection)


def answers(daemon: Daemon) -> bool:
    try:
        daemon.call("Handshake.Hello")
    except Unreachable:
        return False
    return True


def limited(*commands: str) -> Sequence[str]:
    """Give a program that runs shell commands, and then the daemon in their place."""
    return ("/bin/sh", "-c", "; ".join([*commands, 'exec "$@"']), "sh", *COMMAND)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


# --- The socket is the permission


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_the_socket_is_private(run: Callable[..., Daemon], umask: str) -> None:
    """The socket has mode 0600, and its folder lets nobody else put another in its place, whatever the umask."""
    daemon = run(program=limited(f"umask {umask}"))
    assert stat.S_ISSOCK(daemon.socket.lstat().st_mode)
    assert oct(0o600) == oct(mode(daemon.socket))
    assert oct(0) == oct(mode(daemon.socket.parent) & 0o022)
    assert oct(0o600) == oct(mode(daemon.state))


def test_the_socket_is_made_in_private(run: Callable[..., Daemon]) -> None:
    """The folder in which the socket is made is for this user alone, whatever the umask."""
    daemon = run(program=limited("umask 0"))
    hidden = [path for path in daemon.socket.parent.iterdir() if path.is_dir()]
    assert [oct(0o700)] == [oct(mode(path)) for path in hidden]


def test_the_socket_is_never_seen_with_another_mode(home: Path) -> None:
    """Whoever looks all the time sees a socket of mode 0600 only, as daemons start under the widest umask, and end."""
    seen: set[int] = set()
    done = threading.Event()
    path = str(home / "plugins" / "rack1")

    def watch() -> None:
        lstat, is_done = os.lstat, done.is_set
        while not is_done():
            with contextlib.suppress(FileNotFoundError):
                while not is_done():
                    seen.add(lstat(path).st_mode)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in (signal.SIGTERM, signal.SIGKILL) * 5:
            with Daemon(home, program=limited("umask 0")) as daemon:
                assert daemon.stop(number) in (0, -signal.SIGKILL)
    finally:
        done.set()
        watcher.join()
    assert {oct(stat.S_IFSOCK | 0o600)} == {oct(each) for each in seen}


# --- Who has a name


def test_a_stale_socket_is_replaced(daemon: Daemon) -> None:
    """A daemon starts over the socket that a killed one left, and knows its instances."""
    id = daemon.provision()
    daemon.kill()
    assert stat.S_ISSOCK(daemon.socket.lstat().st_mode)
    stale = daemon.socket.lstat().st_ino
    daemon.start()
    assert [id] == daemon.described()
    assert stale != daemon.socket.lstat().st_ino
    assert oct(0o600) == oct(mode(daemon.socket))


@pytest.mark.parametrize("content", ["1", "999999999", "", "not a number\n"])
def test_a_stale_pid_file_is_harmless(home: Path, content: str) -> None:
    """A PID file that was left behind, whatever it says, is replaced by one that holds the daemon's, without a newline."""
    (home / "plugins").mkdir(parents=True)
    pid = home / "plugins" / "rack1.pid"
    pid.write_text(content)
    with Daemon(home) as daemon:
        assert_answers(daemon)
        assert str(daemon.pid) == eventually(pid.read_text)
        assert daemon.stop() == 0
        assert not pid.exists()


@pytest.mark.parametrize("kind", ["file", "empty file", "folder", "link", "dangling link", "pipe"])
def test_what_is_no_socket_is_left_alone(home: Path, kind: str) -> None:
    """Where something other than a socket is at the path, the daemon refuses to start, names it, and does not touch it."""
    path = home / "plugins" / "rack1"
    path.parent.mkdir(parents=True)
    match kind:
        case "file" | "empty file":
            path.write_text("precious" if kind == "file" else "")
        case "folder":
            path.mkdir()
        case "link" | "dangling link":
            path.symlink_to(home if kind == "link" else home / "nothing")
        case "pipe":
            os.mkfifo(path)
    before = path.lstat()
    ended = command(home, "--name", "rack1")
    assert ended.returncode != 0
    assert str(path) in only_line(ended.stderr)
    after = path.lstat()
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (after.st_ino, after.st_mode, after.st_mtime_ns)


def test_a_second_daemon_of_a_name_is_refused(daemon: Daemon) -> None:
    """A daemon whose name is taken ends with one line that names the holder, which goes on unharmed."""
    before = daemon.socket.lstat()
    ended = command(daemon.home, "--name", daemon.name)
    assert ended.returncode != 0
    line = only_line(ended.stderr)
    assert [word for word in (daemon.name, str(daemon.pid), "in use") if word not in line] == [], line
    assert before.st_ino == daemon.socket.lstat().st_ino
    assert str(daemon.pid) == daemon.socket.with_name("rack1.pid").read_text()
    assert_answers(daemon)
    assert daemon.stop() == 0


def test_of_two_that_start_at_once_one_wins(home: Path) -> None:
    """Of two daemons that start at the same instant exactly one runs, and the other ends with one line."""
    home.mkdir()
    daemon = Daemon(home)
    for number in (signal.SIGTERM, signal.SIGKILL) * 5:
        with ExitStack() as stack:
            both = [stack.enter_context(started(home)) for _ in range(2)]
            eventually(lambda both=both: [each.poll() for each in both] != [None, None], "one ends")  # type: ignore[misc]
            (winner,) = [each for each in both if each.poll() is None]
            (loser,) = [each for each in both if each is not winner]
            assert loser.returncode != 0
            assert "in use" in only_line(loser.communicate()[1])
            assert eventually(lambda: answers(daemon), "the other answers")
            assert str(winner.pid) == daemon.socket.with_name("rack1.pid").read_text()
            winner.send_signal(number)
            assert winner.wait(PATIENCE) == (0 if number is signal.SIGTERM else -number)


@contextmanager
def started(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a daemon that says only what is wrong, and do not wait for it."""
    arguments = [*COMMAND, "--name", "rack1", "--log", "1"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment(home)) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("waiting", [0, 2])
def test_another_programs_socket_is_left_alone(home: Path, waiting: int) -> None:
    """A socket on which another program listens, be it too busy to accept, is an error of one line, and stays."""
    path = home / "plugins" / "rack1"
    path.parent.mkdir(parents=True)
    with ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(path))
        other.listen(0)
        for _ in range(waiting):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        before = path.lstat().st_ino
        ended = command(home, "--name", "rack1")
        assert ended.returncode != 0
        line = only_line(ended.stderr)
        assert [word for word in ("rack1", "in use") if word not in line] == [], line
        assert before == path.lstat().st_ino
        assert not path.with_name("rack1.pid").exists()


def test_a_state_file_has_one_daemon(daemon: Daemon) -> None:
    """A daemon of another name on a state file that is in use is refused in one line that names the holder."""
    before = daemon.state.read_bytes()
    ended = command(daemon.home, "--name", "rack2", "--state", str(daemon.state))
    assert ended.returncode != 0
    line = only_line(ended.stderr)
    assert [word for word in (daemon.name, str(daemon.pid), str(daemon.state)) if word not in line] == [], line
    assert {"rack1", "rack1.pid"} == {path.name for path in daemon.socket.parent.iterdir() if not path.is_dir()}
    assert before == daemon.state.read_bytes()
    assert len(daemon.provision()) > 0


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """A socket's path that the system could not take is one line that names it and says so."""
    home = tmp_path / ("x" * 100)
    home.mkdir()
    ended = command(home, "--name", "rack1")
    assert ended.returncode != 0
    line = only_line(ended.stderr)
    assert [word for word in (str(home / "plugins" / "rack1"), "too long") if word not in line] == [], line


# --- How it stops


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(daemon: Daemon, number: signal.Signals) -> None:
    """At SIGTERM or SIGINT the daemon ends with 0 and leaves nothing but its state file, also with idle connections open."""
    daemon.provision()
    with connected(daemon) as idle, connected(daemon):
        assert_works(idle)
        assert daemon.stop(number) == 0
    assert [] == [path.name for path in daemon.socket.parent.iterdir() if not path.is_dir()]
    assert ["rack1.json"] == [path.name for path in daemon.state.parent.iterdir()]
    assert [] == [path for path in daemon.socket.parent.rglob("*") if not path.is_dir()]


def test_a_provision_in_flight_is_answered_at_a_stop(simulated: Daemon) -> None:
    """A provision that waits for the provider when the daemon is stopped is answered with its ID, which the next start knows."""
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(simulated.provision, {"delay": 60})
        (id,) = eventually(simulated.described, "the instance is described")
        assert not slow.done()
        assert simulated.stop() == 0
        assert id == slow.result(PATIENCE)
    assert not simulated.socket.exists()
    simulated.start()
    assert [id] == simulated.described()


def test_requests_that_never_end_do_not_keep_it(daemon: Daemon) -> None:
    """Clients that are half-way through a request do not keep a daemon from stopping."""
    with connected(daemon) as in_head, connected(daemon) as in_body:
        in_head.sendall(HEAD)
        in_body.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert_answers(daemon)
        assert daemon.stop() == 0


# --- Limits


def test_a_large_body_need_not_be_sent(daemon: Daemon) -> None:
    """A body that says it is over 4 MiB is refused by 413, with the limit, before it is sent; the connection is closed."""
    with connected(daemon) as connection:
        connection.sendall(HEAD + f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode())
        status, headers, text = read_reply(connection)
        assert_answers(daemon)
        assert (413, "close") == (status, headers["connection"])
        assert str(MAX_BODY) in text.decode()


def test_a_client_that_asks_first_is_told(daemon: Daemon) -> None:
    """A client that expects 100-continue gets it for a body that is taken, and 413 in its place for one too large."""
    expect = HEAD + b"Expect: 100-continue\r\n"
    with connected(daemon) as connection:
        connection.sendall(expect + f"Content-Length: {len(BODY)}\r\n\r\n".encode())
        assert read_reply(connection)[0] == 100
        connection.sendall(BODY)
        assert read_reply(connection)[0] == 200
    assert daemon.exchange(expect + f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode())[0] == 413


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_a_body_in_chunks_is_taken(daemon: Daemon) -> None:
    """A body that comes in chunks is read to its end."""
    data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(BODY[:10]) + chunk(BODY[10:]) + chunk(b"")
    status, _, body = daemon.exchange(data)
    assert (200, True) == (status, REPLY in body)


def test_a_body_in_chunks_has_the_same_limit(daemon: Daemon) -> None:
    """A body that comes in chunks without end is refused by 413, with the limit, and others are answered meanwhile."""
    with connected(daemon) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for number in range(200):
                connection.sendall(chunk(b" " * 65536))
                if number == 50:
                    assert_answers(daemon)
        status, _, text = read_reply(connection)
    assert status == 413
    assert str(MAX_BODY) in text.decode()
    assert_answers(daemon)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"POST /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", "8192 bytes"),
        (HEAD + b"X: " + b"a" * 9000 + b"\r\n\r\n", "8192 bytes"),
        (HEAD + b"a" * 9000 + b": x\r\n\r\n", "8192 bytes"),
        (HEAD + b"X: " + b"a" * 1_000_000, "8192 bytes"),
        (HEAD + b"".join(b"X-%d: x\r\n" % number for number in range(200)) + b"\r\n", "Too many headers"),
        (HEAD + b"X: x\r\n" * 100_000, "Too many headers"),
    ],
    ids=["path", "value", "name", "value without end", "200 headers", "headers without end"],
)
def test_headers_have_limits(daemon: Daemon, start: bytes, words: str) -> None:
    """A line of a request's head that is over 8 KiB, or too many of them, is 400 or 431 with a text; others are answered."""
    with connected(daemon) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(start)
        status, _, text = read_reply(connection)
        assert_answers(daemon)
    assert status in (400, 431)
    assert words in text.decode()


def test_headers_below_the_limits_are_taken(daemon: Daemon) -> None:
    """A header of almost 8 KiB, and some dozens of them, are taken."""
    more = b"X: " + b"a" * 8000 + b"\r\n" + b"".join(b"X-%d: x\r\n" % number for number in range(60))
    assert daemon.exchange(HEAD + more + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)[0] == 200


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"\r\n\r\n\r\n\x00", b"POST / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_http_is_refused(daemon: Daemon, start: bytes) -> None:
    """Bytes that are no HTTP are answered by 400 or by nothing, and others are answered."""
    with connected(daemon) as connection:
        connection.sendall(start)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.0 400", b"")
        assert_answers(daemon)


def test_what_a_client_gets_wrong_is_not_logged(daemon: Daemon) -> None:
    """A secret in a request whose length is wrong, so that its rest looks like a request of its own, is in no log."""
    secret = b"join-token-4711"
    body = b'{"jsonrpc":"2.0","method":"Instance.Provision","params":{"Spec":{"Init":"' + secret + b'"}},"id":1}'
    for length in (len(body) - len(secret) - 11, 2, 0):
        with connected(daemon) as connection:
            connection.sendall(
                HEAD + f"Content-Length: {length}\r\n\r\n".encode() + body + b"\r\nX: " + secret + b"\r\n\r\n"
            )
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert_answers(daemon)
    daemon.stop()
    assert secret.decode() not in daemon.log
    assert "Traceback" not in daemon.log


def test_a_request_may_come_byte_by_byte(daemon: Daemon) -> None:
    """A request that comes in the smallest pieces is answered like any other."""
    with connected(daemon) as connection:
        for byte in request():
            connection.sendall(bytes([byte]))
        assert read_reply(connection)[0] == 200


def test_requests_may_be_sent_ahead(daemon: Daemon) -> None:
    """Requests that are sent before the replies to earlier ones are answered in their order."""
    with connected(daemon) as connection, Traffic(connection) as traffic:
        replies = traffic.calls(*[("Validate", "{}"), ("Nope", "{}"), ("Destroy", '{"Instance":"x"}')] * 30)
    assert [None, -32601, -32000] * 30 == [decode(reply).get("error", {}).get("code") for reply in replies]


# --- Replies


@pytest.fixture
def full(daemon: Daemon) -> Daemon:
    """A daemon whose description takes megabytes."""
    small = [{"Properties": {"note": f"number {number}"}} for number in range(400)]
    large = [{"Properties": {"note": "x" * 40_000}, "Tags": {"size": "large"}} for _ in range(50)]
    for start in range(0, 400, 100):
        provision_all(daemon, small[start : start + 100])
    provision_all(daemon, large)
    return daemon


def provision_all(daemon: Daemon, specs: Sequence[Any]) -> None:
    calls = [{"jsonrpc": "2.0", "method": "Instance.Provision", "params": {"Spec": spec}, "id": 1} for spec in specs]
    status, _, body = daemon.post(encode(calls))
    assert (200, len(specs)) == (status, body.count(b'"result"'))


def describe(**tags: str) -> bytes:
    params = {"Tags": tags, "Properties": True}
    return request(encode({"jsonrpc": "2.0", "method": "Instance.DescribeInstances", "params": params, "id": 1}))


@pytest.mark.parametrize("tags", [{}, {"size": "large"}], ids=["all", "some"])
def test_large_replies_come_whole(full: Daemon, tags: dict[str, str]) -> None:
    """A reply of megabytes is the same each time, for a client that is slow, and for one that asks twice at once."""
    _, headers, body = full.exchange(describe(**tags))
    assert len(decode(body)["result"]["Descriptions"]) == (50 if tags else 450)
    assert ("application/json", str(len(body))) == (headers["content-type"], headers["content-length"])
    for _ in range(2):
        assert body == full.exchange(describe(**tags))[2]
    with connected(full) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(describe(**tags) * 2)
        time.sleep(0.3)
        twice = [read_reply_bytewise(slow), read_reply_bytewise(slow)]
    assert [body, body] == twice


def read_reply_bytewise(connection: socket.socket) -> bytes:
    """Read one reply, and not a byte of the next."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    parts = []
    while left:
        parts.append(connection.recv(min(left, 50_000)))
        left -= len(parts[-1])
    return b"".join(parts)


def test_a_client_may_leave_in_the_middle_of_a_reply(full: Daemon) -> None:
    """It is nothing to log, and others are answered."""
    for taken in (0, 1, 100_000):
        with connected(full) as connection:
            connection.sendall(describe() * 3)
            left = taken
            while left:
                left -= len(connection.recv(left))
    assert_answers(full)
    assert 0 == full.stop()
    assert "Traceback" not in full.log
    assert "ERROR" not in full.log


@pytest.mark.parametrize("tags", [{"none": "x"}, {}], ids=["small", "large"])
@pytest.mark.parametrize(
    ("version", "header", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
def test_a_connection_is_kept_as_http_says(
    full: Daemon, tags: dict[str, str], version: str, header: str, kept: bool
) -> None:
    """It is closed after a reply where the client says so, or is of HTTP 1.0 and does not say the contrary."""
    asked = describe(**tags).replace(b"HTTP/1.1\r\n", f"HTTP/{version}\r\n{header}".encode(), 1)
    with connected(full) as connection:
        connection.sendall(asked)
        status, headers, body = read_reply(connection)
        assert (200, 0 if tags else 450) == (status, len(decode(body)["result"]["Descriptions"]))
        assert kept == (headers.get("connection", "close" if version == "1.0" else "keep-alive") == "keep-alive")
        if kept:
            assert_works(connection)
        else:
            assert b"" == connection.recv(1)


# --- Clients that are slow: these wait, so they all do so at once


def until_closed(connection: socket.socket, start: float) -> tuple[float, bytes]:
    """Wait for a connection to be closed; give how long after *start* it was, or what came instead, and what that was."""
    data, first = b"", 0.0
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(65536):
            first = first or time.monotonic() - start
            data += more
    return first or time.monotonic() - start, data


def half_sent(daemon: Daemon, start: bytes) -> tuple[float, bytes]:
    begin = time.monotonic()
    with connected(daemon, 30) as connection:
        connection.sendall(start)
        return until_closed(connection, begin)


def trickled(daemon: Daemon, start: bytes, more: bytes) -> tuple[float, bytes]:
    """Send a request that goes on for ever, a little each second; give when it was answered or closed, and what came."""
    begin = time.monotonic()
    with connected(daemon, 1) as connection:
        connection.sendall(start)
        while time.monotonic() - begin < 30:
            try:
                return time.monotonic() - begin, connection.recv(65536)
            except TimeoutError:
                connection.sendall(more)
    return time.monotonic() - begin, b"it was not closed"


def half_sent_later(daemon: Daemon) -> tuple[float, bytes]:
    """Send half of a head on a connection that was used before."""
    with connected(daemon, 30) as connection:
        assert_works(connection)
        begin = time.monotonic()
        connection.sendall(HEAD)
        return until_closed(connection, begin)


def half_sent_behind(daemon: Daemon) -> tuple[float, bytes]:
    """Send a request and half of the next in one piece."""
    begin = time.monotonic()
    with connected(daemon, 90) as connection:
        connection.sendall(request() + HEAD)
        assert read_reply(connection)[0] == 200
        return until_closed(connection, begin)


def half_sent_after_refusal(daemon: Daemon) -> tuple[float, bytes]:
    """Send half of a head after a request that was refused before its body had come."""
    begin = time.monotonic()
    with connected(daemon, 90) as connection:
        connection.sendall(HEAD.replace(b"json", b"xml") + b"Content-Length: 10\r\n\r\n")
        assert read_reply(connection)[0] == 415
        connection.sendall(b"0123456789" + HEAD)
        return until_closed(connection, begin)


def idle(daemon: Daemon, is_used: bool) -> tuple[float, bytes]:
    begin = time.monotonic()
    with connected(daemon, 90) as connection:
        if is_used:
            assert_works(connection)
        return until_closed(connection, begin)


def used_again(daemon: Daemon, is_used: bool) -> bool:
    """Say whether a connection still works after it idled for 12 s."""
    with connected(daemon) as connection:
        if is_used:
            assert_works(connection)
        time.sleep(12)
        assert_works(connection)
    return True


@pytest.mark.long
@pytest.mark.timeout(150)
def test_slow_clients_are_let_go(daemon: Daemon) -> None:
    """A request's head, and its body, may take 10 s, and are then answered by 408; a connection may idle for 60 s."""
    body = HEAD + b"Content-Length: 100\r\n\r\n"
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with ThreadPoolExecutor(20) as pool:
        slow = {
            "half-sent line": pool.submit(half_sent, daemon, b"POST / HT"),
            "half-sent head": pool.submit(half_sent, daemon, HEAD),
            "half-sent head of a second request": pool.submit(half_sent_later, daemon),
            "trickled head": pool.submit(trickled, daemon, HEAD + b"X: ", b"x"),
            "no body": pool.submit(half_sent, daemon, body),
            "half-sent body": pool.submit(half_sent, daemon, body + b"{"),
            "half-sent chunk": pool.submit(half_sent, daemon, chunked + b"ff\r\n{"),
            "trickled body": pool.submit(trickled, daemon, body, b" "),
            "trickled chunks": pool.submit(trickled, daemon, chunked, b"1\r\n \r\n"),
        }
        again = [pool.submit(used_again, daemon, is_used) for is_used in (False, True)]
        idles = {
            "used once": pool.submit(idle, daemon, True),
            "never used": pool.submit(idle, daemon, False),
        }
        later = {
            "half-sent head behind a request": pool.submit(half_sent_behind, daemon),
            "half-sent head after a refusal": pool.submit(half_sent_after_refusal, daemon),
        }
        for _ in range(12):
            assert_answers(daemon)
            time.sleep(1)
        told = {name: each.result() for name, each in slow.items()}
        assert {} == {name: (after, text) for name, (after, text) in told.items() if not 8 <= after <= 15}
        assert {b"HTTP/1.1 408"} == {text[:12] for _, text in told.values()}
        assert [] == [name for name, (_, text) in told.items() if b"10 s" not in text]
        assert [True, True] == [each.result() for each in again]
        ends = {name: each.result() for name, each in idles.items()}
        assert {} == {name: end for name, end in ends.items() if end[1] != b"" or not 59 <= end[0] <= 75}
        assert {} == {name: each.result() for name, each in later.items() if each.result()[0] > 75}


# --- Many


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have enough files open for a thousand connections and more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(3000, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_a_thousand_connections_work_at_once(run: Callable[..., Daemon]) -> None:
    """1,000 connections work at once, also under a usual limit of files; one more is told 503; closed ones make room."""
    daemon = run(program=limited("ulimit -S -n 256"))
    with ExitStack() as stack:
        first = stack.enter_context(connected(daemon))
        assert_works(first)
        connections = [first, *(stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(999))]
        for connection in connections[1:]:
            connection.settimeout(PATIENCE)  # before it connects: as in Go, a backlog that is full is then an error
            connection.connect(str(daemon.socket))
        for _ in range(2):
            for connection in connections:
                connection.sendall(request())
            assert {200} == {read_reply(connection)[0] for connection in connections}
        for _ in range(3):
            with connected(daemon) as refused:
                status, headers, text = read_reply(refused)
                assert (503, "close") == (status, headers["connection"])
                assert "1000" in text.decode()
                assert refused.recv(1) == b""
            assert_works(first)
        for connection in connections[-10:]:
            connection.close()
        assert eventually(lambda: answers(daemon), "there is room again")
        for _ in range(10):
            assert_works(stack.enter_context(connected(daemon)))
        assert_works(first)


def test_connections_leave_nothing_behind(daemon: Daemon) -> None:
    """However connections end, the daemon keeps no file of theirs, and none of their places."""
    process = psutil.Process(daemon.pid)
    assert_answers(daemon)
    before = process.num_fds()
    for _ in range(300):
        for data in (
            b"",
            b"POST",
            HEAD,
            request(),
            request()[:-3],
            b"nonsense\r\n\r\n",
            HEAD + b"Content-Length: 9999999\r\n\r\n",
        ):
            with connected(daemon) as connection:
                connection.sendall(data)
    assert eventually(lambda: process.num_fds() <= before, "files are closed")
    assert_answers(daemon)


class Traffic:
    """Calls on one connection, many sent ahead."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rwb")
        self.sent = 0

    def __enter__(self) -> "Traffic":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def calls(self, *params: tuple[str, str]) -> list[bytes]:
        """Make calls, `(method, params)`, in one go; give the bodies of the replies."""
        for method, text in params:
            self._file.write(
                request(f'{{"jsonrpc":"2.0","method":"Instance.{method}","params":{text},"id":1}}'.encode())
            )
        self._file.flush()
        self.sent += len(params)
        return [self._reply() for _ in params]

    def _reply(self) -> bytes:
        length = 0
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return self._file.read(length)

    def round(self) -> None:
        """Validate and describe many times; provision a few, and destroy them."""
        spec = '{"Spec":{"Properties":{"cpu":2},"Tags":{"infrakit.group":"w"}}}'
        made = [decode(reply)["result"]["ID"] for reply in self.calls(*[("Provision", spec)] * 10)]
        for _ in range(4):
            replies = self.calls(*[("Validate", spec), ("DescribeInstances", '{"Tags":{"infrakit.group":"w"}}')] * 120)
            assert all(b'"result"' in reply for reply in replies)
        replies = self.calls(*[("Destroy", f'{{"Instance":"{id}"}}') for id in made])
        assert all(b'"OK":true' in reply for reply in replies)


@pytest.mark.timeout(150)
def test_memory_does_not_grow(daemon: Daemon) -> None:
    """After 20,000 requests, 80,000 more take no more memory: nothing is kept of what is over."""
    process = psutil.Process(daemon.pid)
    with connected(daemon) as connection, Traffic(connection) as traffic:
        while traffic.sent < 20_000:
            traffic.round()
        before = process.memory_info().rss
        while traffic.sent < 100_000:
            traffic.round()
        after = process.memory_info().rss
    assert after - before < 5_000_000, f"{before:,} bytes grew to {after:,}"
    assert eventually(lambda: [] == daemon.saved()["NonFunctional"], "what was destroyed is gone")
