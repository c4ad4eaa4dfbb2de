"""The interface of the stores that groups live in: four calls, and an entry of JSON for each group."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

from msgspec import Raw, Struct


class Entry(Struct, frozen=True):
    """The *value* of a group's *key*, as JSON. Each change has a *version* of its own.

    An entry that does not exist has None and version 0.
    """

    key: str
    value: Raw | None = None
    version: int = 0


class Leadership:
    """The right to change entries. Other stores may take it away; the file store keeps it."""

    def __init__(self) -> None:
        self._end = asyncio.Event()

    @property
    def is_leader(self) -> bool:
        """Whether the right still holds."""
        return not self._end.is_set()

    async def lost(self) -> None:
        """Wait until the right is gone."""
        await self._end.wait()

    def end(self) -> None:
        """Give up the right."""
        self._end.set()


class GroupStore(ABC):
    """The entries of all groups. One process at a time leads, and only it can change them."""

    location: str
    """The storage's name in messages to people."""

    @abstractmethod
    def locate(self, key: str) -> str:
        """Return the name of an entry's place in messages to people."""

    @abstractmethod
    def load(self) -> Mapping[str, Entry]:
        """Return all entries that exist, by key. Raise `CannotStart`, or `Damaged` if one of them makes no sense."""

    @abstractmethod
    async def put(self, key: str, value: Raw | None, version: int) -> Entry:
        """Make an entry durable, and return it; None deletes it.

        *version* is that of the entry to replace, or 0 if there must be none. Raise `Refused` if the stored
        version differs, `InvalidSpec` if *value* is no JSON that can be kept, `StoreFailed` if it can't be made
        durable, and `TryAgain` without the leadership. The entry is the old one then.
        """

    @abstractmethod
    def lead(self) -> AbstractAsyncContextManager[Leadership]:
        """Take the leadership for a context. Raise `InUse`, which names its holder, or what `load` raises."""

    @abstractmethod
    def watch(self) -> AsyncIterator[Entry]:
        """Return an iterator over the entries that are put from now on, here or by others, until the leadership ends.

        Of a key that is put faster than it is read, only the newest entry comes.
        """
