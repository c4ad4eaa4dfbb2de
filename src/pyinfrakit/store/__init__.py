"""Where records live: the interface of all stores, and how one is chosen by its URL.

A store is installed as an entry point in the group ``pyinfrakit.stores``. The entry point's name is the
URL's scheme, and its value an `OpenStore`. The file store is the default.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Self

from pyinfrakit.errors import CannotStart
from pyinfrakit.store.records import Change, Records

GROUP = "pyinfrakit.stores"
DEFAULT_SCHEME = "file"


class Store(ABC):
    """Records in memory. Every change to them becomes durable.

    A change shows in `records` as soon as `commit` is called, so that the next decision knows of it. It is
    durable once the future that `commit` returned is done. If it can't be made durable, the future raises
    `StoreFailed`, and the change and all later ones are undone.

    A daemon with sub-types has one `Store` for each: `part` returns them. They share one storage.
    """

    sub_type: str = ""
    """The sub-type of all the records; empty for a plugin without sub-types."""
    location: str
    """The storage's name in messages to people."""
    folder: Path
    """A folder on this host in which providers may keep files of their own."""
    records: Records
    mark: str
    """The random identity that tells this plugin's machines from those of other plugins and sub-types."""

    @abstractmethod
    def commit(self, *changes: Change, urgent: bool = True) -> asyncio.Future[None]:
        """Make *changes*, together; without any, wait for those under way. The wait may be cancelled.

        Nobody waits for changes that are not *urgent*: they may be written a little later, with others.
        """

    @abstractmethod
    def part(self, sub_type: str) -> "Store":
        """Return the store of one sub-type's records. It is usable while this one is open."""

    def find_elsewhere(self, id: str) -> str:
        """Return the other sub-type that has a record of this ID, or an empty string. An ID exists only once."""
        return ""

    @abstractmethod
    async def flush(self) -> None:
        """Wait for what is under way, and make sure that nothing is kept that was undone. Raise `StoreFailed`."""

    @abstractmethod
    def close(self) -> None:
        """Release the storage, for the next holder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


OpenStore = Callable[[str | None, str, str | None, Sequence[str]], Store]
"""Open a store: `open_store` without the choice of the scheme."""


def open_store(url: str | None, name: str, mark: str | None = None, sub_types: Sequence[str] = ("",)) -> Store:
    """Open the store at *url* for plugin *name*; return the `Store` of the first of *sub_types*.

    A URL without a scheme is a path; None stands for the plugin's default. *mark* replaces the stored one.
    Raise `CannotStart`, `InUse` or `Damaged`; the storage is left as it was then.
    """
    scheme, separator, _ = (url or "").partition("://")
    points = entry_points(group=GROUP)
    names = sorted(points.names)
    scheme = scheme if separator else DEFAULT_SCHEME
    if scheme not in names:
        raise CannotStart(f"state {url!r}: no store for {scheme}:// is installed; installed: {', '.join(names)}")
    opener: OpenStore = points[scheme].load()
    return opener(url, name, mark, sub_types)
