"""An instance's folder, which is there from before its process is started until nothing of it is left."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit.disk import Disk, unfinished
from pyinfrakit.errors import GiveUp, TryAgain
from pyinfrakit.providers.process import life
from pyinfrakit.providers.process.life import Life
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

ABOUT, LIFE, OUTPUT, ERRORS = "instance.json", "life", "stdout", "stderr"


class About(Struct, frozen=True, rename="pascal"):
    """What makes a lost record again."""

    mark: str
    logical_id: str | None
    tags: Mapping[str, str]


class Place:
    """The folder of one instance, whose name is its ID."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name

    def is_there(self) -> bool:
        return self.folder.is_dir()

    def make(self, about: About) -> None:
        """Make the folder: whole, or not at all."""
        new = unfinished(self.folder)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(0o700)
        Disk().replace(new / ABOUT, [msgspec.json.encode(about), b"\n"])
        new.rename(self.folder)

    def about(self) -> About:
        """Give what is written of the instance; raise `TryAgain` where that makes no sense."""
        path = self.folder / ABOUT
        try:
            return decode(path.read_bytes(), About)
        except (NotJSON, WrongShape) as error:
            raise TryAgain(f"{path}: {error}") from None

    def label(self, tags: Mapping[str, str]) -> None:
        """Write other tags."""
        about = replace(self.about(), tags=dict(tags))
        Disk().replace(self.folder / ABOUT, [msgspec.json.encode(about), b"\n"])

    def life(self) -> Life:
        """Give what is known of the process."""
        try:
            return life.parsed((self.folder / LIFE).read_text(errors="replace"))
        except FileNotFoundError:
            return Life()

    @contextlib.contextmanager
    def locked(self) -> Iterator[int | None]:
        """Hold the lock on the file ``life``, and give its descriptor; None while somebody else holds it.

        Whoever starts the process inherits the lock, and holds it until the process has ended: a daemon that
        was killed at any instant leaves it locked for as long as what it began is at work.
        """
        fd = self.opened(LIFE, os.O_RDWR)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield fd
        finally:
            os.close(fd)

    def is_at_work(self) -> bool:
        """Is there anybody who starts the process, or waits for its end?"""
        with self.locked() as lock:
            return lock is None

    def opened(self, name: str, how: int = os.O_WRONLY) -> int:
        """Give a descriptor that appends to one of the files."""
        flags = how | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.folder / name, flags, 0o600)

    def trim(self, limit: int) -> None:
        """Shorten what the process has written to its last half, where it is more than *limit* bytes."""
        for name in (OUTPUT, ERRORS):
            with contextlib.suppress(FileNotFoundError):
                if (self.folder / name).stat().st_size > limit:
                    self._shorten(name, limit // 2)

    def _shorten(self, name: str, length: int) -> None:
        """Keep the end. What is written at this instant may be lost: the process has the file open, and goes on."""
        fd = self.opened(name, os.O_RDWR)
        try:
            end = os.fstat(fd).st_size
            tail = os.pread(fd, length, max(0, end - length))
            os.ftruncate(fd, 0)
            os.write(fd, tail[tail.find(b"\n") + 1 :])
        finally:
            os.close(fd)

    def said(self, count: int = 3) -> list[str]:
        """Give the last lines that were written to stderr, or where there are none, to stdout."""
        for name in (ERRORS, OUTPUT):
            if tail := self._tail(name):
                return tail.split("\n")[-count:]
        return []

    def _tail(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError), (self.folder / name).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            return file.read().decode(errors="replace").strip()
        return ""

    def remove(self) -> None:
        """Take the folder away: at once for whoever looks, and then in truth."""
        gone = self.folder.with_name(f".{self.id}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


class Places:
    """All instances' folders, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tidy(self) -> None:
        """Remove what a crash left of folders that were being made or removed."""
        for path in self.folder.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def get(self, id: str) -> Place | None:
        """Give the place of an instance; None where it has none, as for an ID that is not ours to begin with."""
        place = Place(self.folder / id) if _is_name(id) else None
        return place if place is not None and place.is_there() else None

    def made(self, id: str, about: About) -> Place:
        """Give the place of an instance, which is made where there is none."""
        if not _is_name(id):
            raise GiveUp(f"{id!r} can't be the name of a folder")
        place = Place(self.folder / id)
        if not place.is_there():
            place.make(about)
        elif place.about().mark != about.mark:
            raise GiveUp(f"{place.folder} belongs to another plugin, by its mark")
        return place

    def of(self, mark: str) -> list[tuple[Place, About]]:
        """Give all places with a mark, and what is written there."""
        names = [name for name in os.listdir(self.folder) if not name.startswith(".")]
        places = [Place(self.folder / name) for name in names]
        found = [(place, about) for place in places if (about := _about(place)) is not None]
        return [(place, about) for place, about in found if about.mark == mark]


def _about(place: Place) -> About | None:
    """Read what is written; None where the place was removed meanwhile."""
    try:
        return place.about()
    except FileNotFoundError:
        if place.is_there():
            raise TryAgain(f"{place.folder} has no {ABOUT}, so it is not known whose it is") from None
        return None


def _is_name(id: str) -> bool:
    return bool(id) and not id.startswith(".") and "/" not in id and "\0" not in id and len(id.encode()) < 200
