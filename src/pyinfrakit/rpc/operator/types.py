"""Names and shapes of the Operator interface on the wire, for both ends."""

from msgspec import Struct

from pyinfrakit.events import LoggedEvent
from pyinfrakit.rpc.instance.types import Description, Params


class SetAsideParams(Params, frozen=True):
    Instance: str | None = None
    Reason: str | None = None


class RestoreParams(Params, frozen=True):
    Instance: str | None = None
    Force: bool | None = None


class RecordsParams(Params, frozen=True):
    """Which records: those with all of *Tags*; or only *Instances* among them, in this order."""

    Tags: dict[str, str] | None = None
    Instances: list[str] | None = None


class RecordDescription(Description, frozen=True):
    """A record in any state. *Since* is in seconds since 1970. *Held* is why it seems lost, or empty."""

    State: str = ""
    Reason: str = ""
    Since: float = 0.0
    ByHand: bool = False
    Handle: str | None = None
    Held: str = ""


class RecordsResult(Struct, frozen=True):
    Records: list[RecordDescription]


class StatusResult(Struct, frozen=True):
    """The state of a plugin.

    *Observed* is when the provider was last observed, in seconds since 1970. *Trouble* is why it can't be
    observed now, or empty. *Late* are the provider calls beyond their time limit.
    """

    Provider: str
    States: dict[str, int]
    Observed: float | None
    Trouble: str
    Held: list[str]
    Orphans: list[str]
    Late: list[str]


class AdoptParams(Params, frozen=True):
    Handle: str | None = None
    LogicalID: str | None = None
    Tags: dict[str, str] | None = None


class OrphansParams(Params, frozen=True):
    """Which orphans: *Instances*, or all if there are none; and tags to add."""

    Instances: list[str] | None = None
    Tags: dict[str, str] | None = None


class Orphan(Struct, frozen=True):
    """A machine with the plugin's mark and no record, as it was last observed."""

    ID: str
    Handle: str | None
    LogicalID: str | None
    Functional: bool
    Reason: str
    Tags: dict[str, str]


class OrphansResult(Struct, frozen=True):
    Orphans: list[Orphan]


class PoolEntry(Struct, frozen=True):
    """A machine of the provider's pool. *Instance*, *State* and *Reason* are those of its instance, if it has one."""

    Name: str
    At: str
    Power: str
    Health: str
    Free: bool
    Instance: str | None
    State: str
    Reason: str


class MachinesResult(Struct, frozen=True):
    Machines: list[PoolEntry]


class InstancesResult(Struct, frozen=True):
    """The IDs of the instances whose loss was confirmed, or that were adopted."""

    Instances: list[str]


class EventsParams(Params, frozen=True):
    """Which events: those on *Topic*, not before *Since* (seconds since 1970), with numbers above *After*."""

    Topic: str | None = None
    Since: float | None = None
    After: int | None = None


class EventsResult(Struct, frozen=True):
    """*Log* is a random identity: two sockets of one process lead to the same log."""

    Log: str
    Events: list[LoggedEvent]
