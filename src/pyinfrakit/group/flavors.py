"""Flavors: what a group's members are for. They prepare specs, judge health, and drain."""

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Protocol

from msgspec import Raw, Struct

from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Allocation
from pyinfrakit.record import Spec


class Health(IntEnum):
    """A member's health, with InfraKit's numbers."""

    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2


class Index(Struct, frozen=True):
    """The place of a new member: its group, and the number of members in it."""

    group: str
    sequence: int


class Flavor(ABC):
    """A flavor plugin, or one of the built-in ones.

    Every method may raise `Unreachable`, or the error that the plugin answered with.
    """

    @abstractmethod
    async def validate(self, properties: Raw | None, allocation: Allocation) -> None:
        """Raise `InvalidSpec` for properties that the flavor can't use."""

    @abstractmethod
    async def prepare(self, properties: Raw | None, spec: Spec, allocation: Allocation, index: Index) -> Spec:
        """Return the spec to provision: with the flavor's tags, Init and attachments."""

    @abstractmethod
    async def healthy(self, properties: Raw | None, member: Description) -> Health:
        """Return the health of a member."""

    @abstractmethod
    async def drain(self, properties: Raw | None, member: Description) -> None:
        """Prepare a member for its end."""


class FindFlavor(Protocol):
    """Return the flavor of a name; raise `Unreachable`."""

    async def __call__(self, name: str) -> Flavor: ...
