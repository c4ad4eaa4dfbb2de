"""The SDK: what whoever has machines fills in.

A provider makes machines, destroys them, and tells which there are: three methods. The plugin around it keeps the
records, and sees to it that no two calls for one instance run at once, that a call is made again after a crash, and that
what a provider gets wrong is never taken for an answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Raw, Struct

from pyinfrakit.decoding import WrongShape, check, decode
from pyinfrakit.errors import CannotStart, InvalidSpec
from pyinfrakit.instance import Record, Spec


class Machine(Struct, frozen=True, gc=False):
    """A machine as the provider sees it.

    *id* is the instance's, *handle* what the provider itself calls it. *functional* is False where it exists but does not work,
    and *reason* then says why. *properties*, a JSON object, are what is known of it now; where there are none InfraKit is shown
    those of its spec.
    """

    id: str
    handle: str | None = None
    functional: bool = True
    reason: str = ""
    properties: Raw | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be stored or shown, where it is made: in the provider."""
        if not isinstance(self.id, str) or not isinstance(self.reason, str):
            raise TypeError(f"expected strings as a machine's id and reason, got {self.id!r} and {self.reason!r}")
        if self.handle is not None and not isinstance(self.handle, str):
            raise TypeError(f"expected a string or None as a machine's handle, got {self.handle!r}")
        for text in (self.id, self.handle, self.reason):
            if text and not text.isascii():
                text.encode()
        if self.properties is not None:
            check(bytes(self.properties))
            decode(self.properties, dict[str, Raw], "properties")


class Provider(ABC):
    """Base class of all providers. Every method may be called again after a crash, for the same ID."""

    properties: ClassVar[Any] = Raw
    """The type of a spec's properties, a msgspec Struct; Raw takes anything."""

    example: ClassVar[Mapping[str, Any]] = {}
    """Properties that are right, for documentation."""

    options: ClassVar[Mapping[str, str]] = {}
    """The options that it takes, with what each means."""

    def __init__(self, name: str, folder: Path, options: Mapping[str, str]) -> None:
        """Be the provider of plugin *name*, which may keep files in *folder*. Raise `CannotStart` for wrong *options*."""
        for key in options:
            if key not in self.options:
                known = ", ".join(self.options) or "it takes none"
                raise CannotStart(f"option {key!r} is unknown to provider {type(self).__name__}; known: {known}")

    async def start(self, mark: str, known: Iterable[Record]) -> None:
        """Get ready. *mark* is the plugin's identity, to be put on machines; *known* are the records that it has."""

    async def stop(self) -> None:
        """Let go of what `start` took. Machines live on."""

    def validate(self, properties: Raw | None) -> None:
        """Refuse wrong properties with `InvalidSpec`; by default, those that are not of type `properties`."""
        self.parse(properties)

    def parse(self, properties: Raw | None) -> Any:
        """Give properties as an instance of type `properties`; raise `InvalidSpec`."""
        try:
            return decode(properties or b"{}", self.properties, "Properties")
        except WrongShape as error:
            raise InvalidSpec(error.where, error.problem) from None

    @abstractmethod
    async def provision(self, id: str, spec: Spec) -> Machine:
        """Make the machine *id*, or give the one that this ID has already.

        Raise `GiveUp` where it can't be done: `destroy` is then called for the ID, and InfraKit is told. So it is with any other
        exception, too, where InfraKit still waits for the answer; where it has the ID already, this is called again later.
        """

    @abstractmethod
    async def destroy(self, record: Record, reason: str) -> None:
        """Destroy the machine of *record*; one that is gone already, or never was, is fine. An exception: again later.

        *reason* is ``terminate``, ``rolling_update``, or why this plugin wants it gone.
        """

    @abstractmethod
    async def observe(self) -> Iterable[Machine]:
        """Give every machine with this plugin's mark. Where that can't be told for all of them, raise.

        Cancelled where it takes too long; there is no second call before this one has ended.
        """

    async def label(self, record: Record, tags: Mapping[str, str]) -> None:
        """Put tags on the machine, for providers that keep them. By default there is nowhere to put them."""
