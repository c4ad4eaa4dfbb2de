"""The records at one instant, for decisions about all of them: they take long, and records change meanwhile."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from pyinfrakit.record import Record, State


class Snapshot:
    """Records by ID, in order. Another thread may read them, since nothing changes them any more."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __contains__(self, id: object) -> bool:
        return id in self._records

    def __getitem__(self, id: str) -> Record:
        return self._records[id]

    def find_logical(self, logical_id: str, group: str | None) -> Sequence[Record]:
        """Return the records, in any state, with a logical ID in a group (None: in no group)."""
        return self._by_logical_id.get((logical_id, group), ())

    def find_newest(self, group: str) -> Record | None:
        """Return the newest ready member of a group."""
        return self._newest.get(group)

    @cached_property
    def _by_logical_id(self) -> Mapping[tuple[str, str | None], Sequence[Record]]:
        found: defaultdict[tuple[str, str | None], list[Record]] = defaultdict(list)
        for record in self:
            if record.spec.logical_id is not None:
                found[record.spec.logical_id, record.spec.group].append(record)
        return found

    @cached_property
    def _newest(self) -> Mapping[str, Record]:
        found: dict[str, Record] = {}
        for record in self:
            group = record.spec.group
            if group is not None and record.state is State.READY and record.id < found.get(group, record).id:
                found[group] = record
            elif group is not None and record.state is State.READY:
                found.setdefault(group, record)
        return found
