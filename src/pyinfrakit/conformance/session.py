"""Call a plugin whose manners are not known: every call on a connection of its own, and over in time, whatever it sends."""

import http.client
import itertools
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from pyinfrakit.conformance import answers
from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import Connection, RemoteError, explain

T = TypeVar("T", bound=Struct)


class Silent(Unreachable):
    """A call was not answered in time."""


MOST = 256 << 20
"""Bytes of an answer that are read: far more than any plugin has to say."""


class BrokeOff(Unreachable):
    """A connection ended without an answer."""


class Gone(Unreachable):
    """Nothing listens on the socket any more."""


class _Socket(socket.socket):
    """A socket on which all steps of a call together have until *end*: also of an answer that comes byte by byte."""

    end = float("inf")

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(max(self.end - time.monotonic(), 0.001))
        return super().recv_into(*arguments)


class _Timed(Connection):
    socket_type = _Socket


class Line:
    """One connection, kept open."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self._connection = _Timed(path, timeout)

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    @property
    def is_open(self) -> bool:
        """Has the plugin not said that it closes the connection?"""
        return self._connection.sock is not None

    def open(self) -> None:
        """Connect; raise `Unreachable`."""
        try:
            self._connection.connect()
        except OSError as error:
            raise Gone(explain(self.path, error, self.timeout)) from None

    def post(self, body: bytes, what: str) -> bytes:
        """Send a body, and give the answer's, whatever its status: clients look at nothing else. Raise `Unreachable`."""
        if not self.is_open:
            self.open()
        assert isinstance(self._connection.sock, _Socket)
        self._connection.sock.end = time.monotonic() + self.timeout
        try:
            self._connection.request("POST", "/", body, {"Content-Type": "application/json"})
            return self._connection.getresponse().read(MOST)
        except TimeoutError:
            raise Silent(f"{what} was not answered in {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            text = str(error) or type(error).__name__
            raise BrokeOff(f"{what} got no answer, but a connection that broke: {text[:100]}") from None


class Session:
    """A plugin, or the sub-type *kind* of it; and what was noticed while it was called.

    *types* are what answers had for ``Type``, *slowest* is the method that took longest, and for how many seconds; *broke*: has
    the plugin ended connections without an answer?
    """

    def __init__(self, path: Path, kind: str, timeout: float) -> None:
        self.path = path
        self.kind = kind
        self.timeout = timeout
        self.types: list[tuple[str, str | None]] = []
        self.slowest: tuple[float, str] = (0.0, "")
        self.broke = False
        self._ids = itertools.count(1)
        self._silent: dict[bytes, str] = {}

    def ask_again(self) -> None:
        """Forget what was not answered."""
        self._silent.clear()

    def line(self) -> Line:
        """Give a connection of its own."""
        return Line(self.path, self.timeout)

    def ask(self, method: str, params: Mapping[str, Any], shape: type[T]) -> T:
        """Call, and give the result; raise `RemoteError` or `Unreachable`. What was not answered is not asked again."""
        if method.startswith("Instance."):
            params = {"Type": self.kind, **params}
        call = msgspec.json.encode([method, params])
        if call in self._silent:
            raise Silent(self._silent[call])
        try:
            found = answers.shaped(self._result(method, params), shape, method)
        except Silent as error:
            self._silent[call] = f"{error}, and is not asked again"
            raise
        except BrokeOff:
            self.broke = True
            raise
        if isinstance(found, answers.Answer) and params["Type"] == self.kind:
            self.types.append((method, found.Type))
        return found

    def _result(self, method: str, params: Any) -> Raw:
        began = time.monotonic()
        with self.line() as line:
            reply = line.post(request(method, params, next(self._ids)), method)
        self.slowest = max(self.slowest, (time.monotonic() - began, method))
        return answers.result(reply, method)

    def describe(self, tags: Mapping[str, str] | None, properties: bool = False) -> Sequence[answers.Description]:
        """Give what is described; properties are asked for only if wanted, as clients before 0.5 don't know them."""
        params: dict[str, Any] = {"Tags": tags, **({"Properties": True} if properties else {})}
        return self.ask("Instance.DescribeInstances", params, answers.Described).Descriptions or ()

    def refuses(self, method: str, params: Mapping[str, Any]) -> str | None:
        """Give the error with which a call is refused; None where it is not. Raise `Unreachable`, also for no such method."""
        try:
            self.ask(method, params, answers.Answer)
        except RemoteError as error:
            if error.is_unknown_method:
                raise Unreachable(str(error)) from None
            return str(error)
        return None


def request(method: str, params: Any, id: int) -> bytes:
    """Write a call."""
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params, "id": id})
