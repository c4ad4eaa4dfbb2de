"""Calls to a plugin that may misbehave. Each call ends in time, and replies are read as InfraKit's Go clients read them."""

import http.client
import itertools
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import Connection, RemoteError, explain
from pyinfrakit.rpc.instance import types as go
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, decode

T = TypeVar("T", bound=Struct)

MAX_REPLY = 256 << 20
"""Bytes of a reply that are read. No plugin needs more, and a faulty one must not fill the memory."""

_UNREADABLE = (NotJSON, WrongShape, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# Replies. Go's clients match names in any case, ignore unknown names, and take null for absent. The structs
# forbid unknown fields because that is how `rpc.params.read` notices that it has to fold names.


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    error: Raw = Raw(b"null")
    result: Raw = Raw(b"null")
    id: Raw = Raw(b"")  # a decoded number would hide that the plugin wrote it as a float


class Reply(Struct, frozen=True, forbid_unknown_fields=True):
    """The result of any call: it may name the sub-type that it comes from."""

    Type: str | None = None


class ProvisionReply(Reply, frozen=True):
    ID: str | None = None


class InstanceView(Struct, frozen=True, forbid_unknown_fields=True):
    """An instance as the plugin describes it. A field that the plugin leaves out is UNSET or None."""

    ID: str | None = None
    LogicalID: str | None | UnsetType = UNSET
    Tags: dict[str, str | None] | None = None
    Properties: Raw | UnsetType = UNSET

    @property
    def tags(self) -> Mapping[str, str]:
        return {key: value or "" for key, value in (self.Tags or {}).items()}


class DescribeReply(Reply, frozen=True):
    Descriptions: list[InstanceView] | None = None


def encode_request(method: str, params: Any, id: int) -> bytes:
    """Return the body of a call."""
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": id})


def read_result(body: bytes, call: str) -> Raw:
    """Return the result in a reply. Raise `RemoteError` if there is none, `Unreachable` if *body* is no reply."""
    reply = read_envelope(body, call)
    if bytes(reply.error) != b"null":
        raise RemoteError(*_read_error(reply.error))
    if bytes(reply.result) == b"null":
        raise RemoteError(0, "neither a result nor an error")
    return reply.result


def decode_value(data: Raw | UnsetType) -> Any:
    """Return any JSON as a value that can be compared, or None if it is absent."""
    return None if data is UNSET else decode(bytes(data), object)


def read_envelope(body: bytes, call: str) -> Envelope:
    """Return the parts of a reply as they are. Raise `Unreachable` if *body* is no reply."""
    try:
        check(body)
        decode(body, Raw)
        return go.read(Raw(body), Envelope)
    except _UNREADABLE:
        raise Unreachable(f"{call} got a reply that is not JSON-RPC: {body[:60]!r}") from None


def _read_error(data: Raw) -> tuple[int, str]:
    """Return an error's code and message. Some plugins send a bare string, or no code."""
    try:
        error = decode_value(data)
    except NotJSON:
        return 0, repr(bytes(data)[:100])
    if not isinstance(error, dict):
        return 0, str(error)
    code = error.get("code")
    return code if isinstance(code, int) else 0, str(error.get("message") or error)


# Connections


class CallTimeout(Unreachable):
    """The plugin did not reply in time."""


class Hangup(Unreachable):
    """The connection ended without a reply."""


class NotListening(Unreachable):
    """Nothing accepts connections on the socket."""


class _Socket(socket.socket):
    """A socket with a deadline for the whole reply, because a plugin may send one byte at a time forever."""

    deadline = float("inf")

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(max(self.deadline - time.monotonic(), 0.001))
        return super().recv_into(*arguments)


class BoundedConnection(Connection):
    """A connection with a time limit for each call as a whole, not for each step."""

    socket_type = _Socket
    timeout: float

    def connect(self) -> None:
        """Connect, or raise `NotListening`."""
        try:
            super().connect()
        except OSError as error:
            self.close()  # http.client keeps a socket that failed to connect
            raise NotListening(explain(self._path, error, self.timeout)) from None

    def post(self, body: bytes, call: str) -> bytes:
        """Send a body and return the reply's body, or raise `Unreachable`.

        The HTTP status does not matter: InfraKit's clients ignore it.
        """
        if self.sock is None:
            self.connect()
        assert isinstance(self.sock, _Socket)
        self.sock.deadline = time.monotonic() + self.timeout
        try:
            self.request("POST", "/", body, {"Content-Type": "application/json"})
            return self.getresponse().read(MAX_REPLY)
        except TimeoutError:
            raise CallTimeout(f"{call} timed out after {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            text = str(error) or type(error).__name__
            raise Hangup(f"{call} got no reply, because the connection broke: {text[:100]}") from None


class Session(Struct):
    """A plugin or one of its sub-types, and the observations that later checks need."""

    path: Path
    sub_type: str
    timeout: float
    types: list[tuple[str, str | None]] = []
    """The method and the ``Type`` of each reply."""
    slowest: tuple[float, str] = (0.0, "")
    """The longest call in seconds, and its method."""
    has_hung_up: bool = False
    """True once the plugin ended a connection without a reply, or is gone."""
    timeouts: dict[bytes, str] = {}
    """The error of each call that timed out."""
    _ids: Iterator[int] = msgspec.field(default_factory=lambda: itertools.count(1))

    def connect(self) -> AbstractContextManager[BoundedConnection]:
        """Return a new connection, which ends with the context. Raise `NotListening`."""
        connection = BoundedConnection(self.path, self.timeout)
        connection.connect()
        return closing(connection)

    def call(self, method: str, params: Mapping[str, Any], shape: type[T]) -> T:
        """Call *method* on a connection of its own and return the result. Raise `RemoteError` or `Unreachable`.

        A call that timed out fails at once if it is repeated. So a plugin that hangs costs one timeout for
        each call, not for each check.
        """
        if method.startswith("Instance."):
            params = {"Type": self.sub_type, **params}
        key = msgspec.json.encode([method, params])
        if key in self.timeouts:
            raise CallTimeout(self.timeouts[key])
        try:
            data = self.exchange(method, params)
        except CallTimeout as error:
            self.timeouts[key] = f"{error}, and is not repeated"
            raise
        except Hangup:
            self.has_hung_up = True
            raise
        try:
            result = go.read(data, shape)
        except _UNREADABLE as error:
            raise Unreachable(f"{method} returned a result that InfraKit's clients can't read: {error}") from None
        if isinstance(result, Reply) and params["Type"] == self.sub_type:
            self.types.append((method, result.Type))
        return result

    def exchange(self, method: str, params: Any) -> Raw:
        """Call *method* as it is, on a connection of its own. Raise `RemoteError` or `Unreachable`."""
        start = time.monotonic()
        with self.connect() as connection:
            body = connection.post(encode_request(method, params, next(self._ids)), method)
        self.slowest = max(self.slowest, (time.monotonic() - start, method))
        return read_result(body, method)

    def describe(self, tags: Mapping[str, str] | None, properties: bool = False) -> Sequence[InstanceView]:
        """Return the instances with these tags. Raise `RemoteError` or `Unreachable`.

        The request names *properties* only if they are wanted, because clients before 0.5 don't know them.
        """
        params: dict[str, Any] = {"Tags": tags, **({"Properties": True} if properties else {})}
        return self.call("Instance.DescribeInstances", params, DescribeReply).Descriptions or ()
