"""Logical IDs: an identity that one instance of a group has at a time."""

from pyinfrakit.errors import Refused
from pyinfrakit.record import Record, Spec
from pyinfrakit.store.records import Records


def find_holder(records: Records, spec: Spec) -> Record | None:
    """Return the live instance with the spec's logical ID; raise `Refused` if its spec is another one."""
    if spec.logical_id is None:
        return None
    for record in records.find_logical(spec.logical_id, spec.group):
        if record.state.described:
            if spec.asks_for(record.spec):
                return record
            raise Refused(record.id, f"has logical ID {spec.logical_id} already, with another spec; destroy it first")
    return None


def refuse_second_holder(records: Records, id: str, spec: Spec) -> None:
    """Raise `Refused` if *id* would get a logical ID that another instance of its group has."""
    if spec.logical_id is None:
        return
    for other in records.find_logical(spec.logical_id, spec.group):
        if other.state.described and other.id != id:
            group = f"in group {spec.group}" if spec.group else "in no group"
            raise Refused(id, f"{other.id} has logical ID {spec.logical_id} {group} already")
