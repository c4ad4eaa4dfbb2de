"""Instances: their specs, their records, and the table of how they live. Frozen data; no I/O, no clock."""

import json
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from msgspec import Raw, Struct
from msgspec.structs import replace

from pyinfrakit.errors import Refused

GROUP_TAG = "infrakit.group"
"""The tag by which InfraKit's group controller knows the members of a group."""

CONFIG_TAGS = ("infrakit.config_sha", "infrakit.config.hash")
"""The tags that hold a member's configuration hash, up to InfraKit 0.5 and after it."""


class Attachment(Struct, frozen=True, gc=False):
    """A resource that is attached to an instance, such as a volume."""

    id: str
    type: str


class Spec(Struct, frozen=True, kw_only=True, gc=False):
    """A request for an instance. *properties* is JSON, byte for byte as it came, or None."""

    properties: Raw | None = None
    tags: Mapping[str, str] = {}
    init: str = ""
    logical_id: str | None = None
    attachments: tuple[Attachment, ...] = ()

    def __repr__(self) -> str:
        # Only what is no secret: a provider's mistake may put this into an error, and that into the log.
        return f"Spec(tags={self.tags!r}, logical_id={self.logical_id!r}, …)"

    @property
    def group(self) -> str | None:
        return self.tags.get(GROUP_TAG)

    @property
    def config(self) -> tuple[str | None, ...]:
        """The configuration hash, under each of its tag names."""
        return tuple(self.tags.get(tag) for tag in CONFIG_TAGS)

    def asks_for(self, other: "Spec") -> bool:
        """Return whether this repeats the request that *other* came from. Tags that *other* got later don't count."""
        return (
            self.logical_id == other.logical_id
            and self.init == other.init
            and self.attachments == other.attachments
            and self.tags.items() <= other.tags.items()
            and _is_same_json(self.properties, other.properties)
        )


def _is_same_json(one: Raw | None, two: Raw | None) -> bool:
    if one is None or two is None or one == two:
        return one == two

    def number(text: str) -> tuple[str, str]:
        # Numbers stay as they are written, and apart from everything else: in Python, 1 == 1.0 == True.
        return ("number", text)

    load = partial(json.loads, parse_int=number, parse_float=number)
    return bool(load(bytes(one)) == load(bytes(two)))


class State(StrEnum):
    """The state of an instance."""

    PROVISIONING = "provisioning"
    READY = "ready"
    NON_FUNCTIONAL = "non-functional"
    DESTROYING = "destroying"

    described: bool
    """Whether InfraKit sees instances in this state."""

    def __init__(self, name: str) -> None:
        self.described = name in ("provisioning", "ready")


class Event(StrEnum):
    """An event in the life of an instance."""

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

# All transitions. An instance starts as `provisioning`, or as `ready` if it is adopted, and ends when its
# record is dropped.
#
# A provision that fails passes through `destroying`, so that a half-made machine is cleaned up. A
# provision's call may end after the instance left `provisioning` (by hand, by the deadline, by a destroy):
# PROVISIONED changes nothing then, and FAILED cleans up.
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
    """The store's knowledge of an instance.

    *sub_type* is the plugin's sub-type, or empty. *since* is when the state began, in seconds since 1970.
    *handle* is the provider's name for the machine, once known. *made*: the provider has made the machine.
    *by_hand*: an operator set it aside. *relabel*: the provider does not have the current tags yet.
    *unknown* holds keys of the entry in the state file that are not this project's.
    """

    id: str
    state: State
    spec: Spec
    sub_type: str = ""
    since: float = 0.0
    handle: str | None = None
    reason: str = ""
    made: bool = True
    by_hand: bool = False
    relabel: bool = False
    unknown: Mapping[str, Raw] = MappingProxyType({})

    @property
    def is_unfinished(self) -> bool:
        """Whether the provider has to be called for it."""
        return self.relabel or self.state in (State.PROVISIONING, State.DESTROYING)

    def next_state(self, event: Event) -> State | None:
        """Return the state after *event*, or None if it drops the record. Raise `Refused` if it can't happen now."""
        try:
            return LIFECYCLE[self.state, event]
        except KeyError:
            raise Refused(self.id, f"is {self.state}, so it can't be {event}") from None

    def after(self, event: Event, now: float, reason: str = "") -> "Record":
        """Return the record after *event*, which must not drop it. Raise `Refused` if the event can't happen now."""
        state = self.next_state(event)
        assert state is not None
        # Repeats keep the reason and the time of the first one.
        if state is self.state and event in (Event.PROVISIONED, Event.FAILED, Event.DESTROY):
            return self
        by_hand = event is Event.SET_ASIDE or (self.by_hand and state is State.NON_FUNCTIONAL)
        since = self.since if state is self.state else now
        return replace(self, state=state, since=since, reason=reason, by_hand=by_hand)
