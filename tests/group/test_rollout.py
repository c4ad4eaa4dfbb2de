"""The phases of an update: every turn in every phase, and the way back that it keeps."""

from itertools import product

import pytest
from msgspec import Raw

from pyinfrakit.errors import Refused
from pyinfrakit.group.rollout import TURNS, Rollout, Turn
from pyinfrakit.group.status import Phase

OLD, NEW = Raw(b'{"version": 1}'), Raw(b'{"version": 2}')


def turn(rollout: Rollout, turn: Turn) -> Rollout:
    """Return the rollout after a turn at 2 seconds."""
    match turn:
        case Turn.BEGIN:
            return rollout.begin("web", None, 2)
        case Turn.PAUSE:
            return rollout.pause("web", "paused by hand", 2)
        case Turn.RESUME:
            return rollout.resume("web", 2)
        case Turn.STOP:
            return rollout.stop("web", "replacement a failed", 2)
        case Turn.ABORT:
            return rollout.abort("web", "aborted by hand", 2)
        case Turn.FINISH:
            return rollout.finish("web", NEW, 2)


@pytest.mark.parametrize(("phase", "each"), list(product(Phase, Turn)))
def test_an_update_takes_the_turns_in_the_table(phase: Phase, each: Turn) -> None:
    """A turn in the table leads to its phase; any other one is refused in one line that names the group."""
    rollout = Rollout(phase=phase, reason="before", since=1)
    if (phase, each) in TURNS:
        assert TURNS[phase, each] is turn(rollout, each).phase
    else:
        with pytest.raises(Refused, match=r"^web: .+$"):
            turn(rollout, each)


@pytest.mark.parametrize(
    ("phase", "each", "problem"),
    [
        (Phase.IDLE, Turn.ABORT, "web: no update is under way"),
        (Phase.ROLLING, Turn.RESUME, "web: the update is neither paused nor stopped: it goes on"),
        (Phase.STOPPED, Turn.PAUSE, "web: the update has stopped already: resume, undo or abort it"),
        (Phase.ABORTED, Turn.RESUME, "web: the update was aborted: commit a configuration to begin another"),
    ],
)
def test_a_turn_that_makes_no_sense_is_refused(phase: Phase, each: Turn, problem: str) -> None:
    """An operator learns why a turn is refused, and what to do instead."""
    with pytest.raises(Refused) as caught:
        turn(Rollout(phase=phase), each)
    assert problem == str(caught.value)


def test_a_turn_has_its_reason_and_time() -> None:
    """A phase is stored with the reason for it and the time when it began."""
    stopped = turn(turn(Rollout(), Turn.BEGIN), Turn.STOP)
    assert ("replacement a failed", 2) == (stopped.reason, stopped.since)


def test_a_repeat_changes_nothing() -> None:
    """An update that is paused again keeps the reason and the time of the first one."""
    paused = Rollout(phase=Phase.PAUSED, reason="first", since=1)
    assert paused == paused.pause("web", "second", 2)


def test_a_commit_in_mid_update_begins_again() -> None:
    """The time and the reason are those of the latest commit."""
    assert Rollout(phase=Phase.ROLLING, since=2) == turn(Rollout(phase=Phase.STOPPED, reason="x", since=1), Turn.BEGIN)


def test_an_update_keeps_what_worked_before_it() -> None:
    """While no update was under way, the configuration before a commit is the way back."""
    assert Rollout().begin("web", OLD, 2).previous == OLD


def test_a_commit_in_mid_update_keeps_the_way_back() -> None:
    """The configuration of an unfinished update has not worked: the one before it stays the way back."""
    rolling = Rollout(phase=Phase.ROLLING, previous=OLD)
    assert OLD == rolling.begin("web", NEW, 2).previous


def test_an_update_that_is_finished_is_the_next_way_back() -> None:
    """Once every member works with a configuration, that is the one to go back to."""
    finished = Rollout(phase=Phase.ROLLING, previous=OLD).finish("web", NEW, 2)
    assert (Phase.IDLE, NEW) == (finished.phase, finished.previous)
    assert finished is finished.finish("web", NEW, 3)
