"""A disk in memory that keeps the promises of POSIX and no others, and fails or crashes at any step of a run.

Synced data stays. Each sector that was appended since may be there, or be zeros or garbage, and the file may end
anywhere. Each creation, rename and removal since the last sync of the folder may be there or not, in any order.
After a failed sync, its bytes may never reach the disk, although later syncs succeed.
"""

import errno
import math
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import TypeVar

from msgspec import Struct

from pyinfrakit.disk import AppendFile, Disk

SECTOR = 512

T = TypeVar("T")


class Step(Struct, frozen=True):
    """The *number*th operation of the run, on *path*. *kind* is the name of the method."""

    number: int
    kind: str
    path: Path


class Fault(Struct, frozen=True):
    """The failure of a step with the error *code*, after a share of it, *done* from 0 to 1, was done."""

    code: int = errno.EIO
    done: float = 0.0


class Inode:
    """A file's content, as processes see it and as it is on the disk."""

    def __init__(self, content: bytes = b"", *, private: bool = True) -> None:
        self.content = content
        self.private = private
        self.firm = len(content)
        """The number of bytes on the disk, except the *doubtful* ones."""
        self.doubtful: list[tuple[int, int]] = []
        """Ranges of bytes whose sync failed."""
        self.before: list[bytes] = []
        """Contents since the last sync, which may still be on the disk."""
        self.room = 0
        """The length up to which it is filled with zeros."""
        self.overwritten: list[tuple[int, bytes]] = []
        """Bytes before each overwrite since the last sync, which may still be on the disk, and their places."""

    @property
    def seen(self) -> bytes:
        return self.content.ljust(self.room, b"\0")

    def append(self, data: bytes) -> None:
        self.before.append(self.content)
        self.content += data

    def overwrite(self, data: bytes, start: int) -> None:
        end = start + len(data)
        self.overwritten.append((start, self.content[start:end]))
        self.content = self.content[:start] + data + self.content[end:]

    def truncate(self, length: int) -> None:
        self.before.append(self.content)
        self.content = self.content[:length]
        self.room = 0
        self.firm = min(self.firm, length)
        self.doubtful = [(start, min(end, length)) for start, end in self.doubtful if start < length]

    def sync(self) -> None:
        self.firm = len(self.content)
        self.before = []
        self.overwritten = []

    def fail_sync(self) -> None:
        self.doubtful.append((self.firm, len(self.content)))

    def copy(self) -> "Inode":
        new = Inode(self.content, private=self.private)
        new.firm, new.doubtful, new.before, new.room = self.firm, list(self.doubtful), list(self.before), self.room
        new.overwritten = list(self.overwritten)
        return new

    def after_crash(self, random: Random) -> "Inode":
        """Return one of the contents that a power cut may leave."""
        versions = [self.content, *self.before]
        longest = max(map(len, versions))
        length = random.choice([self.firm, len(self.content), longest, random.randint(self.firm, longest)])
        data = bytearray(self.content[: self.firm])
        sources = random.choice(["as written", "any"])
        while len(data) < length:
            data += _sector(versions, len(data), length, sources, random)
        for start, old in random.sample(self.overwritten, min(1, len(self.overwritten))):
            if random.random() < 0.7:  # a sector is replaced as a whole, so one of the values is there
                data[start : start + len(old)] = old
        for start, end in self.doubtful:
            if random.random() < 0.7:
                data[start:end] = _nothing(len(data[start:end]), random)
        return Inode(bytes(data).ljust(random.choice([0, self.room]), b"\0"), private=self.private)


def _sector(versions: list[bytes], start: int, length: int, sources: str, random: Random) -> bytes:
    """Return possible bytes from *start* to the end of the sector, or of the file at *length*."""
    end = min(length, (start // SECTOR + 1) * SECTOR)
    version = random.choice([each for each in versions if len(each) > start] or [b""])
    written = version[start:end].ljust(end - start, b"\0")
    return written if sources == "as written" or random.random() < 0.5 else _nothing(end - start, random)


def _nothing(length: int, random: Random) -> bytes:
    return random.choice([bytes(length), random.randbytes(length)])


class Entry(Struct, frozen=True):
    """A folder's change that may not be on the disk: *inode* lost the name *old*, got the name *new*, or both."""

    inode: Inode
    old: Path | None
    new: Path | None


def _nothing_fails(step: Step) -> Fault | None:
    return None


def _nothing_happens(step: Step) -> None:
    pass


class FaultyDisk(Disk):
    """The disk. Before each step it calls *wait*, without a lock, then *look*, which may read the disk, then *fail*."""

    def __init__(self, files: Mapping[Path, bytes] | None = None) -> None:
        self._names = {path: Inode(content) for path, content in (files or {}).items()}
        self._firm = dict(self._names)
        self._unsynced: list[Entry] = []
        self.lock = threading.RLock()
        self.steps = 0
        self.size = math.inf
        """The bytes that all files together may have."""
        self.is_off = False
        self.wait: Callable[[Step], None] = _nothing_happens
        self.look: Callable[[Step], None] = _nothing_happens
        self.fail: Callable[[Step], Fault | None] = _nothing_fails

    @property
    def files(self) -> dict[Path, bytes]:
        """The files, as processes see them."""
        with self.lock:
            return {path: inode.content for path, inode in self._names.items()}

    def crash(self, random: Random) -> "FaultyDisk":
        """Return one of the disks that a power cut at this instant may leave."""
        with self.lock:
            names = dict(self._firm)
            for entry in self._drawn(random):
                if entry.old is not None and names.get(entry.old) is entry.inode and _vanishes(entry, random):
                    del names[entry.old]
                if entry.new is not None:
                    names[entry.new] = entry.inode
            drawn = {id(inode): inode.after_crash(random) for inode in names.values()}
        new = FaultyDisk()
        new._names = {path: drawn[id(inode)] for path, inode in names.items()}
        new._firm = dict(new._names)
        return new

    def _drawn(self, random: Random) -> list[Entry]:
        """Return the folder changes that reach the disk, in a possible order."""
        match random.choice(["none", "first", "some", "any order", "all"]):
            case "none":
                return []
            case "first":
                return self._unsynced[: random.randint(0, len(self._unsynced))]
            case "some":
                return [entry for entry in self._unsynced if random.random() < 0.5]
            case "any order":
                return random.sample(self._unsynced, random.randint(0, len(self._unsynced)))
        return list(self._unsynced)

    def killed(self) -> "FaultyDisk":
        """Return the disk that the next process finds if this one is killed now: with everything that was written."""
        with self.lock:
            copies = {id(inode): inode.copy() for inode in (*self._names.values(), *self._firm.values())}
            copies |= {id(entry.inode): entry.inode.copy() for entry in self._unsynced if id(entry.inode) not in copies}
            new = FaultyDisk()
            new._names = {path: copies[id(inode)] for path, inode in self._names.items()}
            new._firm = {path: copies[id(inode)] for path, inode in self._firm.items()}
            new._unsynced = [Entry(copies[id(entry.inode)], entry.old, entry.new) for entry in self._unsynced]
            return new

    def do(
        self, kind: str, path: Path, work: Callable[[], T], in_part: Callable[[float], object] = lambda done: None
    ) -> T:
        """Take one step: do *work*, or *in_part* of it if it is to fail."""
        step = Step(self.steps, kind, path)
        if not self.is_off:
            self.wait(step)
        with self.lock:
            if self.is_off:
                raise OSError(errno.EIO, "the power is off")
            step = Step(self.steps, kind, path)
            self.steps += 1
            self.look(step)
            fault = self.fail(step)
            if fault is None:
                return work()
            if fault.done == 1:
                work()
            else:
                in_part(fault.done)
            raise OSError(fault.code, os.strerror(fault.code))

    def look_again(self, kind: str, path: Path) -> None:
        """Call *look* in the middle of a step."""
        self.look(Step(self.steps - 1, kind, path))

    # The interface of Disk

    def read(self, path: Path) -> bytes:
        return self.do("read", path, lambda: self._inode(path).seen)

    def names(self, folder: Path) -> list[str]:
        return self.do("names", folder, lambda: [path.name for path in self._names if path.parent == folder])

    def is_private(self, path: Path) -> bool:
        return self.do("is_private", path, lambda: self._inode(path).private)

    def create(self, path: Path) -> AppendFile:
        return self.do("create", path, lambda: self._create(path))

    def open(self, path: Path) -> AppendFile:
        return self.do("open", path, lambda: FaultyFile(self, path, self._inode(path)))

    def room(self, folder: Path) -> float:
        with self.lock:
            used = sum(len(inode.seen) for inode in {id(each): each for each in self._names.values()}.values())
            return self.size - used

    def rename(self, old: Path, new: Path) -> None:
        self.do("rename", old, lambda: self._rename(old, new))

    def remove(self, path: Path) -> None:
        self.do("remove", path, lambda: self._remove(path))

    def sync_folder(self, folder: Path) -> None:
        self.do("sync_folder", folder, lambda: self._sync_folder(folder))

    def _inode(self, path: Path) -> Inode:
        try:
            return self._names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def _create(self, path: Path) -> AppendFile:
        self._remove(path)
        inode = self._names[path] = Inode()
        self._unsynced.append(Entry(inode, None, path))
        return FaultyFile(self, path, inode)

    def _rename(self, old: Path, new: Path) -> None:
        inode = self._inode(old)
        if self._names.get(new) is not inode:  # of two names of one file both stay
            self._names[new] = self._names.pop(old)
            self._unsynced.append(Entry(inode, old, new))

    def _remove(self, path: Path) -> None:
        inode = self._names.pop(path, None)
        if inode is not None:
            self._unsynced.append(Entry(inode, path, None))

    def _sync_folder(self, folder: Path) -> None:
        self._firm = {path: inode for path, inode in self._firm.items() if path.parent != folder}
        self._firm |= {path: inode for path, inode in self._names.items() if path.parent == folder}
        self._unsynced = [entry for entry in self._unsynced if folder not in _folders(entry)]

    def is_at(self, path: Path, inode: Inode) -> bool:
        return self._names.get(path) is inode


def _vanishes(entry: Entry, random: Random) -> bool:
    """Return whether the old name goes. A rename is atomic for other processes, but not for a power cut."""
    return entry.new is None or random.random() < 0.8


def _folders(entry: Entry) -> set[Path]:
    return {path.parent for path in (entry.old, entry.new) if path is not None}


class FaultyFile(AppendFile):
    """A file on a `FaultyDisk`, created at *path*."""

    def __init__(self, disk: FaultyDisk, path: Path, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

    def append(self, data: bytes) -> None:
        self._disk.do("append", self._path, lambda: self._append(data), lambda done: self._append_some(data, done))

    def _append(self, data: bytes) -> None:
        room = self._disk.room(self._path.parent) + len(self._inode.seen) - len(self._inode.content)
        if len(data) > room:
            self._inode.append(data[: int(room)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        half = len(data) // 2
        self._inode.append(data[:half])
        self._disk.look_again("append", self._path)
        self._inode.append(data[half:])

    def _append_some(self, data: bytes, done: float) -> None:
        self._inode.append(data[: int(len(data) * done)])

    @property
    def size(self) -> int:
        return len(self._inode.content)

    def overwrite(self, data: bytes, start: int) -> None:
        self._disk.do("overwrite", self._path, lambda: self._inode.overwrite(data, start))

    def is_untouched(self, path: Path) -> bool:
        return self.is_at(path)

    def is_shared(self) -> bool:
        return False

    def reserve(self, length: int) -> None:
        self._disk.do("reserve", self._path, lambda: self._reserve(length))

    def _reserve(self, length: int) -> None:
        if length > self._disk.room(self._path.parent):
            return
        self._inode.room = len(self._inode.content) + length

    def sync(self) -> None:
        self._disk.do("sync", self._path, self._inode.sync, lambda done: self._inode.fail_sync())

    def truncate(self, length: int) -> None:
        self._disk.do("truncate", self._path, lambda: self._inode.truncate(length))

    def is_at(self, path: Path) -> bool:
        return self._disk.do("is_at", path, lambda: self._disk.is_at(path, self._inode))

    def close(self) -> None:
        if self._disk.is_off:
            return
        self._disk.do("close", self._path, lambda: None, lambda done: None)
