"""The daemon as a server: its socket and locks, its stop, and its limits on clients."""

import contextlib
import http.client
import io
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


def format_request(body: bytes = BODY) -> bytes:
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def assert_works(connection: socket.socket) -> None:
    """Make a call on a connection."""
    connection.sendall(format_request())
    status, _, body = read_reply(connection)
    assert (200, True) == (status, REPLY in body), body


def assert_answers(daemon: Daemon) -> None:
    """Make a call on a new connection."""
    with daemon.connect() as connection:
        assert_works(connection)


def is_answering(daemon: Daemon) -> bool:
    try:
        daemon.call("Handshake.Hello")
    except Unreachable:
        return False
    return True


def limit(*commands: str) -> Sequence[str]:
    """Return a program that runs shell commands and then replaces itself with the daemon."""
    return ("/bin/sh", "-c", "; ".join([*commands, 'exec "$@"']), "sh", *COMMAND)


def read_mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


# --- The socket as permission


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_the_socket_is_private(run: Callable[..., Daemon], umask: str) -> None:
    """The socket has mode 0600 in a folder that only its owner can write, whatever the umask."""
    daemon = run(program=limit(f"umask {umask}"))
    assert stat.S_ISSOCK(daemon.socket.lstat().st_mode)
    assert oct(0o600) == oct(read_mode(daemon.socket))
    assert oct(0) == oct(read_mode(daemon.socket.parent) & 0o022)
    assert oct(0o600) == oct(read_mode(daemon.state))


def test_the_socket_is_created_in_a_private_folder(run: Callable[..., Daemon]) -> None:
    """The daemon creates the socket in a folder of mode 0700, whatever the umask."""
    daemon = run(program=limit("umask 0"))
    hidden = [path for path in daemon.socket.parent.iterdir() if path.is_dir()]
    assert [oct(0o700)] == [oct(read_mode(path)) for path in hidden]


def test_the_socket_never_has_another_mode(home: Path) -> None:
    """A process that watches continuously never sees a socket of another mode than 0600 as daemons start and stop."""
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
            with Daemon(home, program=limit("umask 0")) as daemon:
                assert daemon.stop(number) in (0, -signal.SIGKILL)
    finally:
        done.set()
        watcher.join()
    assert {oct(stat.S_IFSOCK | 0o600)} == {oct(each) for each in seen}


# --- Names in use


def test_a_stale_socket_is_replaced(daemon: Daemon) -> None:
    """A daemon replaces the socket that a killed one left, and has its instances."""
    id = daemon.provision()
    daemon.kill()
    assert stat.S_ISSOCK(daemon.socket.lstat().st_mode)
    stale = daemon.socket.lstat().st_ino
    daemon.start()
    assert [id] == daemon.described()
    assert stale != daemon.socket.lstat().st_ino
    assert oct(0o600) == oct(read_mode(daemon.socket))


@pytest.mark.parametrize("content", ["1", "999999999", "", "not a number\n"])
def test_a_stale_pid_file_is_harmless(home: Path, content: str) -> None:
    """A daemon replaces a stale PID file, whatever its content, with one that contains its own PID without a newline."""
    (home / "plugins").mkdir(parents=True)
    pid = home / "plugins" / "rack1.pid"
    pid.write_text(content)
    with Daemon(home) as daemon:
        assert_answers(daemon)
        assert str(daemon.pid) == eventually(pid.read_text)
        assert daemon.stop() == 0
        assert not pid.exists()


@pytest.mark.parametrize("entry", ["file", "empty file", "folder", "link", "dangling link", "pipe"])
def test_another_file_at_the_socket_s_path_is_left_alone(home: Path, entry: str) -> None:
    """If another kind of file is at the socket's path, the daemon refuses to start, names it, and leaves it alone."""
    path = home / "plugins" / "rack1"
    path.parent.mkdir(parents=True)
    match entry:
        case "file" | "empty file":
            path.write_text("precious" if entry == "file" else "")
        case "folder":
            path.mkdir()
        case "link" | "dangling link":
            path.symlink_to(home if entry == "link" else home / "nothing")
        case "pipe":
            os.mkfifo(path)
    before = path.lstat()
    result = command(home, "--name", "rack1")
    assert result.returncode != 0
    assert str(path) in only_line(result.stderr)
    after = path.lstat()
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (after.st_ino, after.st_mode, after.st_mtime_ns)


def test_a_second_daemon_of_a_name_is_refused(daemon: Daemon) -> None:
    """A second daemon of the same name exits with one line that names the first one, which continues."""
    before = daemon.socket.lstat()
    result = command(daemon.home, "--name", daemon.name)
    assert result.returncode != 0
    line = only_line(result.stderr)
    assert [word for word in (daemon.name, str(daemon.pid), "in use") if word not in line] == [], line
    assert before.st_ino == daemon.socket.lstat().st_ino
    assert str(daemon.pid) == daemon.socket.with_name("rack1.pid").read_text()
    assert_answers(daemon)
    assert daemon.stop() == 0


def test_one_of_two_simultaneous_daemons_wins(home: Path) -> None:
    """If two daemons of one name start at the same instant, one runs and the other exits with one line."""
    home.mkdir()
    daemon = Daemon(home)
    for number in (signal.SIGTERM, signal.SIGKILL) * 5:
        with ExitStack() as stack:
            both = [stack.enter_context(start_process(home)) for _ in range(2)]
            eventually(lambda both=both: [each.poll() for each in both] != [None, None], "one daemon exits")  # type: ignore[misc]
            (winner,) = [each for each in both if each.poll() is None]
            (loser,) = [each for each in both if each is not winner]
            assert loser.returncode != 0
            assert "in use" in only_line(loser.communicate()[1])
            assert eventually(lambda: is_answering(daemon), "the other daemon answers")
            assert str(winner.pid) == daemon.socket.with_name("rack1.pid").read_text()
            winner.send_signal(number)
            assert winner.wait(PATIENCE) == (0 if number is signal.SIGTERM else -number)


@contextmanager
def start_process(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a daemon that logs only errors, without waiting for it."""
    arguments = [*COMMAND, "--name", "rack1", "--log", "1"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment(home)) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("waiting", [0, 2])
def test_another_program_s_socket_is_left_alone(home: Path, waiting: int) -> None:
    """A socket on which another program listens, even if it is too busy to accept, stops the start and stays."""
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
        result = command(home, "--name", "rack1")
        assert result.returncode != 0
        line = only_line(result.stderr)
        assert [word for word in ("rack1", "in use") if word not in line] == [], line
        assert before == path.lstat().st_ino
        assert not path.with_name("rack1.pid").exists()


def test_a_state_file_has_one_daemon(daemon: Daemon) -> None:
    """A daemon refuses another one's state file with one line that names that daemon."""
    before = daemon.state.read_bytes()
    result = command(daemon.home, "--name", "rack2", "--state", str(daemon.state))
    assert result.returncode != 0
    line = only_line(result.stderr)
    assert [word for word in (daemon.name, str(daemon.pid), str(daemon.state)) if word not in line] == [], line
    assert {"rack1", "rack1.pid"} == {path.name for path in daemon.socket.parent.iterdir() if not path.is_dir()}
    assert before == daemon.state.read_bytes()
    assert len(daemon.provision()) > 0


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """A path that is too long for a socket causes a one-line error that names it."""
    home = tmp_path / ("x" * 100)
    home.mkdir()
    result = command(home, "--name", "rack1")
    assert result.returncode != 0
    line = only_line(result.stderr)
    assert [word for word in (str(home / "plugins" / "rack1"), "too long") if word not in line] == [], line


# --- Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_daemon_cleanly(daemon: Daemon, number: signal.Signals) -> None:
    """At SIGTERM or SIGINT, a daemon exits with 0 and leaves only its state file, even if idle connections are open."""
    daemon.provision()
    with daemon.connect() as idle, daemon.connect():
        assert_works(idle)
        assert daemon.stop(number) == 0
    assert [] == [path.name for path in daemon.socket.parent.iterdir() if not path.is_dir()]
    assert ["rack1.json"] == [path.name for path in daemon.state.parent.iterdir()]
    assert [] == [path for path in daemon.socket.parent.rglob("*") if not path.is_dir()]


def test_a_provision_in_flight_is_answered_at_a_stop(simulated: Daemon) -> None:
    """A stop answers a provision in flight with its ID, which the next start has."""
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(simulated.provision, {"delay": 60})
        (id,) = eventually(simulated.described, "the instance is described")
        assert not slow.done()
        assert simulated.stop() == 0
        assert id == slow.result(PATIENCE)
    assert not simulated.socket.exists()
    simulated.start()
    assert [id] == simulated.described()


def test_incomplete_requests_do_not_delay_a_stop(daemon: Daemon) -> None:
    """Clients in the middle of a request do not keep a daemon from stopping."""
    with daemon.connect() as in_head, daemon.connect() as in_body:
        in_head.sendall(HEAD)
        in_body.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        assert_answers(daemon)
        assert daemon.stop() == 0


# --- Limits


def test_a_large_body_is_refused_early(daemon: Daemon) -> None:
    """A body that claims more than 4 MiB is refused by 413 with the limit before it is sent, and the connection closes."""
    with daemon.connect() as connection:
        connection.sendall(HEAD + f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode())
        status, headers, text = read_reply(connection)
        assert_answers(daemon)
        assert (413, "close") == (status, headers["connection"])
        assert str(MAX_BODY) in text.decode()


def test_a_client_may_ask_before_sending_a_body(daemon: Daemon) -> None:
    """A client that expects 100-continue gets it for an acceptable body, and 413 for a body that is too large."""
    expect = HEAD + b"Expect: 100-continue\r\n"
    with daemon.connect() as connection:
        connection.sendall(expect + f"Content-Length: {len(BODY)}\r\n\r\n".encode())
        assert read_reply(connection)[0] == 100
        connection.sendall(BODY)
        assert read_reply(connection)[0] == 200
    assert daemon.exchange(expect + f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode())[0] == 413


def format_chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_a_chunked_body_is_accepted(daemon: Daemon) -> None:
    """A chunked body is read completely."""
    data = (
        HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + format_chunk(BODY[:10])
        + format_chunk(BODY[10:])
        + format_chunk(b"")
    )
    status, _, body = daemon.exchange(data)
    assert (200, True) == (status, REPLY in body)


def test_a_chunked_body_has_the_same_limit(daemon: Daemon) -> None:
    """An endless chunked body is refused by 413 with the limit, and other clients get answers meanwhile."""
    with daemon.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for number in range(200):
                connection.sendall(format_chunk(b" " * 65536))
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
    """A head with a line over 8 KiB or too many headers is 400 or 431, and other clients get answers."""
    with daemon.connect() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(start)
        status, _, text = read_reply(connection)
        assert_answers(daemon)
    assert status in (400, 431)
    assert words in text.decode()


def test_headers_below_the_limits_are_accepted(daemon: Daemon) -> None:
    """A header of almost 8 KiB and several dozen headers are accepted."""
    more = b"X: " + b"a" * 8000 + b"\r\n" + b"".join(b"X-%d: x\r\n" % number for number in range(60))
    assert daemon.exchange(HEAD + more + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)[0] == 200


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"\r\n\r\n\r\n\x00", b"POST / HTTP/9.9\r\n\r\n"]
)
def test_other_protocols_are_refused(daemon: Daemon, start: bytes) -> None:
    """Bytes that are not HTTP are answered by 400 or not at all, and other clients get answers."""
    with daemon.connect() as connection:
        connection.sendall(start)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.0 400", b"")
        assert_answers(daemon)


def test_invalid_requests_are_not_logged(daemon: Daemon) -> None:
    """A secret in a request of the wrong length, whose rest looks like another request, is in no log."""
    secret = b"join-token-4711"
    body = b'{"jsonrpc":"2.0","method":"Instance.Provision","params":{"Spec":{"Init":"' + secret + b'"}},"id":1}'
    for length in (len(body) - len(secret) - 11, 2, 0):
        with daemon.connect() as connection:
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


def test_a_request_may_arrive_byte_by_byte(daemon: Daemon) -> None:
    """A request that arrives in single bytes is answered."""
    with daemon.connect() as connection:
        for byte in format_request():
            connection.sendall(bytes([byte]))
        assert read_reply(connection)[0] == 200


def test_requests_may_be_pipelined(daemon: Daemon) -> None:
    """Requests sent before the replies to earlier ones are answered in order."""
    with daemon.connect() as connection, Traffic(connection) as traffic:
        replies = traffic.send_calls(*[("Validate", "{}"), ("Nope", "{}"), ("Destroy", '{"Instance":"x"}')] * 30)
    assert [None, -32601, -32000] * 30 == [decode(reply).get("error", {}).get("code") for reply in replies]


# --- Replies


@pytest.fixture
def full_daemon(daemon: Daemon) -> Daemon:
    """Return a daemon whose description is several megabytes."""
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


def format_describe(**tags: str) -> bytes:
    params = {"Tags": tags, "Properties": True}
    return format_request(encode({"jsonrpc": "2.0", "method": "Instance.DescribeInstances", "params": params, "id": 1}))


@pytest.mark.parametrize("tags", [{}, {"size": "large"}], ids=["all", "some"])
def test_large_replies_are_complete(full_daemon: Daemon, tags: dict[str, str]) -> None:
    """A reply of megabytes is always the same, even for a slow client or one that sends two requests at once."""
    _, headers, body = full_daemon.exchange(format_describe(**tags))
    assert len(decode(body)["result"]["Descriptions"]) == (50 if tags else 450)
    assert "application/json" == headers["content-type"]
    assert headers.get("content-length", str(len(body))) == str(len(body))
    for _ in range(2):
        assert body == full_daemon.exchange(format_describe(**tags))[2]
    with full_daemon.connect() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(format_describe(**tags) * 2)
        time.sleep(0.3)
        twice = [read_one_reply(slow), read_one_reply(slow)]
    assert [body, body] == twice


def read_one_reply(connection: socket.socket) -> bytes:
    """Read one reply and no byte of the next one."""
    file = connection.makefile("rb", buffering=0)
    file.readline()
    headers = http.client.parse_headers(file)
    if (length := headers["Content-Length"]) is not None:
        return read_bytes(file, int(length))
    parts = []
    while size := int(file.readline(), 16):
        parts.append(read_bytes(file, size))
        file.readline()
    file.readline()
    return b"".join(parts)


def read_bytes(file: io.RawIOBase, size: int) -> bytes:
    parts = []
    while size:
        parts.append(file.read(min(65536, size)) or b"")
        size -= len(parts[-1])
    return b"".join(parts)


def test_a_client_may_disconnect_within_a_reply(full_daemon: Daemon) -> None:
    """A client that disconnects within a reply causes no log message, and other clients get answers."""
    for taken in (0, 1, 100_000):
        with full_daemon.connect() as connection:
            connection.sendall(format_describe() * 3)
            left = taken
            while left:
                left -= len(connection.recv(left))
    assert_answers(full_daemon)
    assert 0 == full_daemon.stop()
    assert "Traceback" not in full_daemon.log
    assert "ERROR" not in full_daemon.log


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
def test_a_connection_persists_as_http_requires(
    full_daemon: Daemon, tags: dict[str, str], version: str, header: str, kept: bool
) -> None:
    """A connection closes after a reply if the client asks for it, or uses HTTP 1.0 without keep-alive.

    In HTTP 1.0, the end of a reply that is encoded while it is sent is that of the connection.
    """
    kept = kept and bool(tags or version == "1.1")
    asked = format_describe(**tags).replace(b"HTTP/1.1\r\n", f"HTTP/{version}\r\n{header}".encode(), 1)
    with full_daemon.connect() as connection:
        connection.sendall(asked)
        status, headers, body = read_reply(connection)
        assert (200, 0 if tags else 450) == (status, len(decode(body)["result"]["Descriptions"]))
        assert kept == (headers.get("connection", "close" if version == "1.0" else "keep-alive") == "keep-alive")
        if kept:
            assert_works(connection)
        else:
            assert b"" == connection.recv(1)


# --- Slow clients: they wait, so all of them run in parallel


def wait_until_closed(connection: socket.socket, start: float) -> tuple[float, bytes]:
    """Wait until the connection closes, and return all data with the seconds from *start* to its first byte or the close."""
    data, first = b"", 0.0
    with contextlib.suppress(ConnectionResetError):
        while more := connection.recv(65536):
            first = first or time.monotonic() - start
            data += more
    return first or time.monotonic() - start, data


def send_half(daemon: Daemon, start: bytes) -> tuple[float, bytes]:
    begin = time.monotonic()
    with daemon.connect(30) as connection:
        connection.sendall(start)
        return wait_until_closed(connection, begin)


def trickle(daemon: Daemon, start: bytes, more: bytes) -> tuple[float, bytes]:
    """Send an endless request, a piece each second, and return the seconds until a reply or the close, and the reply."""
    begin = time.monotonic()
    with daemon.connect(1) as connection:
        connection.sendall(start)
        while time.monotonic() - begin < 30:
            try:
                return time.monotonic() - begin, connection.recv(65536)
            except TimeoutError:
                connection.sendall(more)
    return time.monotonic() - begin, b"the connection stayed open"


def send_half_later(daemon: Daemon) -> tuple[float, bytes]:
    """Send half of a head on a connection that was already in use."""
    with daemon.connect(30) as connection:
        assert_works(connection)
        begin = time.monotonic()
        connection.sendall(HEAD)
        return wait_until_closed(connection, begin)


def send_half_behind(daemon: Daemon) -> tuple[float, bytes]:
    """Send a request and half of the next one in one piece."""
    begin = time.monotonic()
    with daemon.connect(90) as connection:
        connection.sendall(format_request() + HEAD)
        assert read_reply(connection)[0] == 200
        return wait_until_closed(connection, begin)


def send_half_after_refusal(daemon: Daemon) -> tuple[float, bytes]:
    """Send half of a head after a request that was refused before its body arrived."""
    begin = time.monotonic()
    with daemon.connect(90) as connection:
        connection.sendall(HEAD.replace(b"json", b"xml") + b"Content-Length: 10\r\n\r\n")
        assert read_reply(connection)[0] == 415
        connection.sendall(b"0123456789" + HEAD)
        return wait_until_closed(connection, begin)


def wait_idly(daemon: Daemon, is_used: bool) -> tuple[float, bytes]:
    begin = time.monotonic()
    with daemon.connect(90) as connection:
        if is_used:
            assert_works(connection)
        return wait_until_closed(connection, begin)


def use_again(daemon: Daemon, is_used: bool) -> bool:
    """Check that a connection still works after 12 idle seconds."""
    with daemon.connect() as connection:
        if is_used:
            assert_works(connection)
        time.sleep(12)
        assert_works(connection)
    return True


@pytest.mark.long
@pytest.mark.timeout(150)
def test_slow_clients_time_out(daemon: Daemon) -> None:
    """A request's head and its body may take 10 s each before a 408, and a connection may be idle for 60 s."""
    body = HEAD + b"Content-Length: 100\r\n\r\n"
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with ThreadPoolExecutor(20) as pool:
        slow = {
            "half-sent line": pool.submit(send_half, daemon, b"POST / HT"),
            "half-sent head": pool.submit(send_half, daemon, HEAD),
            "half-sent head of a second request": pool.submit(send_half_later, daemon),
            "trickled head": pool.submit(trickle, daemon, HEAD + b"X: ", b"x"),
            "no body": pool.submit(send_half, daemon, body),
            "half-sent body": pool.submit(send_half, daemon, body + b"{"),
            "half-sent chunk": pool.submit(send_half, daemon, chunked + b"ff\r\n{"),
            "trickled body": pool.submit(trickle, daemon, body, b" "),
            "trickled chunks": pool.submit(trickle, daemon, chunked, b"1\r\n \r\n"),
        }
        again = [pool.submit(use_again, daemon, is_used) for is_used in (False, True)]
        idles = {
            "used once": pool.submit(wait_idly, daemon, True),
            "never used": pool.submit(wait_idly, daemon, False),
        }
        later = {
            "half-sent head behind a request": pool.submit(send_half_behind, daemon),
            "half-sent head after a refusal": pool.submit(send_half_after_refusal, daemon),
        }
        for _ in range(12):
            assert_answers(daemon)
            time.sleep(1)
        outcomes = {name: each.result() for name, each in slow.items()}
        assert {} == {name: (after, text) for name, (after, text) in outcomes.items() if not 8 <= after <= 15}
        assert {b"HTTP/1.1 408"} == {text[:12] for _, text in outcomes.values()}
        assert [] == [name for name, (_, text) in outcomes.items() if b"10 s" not in text]
        assert [True, True] == [each.result() for each in again]
        ends = {name: each.result() for name, each in idles.items()}
        assert {} == {name: end for name, end in ends.items() if end[1] != b"" or not 59 <= end[0] <= 75}
        assert {} == {name: each.result() for name, each in later.items() if each.result()[0] > 75}


# --- Many clients and requests


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise this process's limit on open files to over a thousand connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(3000, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_a_thousand_connections_work_at_once(run: Callable[..., Daemon]) -> None:
    """1,000 connections work at once under a usual file limit; another gets 503 until one of them closes."""
    daemon = run(program=limit("ulimit -S -n 256"))
    with ExitStack() as stack:
        first = stack.enter_context(daemon.connect())
        assert_works(first)
        connections = [first, *(stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(999))]
        for connection in connections[1:]:
            connection.settimeout(PATIENCE)  # Before connecting: as in Go, a full backlog is then an error.
            connection.connect(str(daemon.socket))
        for _ in range(2):
            for connection in connections:
                connection.sendall(format_request())
            assert {200} == {read_reply(connection)[0] for connection in connections}
        for _ in range(3):
            with daemon.connect() as refused:
                status, headers, text = read_reply(refused)
                assert (503, "close") == (status, headers["connection"])
                assert "1000" in text.decode()
                assert refused.recv(1) == b""
            assert_works(first)
        for connection in connections[-10:]:
            connection.close()
        assert eventually(lambda: is_answering(daemon), "a connection is accepted again")
        for _ in range(10):
            assert_works(stack.enter_context(daemon.connect()))
        assert_works(first)


def test_connections_leave_nothing_behind(daemon: Daemon) -> None:
    """Closed connections leave no open file and free their places, however they end."""
    process = psutil.Process(daemon.pid)
    assert_answers(daemon)
    before = process.num_fds()
    for _ in range(300):
        for data in (
            b"",
            b"POST",
            HEAD,
            format_request(),
            format_request()[:-3],
            b"nonsense\r\n\r\n",
            HEAD + b"Content-Length: 9999999\r\n\r\n",
        ):
            with daemon.connect() as connection:
                connection.sendall(data)
    assert eventually(lambda: process.num_fds() <= before, "the files are closed")
    assert_answers(daemon)


class Traffic:
    """Pipelined calls on one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rwb")
        self.sent = 0

    def __enter__(self) -> "Traffic":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def send_calls(self, *params: tuple[str, str]) -> list[bytes]:
        """Send `(method, params)` calls together and return the bodies of the replies."""
        for method, text in params:
            self._file.write(
                format_request(f'{{"jsonrpc":"2.0","method":"Instance.{method}","params":{text},"id":1}}'.encode())
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

    def run_round(self) -> None:
        """Validate and describe many times, provision a few instances, and destroy them."""
        spec = '{"Spec":{"Properties":{"cpu":2},"Tags":{"infrakit.group":"w"}}}'
        ids = [decode(reply)["result"]["ID"] for reply in self.send_calls(*[("Provision", spec)] * 10)]
        for _ in range(4):
            replies = self.send_calls(
                *[("Validate", spec), ("DescribeInstances", '{"Tags":{"infrakit.group":"w"}}')] * 120
            )
            assert all(b'"result"' in reply for reply in replies)
        replies = self.send_calls(*[("Destroy", f'{{"Instance":"{id}"}}') for id in ids])
        assert all(b'"OK":true' in reply for reply in replies)


@pytest.mark.timeout(150)
def test_memory_does_not_grow(daemon: Daemon) -> None:
    """After 20,000 requests, 80,000 more take no more memory."""
    process = psutil.Process(daemon.pid)
    with daemon.connect() as connection, Traffic(connection) as traffic:
        while traffic.sent < 20_000:
            traffic.run_round()
        before = process.memory_info().rss
        while traffic.sent < 100_000:
            traffic.run_round()
        after = process.memory_info().rss
    assert after - before < 5_000_000, f"{before:,} bytes grew to {after:,}"
    assert eventually(lambda: [] == daemon.saved()["NonFunctional"], "the destroyed instances are gone")
