"""The files of the file store: a folder with a JSON file for each group.

    {"Key": "web", "Version": 7, "Value": {…}}

Each file is replaced as a whole, so that a change to one of many groups costs what it costs alone. A file that
can't be read, or makes no sense, is never taken for a group that does not exist.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta, Raw, Struct

from pyinfrakit.disk import Disk, Displaced, temporary_path
from pyinfrakit.errors import CannotStart, Damaged
from pyinfrakit.group.state.store import Entry
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, check_keys, decode

SUFFIX = ".json"

RESCUED = f"{SUFFIX}.rescued-"
"""What follows a key in the name of a file that a stop had to write beside the group's own."""

LONGEST = 200
"""Longest encoded key in a file name. File systems take 255 bytes."""

_TEMPORARY = re.compile(rf"\..+{re.escape(SUFFIX)}\.new")


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    Key: str
    Version: Annotated[int, Meta(ge=1)]
    Value: Raw


class Change(Struct, frozen=True):
    """The replacement of entry *old* by *new*, which has the same key."""

    old: Entry
    new: Entry


def _nothing_to_check() -> None:
    pass


class Folder:
    """The files in the folder at *path*. One process at a time may write them.

    It calls *check* before and after it writes, which raises `Displaced` if the folder is not its own any more.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self.check: Callable[[], None] = _nothing_to_check
        self._doubtful: dict[str, Entry] = {}
        """Entries that a failed write may have replaced. They are restored before anything else is written."""

    def locate(self, key: str) -> Path:
        """Return the path of an entry's file."""
        return self._path / (_encode_key(key) + SUFFIX)

    def clean(self) -> None:
        """Remove what an interrupted write left behind, and make sure of its last rename. Raise OSError."""
        for name in self._disk.names(self._path):
            if _TEMPORARY.fullmatch(name):
                self._disk.remove(self._path / name)
        self._disk.sync_folder(self._path)

    def check_rescued(self) -> None:
        """Raise `CannotStart` if an earlier stop had to write an entry beside its file."""
        try:
            found = next((name for name in sorted(self._disk.names(self._path)) if RESCUED in name), None)
        except OSError as error:
            raise CannotStart(f"group state {self._path} can't be read: {error.strerror or error}") from None
        if found is not None:
            name = found.partition(RESCUED)[0] + SUFFIX
            advice = f"move it to {name} to use it, or move it away to use what is there"
            raise CannotStart(f"group state {self._path}: a stop could not write {name}, and left {found}; {advice}")

    def read(self) -> dict[str, Entry]:
        """Return all entries. Raise `Damaged`, or `CannotStart` if the folder can't be read."""
        try:
            names = sorted(self._disk.names(self._path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CannotStart(f"group state {self._path} can't be read: {error.strerror or error}") from None
        entries = [self._read_entry(name) for name in names if name.endswith(SUFFIX) and name[0] != "."]
        return {entry.key: entry for entry in entries if entry is not None}

    def _read_entry(self, name: str) -> Entry | None:
        """Return the entry in a file, or None if its writer has just removed the file."""
        try:
            return _decode(self._disk.read(self._path / name), name)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and name not in self._disk.names(self._path):
                return None
            where, problem = "file", f"can't be read: {error.strerror or error}"
        except NotJSON as error:
            where, problem = "content", str(error)
        except WrongShape as error:
            where, problem = error.where or "content", error.problem
        advice = "the file was left untouched; restore it from a copy, or move it away to forget the group"
        raise Damaged(f"group state {self._path / name}", where, problem, advice)

    def write(self, changes: Sequence[Change]) -> Mapping[str, OSError]:
        """Make *changes*, of different keys, durable. Return the failures by key; those entries stay the old ones.

        All changes share one sync of the folder. If this raises OSError, nothing was changed.
        """
        self.check()
        self._restore()
        # Also after an error that nobody foresaw, nothing is written before these are as they were.
        self._doubtful = {change.old.key: change.old for change in changes}
        failures: dict[str, OSError] = {}
        placed: list[Change] = []
        for change in changes:
            try:
                self._check_file(change.old)
                self._prepare(change.new)
                placed.append(change)
            except OSError as error:
                failures[change.new.key] = error
        for change in placed:
            try:
                self._place(change.new)
            except OSError as error:
                failures[change.new.key] = error
        try:
            self._disk.sync_folder(self._path)
            self.check()
        except OSError as error:
            failures |= {change.new.key: error for change in placed}
        self._doubtful = {change.old.key: change.old for change in placed if change.old.key in failures}
        with suppress(OSError):  # the next write tries again
            self._restore()
        return failures

    def _check_file(self, entry: Entry) -> None:
        """Raise `Displaced` unless an entry's file is as this process wrote or read it."""
        if not self.has(entry):
            path = self.locate(entry.key)
            raise Displaced(f"{path} was removed, replaced or changed by another program: put it back")

    def has(self, entry: Entry) -> bool:
        """Return whether the folder has an entry's file as it should be. Raise OSError."""
        path = self.locate(entry.key)
        try:
            return _decode(self._disk.read(path), path.name) == entry
        except FileNotFoundError:
            return entry.value is None
        except (NotJSON, WrongShape):
            return False

    def rescue(self, entries: Iterable[Entry], folders: Sequence[Path]) -> Sequence[Path]:
        """Write the files of *entries*, with names of their own, into the first of *folders* that takes them."""
        end = f"{RESCUED}{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        for folder in folders:
            with suppress(OSError):
                paths = {folder / (_encode_key(entry.key) + end): entry for entry in entries}
                for path, entry in paths.items():
                    self._disk.write(path, [_encode(entry)])
                self._disk.sync_folder(folder)
                return list(paths)
        return []

    def _prepare(self, entry: Entry) -> None:
        """Write an entry beside its place."""
        if entry.value is None:
            return
        temporary = temporary_path(self.locate(entry.key))
        try:
            self._disk.write(temporary, [_encode(entry)])
        except OSError:
            with suppress(OSError):  # free the room on a full disk
                self._disk.remove(temporary)
            raise

    def _place(self, entry: Entry) -> None:
        """Put an entry that is prepared in its place."""
        path = self.locate(entry.key)
        if entry.value is None:
            self._disk.remove(path)
        else:
            self._disk.rename(temporary_path(path), path)

    def _restore(self) -> None:
        """Undo failed changes: a process that is killed now must not leave what it reported as failed."""
        if not self._doubtful:
            return
        self.check()
        for entry in self._doubtful.values():
            if self._read_value(entry.key) != (entry.value and _encode(entry)):
                self._prepare(entry)
                self._place(entry)
        self._disk.sync_folder(self._path)
        self._doubtful = {}

    def _read_value(self, key: str) -> bytes | None:
        try:
            return self._disk.read(self.locate(key))
        except FileNotFoundError:
            return None


def _encode_key(key: str) -> str:
    """Return the key as the beginning of a file name. Different keys have different ones."""
    encoded = quote(key, safe="")
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) <= LONGEST:
        return encoded
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{encoded[: LONGEST - len(digest)]}~{digest}"  # longer than any other


def _encode(entry: Entry) -> bytes:
    assert entry.value is not None
    return msgspec.json.encode(_File(entry.key, entry.version, entry.value)) + b"\n"


def _decode(data: bytes, name: str) -> Entry:
    check(data)
    file = decode(data, _File)
    check_keys(data)
    if _encode_key(file.Key) + SUFFIX != name:
        raise WrongShape("Key", f"expected the key of a file with this name, got {file.Key!r}")
    return Entry(file.Key, file.Value.copy(), file.Version)
