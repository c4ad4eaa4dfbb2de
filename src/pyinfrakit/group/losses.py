"""Hold mass losses of plugins that have no such rule of their own. Pure.

A plugin that suddenly describes nothing has most likely lost sight of its machines. Members that vanish,
beyond the larger of 3 and 20 % within 10 minutes, stay members until they are described again or an
operator confirms the loss.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct

WINDOW = 600.0
FLOOR = 3
SHARE = 0.2

HELD = "its plugin no longer describes it, like many others: mend the plugin, or confirm the loss"
"""The reason for a loss that is held."""


class Verdict(Struct, frozen=True):
    """The members that are gone, and those whose loss is held; *recent* are the times of recent losses by ID."""

    gone: frozenset[str]
    held: frozenset[str]
    recent: Mapping[str, float]


def judge_losses(
    missing: Collection[str],
    known: int,
    recent: Mapping[str, float],
    held: Collection[str],
    now: float,
) -> Verdict:
    """Return the verdict on *missing* members of *known* ones. *now* and the times are in seconds since 1970.

    Once losses are held, all that are missing are held, until an operator confirms or they are seen again.
    """
    fresh = {id: at for id, at in recent.items() if 0 <= now - at < WINDOW}
    lost = set(missing)
    most = max(FLOOR, int(known * SHARE))
    if lost & set(held) or len(lost | fresh.keys()) > most:
        return Verdict(frozenset(), frozenset(lost), fresh)
    return Verdict(frozenset(lost), frozenset(), fresh | dict.fromkeys(lost, now))
