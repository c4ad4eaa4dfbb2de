"""The SDK: what whoever has machines fills in.

A provider makes machines, destroys them, and tells which there are: three methods. The plugin around it keeps the
records, and sees to it that no two calls for one instance run at once, that a call is made again after a crash, and that
what a provider gets wrong is never taken for an answer.

Methods may be ``async`` or plain. Plain ones run in threads, several at once: what they share needs a lock.
"""

from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from pyinfrakit.errors import CannotStart, GiveUp, InvalidSpec, TryAgain
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema import secrets
from pyinfrakit.schema.decode import WrongShape, check, decode
from pyinfrakit.schema.secrets import Secret

__all__ = [
    "CannotStart",
    "GiveUp",
    "InvalidSpec",
    "Machine",
    "PoolMachine",
    "Provider",
    "Raw",
    "Record",
    "Secret",
    "Spec",
    "TryAgain",
]


class Machine(Struct, frozen=True, gc=False):
    """A machine as the provider sees it.

    *id* is the instance's, *handle* what the provider itself calls it. *functional* is False where it exists but does not work,
    and *reason* then says why. *properties*, what JSON can hold as an object, are what is known of it now; where there are none
    InfraKit is shown those of its spec. *tags* and *logical_id* are those that are written on the machine, if they are: by them a
    lost record is made again. *unknown*: it can't be told now how it is, or whether it is there; nothing is concluded.
    """

    id: str
    handle: str | None = None
    functional: bool = True
    reason: str = ""
    properties: Mapping[str, Any] | Raw | None = None
    tags: Mapping[str, str] = {}
    logical_id: str | None = None
    unknown: bool = False

    @property
    def live(self) -> Raw | None:
        """Its properties, as JSON."""
        assert self.properties is None or isinstance(self.properties, Raw)
        return self.properties

    def __post_init__(self) -> None:
        """Refuse what could not be stored or shown, where it is made: in the provider."""
        if not isinstance(self.id, str) or not isinstance(self.reason, str):
            raise TypeError(f"expected strings as a machine's id and reason, got {self.id!r} and {self.reason!r}")
        for what, text in (("handle", self.handle), ("logical ID", self.logical_id)):
            if text is not None and not isinstance(text, str):
                raise TypeError(f"expected a string or None as a machine's {what}, got {text!r}")
        if not self.id:
            raise TypeError("expected the instance's ID as a machine's id, got an empty string")
        for text in (self.id, self.handle, self.reason, self.logical_id):
            if text and not text.isascii():
                text.encode()
        if self.tags or self.tags is None:
            force_setattr(self, "tags", _tags(self.tags))
        if self.properties is not None:
            force_setattr(self, "properties", _written(self.properties))


def _tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    copied = msgspec.convert(dict(tags or {}), dict[str, str])
    msgspec.json.encode(copied)
    return copied


def _written(properties: Mapping[str, Any] | Raw) -> Raw:
    data = (
        properties
        if isinstance(properties, Raw)
        else Raw(msgspec.json.encode(properties, enc_hook=secrets.encode_placeholder))
    )
    check(bytes(data))
    decode(data, dict[str, Raw], "properties")
    return data


class PoolMachine(Struct, frozen=True):
    """A machine of a provider that has a pool of them: *name* is its handle, *at* where it is managed.

    *id* is the instance that has it, None where none of this plugin's does. *reason*: why it is not free, but for that.
    """

    name: str
    at: str = ""
    power: str = ""
    health: str = ""
    is_free: bool = False
    id: str | None = None
    reason: str = ""


class NoOptions(Struct, forbid_unknown_fields=True):
    """What a provider without options takes."""


class Provider(ABC):
    """Base class of all providers. Every method may be called again after a crash, for the same ID."""

    Properties: ClassVar[Any] = Raw
    """The type of a spec's properties, a msgspec Struct, by which they are checked, explained and shown; Raw takes anything.
    A field of type `Secret` is shown to nobody."""

    Options: ClassVar[Any] = NoOptions
    """The type of what an operator sets, a msgspec Struct. A `Secret` comes from the environment or a file."""

    example: ClassVar[Mapping[str, Any] | None] = None
    """Properties that are right, for documentation; None for those that follow from their type."""

    batch: ClassVar[int] = 1
    """How many instances `destroy` may be given at once."""

    mark: str = ""
    """The plugin's identity, to be put on machines; set before `start`."""

    known: Sequence[Record] = ()
    """The records that there are at the start; only `start` sees them."""

    ready: Container[str] = frozenset()
    """IDs of the instances that are ready now, neither set aside nor being destroyed: for these alone it may mend what breaks."""

    def __init__(self, name: str, folder: Path, options: Any = None) -> None:
        """Be the provider of plugin *name*, which may keep files in *folder*; *options* are of type `Options`."""
        self.name = name
        self.folder = folder
        self.options = self.Options() if options is None else options

    def start(self) -> Any:
        """Get ready. Raise `CannotStart`, or anything else, where that is not possible."""

    def stop(self) -> Any:
        """Let go of what `start` took. Machines live on."""

    def validate(self, properties: Raw | None) -> Any:
        """Refuse wrong properties with `InvalidSpec`; by default, those that are not of type `Properties`."""
        self.parse(properties)

    def parse(self, properties: Raw | None) -> Any:
        """Give properties as an instance of type `Properties`; raise `InvalidSpec`."""
        try:
            return decode(properties or b"{}", self.Properties, "Properties", secrets.decode_secret)
        except WrongShape as error:
            raise InvalidSpec(error.where, error.problem) from None

    @abstractmethod
    def provision(self, id: str, spec: Spec) -> Any:
        """Make the machine *id*, or find the one that this ID has already; give its `Machine`, its handle, or None.

        Raise `GiveUp` where it can't be done: `destroy` is then called for the ID, and InfraKit is told. So it is with any other
        exception, too, where InfraKit still waits for the answer; where it has the ID already, this is called again later.
        """

    @abstractmethod
    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        """Destroy the machines of *instances*: one, or up to `batch`. One that is gone already, or never was, is fine.

        *reason* is ``terminate``, ``rolling_update``, or why this plugin wants them gone. Give None, or, by ID, the errors
        of those that are not gone: for these it is called again later. An exception: none of them is.
        """

    @abstractmethod
    def observe(self) -> Any:
        """Give a `Machine` for each that has this plugin's mark. Where that can't be told for all of them, raise.

        There is no second call before this one has ended. An ``async`` one is cancelled where it takes too long.
        """

    def label(self, instance: Record, tags: Mapping[str, str]) -> Any:
        """Put tags on the machine, for providers that keep them. By default there is nowhere to put them."""

    def adopt(self, id: str, handle: str, spec: Spec) -> Any:
        """Put this plugin's mark and *id* on a machine that existed before, called *handle*; give its `Machine`, or None.

        Raise `GiveUp` where there is no such machine, or it is somebody else's.
        """
        raise GiveUp(f"provider {type(self).__name__} can't adopt machines")

    def pool(self) -> Any:
        """Give a `PoolMachine` for each machine that there is, free or not; from memory, as somebody waits.

        By default machines are made, and there is no pool.
        """
        raise GiveUp(f"provider {type(self).__name__} has no pool of machines: it makes them")
