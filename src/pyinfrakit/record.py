"""What an instance is, and how it lives. Frozen data and one table; no I/O, no clock."""

import json
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from msgspec import Raw, Struct
from msgspec.structs import replace

from pyinfrakit.errors import Refused

GROUP_TAG = "infrakit.group"
"""The tag by which InfraKit's group controller knows the members of a group."""

CONFIG_TAGS = ("infrakit.config_sha", "infrakit.config.hash")
"""The tags that hold a member's configuration hash, up to InfraKit 0.5 and after."""


class Attachment(Struct, frozen=True, gc=False):
    """Something that is attached to an instance, such as a volume."""

    id: str
    type: str


class Spec(Struct, frozen=True, kw_only=True, gc=False):
    """What InfraKit asks for. *properties* is JSON, byte for byte as it came; None where none came."""

    properties: Raw | None = None
    tags: Mapping[str, str] = {}
    init: str = ""
    logical_id: str | None = None
    attachments: tuple[Attachment, ...] = ()

    def __repr__(self) -> str:
        """Show what is no secret: a provider's mistake may put this into an error, and that into the log."""
        return f"Spec(tags={self.tags!r}, logical_id={self.logical_id!r}, …)"

    @property
    def group(self) -> str | None:
        return self.tags.get(GROUP_TAG)

    @property
    def config(self) -> tuple[str | None, ...]:
        """The configuration hash, under each of its tag names."""
        return tuple(self.tags.get(tag) for tag in CONFIG_TAGS)

    def asks_for(self, other: "Spec") -> bool:
        """Is this a repeat of the request that *other* came from? Tags that *other* was given since don't count."""
        return (
            self.logical_id == other.logical_id
            and self.init == other.init
            and self.attachments == other.attachments
            and self.tags.items() <= other.tags.items()
            and _same_json(self.properties, other.properties)
        )


def _same_json(one: Raw | None, two: Raw | None) -> bool:
    if one is None or two is None or one == two:
        return one == two
    return bool(_comparable(one) == _comparable(two))


def _comparable(data: Raw) -> Any:
    """Decode with numbers as they are written, and apart from everything else: to Python, 1 is equal to true."""
    return json.loads(bytes(data), parse_int=_number, parse_float=_number)


def _number(text: str) -> tuple[str, str]:
    return ("number", text)


class State(StrEnum):
    """Where an instance is in its life."""

    PROVISIONING = "provisioning"
    READY = "ready"
    NON_FUNCTIONAL = "non-functional"
    DESTROYING = "destroying"

    described: bool
    """Is InfraKit told of instances in this state?"""

    def __init__(self, name: str) -> None:
        self.described = name in ("provisioning", "ready")


class Event(StrEnum):
    """What happens to an instance."""

    PROVISIONED = "provisioned"
    FAILED = "failed"
    OVERDUE = "overdue"
    BROKEN = "broken"
    HEALED = "healed"
    MISSING = "missing"
    SET_ASIDE = "set aside"
    RESTORED = "restored"
    ASKED_AGAIN = "asked for again"
    AGED = "aged"
    DESTROY = "destroy"
    GONE = "gone"


DROPPED = None

# Every transition there is. An instance starts as `provisioning`, or `ready` where it is adopted, and ends when its record
# is dropped.
# A provision that fails goes by way of `destroying`: what it left behind, if anything, is cleaned up.
# Its call may end after the instance went elsewhere (by hand, by the deadline, by a destroy): it stays there.
LIFECYCLE: Mapping[tuple[State, Event], State | None] = {
    (State.PROVISIONING, Event.PROVISIONED): State.READY,
    (State.PROVISIONING, Event.FAILED): State.DESTROYING,
    (State.PROVISIONING, Event.OVERDUE): State.NON_FUNCTIONAL,
    (State.PROVISIONING, Event.SET_ASIDE): State.NON_FUNCTIONAL,
    (State.PROVISIONING, Event.DESTROY): State.DESTROYING,
    (State.READY, Event.PROVISIONED): State.READY,
    (State.READY, Event.FAILED): State.DESTROYING,
    (State.READY, Event.BROKEN): State.NON_FUNCTIONAL,
    (State.READY, Event.SET_ASIDE): State.NON_FUNCTIONAL,
    (State.READY, Event.MISSING): DROPPED,
    (State.READY, Event.DESTROY): State.DESTROYING,
    (State.NON_FUNCTIONAL, Event.PROVISIONED): State.NON_FUNCTIONAL,
    (State.NON_FUNCTIONAL, Event.FAILED): State.DESTROYING,
    (State.NON_FUNCTIONAL, Event.BROKEN): State.NON_FUNCTIONAL,
    (State.NON_FUNCTIONAL, Event.SET_ASIDE): State.NON_FUNCTIONAL,
    (State.NON_FUNCTIONAL, Event.HEALED): State.READY,
    (State.NON_FUNCTIONAL, Event.RESTORED): State.READY,
    (State.NON_FUNCTIONAL, Event.ASKED_AGAIN): State.PROVISIONING,
    (State.NON_FUNCTIONAL, Event.MISSING): DROPPED,
    (State.NON_FUNCTIONAL, Event.AGED): State.DESTROYING,
    (State.NON_FUNCTIONAL, Event.DESTROY): State.DESTROYING,
    (State.DESTROYING, Event.PROVISIONED): State.DESTROYING,
    (State.DESTROYING, Event.FAILED): State.DESTROYING,
    (State.DESTROYING, Event.DESTROY): State.DESTROYING,
    (State.DESTROYING, Event.MISSING): DROPPED,
    (State.DESTROYING, Event.GONE): DROPPED,
}


class Record(Struct, frozen=True, kw_only=True, gc=False):
    """What the store keeps of an instance.

    *type* is the plugin's sub-type that it is of; empty where that has none. *since* is when its state began, in seconds since
    1970. *handle* is what the provider calls it, once it has said so. *made*: the provider has made its machine. *by_hand*: an
    operator set it aside. *relabel*: the provider has not been told its tags yet.
    *unknown* holds keys of its state file's entry that are not this project's.
    """

    id: str
    state: State
    spec: Spec
    type: str = ""
    since: float = 0.0
    handle: str | None = None
    reason: str = ""
    made: bool = True
    by_hand: bool = False
    relabel: bool = False
    unknown: Mapping[str, Raw] = MappingProxyType({})

    def after(self, event: Event, now: float, reason: str = "") -> "Record | None":
        """Give the record as it is after *event*, or None where it is dropped; raise `Refused` for what can't happen."""
        try:
            state = LIFECYCLE[self.state, event]
        except KeyError:
            raise Refused(self.id, f"is {self.state}, so it can't be {event}") from None
        if state is None:
            return None
        if state is self.state and event in (Event.PROVISIONED, Event.FAILED, Event.DESTROY):
            return self
        by_hand = event is Event.SET_ASIDE or (self.by_hand and state is State.NON_FUNCTIONAL)
        since = self.since if state is self.state else now
        return replace(self, state=state, since=since, reason=reason, by_hand=by_hand)
