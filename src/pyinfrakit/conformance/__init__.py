"""Check any InfraKit instance plugin, in any language, for the behavior that InfraKit relies on: through its socket alone."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Raw

from pyinfrakit.conformance import calls, instances
from pyinfrakit.conformance.handshakes import read_handshakes
from pyinfrakit.conformance.report import CannotTell, Fact, Left, Report, Result, Verdict
from pyinfrakit.conformance.session import Session
from pyinfrakit.conformance.trial import Check, Intent, Trial

__all__ = ["Fact", "Left", "Report", "Result", "Verdict", "check"]

BEFORE_CLEAN_UP = (*calls.FIRST, *instances.CHECKS, *calls.LAST)

CHECKS = (*BEFORE_CLEAN_UP, *calls.INPUTS)
"""All checks in order, except ``handshake``, which comes first and without which the others can't run."""


def check(
    socket: Path,
    *,
    sub_type: str = "",
    properties: Raw = Raw(b"{}"),
    count: int = 5,
    timeout: float = 15.0,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Run all checks on the plugin, or on its *sub_type*, that listens on *socket*.

    This creates instances with *properties*, *count* of them at once, and destroys them in all cases. *tell*
    gets one line with the plan before that, and one for each instance that is left behind. *timeout* is in
    seconds for each call. Raise `Unreachable` if nothing listens, `WrongCall` if there is no such sub-type.
    """
    session = Session(socket, sub_type, timeout)
    # If nothing listens, there is no plugin to judge: that is an error of the caller.
    with session.connect():
        pass
    intent = Intent(count, properties)
    handshakes = read_handshakes(session)
    handshakes.check_sub_type(sub_type)
    trial = Trial(session, intent, next(iter(handshakes.versions), ""), handshakes.newest)
    facts = handshakes.list_facts()
    usable = "a handshake lists a version that some InfraKit release requires"
    results = [Check("handshake", usable, lambda _: handshakes.check_releases()).run(trial)]
    left: Sequence[Left] = []
    if handshakes.versions:
        tell(f"{socket}: {intent}")
        left = _run_before_clean_up(trial, results, tell)
        facts.append(Fact("shrink removes first", instances.find_shrink_order(trial)))
        facts.append(Fact("params in an array", calls.find_array_support(trial)))
        results += [each.run(trial) for each in calls.INPUTS]
    else:
        reason = "because no handshake lists Instance, so the run made no other calls"
        results += [Result(each.name, Verdict.UNKNOWN, each.expected, reason) for each in CHECKS]
    return Report(str(socket), str(intent), facts, results, left)


def _run_before_clean_up(trial: Trial, results: list[Result], tell: Callable[[str], None]) -> Sequence[Left]:
    """Run the checks that need instances, and clean up in all cases. Return the instances that are left behind."""
    try:
        with suppress(CannotTell):  # the checks that need new instances report the reason
            trial.existing = set(trial.describe())
        results += [each.run(trial) for each in BEFORE_CLEAN_UP]
    finally:
        left: Sequence[Left] = []
        try:
            left = trial.clean_up()
        except KeyboardInterrupt:
            left = [Left(id, "the clean-up was interrupted, too") for id in trial.list_remaining()]
            raise
        finally:
            # Not only in the report: an interrupt leaves none, and the user has to know the IDs.
            for each in left:
                tell(f"left behind: {each.id}: {each.reason}" if each.id else f"perhaps left behind: {each.reason}")
    return left
