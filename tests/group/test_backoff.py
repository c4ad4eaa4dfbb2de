"""Back-off: errors of a pool, and members that keep failing, are tried again ever later, and never in a tight loop."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyinfrakit.errors import GiveUp, InvalidSpec, NoCapacity, PyInfrakitError, TryAgain
from pyinfrakit.group.backoff import (
    FIRST,
    FIRST_NO_CAPACITY,
    FORGET_TIME,
    LONGEST,
    LONGEST_NO_CAPACITY,
    Backoff,
    CrashLoop,
    Setbacks,
)

JITTER = st.floats(0, 1)


@pytest.mark.parametrize(
    ("error", "first", "longest"),
    [
        (TryAgain("busy"), FIRST, LONGEST),
        (GiveUp("broken"), FIRST, LONGEST),
        (NoCapacity("full"), FIRST_NO_CAPACITY, LONGEST_NO_CAPACITY),
    ],
)
@given(failures=st.integers(1, 60), jitter=JITTER)
def test_each_failure_doubles_the_pause(
    error: PyInfrakitError, first: float, longest: float, failures: int, jitter: float
) -> None:
    """The pause after each failure in a row is twice the last one up to a limit, give or take a quarter."""
    backoff = Backoff()
    for _ in range(failures):
        backoff = backoff.fail(error, 1000.0, jitter)
    pause = min(longest, first * 2 ** (failures - 1))
    assert 0.75 * pause - 1e-6 <= backoff.until - 1000 <= 1.25 * pause + 1e-6
    assert backoff.explain(backoff.until - 0.5) == f"{error}; again in 1 s"
    assert "" == backoff.explain(backoff.until)


def test_a_wrong_spec_is_not_tried_again() -> None:
    """A pool that refuses the spec stays closed, and the reason says what ends that."""
    backoff = Backoff().fail(InvalidSpec("Properties.cpu", "expected an integer"), 0.0, 0.5)
    assert math.inf == backoff.until
    assert "wrong spec: Properties.cpu: expected an integer; commit a corrected one" == backoff.explain(1e9)


@given(crashes=st.integers(1, 40), jitter=JITTER)
def test_the_first_crash_costs_no_time(crashes: int, jitter: float) -> None:
    """The first member that fails soon after its start is replaced at once; each further one doubles the pause."""
    loop = CrashLoop()
    for number in range(crashes):
        loop = loop.add(str(number), 1000.0, jitter)
    pause = 0.0 if crashes == 1 else min(LONGEST, FIRST * 2 ** (crashes - 2))
    assert 0.75 * pause - 1e-6 <= loop.until - 1000 <= 1.25 * pause + 1e-6


def test_a_member_crashes_once() -> None:
    """A second report of the same member changes nothing."""
    loop = CrashLoop().add("a", 0.0, 0.5)
    assert loop == loop.add("a", 1.0, 0.5)


def test_old_crashes_are_forgotten() -> None:
    """After ten minutes without a crash, the next one is a first one."""
    loop = CrashLoop().add("a", 0.0, 0.5).add("b", 1.0, 0.5)
    assert 1 == loop.add("c", 1.0 + FORGET_TIME + 1, 0.5).crashes


def test_an_operator_settles_all_setbacks() -> None:
    """A commit or a resume ends the pause, forgets the failure, and begins to count missing members anew."""
    setbacks = Setbacks()
    for id in "abc":
        setbacks.note_crash(id, 0.0, 0.5)
    setbacks.failure = "a failed"
    setbacks.note_shortness(True, 0.0)
    setbacks.note_shortness(True, 3.0)
    assert (5.0, True) == (setbacks.measure_shortness(5.0), bool(setbacks.explain_rest(0.5)))
    setbacks.settle(0.5)
    assert ("", "", 0.0) == (setbacks.failure, setbacks.explain_rest(0.5), setbacks.measure_shortness(5.0))
