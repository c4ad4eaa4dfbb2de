"""Checks of how the plugin handles calls in general. They create nothing."""

from contextlib import ExitStack
from functools import partial

from pyinfrakit.conformance.report import CannotTell, DoesNotHold
from pyinfrakit.conformance.session import BoundedConnection, Reply, encode_request, read_envelope, read_result
from pyinfrakit.conformance.trial import Check, Trial, expect_error
from pyinfrakit.errors import PyInfrakitError, Unreachable
from pyinfrakit.rpc.client import RemoteError

IDS = (7, (1 << 53) + 1, (1 << 63) - 1)
"""InfraKit's request IDs are random, up to the last one. A float can hold only the first."""

CLIENT_TIMEOUT = 15.0
"""Seconds after which InfraKit's clients time out."""

DESCRIBE = "Instance.DescribeInstances"


def _shake_hands(trial: Trial, connection: BoundedConnection, call: str) -> None:
    """Make a call that any plugin can answer. Raise `RemoteError` or `Unreachable`."""
    read_result(connection.post(encode_request(trial.handshake, {}, 1), call), trial.handshake)


def _check_ids(trial: Trial) -> str:
    for id in IDS:
        with trial.session.connect() as connection:
            body = connection.post(encode_request(trial.handshake, {}, id), trial.handshake)
        reply = bytes(read_envelope(body, trial.handshake).id).decode(errors="replace")
        if reply != str(id):
            raise DoesNotHold(f"the reply to request {id} has {f'the id {reply}' if reply else 'no id'}")
    return f"exact for {', '.join(map(str, IDS))}"


def _check_one_connection(trial: Trial) -> str:
    # A plugin may close the connection if it says so, because Go's clients then open another one.
    closes = False
    with trial.session.connect() as connection:
        for number in (1, 2, 3):
            _shake_hands(trial, connection, f"call {number} on one connection")
            closes |= connection.sock is None
    return "the plugin closes each connection, and announces it" if closes else "it served three"


def _check_connections(trial: Trial) -> str:
    # As many as the controller opens for its parallel provisions, and one for its poll.
    with ExitStack() as stack:
        for number in range(1, trial.intent.count + 2):
            connection = stack.enter_context(trial.session.connect())
            _shake_hands(trial, connection, f"a call on connection {number}, with the others open,")
        return f"{number} were open, and the plugin served each"


def _check_unknown_type(trial: Trial) -> str:
    return expect_error(trial, DESCRIBE, {"Type": "conformance-no-such-type", "Tags": trial.intent.mark})


def _check_validate(trial: Trial) -> str:
    try:
        trial.session.call("Instance.Validate", {"Properties": trial.intent.properties}, Reply)
    except RemoteError as error:
        if error.is_unknown_method:  # other properties would not help
            raise
        raise DoesNotHold(f"{error} (use --properties to set properties that this plugin accepts)") from None
    return "no error"


def _check_type(trial: Trial) -> str:
    wanted, types = trial.session.sub_type, trial.session.types
    if not types:
        raise CannotTell("no Instance call succeeded")
    for method, type_ in types:
        if type_ and type_ != wanted:
            raise DoesNotHold(f"the reply of {method} for type {wanted!r} has type {type_!r}")
    return f"{sum(bool(type_) for _, type_ in types)} of {len(types)} replies have one"


def _check_in_time(trial: Trial) -> str:
    seconds, method = trial.session.slowest
    if seconds > CLIENT_TIMEOUT:
        raise DoesNotHold(f"{method} took {seconds:.1f} s")
    return f"the slowest took {seconds:.1f} s"


def find_array_support(trial: Trial) -> str:
    """Return whether params may be an array of one object. Go's clients send the object, some others the array."""
    try:
        trial.session.exchange(DESCRIBE, [{"Type": trial.session.sub_type, "Tags": trial.intent.mark}])
    except (RemoteError, Unreachable) as error:
        return f"not accepted: {error}"
    return "accepted"


def _check_input(body: bytes, trial: Trial) -> str:
    """Return the plugin's reply to *body*. It may be empty, as the one of InfraKit's server is."""
    reply = _send(trial, body)
    return f"reply: {reply[:80].decode(errors='replace').strip()}" if reply.strip() else "an empty reply"


def _check_unknown_method(trial: Trial) -> str:
    reply = _send(trial, encode_request("Instance.ConformanceNone", {}, 1))
    try:
        read_result(reply, "the call")
    except RemoteError as error:
        return f"error: {error}"
    except Unreachable:
        return "a reply without a result"
    raise DoesNotHold("the call succeeded")


def _send(trial: Trial, body: bytes) -> bytes:
    """Return the reply to *body*. Raise `DoesNotHold` if the plugin does not survive it, `CannotTell` if it was gone before."""
    try:
        trial.session.exchange(trial.handshake, {})
    except PyInfrakitError as error:
        raise CannotTell(f"the plugin stopped replying: {error}") from None
    with trial.session.connect() as connection:
        reply = connection.post(body, "the request")
    try:
        trial.session.exchange(trial.handshake, {})
    except PyInfrakitError as error:
        raise DoesNotHold(f"the request got a reply, but the next one failed: {error}") from None
    return reply


FIRST = (
    Check("request-ids", "a reply repeats its request's id exactly, up to 2^63-1", _check_ids),
    Check("one-connection", "one connection serves several requests", _check_one_connection),
    Check("connections", "connections that are open at the same time are all served", _check_connections),
    Check("unknown-type", "a call for an unknown sub-type returns an error", _check_unknown_type, (0, 3, 0)),
    Check("validate", "Validate accepts the properties", _check_validate),
)

LAST = (
    Check("type", "a reply has its request's Type, or none", _check_type, (0, 3, 0)),
    Check("in-time", f"calls take at most {CLIENT_TIMEOUT:g} s, the timeout of InfraKit's clients", _check_in_time),
)
"""Checks of all calls before them."""

INPUTS = (
    Check("not-json", "invalid JSON gets a reply, and the plugin survives", partial(_check_input, b"this is not JSON")),
    Check("empty-body", "an empty body gets a reply, and the plugin survives", partial(_check_input, b"")),
    Check("unknown-method", "an unknown method returns an error, and the plugin survives", _check_unknown_method),
    Check(
        "wrong-types",
        "parameters of the wrong type get a reply, and the plugin survives",
        partial(_check_input, encode_request(DESCRIBE, {"Type": "", "Tags": 5}, 1)),
    ),
    Check(
        "no-params",
        "a call without params gets a reply, and the plugin survives",
        partial(_check_input, b'{"jsonrpc":"2.0","method":"%s","id":1}' % DESCRIBE.encode()),
    ),
)
"""Checks of bad input. They come after the clean-up, because the plugin may not survive them."""
