"""All calls that a group controller answers, whoever makes them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from msgspec import Raw

from pyinfrakit.group.status import Commit, GroupStatus, PlanReport


class Groups(ABC):
    """The groups of a controller.

    Every method that takes a group's ID may raise `UnknownGroup`; only `commit` and `plan` create groups. A
    change is durable once its call returns.
    """

    @abstractmethod
    async def commit(self, id: str, properties: Raw, pretend: bool, by: str) -> str:
        """Commit a group's properties, or with *pretend* only check them. Return InfraKit's text about the effect.

        *by* is who asks. Raise `InvalidSpec`, and change nothing then.
        """

    @abstractmethod
    async def plan(self, id: str, properties: Raw) -> PlanReport:
        """Return what a commit of these properties would do. Raise `InvalidSpec`."""

    @abstractmethod
    async def free(self, id: str) -> None:
        """Forget a group, and leave its members alone."""

    @abstractmethod
    async def destroy(self, id: str) -> None:
        """Have a group destroyed, with all its members; return once that is accepted and durable."""

    @abstractmethod
    async def destroy_instances(self, id: str, ids: Sequence[str]) -> None:
        """Have members destroyed, and shrink the group by their number. Raise `UnknownInstance` if one is no member."""

    @abstractmethod
    async def set_size(self, id: str, size: int) -> None:
        """Change a group's size. Raise `WrongCall` if it has logical IDs instead."""

    @abstractmethod
    def describe(self, id: str) -> GroupStatus:
        """Return a group's members, rollout and plan."""

    @abstractmethod
    def inspect(self) -> Sequence[tuple[str, Raw]]:
        """Return the ID of every group, with its properties as committed."""

    @abstractmethod
    def size(self, id: str) -> int:
        """Return the wanted number of members."""

    @abstractmethod
    def history(self, id: str) -> Sequence[Commit]:
        """Return a group's commits, the oldest first."""

    @abstractmethod
    async def undo(self, id: str, number: int | None, by: str) -> str:
        """Commit the properties of an earlier commit again, by default the one before the last.

        Return InfraKit's text about the effect. Raise `WrongCall` if there is no such commit.
        """

    @abstractmethod
    async def pause(self, id: str, reason: str) -> None:
        """Pause a group's update."""

    @abstractmethod
    async def resume(self, id: str) -> None:
        """Resume an update that was paused, or that stopped."""

    @abstractmethod
    async def abort(self, id: str) -> None:
        """End an update, and keep the members as they are."""

    @abstractmethod
    async def protect(self, id: str, instance: str, on: bool) -> None:
        """Protect a member from being destroyed by the controller, or stop to. Raise `UnknownInstance`."""

    @abstractmethod
    async def confirm(self, id: str) -> Sequence[str]:
        """Confirm held losses, so that the lost members are replaced; return their IDs."""
