"""One interface of a plugin behind a socket, or of one sub-type of it: its version, and typed calls."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from pyinfrakit.errors import InvalidSpec, NoCapacity, PyInfrakitError, UnknownInstance, Unreachable
from pyinfrakit.group.failures import restore, tells_shortage, tells_unknown
from pyinfrakit.rpc.channel import Channel
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.handshake import FIRST, Handshake, negotiate
from pyinfrakit.rpc.instance.types import read
from pyinfrakit.rpc.jsonrpc import INVALID_PARAMS
from pyinfrakit.schema.decode import NotJSON, WrongShape, check
from pyinfrakit.schema.redactor import Redactor, hiding
from pyinfrakit.schema.values import decode_any, find_credentials, find_scripts

T = TypeVar("T", bound=Struct)

Send = Callable[[str, Any], Awaitable[Raw]]


class Endpoint:
    """An interface of the plugin at the other end of *channel*. *versions* are those that are known here.

    The plugin's handshake is remembered until another process has its socket, or it lacks a method.
    """

    def __init__(self, channel: Channel, interface: str, versions: Sequence[str], sub_type: str) -> None:
        self._channel = channel
        self._interface = interface
        self._versions = versions
        self._sub_type = sub_type
        self._handshake: Handshake | None = None
        self._socket: tuple[int, ...] = ()
        self._negotiation: asyncio.Task[Handshake] | None = None

    @property
    def name(self) -> str:
        """The plugin's name, with the sub-type."""
        name = self._channel.path.name
        return f"{name}/{self._sub_type}" if self._sub_type else name

    async def shake_hands(self) -> Handshake:
        """Return the plugin's handshake. Raise `Unreachable`, or `GiveUp` if the plugin lacks the sub-type."""
        socket = self._channel.identify()
        if self._handshake is not None and self._socket == socket:
            return self._handshake
        if self._negotiation is None:  # if the plugin hangs, all that call it wait no longer than one would
            self._negotiation = asyncio.create_task(self._negotiate(socket))
            self._negotiation.add_done_callback(self._end_negotiation)
        return await asyncio.shield(self._negotiation)

    async def has(self, method: str, params: Mapping[str, Any]) -> bool:
        """Return whether the plugin has a method, which must change nothing. Raise what `shake_hands` raises."""
        await self.shake_hands()
        try:
            await self._channel.ask(method, {"Type": self._sub_type, **params})
        except RemoteError:
            return False
        return True

    async def ask(self, method: str, params: Mapping[str, Any], shape: type[T]) -> T:
        """Return the result of a call that changes nothing. Raise what `change` raises."""
        return await self._send(self._channel.ask, method, params, shape, "")

    async def change(self, method: str, params: Mapping[str, Any], shape: type[T], id: str = "") -> T:
        """Return the result of a call, which is sent once. *id* is the instance that it is about.

        Raise `Unreachable`, or the error that the plugin answered with: as one of this project's, if the plugin
        says its kind or the text tells it, or as a `RemoteError`.
        """
        return await self._send(self._channel.change, method, params, shape, id)

    async def _negotiate(self, socket: tuple[int, ...]) -> Handshake:
        path = self._channel.path
        try:
            handshake = await negotiate(self._channel.ask, self._interface, self._versions)
        except Unreachable as error:
            raise (error if str(path) in str(error) else Unreachable(f"{path} can't be used: {error}")) from None
        handshake.check_sub_type(path.name, self._sub_type)
        self._handshake, self._socket = handshake, socket
        return handshake

    def _end_negotiation(self, task: asyncio.Task[Handshake]) -> None:
        self._negotiation = None
        if not task.cancelled():
            task.exception()  # those that wait for it have it; there may be none any more

    async def _send(self, send: Send, method: str, params: Mapping[str, Any], shape: type[T], id: str) -> T:
        handshake = await self.shake_hands()
        sub_type = {} if handshake.method == FIRST else {"Type": self._sub_type}
        # The other side may quote what it was sent, and need not know what in it is secret.
        with hiding(lambda text: _find_secrets(params).redact(text)):
            try:
                result = await send(method, {**sub_type, **params})
            except RemoteError as error:
                if error.is_unknown_method:
                    self._handshake = None
                    raise
                raise _translate(error, method, id) from None
            return self._decode(result, shape)

    def _decode(self, result: Raw, shape: type[T]) -> T:
        try:
            check(bytes(result))
            return read(result, shape)
        except (NotJSON, WrongShape, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreachable(f"{self._channel.path} sent an invalid reply: {error}") from None


def _find_secrets(params: Mapping[str, Any]) -> Redactor:
    value = decode_any(msgspec.json.encode(params))
    return Redactor(find_credentials(value), find_scripts(value))


def _translate(error: RemoteError, method: str, id: str) -> PyInfrakitError:
    text = str(error)
    if known := restore(error.kind, text, id):
        return known
    # Plugins of others say it in their own words, if at all.
    if method.endswith(".Provision") and tells_shortage(text):
        return NoCapacity(text)
    if method.endswith(".Destroy") and tells_unknown(text):
        return UnknownInstance(id)
    if method.endswith(".Validate") or (error.code == INVALID_PARAMS and method.endswith((".Provision", ".Prepare"))):
        return InvalidSpec("Properties", text)
    return error
