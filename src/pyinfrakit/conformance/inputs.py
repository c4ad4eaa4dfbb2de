"""Checks that bad input is answered, and harms nobody else. They come last: a plugin may not survive them."""

from collections.abc import Callable

from pyinfrakit.conformance import answers
from pyinfrakit.conformance.checks import Check
from pyinfrakit.conformance.report import Broken, Unknown
from pyinfrakit.conformance.session import request
from pyinfrakit.conformance.trial import Trial
from pyinfrakit.errors import PyInfrakitError, Unreachable
from pyinfrakit.rpc.client import RemoteError

DESCRIBE = "Instance.DescribeInstances"


def _is_answered(body: bytes) -> Callable[[Trial], str]:
    """Make a check that *body* gets an answer, be it an empty one as InfraKit's own server gives, and the plugin lives on."""

    def look(trial: Trial) -> str:
        said = _sent(trial, body)
        return f"answered: {said[:80].decode(errors='replace').strip()}" if said.strip() else "an empty answer"

    return look


def _sent(trial: Trial, body: bytes) -> bytes:
    try:
        _alive(trial)
    except PyInfrakitError as error:
        raise Unknown(f"the plugin does not answer any more: {error}") from None
    with trial.session.line() as line:
        said = line.post(body, "it")
    try:
        _alive(trial)
    except PyInfrakitError as error:
        raise Broken(f"answered; but after that: {error}") from None
    return said


def _alive(trial: Trial) -> None:
    with trial.session.line() as line:
        answers.result(line.post(request(trial.handshake, {}, 1), trial.handshake), trial.handshake)


def _unknown_method(trial: Trial) -> str:
    body = _sent(trial, request("Instance.ConformanceNone", {}, 1))
    try:
        answers.result(body, "it")
    except RemoteError as error:
        return f"refused: {error}"
    except Unreachable:
        return "an answer without a result"
    raise Broken("was answered as if there was such a method")


CHECKS = (
    Check("not-json", "what is not JSON is answered, and the plugin lives on", _is_answered(b"this is not JSON")),
    Check("empty-body", "an empty body is answered, and the plugin lives on", _is_answered(b"")),
    Check("unknown-method", "a method that there is not is an error, and the plugin lives on", _unknown_method),
    Check(
        "wrong-types",
        "parameters of the wrong type are answered, and the plugin lives on",
        _is_answered(request(DESCRIBE, {"Type": "", "Tags": 5}, 1)),
    ),
    Check(
        "no-params",
        "a call without params is answered, and the plugin lives on",
        _is_answered(b'{"jsonrpc":"2.0","method":"%s","id":1}' % DESCRIBE.encode()),
    ),
)
