"""Run all checks against a socket."""

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Raw

from pyinfrakit.conformance import calls, describing, handshakes, inputs, instances
from pyinfrakit.conformance.checks import Check
from pyinfrakit.conformance.handshakes import Speaks
from pyinfrakit.conformance.plan import Plan, plan
from pyinfrakit.conformance.report import Broken, Fact, Left, Report, Result, Unknown
from pyinfrakit.conformance.session import Session
from pyinfrakit.conformance.trial import Trial

EMPTY = Raw(b"{}")

MAKING = (
    *calls.BEFORE,
    *instances.MAKING,
    *describing.DESCRIBING,
    *instances.LABELLING,
    *instances.AT_ONCE,
    *instances.DESTROYING,
    *calls.AFTER,
)
"""The checks up to when everything is cleaned up, in order."""

CHECKS = (*MAKING, *inputs.CHECKS)
"""All checks but that of the handshake, without which there are none."""

HANDSHAKE = "handshake"


def check(
    socket: Path,
    *,
    kind: str = "",
    properties: Raw = EMPTY,
    count: int = 5,
    timeout: float = 15.0,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Hold the plugin on *socket* to what InfraKit relies on.

    It makes instances with *properties*, *count* of them at once, and destroys them again in all cases; *tell* gets what it is
    going to make, and what could not be cleaned up. *kind* is the sub-type to be checked; *timeout* is for each call. Raise
    `Unreachable` where nothing listens, `WrongCall` where there is no such sub-type.
    """
    session = Session(socket, kind, timeout)
    with session.line() as line:
        line.open()
    intent = plan(count, properties)
    speaks = handshakes.speak(session)
    handshakes.check_kind(kind, speaks.types)
    if speaks.versions:
        tell(f"{socket}: {intent}")
    results, facts, left = _run(session, intent, speaks, tell)
    return Report(str(socket), str(intent), [*speaks.facts(), *facts], results, left)


def _run(
    session: Session, intent: Plan, speaks: Speaks, tell: Callable[[str], None]
) -> tuple[Sequence[Result], Sequence[Fact], Sequence[Left]]:
    trial = Trial(session, intent, next(iter(speaks.versions), ""), speaks.newest)
    shaken = Check(
        HANDSHAKE, "a handshake lists the version that an InfraKit release looks for", lambda _: _usable(speaks)
    )
    first = shaken.result(trial)
    if not speaks.versions:
        why = f"because no handshake lists {handshakes.INTERFACE}, so nothing else was asked"
        return [first, *(each.unknown(why) for each in CHECKS)], [], []
    made, facts, left = _with_instances(trial, tell)
    return [first, *made, *(each.result(trial) for each in inputs.CHECKS)], facts, left


def _with_instances(
    trial: Trial, tell: Callable[[str], None]
) -> tuple[Sequence[Result], Sequence[Fact], Sequence[Left]]:
    """Run what makes instances, and clean up in all cases; say what is left at once, as an interrupt leaves no report."""
    left: Sequence[Left] = []
    try:
        _begin(trial)
        results = [each.result(trial) for each in MAKING]
    finally:
        left = _clean_up(trial, tell)
    return results, [describing.shrinks(trial), calls.one_element_array(trial)], left


def _clean_up(trial: Trial, tell: Callable[[str], None]) -> Sequence[Left]:
    left: Sequence[Left] = []
    try:
        left = trial.clean_up()
    except KeyboardInterrupt:
        left = [Left(id, "the clean-up was interrupted, too") for id in trial.not_destroyed()]
        raise
    finally:
        for each in left:
            tell(f"left behind: {each.id}: {each.reason}" if each.id else f"perhaps left behind: {each.reason}")
    return left


def _begin(trial: Trial) -> None:
    try:
        trial.begin()
    except Unknown:
        return  # those that would make something say so


def _usable(speaks: Speaks) -> str:
    if not speaks.generations:
        raise Broken(
            f"no release can use it: {'; '.join(speaks.problems.values()) or 'only other versions are listed'}"
        )
    return f"for InfraKit {', '.join(speaks.generations)}"
