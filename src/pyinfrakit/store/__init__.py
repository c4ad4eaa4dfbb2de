"""Where records live: the interface that the plugin knows. One file here is one store."""

import asyncio
from abc import ABC, abstractmethod

from pyinfrakit.store.records import Change, Records


class Store(ABC):
    """Records in memory, every change of which is made durable.

    A change shows in `records` as soon as `commit` is called, so that what is decided next knows of it, and
    is durable once the future that `commit` gave is done. Where it can't be made durable the future raises
    `StoreFailed`, and the change, and all that were made after it, are taken back.
    """

    type: str = ""
    """The sub-type that all of the records are of; empty for a plugin without sub-types."""
    location: str
    """Where it is, for people."""
    records: Records
    mark: str
    """The plugin's random identity, by which its machines are told from other plugins', and from its other sub-types'."""

    @abstractmethod
    def commit(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        """Make *changes*, together; with none, wait for those that are under way. The wait may be cancelled.

        Changes that are not *urgent*, as nobody waits for them, may be written a little later, together with others.
        """

    def elsewhere(self, id: str) -> str:
        """Name the other sub-type that has a record of this ID; empty where none has. An ID may be there but once."""
        return ""

    @abstractmethod
    async def flush(self) -> None:
        """Wait for what is under way, and see that nothing is kept that was taken back. Raise `StoreFailed`."""
