"""A client of a plugin's socket: blocking, with one connection."""

import http.client
import socket
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from pyinfrakit.errors import PyInfrakitError, Unreachable
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode


class RemoteError(PyInfrakitError):
    """The plugin answered with an error, whose text this is. *kind* is empty if the plugin does not say it."""

    def __init__(self, code: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind

    @property
    def is_unknown_method(self) -> bool:
        """Whether the plugin lacks the method. InfraKit's own plugins have no error code for it, only texts."""
        return self.code == -32601 or any(text in str(self) for text in ("can't find method", "can't find service"))


class _Error(Struct):
    code: int = 0
    message: str = "an error without a text"
    data: Raw = Raw(b"null")


class _ErrorData(Struct):
    kind: str = msgspec.field(default="", name="Kind")


class _Reply(Struct):
    error: _Error | str | None = None
    result: Raw = Raw(b"null")
    id: Raw = Raw(b"null")


class Connection(http.client.HTTPConnection):
    """HTTP on a unix socket. *timeout* is in seconds, for each step."""

    socket_type: type[socket.socket] = socket.socket

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = self.socket_type(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """A plugin's socket. *timeout* is in seconds, for each step of a call; InfraKit's own clients wait 15."""

    def __init__(self, path: Path, timeout: float = 15.0) -> None:
        self.path = path
        self._timeout = timeout
        self._connection = Connection(path, timeout)
        self._id = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def call(self, method: str, params: Any) -> Raw:
        """Call *method* and return the JSON of its result. Raise `RemoteError` or `Unreachable`."""
        self._id += 1
        body = msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": self._id})
        data = self._exchange("POST", "/", body)
        return read_reply(data, self._id, self.path)

    def get(self, path: str) -> bytes:
        """Return the document at *path*; raise `Unreachable`."""
        return self._exchange("GET", path, None)

    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Yield the lines of a response, until the server ends it. Raise `Unreachable`."""
        try:
            self._connection.request("GET", path, headers=headers)
            response = self._connection.getresponse()
            if response.status != HTTPStatus.OK:
                raise Unreachable(f"{self.path} answered {response.status}")
            yield from response
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(explain(self.path, error, self._timeout)) from None
        finally:
            self._connection.close()

    def _exchange(self, verb: str, path: str, body: bytes | None) -> bytes:
        try:
            self._connection.request(verb, path, body, {"Content-Type": "application/json"} if body else {})
            response = self._connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unreachable(explain(self.path, error, self._timeout)) from None
        if response.status != HTTPStatus.OK:
            text = data.decode(errors="replace").strip()[:200]
            raise Unreachable(f"{self.path} answered {response.status}: {text}")
        return data


def read_reply(data: bytes, id: int, path: Path) -> Raw:
    """Return the result in the reply to call *id*, as JSON. Raise `RemoteError`, or `Unreachable` if it is no reply."""
    try:
        reply = decode(data, _Reply)
    except (NotJSON, WrongShape):
        raise Unreachable(f"{path} answered, but is no plugin: {data[:80]!r}") from None
    match reply.error:
        case str(text):
            raise RemoteError(0, text)
        case _Error(code, message, data_):
            raise RemoteError(code, message, _find_kind(data_))
    if not _is_id(bytes(reply.id), id):
        raise Unreachable(f"{path} answered another call: {bytes(reply.id)[:40]!r} instead of {id}")
    return reply.result


def _is_id(text: bytes, id: int) -> bool:
    """Return whether JSON is a call's ID, or null. Some plugins turn it into a float, or lose it."""
    try:
        return text == b"null" or float(text) == id
    except ValueError:
        return False


def _find_kind(data: Raw) -> str:
    """Return the kind of an error. Other plugins put anything into an error's data."""
    try:
        return decode(data, _ErrorData).kind
    except WrongShape:
        return ""


def explain(path: Path, error: Exception, timeout: float) -> str:
    """Return why the plugin at *path* could not be reached, or why the connection broke."""
    match error:
        case FileNotFoundError():
            return f"no plugin at {path}: there is no such socket; is the plugin running?"
        case ConnectionRefusedError():
            return f"no plugin at {path}: nothing listens there any more; start it again"
        case BlockingIOError():
            return f"{path} accepts no more connections: the plugin is too busy, or hangs"
        case TimeoutError():
            return f"{path} did not answer in {timeout:g} s"
    return f"{path} can't be reached: {error or type(error).__name__}"
