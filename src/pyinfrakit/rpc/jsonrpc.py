"""JSON-RPC 2.0 for a server: bytes in, calls out; results in, bytes out. No I/O, and no method names.

`parse` returns the calls in a request's body, or raises the `Fault` that answers the whole body. Each call
is answered with `encode_result` or `encode_error`, and `Message.join` joins the answers. Answers come in
pieces, so that megabytes of them are copied only once, when they are sent; or as a stream of pieces that are
encoded only when they are sent, at the client's pace. An ``id`` stays as it came, byte
for byte: InfraKit's are random 63-bit integers, which a float would not hold.

A `Dispatcher` has the methods of a daemon. It is the boundary at which a call's exceptions end.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, decode, make_encodable

log = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
APPLICATION_ERROR = -32000
"""InfraKit's code for all errors of a plugin."""

MAX_CALLS = 100
"""Most calls in a batch: one small body must not ask for gigabytes of replies."""

Pieces = Sequence[bytes]
"""JSON, to be sent piece by piece."""

Reply = Pieces | AsyncIterator[bytes]
"""JSON in pieces that are here, or that come."""

Handler = Callable[[Raw], Awaitable[Any]]
"""Do a call with these parameters. Return a result to encode, or its JSON: a list of pieces, or an iterator."""

_NULL = Raw(b"null")
_EMPTY = Raw(b"{}")


class Fault(Exception):
    """An error reply. *kind* tells programs what to do next; it is empty for errors that only people can act on."""

    def __init__(self, code: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.kind = kind


class Call(Struct, frozen=True, gc=False):
    """One call. *id* is JSON, or None for a notification; *params* is JSON, ``{}`` if there were none."""

    method: str
    params: Raw
    id: Raw | None


class Rejected(Struct, frozen=True):
    """A malformed call. It gets an error reply, unless it is a notification, whose *id* is None."""

    fault: Fault
    id: Raw | None


class Message(Struct, frozen=True):
    """The calls in a body."""

    calls: Sequence[Call | Rejected]
    is_batch: bool

    def join(self, answers: Sequence[Reply]) -> Reply | None:
        """Return the answers as one reply, or None if there are none, as for notifications."""
        if not answers:
            return None
        if not self.is_batch:
            return answers[0]
        parts = [part for answer in answers for part in ([b","], answer)][1:]
        pieces = [part for part in parts if not isinstance(part, AsyncIterator)]
        joined: Reply = [piece for part in pieces for piece in part] if len(pieces) == len(parts) else _chain(parts)
        return enclose(b"[", joined, b"]")


class _Request(Struct, frozen=True):
    jsonrpc: Literal["2.0"]
    method: str
    params: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET


def parse(body: bytes) -> Message:
    """Return the calls in *body*; raise `Fault` if it can't be read."""
    try:
        check(body)
        if body.lstrip()[:1] != b"[":
            return Message((_parse_call(body),), False)
        calls = decode(body, list[Raw])
    except NotJSON as error:
        raise Fault(PARSE_ERROR, f"request: {error}") from None
    if not calls:
        raise Fault(INVALID_REQUEST, "batch: expected at least one call")
    if len(calls) > MAX_CALLS:
        raise Fault(INVALID_REQUEST, f"batch: expected at most {MAX_CALLS} calls, got {len(calls)}")
    return Message(tuple(_parse_call(call) for call in calls), True)


def _parse_call(body: bytes) -> Call | Rejected:
    try:
        request = decode(body, _Request)
    except WrongShape as error:
        return Rejected(Fault(INVALID_REQUEST, _explain(error)), _find_id(body))
    id = None if request.id is UNSET else request.id
    try:
        return Call(request.method, _read_params(request.params), id)
    except Fault as fault:
        return Rejected(fault, id)


def _explain(error: WrongShape) -> str:
    if error.where == "jsonrpc" or "jsonrpc" in error.problem:
        return 'jsonrpc: expected "2.0"'
    return str(error)


def _find_id(body: bytes) -> Raw:
    try:
        return decode(body, dict[str, Raw]).get("id", _NULL)
    except WrongShape:
        return _NULL


def _read_params(params: Raw | UnsetType) -> Raw:
    """Return the parameters as an object. Some clients send it in an array of one; null and absent mean none."""
    if params is UNSET:
        return _EMPTY
    text = bytes(params)
    if text.startswith(b"{"):
        return params
    if text == b"null":
        return _EMPTY
    if text.startswith(b"["):
        match decode(params, list[Raw]):
            case []:
                return _EMPTY
            case [only] if bytes(only).startswith(b"{"):
                return only
    raise Fault(INVALID_PARAMS, "params: expected an object, or an array of one object")


def enclose(head: bytes, reply: Reply, tail: bytes) -> Reply:
    """Return *reply* between *head* and *tail*."""
    return _chain([[head], reply, [tail]]) if isinstance(reply, AsyncIterator) else [head, *reply, tail]


async def _chain(parts: Iterable[Reply]) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, AsyncIterator):
            async for piece in part:
                yield piece
        else:
            for piece in part:
                yield piece


def encode_result(id: Raw, result: Reply) -> Reply:
    """Return the answer to a call with *result*, which is JSON."""
    return enclose(b'{"jsonrpc":"2.0","result":', result, b',"id":%b}' % bytes(id))


def encode_error(id: Raw, fault: Fault) -> Pieces:
    """Return the answer to a call with an error."""
    data = {"Kind": fault.kind} if fault.kind else None
    error = {"code": fault.code, "message": make_encodable(fault.message), "data": data}
    return [b'{"jsonrpc":"2.0","error":', msgspec.json.encode(error), b',"id":', bytes(id), b"}"]


def encode_rejection(fault: Fault) -> Pieces:
    """Return the answer to a body that `parse` refused."""
    return encode_error(_NULL, fault)


class Dispatcher:
    """All methods of a daemon, by their names on the wire."""

    def __init__(self, *methods: Mapping[str, Handler]) -> None:
        self._methods = {name: handler for some in methods for name, handler in some.items()}

    async def answer(self, call: Call | Rejected) -> Reply | None:
        """Do a call and return the reply, or None for a notification. A call's exceptions end here."""
        if isinstance(call, Rejected):
            return None if call.id is None else encode_error(call.id, call.fault)
        log.debug("%s is called", call.method)
        try:
            result = await self._find(call.method)(call.params)
        except Fault as error:
            fault = error
        except WrongShape as error:
            fault = Fault(INVALID_PARAMS, str(error))
        except PyInfrakitError as error:
            log.info("%s: %s", call.method, error)
            fault = Fault(APPLICATION_ERROR, str(error), error.kind)
        except Exception as error:
            log.exception("%s: a bug", call.method)
            text = f"a bug in the plugin ({type(error).__name__}): see its log"
            fault = Fault(INTERNAL_ERROR, text)
        else:
            reply = result if isinstance(result, list | AsyncIterator) else [msgspec.json.encode(result)]
            return None if call.id is None else encode_result(call.id, reply)
        return None if call.id is None else encode_error(call.id, fault)

    def _find(self, name: str) -> Handler:
        try:
            return self._methods[name]
        except KeyError:
            raise Fault(METHOD_NOT_FOUND, f"no method {name!r}") from None
