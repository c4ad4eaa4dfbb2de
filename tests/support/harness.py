"""Run the real daemon as a process, and send raw HTTP to its socket."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyinfrakit.disk import Disk
from pyinfrakit.errors import Unreachable
from pyinfrakit.providers.simulator import World
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.operator.client import OperatorClient
from pyinfrakit.rpc.operator.types import RecordDescription
from pyinfrakit.store.file import document, recovery

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "programs"

COMMAND = (str(Path(sys.executable).with_name("infrakit-instance")),)
INFRAKIT = (sys.executable, "-m", "pyinfrakit")
PATIENCE = 20.0
"""Seconds before a call or a stop counts as hung."""
EVENTUALLY = 60.0
"""Seconds before an expected event counts as missing."""


def eventually(condition: Callable[[], Any], description: str = "", patience: float = EVENTUALLY) -> Any:
    """Return the first true value of *condition*. Fail if none comes within *patience* seconds."""
    end = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < end, f"did not happen in {patience:g} s: {description}"
        time.sleep(0.02)
    return value


async def until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for *condition* in an event loop. Raise `TimeoutError` after *patience* seconds."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.01)


def environment(home: Path) -> dict[str, str]:
    """Return a daemon's environment, with *home* as InfraKit's home."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("INFRAKIT")}
    return {**clean, "INFRAKIT_HOME": str(home), "PYTHONWARNINGS": "error"}


def command(
    home: Path, *arguments: str, input: str = "", program: Sequence[str] = COMMAND, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `infrakit-instance`, or another program, until it exits."""
    return subprocess.run(
        [*program, *arguments],
        input=input,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(home) | variables,
        check=False,
    )


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root checks who may change a file")


def read_usage_error(home: Path, *arguments: str, **variables: str) -> str:
    """Run a command that must exit with a usage error, and return its message without the program's name."""
    result = command(home, *arguments, **variables)
    assert (2, "") == (result.returncode, result.stdout)
    (line,) = result.stderr.splitlines()
    return line.removeprefix("infrakit-instance: ")


class Daemon:
    """A daemon in its own home, started by *program*. `log` is its log."""

    def __init__(self, home: Path, *arguments: str, name: str = "rack1", program: Sequence[str] = COMMAND) -> None:
        self.home = home
        self.name = name
        self.arguments = arguments
        self.program = program
        self.socket = home / "plugins" / name
        self.state = home / "state" / f"{name}.json"
        self.world = World(home / "state" / f"{name}.world")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Daemon":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, wait: bool = True) -> "Daemon":
        """Start the daemon and wait until it answers."""
        self.home.mkdir(exist_ok=True)
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "--name", self.name, *self.arguments], stderr=log, env=environment(self.home)
            )
        if wait:
            eventually(self._answers, "the daemon answers")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended: {self.log}"
        try:
            # A connection alone proves little: a child of a killed daemon may still listen on the socket.
            self.call("Plugin.Implements")
        except Unreachable:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill the daemon as a power cut would, and wait for its children, which hold its socket for an instant."""
        self.stop(signal.SIGKILL)
        eventually(self._is_silent, "nobody listens on its socket")

    def _is_silent(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) != 0

    def machines(self) -> list[str]:
        """Return the IDs of the simulator's machines, sorted."""
        return sorted(self.world.look().machines)

    def client(self, timeout: float = PATIENCE) -> Client:
        return Client(self.socket, timeout)

    @contextmanager
    def remote(self) -> Iterator[OperatorClient]:
        """Connect to the plugin as the project's command line does."""
        with self.client() as client:
            yield OperatorClient(client)

    def call(self, method: str, **params: Any) -> Any:
        """Call a method and return its result. Raise `RemoteError` if the plugin reports an error."""
        with self.client() as client:
            return json.loads(bytes(client.call(method, params)))

    def provision(self, properties: Any = None, *, logical: str | None = None, **tags: str) -> str:
        """Provision an instance; an underscore in a tag stands for a dot: ``infrakit_group="w"``."""
        spec = {"Properties": properties or {}, "Tags": replace_underscores(tags), "LogicalID": logical}
        return str(self.call("Instance.Provision", Spec=spec)["ID"])

    def described(self, **tags: str) -> list[str]:
        """Return the IDs that InfraKit sees, in order."""
        return [
            each["ID"]
            for each in self.call("Instance.DescribeInstances", Tags=replace_underscores(tags))["Descriptions"]
        ]

    def record(self, id: str) -> RecordDescription | None:
        """Return an instance's record in any state, or None."""
        with self.remote() as plugin:
            return next(iter(plugin.records({}, [id])), None)

    def exported(self) -> bytes:
        """Return the content of the state file and its journal, as `export` prints it."""
        return b"".join(document.dump(recovery.read_live(Disk(), self.state).content))

    def saved(self) -> dict[str, Any]:
        """Return the content of the state file and its journal."""
        content: dict[str, Any] = json.loads(self.exported())
        return content

    @contextmanager
    def connect(self, timeout: float = PATIENCE) -> Iterator[socket.socket]:
        """Open a connection whose sends and receives time out after *timeout* seconds."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.settimeout(timeout)
            yield connection

    def exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send raw bytes on a new connection. Return the reply's status, headers (lower case) and body."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.socket))
            connection.sendall(request)
            return read_reply(connection)

    def post(self, body: bytes | str) -> tuple[int, dict[str, str], bytes]:
        """POST a body as InfraKit's clients do."""
        data = body.encode() if isinstance(body, str) else body
        head = f"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        return self.exchange(head.encode() + data)


def replace_underscores(tags: dict[str, str]) -> dict[str, str]:
    """Return *tags* with a dot for each underscore in a key."""
    return {key.replace("_", "."): value for key, value in tags.items()}


def read_reply(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one HTTP reply: as much as its Content-Length says, all chunks, or, in HTTP 1.0, all until the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        assert more, f"the connection closed within a reply's head: {data!r}"
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
    while len(body) < int(headers.get("content-length", 0)):
        more = connection.recv(1 << 20)
        assert more, "the connection closed within a reply's body"
        body += more
    if headers.get("transfer-encoding") == "chunked":
        while not body.endswith(b"0\r\n\r\n"):
            more = connection.recv(1 << 20)
            assert more, "the connection closed within a reply's body"
            body += more
        body = b"".join(_read_chunks(body))
    elif "content-length" not in headers and lines[0].startswith("HTTP/1.0"):
        while more := connection.recv(1 << 20):
            body += more
    return int(lines[0].split()[1]), headers, body


def _read_chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
