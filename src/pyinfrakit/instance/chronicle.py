"""A plugin's part of the event log: every change of its records, and what happens to the plugin itself.

A change is recorded once it is durable. One that could not be made durable is undone, so it never happened:
it leaves no event, and its caller gets the error.
"""

import asyncio
from functools import partial

from pyinfrakit.events import EventLog
from pyinfrakit.record import Record, State
from pyinfrakit.store import Store
from pyinfrakit.store.records import Change, Drop, Note

OPERATOR = "operator"
"""The cause of events that come from an operator's call."""

Step = tuple[str, Record | None, Record | None, str]
"""An ID, its record before and after a change, and the reason for the change."""


class Chronicle:
    """The events of the plugin *name*, which is ``NAME`` or ``NAME/SUB-TYPE``; all its changes go through `commit`."""

    def __init__(self, store: Store, log: EventLog, name: str) -> None:
        self._store = store
        self._log = log
        self._plugin = f"plugin/{name}"
        self._instances = f"instance/{name}/"

    def commit(self, cause: str, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        """Commit *changes*, as `Store.commit` does; record the events that they are. *cause* brought them about."""
        records = self._store.records
        steps: list[Step] = []
        for change in changes:
            if isinstance(change, Drop):
                steps.append((change.id, records.get(change.id), None, change.reason))
            elif not isinstance(change, Note):
                new = change.record
                steps.append((new.id, records.get(new.id), new, new.reason))
        written = self._store.commit(*changes, urgent=urgent)
        written.add_done_callback(partial(self._record_steps, cause, steps))
        return written

    def record(self, id: str, type: str, cause: str, reason: str = "") -> None:
        """Record an event of one instance that is no change of its record."""
        self._log.record(self._instances + id, type, cause, reason)

    def record_plugin(self, type: str, cause: str, reason: str = "") -> None:
        """Record an event of the plugin itself."""
        self._log.record(self._plugin, type, cause, reason)

    def _record_steps(self, cause: str, steps: list[Step], written: asyncio.Future[None]) -> None:
        if written.cancelled():
            # Its caller waits no more, but the write goes on. It is over when all that is under way is.
            self._store.commit().add_done_callback(partial(self._record_steps, cause, steps))
        elif written.exception() is None:
            for id, old, new, reason in steps:
                if type := _name_change(old, new):
                    self.record(id, type, cause, _list_new_tags(old, new) if type == "label" else reason)


def _name_change(old: Record | None, new: Record | None) -> str:
    """Return the type of the event that turns *old* into *new*; empty if people need not know of it."""
    if new is None:
        return "dropped"
    if old is None:
        return "adopted" if new.state is State.READY else new.state.value
    if old.state is not new.state:
        healed = old.state is State.NON_FUNCTIONAL and new.state is State.READY
        return "healed" if healed else new.state.value
    if old.spec.tags != new.spec.tags:
        return "label"
    return new.state.value if old.reason != new.reason else ""


def _list_new_tags(old: Record | None, new: Record | None) -> str:
    before = old.spec.tags if old else {}
    after = new.spec.tags if new else {}
    return ", ".join(f"{key}={value}" for key, value in after.items() if before.get(key) != value)
