"""Raw HTTP requests, and clients that misuse the socket."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from support.harness import PATIENCE, Daemon, read_reply

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


@contextmanager
def connect_many(daemon: Daemon, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Open many connections, and send *data* on each. The daemon may close some of them meanwhile."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(PATIENCE)  # before connecting: a full backlog is then no error
            connection.connect(str(daemon.socket))
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
            connections.append(connection)
        yield connections
