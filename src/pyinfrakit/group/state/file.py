"""The default store of groups: a folder with one file for each, and a thread that writes them.

Changes that come during a write are written together next: each file is synced, and the folder once for all.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self
from weakref import WeakSet

from msgspec import Raw

from pyinfrakit import paths
from pyinfrakit.disk import Disk, Displaced
from pyinfrakit.errors import CannotStart, InvalidSpec, Refused, Rescued, StoreFailed, TryAgain
from pyinfrakit.group.state.folder import Change, Folder
from pyinfrakit.group.state.store import Entry, GroupStore, Leadership
from pyinfrakit.locks import Lock
from pyinfrakit.schema.decode import NotJSON, WrongShape, check, check_keys, decode
from pyinfrakit.store.file.writer import Thread

LOCK = "lock"
"""The name of the lock's file in the folder."""


def default_path(name: str) -> Path:
    """Return the folder of controller *name*'s groups, unless an operator chooses another."""
    return paths.home() / "state" / f"{name}.groups"


def open_file(url: str | None, name: str) -> GroupStore:
    """Return the store in the folder at *url*, a path or ``file://`` and a path, or in the default folder."""
    path = default_path(name) if url is None else Path(url.removeprefix("file://"))
    return FileGroupStore(path, f"controller {name}")


class FileGroupStore(GroupStore):
    """The groups in the folder at *path*. *holder* names this process to others that want the folder."""

    def __init__(self, path: Path, holder: str, disk: Disk = Disk()) -> None:
        self.location = f"group state {path}"
        self._path = path.absolute()
        self._holder = holder
        self._disk = disk
        self._folder = Folder(disk, self._path)
        self._writer: _Writer | None = None
        """None without the leadership."""
        self._watchers: WeakSet[_Watcher] = WeakSet()

    def locate(self, key: str) -> str:
        return f"group state {self._folder.locate(key)}"

    def load(self) -> Mapping[str, Entry]:
        return dict(self._writer.entries) if self._writer is not None else self._folder.read()

    async def put(self, key: str, value: Raw | None, version: int) -> Entry:
        _check_value(key, value)
        writer = self._writer
        while writer is not None and (write := writer.pending.get(key)) is not None:
            await asyncio.wait([write])
            writer = self._writer
        if writer is None:
            raise TryAgain(f"not a leader: {self.location} can be changed only by its holder")
        old = writer.entries.get(key, Entry(key))
        if old.version != version:
            raise Refused(key, f"changed meanwhile: expected version {version}, but {_describe(old)}; look again first")
        writer.number += 1
        new = Entry(key) if value is None else Entry(key, value.copy(), writer.number)
        # The wait may be cancelled; the write goes on.
        failure = await asyncio.shield(writer.write(Change(old, new)))
        if failure is not None:
            raise StoreFailed(self.locate(key), getattr(failure, "strerror", None) or str(failure) or "no memory")
        return new

    @asynccontextmanager
    async def lead(self) -> AsyncIterator[Leadership]:
        with self._take_lock() as lock:
            self._folder.check = lock.check
            self._folder.check_rescued()
            entries = self._folder.read()
            try:
                self._folder.clean()
            except OSError as error:
                raise CannotStart(f"{self.location} can't be written: {error.strerror or error}") from None
            writer = self._writer = _Writer(self._folder, entries, self._watchers)
            leadership = Leadership()
            try:
                yield leadership
            finally:
                self._writer = None
                leadership.end()
                await writer.end()
                for watcher in self._watchers:
                    watcher.end()
            self._check_end(lock, list(writer.entries.values()))

    def _check_end(self, lock: Lock, entries: Sequence[Entry]) -> None:
        """Make sure that the folder has all *entries*. Raise `Rescued` if it does not, or `StoreFailed`."""
        missing = [entry for entry in entries if not self._has(entry)]
        if missing:
            folders = (self._path, lock.find_folder(), Path(tempfile.gettempdir()))
            paths = self._folder.rescue(missing, [folder for folder in folders if folder is not None])
            keys = ", ".join(entry.key for entry in missing)
            problem = f"the files of {keys} were removed, replaced or changed by another program"
            raise Rescued(self.location, problem, ", ".join(map(str, paths)))
        try:
            lock.check()
        except Displaced as error:
            raise StoreFailed(self.location, error.strerror or str(error)) from None

    def _has(self, entry: Entry) -> bool:
        try:
            return self._folder.has(entry)
        except OSError:
            return False

    def _take_lock(self) -> Lock:
        """Lock the folder. Create it if it does not exist."""
        paths.make_folder(self._path.parent)
        paths.make_private(self._path)
        return Lock(self._path / LOCK, self.location, self._holder)

    def watch(self) -> AsyncIterator[Entry]:
        watcher = _Watcher()
        self._watchers.add(watcher)
        return watcher


def _check_value(key: str, value: Raw | None) -> None:
    """Raise `InvalidSpec` for a value that the next start could not read."""
    if value is None:
        return
    try:
        data = bytes(value)
        check(data)
        decode(data, Raw)
        check_keys(data)
    except (NotJSON, WrongShape) as error:
        raise InvalidSpec(key, str(error)) from None


def _describe(entry: Entry) -> str:
    return f"version {entry.version} is stored" if entry.version else "nothing is stored"


class _Watcher(AsyncIterator[Entry]):
    """An iterator over new entries. It keeps one of each key at most, so that a slow reader costs little."""

    def __init__(self) -> None:
        self._waiting: dict[str, Entry] = {}
        self._is_over = False
        self._wake = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Entry:
        while not self._waiting:
            if self._is_over:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.pop(next(iter(self._waiting)))

    def add(self, entry: Entry) -> None:
        self._waiting[entry.key] = entry
        self._wake.set()

    def end(self) -> None:
        self._is_over = True
        self._wake.set()


Failure = OSError | MemoryError | None


class _Writer:
    """The entries in memory, and the thread that writes them. Memory changes after the file did."""

    def __init__(self, folder: Folder, entries: dict[str, Entry], watchers: WeakSet[_Watcher]) -> None:
        self.entries = entries
        self.number = max((entry.version for entry in entries.values()), default=0)
        """The highest version so far: a key that is deleted and put again gets none that it had before."""
        self.pending: dict[str, asyncio.Future[Failure]] = {}
        """The writes under way, by key."""
        self._folder = folder
        self._watchers = watchers
        self._waiting: list[Change] = []
        self._thread = Thread("group state")
        self._task: asyncio.Task[None] | None = None

    def write(self, change: Change) -> asyncio.Future[Failure]:
        """Write a change, whose key must not be pending. Return a future of its failure."""
        self._waiting.append(change)
        self.pending[change.new.key] = end = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="group state")
        return end

    async def _run(self) -> None:
        while self._waiting:
            changes, self._waiting = self._waiting, []
            failures: Mapping[str, OSError | MemoryError]
            try:
                failures = await self._do(changes)
            except (OSError, MemoryError) as error:
                failures = {change.new.key: error for change in changes}
            for change in changes:
                self._settle(change.new, failures.get(change.new.key))
        self._task = None

    async def _do(self, changes: Sequence[Change]) -> Mapping[str, OSError]:
        failures: dict[str, OSError] = {}
        await self._thread.do(lambda: failures.update(self._folder.write(changes)))
        return failures

    def _settle(self, new: Entry, failure: Failure) -> None:
        if failure is None:
            if new.value is None:
                self.entries.pop(new.key, None)
            else:
                self.entries[new.key] = new
            for watcher in self._watchers:
                watcher.add(new)
        self.pending.pop(new.key).set_result(failure)

    async def end(self) -> None:
        """Wait for the writes under way, and end the thread."""
        try:
            if self._task is not None:
                await self._task
        finally:
            self._thread.end()
