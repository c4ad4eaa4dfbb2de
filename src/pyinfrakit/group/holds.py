"""The holds of a group as events: each once, and all of one reason together. No I/O."""

from collections.abc import Container, Sequence

from pyinfrakit.group.status import Step, Verb

MOST_NAMES = 3
"""Members that an event names. The status of the group has all of them."""


class Holds:
    """The holds that were recorded, and still last."""

    def __init__(self) -> None:
        self._subjects: frozenset[str] = frozenset()

    def note(self, steps: Sequence[Step], members: Container[str]) -> Sequence[tuple[str, str]]:
        """Return a member's ID, or an empty text for the group, and the reason, for each event to record.

        A reason may count seconds, so that a hold is a new one only if its subject was not held before.
        """
        holds = {step.subject: step.reason for step in steps if step.verb is Verb.HOLD}
        by_reason: dict[str, list[str]] = {}
        for subject in sorted(holds.keys() - self._subjects):
            by_reason.setdefault(holds[subject], []).append(subject if subject in members else "")
        self._subjects = frozenset(holds)
        return [summarize(reason, list(filter(None, subjects))) for reason, subjects in by_reason.items()]


def summarize(reason: str, ids: Sequence[str]) -> tuple[str, str]:
    """Return the subject and the text of one event: for the member if there is one, and for the group otherwise."""
    if len(ids) < 2:
        return (ids[0] if ids else "", reason)
    more = f" and {len(ids) - MOST_NAMES} more" if len(ids) > MOST_NAMES else ""
    return "", f"{len(ids)} members ({', '.join(ids[:MOST_NAMES])}{more}): {reason}"
