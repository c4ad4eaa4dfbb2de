"""Mass losses: few members may vanish within ten minutes; of more, none is given up before somebody confirms."""

from hypothesis import given
from hypothesis import strategies as st

from pyinfrakit.group.losses import FLOOR, SHARE, WINDOW, judge_losses

IDS = st.sets(st.integers(0, 40).map(str))


@given(missing=IDS, others=IDS, known=st.integers(0, 60), held=IDS)
def test_members_are_gone_or_held_as_one(missing: set[str], others: set[str], known: int, held: set[str]) -> None:
    """All missing members are gone if they are few, together with recent losses, and none of them was held; else all are held."""
    recent = dict.fromkeys(others, 1000.0)
    verdict = judge_losses(missing, known, recent, held, 1001.0)
    is_few = len(missing | others) <= max(FLOOR, int(known * SHARE)) and not missing & held
    expected = (missing, set()) if is_few else (set(), missing)
    assert expected == (set(verdict.gone), set(verdict.held))
    assert verdict.recent.keys() == (missing | others if is_few else others)


def test_a_loss_counts_for_ten_minutes() -> None:
    """Losses before the window, and those that a clock set back puts in the future, do not count."""
    for now in (WINDOW + 1.0, -1.0):
        verdict = judge_losses({"d"}, 10, dict.fromkeys("abc", 0.0), (), now)
        assert ({"d"}, {"d"}) == (set(verdict.gone), set(verdict.recent))
    assert {"d"} == set(judge_losses({"d"}, 10, dict.fromkeys("abc", 0.0), (), WINDOW - 1).held)
