"""The SDK: the base class that you fill in for your machines.

A provider makes machines, destroys them, and observes which exist: three methods. The plugin around it keeps
the records. It makes sure that no two calls for one instance run at once, that a call is repeated after a
crash, and that a provider's mistake is never taken for an answer.

Methods may be ``async`` or plain. Plain ones run in threads, several at once: shared data needs a lock.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import force_setattr

from pyinfrakit.errors import CannotStart, GiveUp, InvalidSpec, NoCapacity, TryAgain
from pyinfrakit.foreign import copy_flag, copy_text
from pyinfrakit.record import Record, Spec
from pyinfrakit.schema import secrets
from pyinfrakit.schema.decode import WrongShape, check, decode
from pyinfrakit.schema.secrets import Secret

__all__ = [
    "CannotStart",
    "GiveUp",
    "InvalidSpec",
    "Machine",
    "NoCapacity",
    "PoolMachine",
    "Provider",
    "Raw",
    "Record",
    "Secret",
    "Spec",
    "TryAgain",
]

LONGEST_REASON = 4096
"""Most characters of a machine's reason that are kept."""


class Machine(Struct, frozen=True, gc=False):
    """A machine as the provider sees it.

    *id* is the instance's ID, and *handle* the provider's own name for the machine. *functional* is False if
    the machine exists but does not work; *reason* then says why. *properties* are its live properties, a JSON
    object; without them, InfraKit sees those of the spec. *tags* and *logical_id* are those kept on the
    machine, if any: an orphan is adopted with them. *unknown*: the provider can't say now whether the machine
    works or exists; the plugin concludes nothing from this observation.
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
        """The live properties as JSON."""
        assert self.properties is None or isinstance(self.properties, Raw)
        return self.properties

    def __post_init__(self) -> None:
        """Take exact copies. Raise TypeError for values that can't be stored or shown: the provider's line is near."""
        if not (
            type(self.id) is type(self.reason) is str
            and type(self.functional) is type(self.unknown) is bool
            and (self.handle is None or type(self.handle) is str)
            and (self.logical_id is None or type(self.logical_id) is str)
        ):
            _copy_fields(self, ("id", "reason"), ("handle", "logical_id"), ("functional", "unknown"))
        if not self.id:
            raise TypeError("expected the instance's ID as a machine's id, got an empty string")
        for text in (self.id, self.handle, self.reason, self.logical_id):
            if text and not text.isascii():
                text.encode()
        if len(self.reason) > LONGEST_REASON:
            force_setattr(self, "reason", f"{self.reason[:LONGEST_REASON]}…")
        if self.tags or self.tags is None:
            force_setattr(self, "tags", copy_tags(self.tags))
        if self.properties is not None:
            force_setattr(self, "properties", _encode_properties(self.properties))


def _copy_fields(
    machine: "Machine | PoolMachine", texts: Iterable[str], optional_texts: Iterable[str], flags: Iterable[str]
) -> None:
    """Replace fields by exact copies. Raise TypeError for those that have none."""
    for name in texts:
        force_setattr(machine, name, copy_text(getattr(machine, name), f"a machine's {name}"))
    for name in optional_texts:
        value = getattr(machine, name)
        if value is not None:
            force_setattr(machine, name, copy_text(value, f"a machine's {name}"))
    for name in flags:
        force_setattr(machine, name, copy_flag(getattr(machine, name), f"a machine's {name}"))


def copy_tags(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of tags. Raise TypeError if a key or a value is no string."""
    return {copy_text(key, "a tag's key"): copy_text(value, "a tag") for key, value in dict(tags or {}).items()}


def _encode_properties(properties: Mapping[str, Any] | Raw) -> Raw:
    """Return properties as JSON that no later change of them reaches."""
    if isinstance(properties, Raw):
        data = bytes(properties)
        decode(data, dict[str, Any], "properties")  # a number in it may be too long for Python
    else:
        data = msgspec.json.encode(properties, enc_hook=_encode)
        decode(data, dict[str, Raw], "properties")
    check(data)
    return Raw(data)


def _encode(value: Any) -> Any:
    """Return a value that JSON can't hold as one that it can, as msgspec's ``enc_hook``."""
    if isinstance(value, str):
        return copy_text(value, "text")
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, Mapping):
        return dict(value)
    return secrets.encode_placeholder(value)


class PoolMachine(Struct, frozen=True):
    """A machine of a provider's pool. *name* is its handle, and *at* the address that manages it.

    *id* is the instance that uses it, or None if none of this plugin's does. *reason* is any other reason why
    it is not free.
    """

    name: str
    at: str = ""
    power: str = ""
    health: str = ""
    is_free: bool = False
    id: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        """Take exact copies. Raise TypeError for values that can't be shown."""
        _copy_fields(self, ("name", "at", "power", "health", "reason"), ("id",), ("is_free",))


class NoOptions(Struct, forbid_unknown_fields=True):
    """The options of a provider without any."""


class Provider(ABC):
    """Base class of all providers. After a crash, every method may be called again for the same ID."""

    Properties: ClassVar[Any] = Raw
    """The type of a spec's properties, a msgspec Struct, or Raw for any. They are checked and documented by it.
    A field of type `Secret` is never shown."""

    Options: ClassVar[Any] = NoOptions
    """The type of an operator's settings, a msgspec Struct. A `Secret` comes from the environment or a file."""

    example: ClassVar[Mapping[str, Any] | None] = None
    """Valid properties, for documentation; None for those that follow from the type."""

    batch: ClassVar[int] = 1
    """Most instances that `destroy` accepts at once."""

    certain: ClassVar[bool] = False
    """Whether an observation can't be wrong: the provider sees its machines itself, and not over a network. Then one
    observation of a loss is enough, however many are lost."""

    mark: str = ""
    """The plugin's identity, to be put on machines. It is set before `start`."""

    changed: Callable[[], None] = staticmethod(lambda: None)
    """Tell the plugin that a machine has changed: it observes at once, and not only after its interval.

    It is set before `start`. Any thread may call it, at any time and as often as it likes: changes that come together
    cause one observation.
    """

    known: Sequence[Record] = ()
    """The records at the start; only `start` sees them."""

    ready: Container[str] = frozenset()
    """IDs of the instances that are ready now, neither set aside nor being destroyed: only these may be repaired."""

    def __init__(self, name: str, folder: Path, options: Any = None) -> None:
        """Create the provider of plugin *name*, which may keep files in *folder*. *options* are of type `Options`."""
        self.name = name
        self.folder = folder
        self.options = self.Options() if options is None else options

    def start(self) -> Any:
        """Get ready. Raise `CannotStart`, or any other exception, if that is not possible."""

    def stop(self) -> Any:
        """Release the resources of `start`. Machines live on."""

    def validate(self, properties: Raw | None) -> Any:
        """Raise `InvalidSpec` for wrong properties; by default, for those that are not of type `Properties`."""
        self.parse(properties)

    def parse(self, properties: Raw | None) -> Any:
        """Return properties as an instance of type `Properties`; raise `InvalidSpec`."""
        try:
            return decode(properties or b"{}", self.Properties, "Properties", secrets.decode_secret)
        except WrongShape as error:
            raise InvalidSpec(error.where, error.problem) from None

    @abstractmethod
    def provision(self, id: str, spec: Spec) -> Any:
        """Make the machine *id*, or find it if it exists. Return its `Machine`, its handle, or None.

        Raise `GiveUp` if it can't be made, or `NoCapacity` if there is no room for it now: the plugin calls
        `destroy` for the ID, and InfraKit gets the error.
        Any other exception does the same while InfraKit still waits for the answer. Once InfraKit has the ID,
        the plugin calls this method again later.
        """

    @abstractmethod
    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        """Destroy the machines of *instances*: one, or up to `batch`. Succeed for one that is gone or never existed.

        *reason* is ``terminate``, ``rolling_update``, or this plugin's own reason. Return None, or the errors of
        the machines that still exist, by ID: the plugin calls again for these. An exception means that all exist.
        """

    @abstractmethod
    def observe(self) -> Any:
        """Return a `Machine` for each machine with this plugin's mark. Raise if that is not known for all of them.

        No second call begins before this one ends. If it is ``async`` and takes too long, it is cancelled.
        """

    def label(self, instance: Record, tags: Mapping[str, str]) -> Any:
        """Put tags on the machine, if the provider keeps them there. By default, it does not."""

    def adopt(self, id: str, handle: str, spec: Spec) -> Any:
        """Put this plugin's mark and *id* on the existing machine *handle*. Return its `Machine`, or None.

        Raise `GiveUp` if the machine does not exist, or belongs to another plugin.
        """
        raise GiveUp(f"provider {type(self).__name__} can't adopt machines")

    def pool(self) -> Any:
        """Return a `PoolMachine` for each machine, free or not. Answer from memory: a client waits.

        By default, machines are made, and there is no pool.
        """
        raise GiveUp(f"provider {type(self).__name__} has no pool of machines: it creates them on demand")
