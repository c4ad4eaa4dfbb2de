"""A model of a store in plain lists and dicts, and the contents that a crash may leave."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from msgspec import Raw, Struct

from pyinfrakit.record import Record
from pyinfrakit.store.file import FileStore
from pyinfrakit.store.file.document import Content
from pyinfrakit.store.records import Change, Drop, Note, Put, Records

Seen = tuple[dict[str, list[Record]], dict[str, Record], dict[str, Raw]]
"""The content to compare: each sub-type's records in service, in order; the others by ID; and the notes."""


class Plain(Struct, frozen=True):
    """Records in order, and notes."""

    records: tuple[Record, ...] = ()
    notes: Mapping[str, Raw] = {}

    def after(self, *changes: Change) -> "Plain":
        records, notes = list(self.records), dict(self.notes)
        for change in changes:
            match change:
                case Note(key, value) if value is not None:
                    notes[key] = value
                case Drop(id):
                    records = [each for each in records if each.id != id]
                case Put(new, front=True):
                    records = [new, *(each for each in records if each.id != new.id)]
                case Put(new) if any(each.id == new.id for each in records):
                    records = [new if each.id == new.id else each for each in records]
                case Put(new):
                    records = [*records, new]
        return Plain(tuple(records), notes)

    @property
    def seen(self) -> Seen:
        return seen(self.records, self.notes)


def seen(records: Iterable[Record], notes: Mapping[str, Raw]) -> Seen:
    every = list(records)
    in_service: dict[str, list[Record]] = {}
    for record in every:
        if record.state.described:
            in_service.setdefault(record.sub_type, []).append(record)
    return in_service, {record.id: record for record in every if not record.state.described}, dict(notes)


def held(content: Records | Content) -> Seen:
    """Return the content of a store's memory, or of a file."""
    records = content if isinstance(content, Records) else content.records
    return seen(records, content.notes)


def held_by_parts(store: FileStore, types: Iterable[str]) -> Seen:
    """Return the content of all sub-types' stores. Each must have only its own records, and all the same notes."""
    parts = {type: store.part(type).records for type in types}
    assert all(type == record.sub_type for type, records in parts.items() for record in records)
    assert all(store.records.notes == records.notes for records in parts.values())
    return seen(chain.from_iterable(parts.values()), store.records.notes)


class Commit(Struct, eq=False):
    """Some changes and their outcome: True if they were acknowledged, False if they failed, None until then."""

    changes: Sequence[Change]
    batch: Any
    outcome: bool | None = None


class History:
    """The commits to a store that held *start*, in order, with their outcomes."""

    def __init__(self, start: Plain) -> None:
        self.start = start
        self.commits: list[Commit] = []
        self.resolved = 0
        """The number of commits with an outcome."""

    def commit(self, store: FileStore, *changes: Change, urgent: bool = True, type: str = "") -> asyncio.Future[None]:
        """Commit to a sub-type's records, and record the outcome."""
        written = store.part(type).commit(*changes, urgent=urgent)
        # Crashes keep or lose whole batches, which no public method tells apart.
        commit = Commit(changes, store._waiting)
        self.commits.append(commit)
        written.add_done_callback(lambda done: self._resolve(commit, done))
        return written

    def _resolve(self, commit: Commit, done: asyncio.Future[None]) -> None:
        assert self.commits[self.resolved] is commit, "commits end in the order of their calls"
        commit.outcome = done.exception() is None
        self.resolved += 1

    @property
    def memory(self) -> Plain:
        """The content of the store's memory: all commits that did not fail."""
        return _apply(self.start, (each for each in self.commits if each.outcome is not False))

    def possible(self, resolved: int, *, failed: bool = False) -> Iterator[Plain]:
        """Yield the contents that a crash may leave after *resolved* commits ended.

        These are the acknowledged changes, alone or with the whole batch under way. *failed*: or with a whole
        batch that failed after them, because the disk may have it until the store has written its file anew.
        """
        known, later = self.commits[:resolved], self.commits[resolved:]
        while known and later and later[0].batch is known[-1].batch:
            known.append(later.pop(0))
        acknowledged = _apply(self.start, (each for each in known if each.outcome))
        yield acknowledged
        if later:
            yield _apply(acknowledged, _batch(later))
        while failed and known and not known[-1].outcome:
            batch = known[-1].batch
            yield _apply(acknowledged, (each for each in known if each.batch is batch))
            known = [each for each in known if each.batch is not batch]


def _batch(commits: Sequence[Commit]) -> Iterator[Commit]:
    return (each for each in commits if each.batch is commits[0].batch)


def _apply(start: Plain, commits: Iterable[Commit]) -> Plain:
    return start.after(*(change for commit in commits for change in commit.changes))
