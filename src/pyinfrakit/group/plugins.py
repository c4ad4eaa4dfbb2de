"""What the controller asks of an instance plugin, wherever it runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Raw, Struct

from pyinfrakit.record import Spec


class Description(Struct, frozen=True, gc=False):
    """An instance as its plugin describes it.

    *state* and *reason* are those of the plugin's record, if the plugin tells; *state* is empty otherwise:
    the instance exists, and that is all that is known. *by_hand*: an operator set it aside, and no controller.
    *properties* are its live ones, or those of its spec.
    """

    id: str
    logical_id: str | None = None
    tags: Mapping[str, str] = {}
    properties: Raw | None = None
    state: str = ""
    reason: str = ""
    by_hand: bool = False


BY_CONTROLLER = "by the group controller: "
"""The beginning of the reason with which a controller sets a member aside. Whatever else is set aside is by hand."""


class InstancePlugin(ABC):
    """An instance plugin, or one sub-type of it.

    Every method may raise `Unreachable`, or the error that the plugin answered with: `InvalidSpec`,
    `NoCapacity`, `TryAgain`, `UnknownInstance`, `Refused`, `GiveUp`, or another `PyInfrakitError`.
    """

    is_certain: bool = False
    """Whether the plugin itself holds mass losses, so that a member that it no longer describes is gone."""

    @abstractmethod
    async def validate(self, properties: Raw | None) -> None:
        """Have the plugin check its own part of a spec."""

    @abstractmethod
    async def provision(self, spec: Spec) -> str:
        """Ask for an instance; return its ID. If this raises `Unreachable`, there may be one all the same."""

    @abstractmethod
    async def destroy(self, id: str, reason: str) -> None:
        """Have an instance destroyed; return once the plugin has accepted that."""

    @abstractmethod
    async def label(self, id: str, tags: Mapping[str, str]) -> None:
        """Add or replace tags."""

    @abstractmethod
    async def describe(self, group: str) -> Sequence[Description]:
        """Return all instances of a group; also those that InfraKit does not see, if the plugin tells."""

    @abstractmethod
    async def set_aside(self, id: str, reason: str) -> None:
        """Take an instance out of service, and keep it. Raise `GiveUp` if the plugin can't."""

    @abstractmethod
    def follow(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call *callback* with a group's ID soon after its members changed, if the plugin tells. Return how to stop."""


class FindPlugin(Protocol):
    """Return the instance plugin of a name such as ``rack1`` or ``rack1/compute``; raise `Unreachable`."""

    async def __call__(self, name: str) -> InstancePlugin: ...
