"""Checks of how calls are answered, for which nothing is made."""

from contextlib import ExitStack

from pyinfrakit.conformance import answers
from pyinfrakit.conformance.checks import Check, refused
from pyinfrakit.conformance.report import Broken, Fact, Unknown
from pyinfrakit.conformance.session import request
from pyinfrakit.conformance.trial import Trial
from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import RemoteError

IDS = (7, (1 << 53) + 1, (1 << 63) - 1)
"""InfraKit's are random up to the last; a float holds none of these but the first."""

NO_TYPE = "conformance-no-such-type"


def _ids(trial: Trial) -> str:
    for id in IDS:
        with trial.session.line() as line:
            body = line.post(request(trial.handshake, {}, id), trial.handshake)
        echoed = answers.echoed(body, trial.handshake).decode(errors="replace")
        if echoed != str(id):
            raise Broken(f"{id} came back as {echoed or 'nothing'}")
    return f"{', '.join(map(str, IDS))} came back"


def _one_connection(trial: Trial) -> str:
    closed = 0
    with trial.session.line() as line:
        for id in (1, 2, 3):
            answers.result(line.post(request(trial.handshake, {}, id), f"call {id} on one connection"), trial.handshake)
            closed += not line.is_open
    return "it closes each connection, and says so" if closed else "three were answered on one"


def _connections(trial: Trial) -> str:
    with ExitStack() as stack:
        for number in range(1, trial.plan.count + 2):
            line = stack.enter_context(trial.session.line())
            what = f"a call on connection {number}, with the others open"
            answers.result(line.post(request(trial.handshake, {}, number), what), trial.handshake)
        return f"{number} were open, and each was answered"


def _unknown_type(trial: Trial) -> str:
    return refused(trial, "Instance.DescribeInstances", {"Type": NO_TYPE, "Tags": trial.plan.mark})


def _validate(trial: Trial) -> str:
    error = trial.session.refuses("Instance.Validate", {"Properties": trial.plan.properties})
    if error is not None:
        raise Broken(f"{error} (which properties are right depends on the plugin: give some that are)")
    return "accepted"


def one_element_array(trial: Trial) -> Fact:
    """Say whether params may stand in an array, as some clients of other languages send them."""
    name = "params in an array of one"
    body = request("Instance.DescribeInstances", [{"Type": trial.session.kind, "Tags": trial.plan.mark}], 1)
    try:
        with trial.session.line() as line:
            answers.result(line.post(body, "params in an array"), "params in an array")
    except RemoteError as error:
        return Fact(name, f"not taken: {error}")
    except Unreachable as error:
        return Fact(name, str(error))
    return Fact(name, "taken")


def _echoes(trial: Trial) -> str:
    kind = trial.session.kind
    said = trial.session.types
    if not said:
        raise Unknown("no call of Instance was answered")
    for method, type in said:
        if type and type != kind:
            raise Broken(f"{method} was asked of type {kind!r}, and answered for {type!r}")
    named = sum(bool(type) for _, type in said)
    return (
        f"{len(said)} answers: {named} with {kind!r}, the others without"
        if kind
        else f"{len(said)} answers are for none"
    )


def _in_time(trial: Trial) -> str:
    seconds, method = trial.session.slowest
    if seconds > PATIENCE:
        raise Broken(f"{method} took {seconds:.1f} s")
    return "all were"


PATIENCE = 15.0
"""Seconds after which InfraKit's clients give up."""

BEFORE = (
    Check("request-ids", "a request's id comes back as it was, also 2^63-1", _ids),
    Check("one-connection", "several requests on one connection are answered", _one_connection),
    Check("connections", "connections that are open at once are all served", _connections),
    Check("unknown-type", "a sub-type that there is not is an error", _unknown_type, (0, 3, 0)),
    Check("validate", "Validate accepts the properties", _validate),
)
"""Those that come first."""

AFTER = (
    Check("type", "an answer has its request's Type, or none", _echoes, (0, 3, 0)),
    Check("in-time", f"calls are answered in {PATIENCE:g} s, when InfraKit's clients give up", _in_time),
)
"""Those that are about all calls before them."""
