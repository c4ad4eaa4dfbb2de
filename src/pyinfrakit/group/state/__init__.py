"""The state of groups: one entry a group, in a store that is chosen by its URL."""

from collections.abc import Callable, Mapping

from pyinfrakit.errors import CannotStart
from pyinfrakit.group.state.file import FileGroupStore, default_path, open_file
from pyinfrakit.group.state.store import Entry, GroupStore, Leadership

__all__ = ["Entry", "FileGroupStore", "GroupStore", "Leadership", "default_path", "open_group_store"]

DEFAULT_SCHEME = "file"

STORES: Mapping[str, Callable[[str | None, str], GroupStore]] = {DEFAULT_SCHEME: open_file}
"""What opens a store, by the scheme of its URL. It takes the URL, or None, and the controller's name."""


def open_group_store(url: str | None, name: str) -> GroupStore:
    """Return the store at *url* for controller *name*. A URL without a scheme is a path; None is the default.

    Nothing is read or locked yet. Raise `CannotStart`.
    """
    scheme, separator, _ = (url or "").partition("://")
    scheme = scheme if separator else DEFAULT_SCHEME
    if scheme not in STORES:
        raise CannotStart(f"state {url!r}: expected a path, or a URL of {', '.join(sorted(STORES))}, got {scheme}://")
    return STORES[scheme](url, name)
