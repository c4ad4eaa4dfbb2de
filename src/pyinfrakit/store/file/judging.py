"""Tell which of the values in text that may be damaged are a state file's entries, and not somebody's properties."""

import re
from collections.abc import Set

import msgspec
from msgspec import Raw

from pyinfrakit.store.file.document import KEYS_OF_ENTRIES, LISTS
from pyinfrakit.store.file.fragments import Stretch, Value

KEYS = (*LISTS, "Provider")
"""The document's own."""

SURE = {"ID", "State", "Tags", "LogicalID"}
"""An entry's keys, of which an object that has several, the ID among them, looks like one."""

ENTRY = tuple(key for key in KEYS_OF_ENTRIES if key != "Properties")
"""An entry's keys, but for its properties, in the order in which they are written."""

_ATTACHMENT = {"ID", "Type"}
_PROPERTIES = re.compile(r'"Properties"\s*:\s*\Z')


def depths_of_entries(text: str, stretch: Stretch) -> set[int]:
    """Tell how deep in a stretch the document's entries are: counted from its beginning, and from its end.

    The two differ where there is damage in between that the grammar allows.
    """
    from_end = {stretch.level + 2} if stretch.last and text[stretch.end - 1] == "}" else set()
    if _has_top(text, stretch):
        return {2} | from_end if stretch.level <= 0 or _has_end(text, stretch) else {2}
    lowest = min(from_end, default=None)
    for value in stretch.values:
        if (lowest is None or value.level < lowest) and value.key is None and _looks_like_entry(text, value):
            lowest = value.level
    return set() if lowest is None else {lowest}


def _has_top(text: str, stretch: Stretch) -> bool:
    """Is this the document's beginning?"""
    return stretch.first and text[stretch.start] == "{"


def _has_end(text: str, stretch: Stretch) -> bool:
    """Is the document's end there, with less brackets than were opened? Else it may just be cut off."""
    found = [value for value in stretch.values if value.key == "Provider" and value.level == stretch.level + 1]
    return any({"LastID", "Checkpoint"} <= keys_of(text, value) for value in found)


def is_entry(text: str, stretch: Stretch, value: Value, depths: set[int]) -> bool:
    """Is this an entry, where those are at these depths?"""
    if value.key is not None or (value.start == stretch.start and _has_top(text, stretch)):
        return False
    if _stands_as_properties(text, value):
        return False
    keys = keys_of(text, value)
    if len(depths) > 1 and keys & set(KEYS):  # it holds the rest of the document, as its end is missing
        return False
    if value.end is not None and value.level in depths and value.inside in (None, *LISTS):
        return keys != _ATTACHMENT
    stray = _has_top(text, stretch) and len(depths) == 1 and value.objects < 2
    return (stray or value.level in depths) and _looks_like_entry(text, value)


def _looks_like_entry(text: str, value: Value) -> bool:
    keys = keys_of(text, value)
    return "ID" in keys and len(keys & SURE) > 1


def _stands_as_properties(text: str, value: Value) -> bool:
    """Is this somebody's properties, and no entry that damage has moved there? An entry has its keys as we write them."""
    if not _PROPERTIES.search(text, max(0, value.start - 50), value.start):
        return False
    ranks = [ENTRY.index(key) for key in keys_of(text, value) if key in ENTRY]
    return ranks != sorted(ranks)


def keys_of(text: str, value: Value) -> Set[str]:
    """Give an object's keys, in order; none where it can't be read."""
    if value.end is None:
        return set()
    try:
        return msgspec.json.decode(text[value.start : value.end].encode("latin-1"), type=dict[str, Raw]).keys()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return set()
