"""The folder of an instance. It exists from before its process starts until none of its processes is left.

    instance.json       mark, logical ID and tags, from which a lost record is restored, and ports by name
    stdout, stderr      output of the process
  cgroup              path of its control group, if it has one
    life                the process so far, in lines:
      boot ID SECONDS     the daemon is about to start the shell
      parent STAT         the shell runs; STAT is its line of /proc/PID/stat
      failed REASON       the command can't run: directory, command, executable, init STATUS, start ERRNO
      main STAT           the command runs
      exit STATUS         the command has ended

The shell writes the lines after ``boot``, with or without a daemon. The first line of a kind counts:
the shell writes it before Init and the command run. But the processes of the instance's user can get at the shell's
open file. So the lines are taken as that user's words: they may name no other user's process, and not all make sense.
"""

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit.disk import Disk, temporary_path
from pyinfrakit.errors import GiveUp, TryAgain
from pyinfrakit.locks import acquire, is_held
from pyinfrakit.providers.process import proc
from pyinfrakit.providers.process.cgroup import ControlGroup
from pyinfrakit.providers.process.proc import ProcessID
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

METADATA, LIFE, STDOUT, STDERR, GROUP = "instance.json", "life", "stdout", "stderr", "cgroup"

LIFE_SIZE = 65536
"""Bytes of the file ``life`` that are read. The shell writes less."""

_SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How files of the instance's user are opened: its lease on a file would otherwise make the opener wait."""

_FAILURE = re.compile("directory|command|executable|(init|start) [0-9]{1,3}")

NO_STATUS = "ended with unknown exit status"


class Metadata(Struct, frozen=True, rename="pascal"):
    """The part of a record that is not about the process."""

    mark: str
    logical_id: str | None
    tags: Mapping[str, str]
    ports: Mapping[str, int] = {}


class Life(Struct, frozen=True):
    """The content of a file ``life``. *boot_time* is in seconds since 1970."""

    boot: str = ""
    boot_time: int = 0
    shell: ProcessID | None = None
    failure: str = ""
    main: ProcessID | None = None
    status: int | None = None

    def find_problem(self, boot: str) -> str:
        """Return the reason why the command does not run in the current *boot*; empty if it runs."""
        if self.main is None:
            kind, _, status = self.failure.partition(" ")
            if kind == "init":
                return f"Init {describe_exit(int(status))}"
            return "its command can't run" if kind else "its start was interrupted"
        if self.status is not None:
            return describe_exit(self.status)
        if self.boot != boot:
            return f"{NO_STATUS}: the machine was restarted"
        return "" if proc.is_alive(self.main) else NO_STATUS


def describe_exit(status: int) -> str:
    """Return how a process ended for which a shell reports this status."""
    if status > 128:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(status - 128).name}"
    return f"exited with status {status}"


def _parse_life(text: str) -> Life:
    """Ignore lines that make no sense: a crash may leave them, and the instance's user may write them."""
    lines: dict[str, str] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        lines.setdefault(kind, rest)
    boot, _, boot_time = lines.get("boot", "").partition(" ")
    failure = lines.get("failed")
    return Life(
        boot=boot,
        boot_time=_parse_number(boot_time, 10**11) or 0,
        shell=_parse_process(lines.get("parent", "")),
        failure="" if failure is None else failure if _FAILURE.fullmatch(failure) else "unknown",
        main=_parse_process(lines.get("main", "")),
        status=_parse_number(lines.get("exit", ""), 256),
    )


def _parse_process(stat: str) -> ProcessID | None:
    try:
        return proc.parse_status(stat).id
    except ValueError:
        return None


def _parse_number(text: str, end: int) -> int | None:
    try:
        return proc.parse_number(text, end)
    except ValueError:
        return None


class InstanceFolder:
    """The folder of one instance. Its name is the instance's ID."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    def exists(self) -> bool:
        return self.path.is_dir()

    def read_metadata(self) -> Metadata | None:
        """Return the metadata; None if the folder is gone. Raise `TryAgain` if they are damaged or missing."""
        path = self.path / METADATA
        try:
            return decode(path.read_bytes(), Metadata)
        except (NotJSON, WrongShape) as error:
            raise TryAgain(f"{path}: {error}") from None
        except FileNotFoundError:
            if self.exists():
                raise TryAgain(f"{path} is missing: the owner of the folder is unknown") from None
            return None

    def write_metadata(self, metadata: Metadata) -> None:
        Disk().replace(self.path / METADATA, [msgspec.json.encode(metadata), b"\n"])

    def label(self, tags: Mapping[str, str]) -> None:
        if metadata := self.read_metadata():
            self.write_metadata(replace(metadata, tags=dict(tags)))

    def read_life(self) -> Life:
        """Return the life of the process; an empty one before its start."""
        try:
            with (self.path / LIFE).open("rb") as file:
                return _parse_life(file.read(LIFE_SIZE).decode(errors="replace"))
        except FileNotFoundError:
            return Life()

    def note_group(self, group: ControlGroup) -> None:
        """Write the control group's path. It need not outlive a power cut: no group does."""
        new = temporary_path(self.path / GROUP)
        new.write_bytes(os.fsencode(group.path))
        new.replace(self.path / GROUP)

    def read_group(self) -> ControlGroup | None:
        """Return the control group of the processes; None if they have none."""
        try:
            return ControlGroup(Path(os.fsdecode((self.path / GROUP).read_bytes())))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[int | None]:
        """Lock the file ``life``, and yield its descriptor; None if another process holds the lock.

        The shell inherits the lock and holds it until the command has ended. So the lock shows every later
        daemon whether the shell is still at work, whenever the daemon that started it was killed.
        """
        fd = self.open(LIFE, os.O_RDWR)
        try:
            yield fd if acquire(fd) else None
        finally:
            os.close(fd)

    def is_busy(self) -> bool:
        """Return whether a shell, or a daemon that is about to start one, is at work."""
        return is_held(self.path / LIFE)

    def open(self, name: str, mode: int = os.O_WRONLY) -> int:
        """Return a descriptor that appends to one of the files."""
        return os.open(self.path / name, mode | os.O_APPEND | os.O_CREAT | _SAFE, 0o600)

    def trim(self, limit: int) -> None:
        """Cut an output file of more than *limit* bytes to its last half, from the start of a line."""
        for name in (STDOUT, STDERR):
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                size = (self.path / name).stat().st_size
                if size <= limit:
                    continue
                # The process has the file open, so that it can't be replaced. Output of this instant may be lost.
                with os.fdopen(self.open(name, os.O_RDWR), "r+b", buffering=0) as file:
                    tail = os.pread(file.fileno(), limit // 2, size - limit // 2)
                    file.truncate(0)
                    file.write(tail[tail.find(b"\n") + 1 :])

    def read_last_lines(self) -> list[str]:
        """Return the last lines of stderr, up to three; those of stdout if stderr is empty."""
        for name in (STDERR, STDOUT):
            with (
                contextlib.suppress(FileNotFoundError, BlockingIOError),
                os.fdopen(os.open(self.path / name, os.O_RDONLY | _SAFE), "rb") as file,
            ):
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                if tail := file.read().decode(errors="replace").strip():
                    return tail.split("\n")[-3:]
        return []

    def remove(self) -> None:
        """Remove the folder. It is gone for all observers at once, before its files are one by one."""
        trash = self.path.with_name(f".{self.id}.gone")
        shutil.rmtree(trash, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


class InstanceFolders:
    """The folders of all instances, in one folder, which other plugins may share."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def clean(self) -> None:
        """Remove the folders whose creation or removal a crash interrupted."""
        for path in self.path.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def make(self, id: str, metadata: Metadata) -> tuple[InstanceFolder, Metadata]:
        """Return the folder of an instance and its metadata, new or existing. Raise `GiveUp` if it isn't this plugin's."""
        if not _is_name(id):
            raise GiveUp(f"{id!r} can't be the name of a folder")
        folder = InstanceFolder(self.path / id)
        existing = folder.read_metadata()
        if existing is None:
            # A crash leaves the folder with its metadata, or a temporary folder that the next start removes.
            new = temporary_path(folder.path)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(0o700)
            InstanceFolder(new).write_metadata(metadata)
            new.rename(folder.path)
        elif existing.mark != metadata.mark:
            raise GiveUp(f"{folder.path} belongs to another plugin, by its mark")
        return folder, existing or metadata

    def get(self, id: str, mark: str) -> InstanceFolder | None:
        """Return the folder of an instance; None if there is none with this mark."""
        folder = InstanceFolder(self.path / id)
        metadata = folder.read_metadata() if _is_name(id) and folder.exists() else None
        return folder if metadata is not None and metadata.mark == mark else None

    def has(self, id: str) -> bool:
        return InstanceFolder(self.path / id).exists()

    def find(self, mark: str) -> list[tuple[InstanceFolder, Metadata]]:
        folders = [InstanceFolder(self.path / name) for name in os.listdir(self.path) if not name.startswith(".")]
        pairs = ((folder, folder.read_metadata()) for folder in folders)
        return [(folder, metadata) for folder, metadata in pairs if metadata is not None and metadata.mark == mark]


def _is_name(id: str) -> bool:
    return bool(id) and not id.startswith(".") and "/" not in id and "\0" not in id and len(id.encode()) < 200
