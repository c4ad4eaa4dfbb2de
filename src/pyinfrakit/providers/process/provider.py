"""Instances that are local processes, which outlive the daemon: what began is found again, and ended with all it started.

Each has a folder in ``NAME.processes``: `place.py` says what is there. A shell per instance, of `starting.py`, runs `Init`
and the command, and writes down how it ended, whether there is a daemon or not.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Raw, Struct

from pyinfrakit.errors import CannotStart, GiveUp, InvalidSpec, TryAgain
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.providers.process import ending, proc, starting, who
from pyinfrakit.providers.process.life import Life
from pyinfrakit.providers.process.place import About, Place, Places
from pyinfrakit.providers.process.starting import Work
from pyinfrakit.record import Record, Spec

LONGEST_LOOK = 0.05
"""Seconds between looks at whether a command has begun, which are more frequent at first."""

SETTLING = 0.2
"""Seconds that a shell may take to write down how its command ended."""


class Program(Struct, forbid_unknown_fields=True):
    """What is run."""

    command: Annotated[str, Meta(min_length=1, description="what to run: a path, or a name that is looked up in PATH")]
    arguments: Annotated[list[str], Meta(description="its arguments")] = []
    environment: Annotated[dict[str, str], Meta(description="variables in addition to PATH, HOME, USER and LANG")] = {}
    directory: Annotated[str, Meta(pattern="^/", description="where it runs")] = "/"


class Settings(Struct, forbid_unknown_fields=True):
    """Whom processes run as, and what they may take."""

    user: Annotated[
        str | None, Meta(description="whom they run as: needed, and not root, where the plugin is root")
    ] = None
    grace: Annotated[float, Meta(ge=0, le=3600, description="seconds from SIGTERM to SIGKILL")] = 10
    init_timeout: Annotated[float, Meta(gt=0, le=86400, description="seconds that a spec's Init may take")] = 600
    log_size: Annotated[int, Meta(ge=4096, description="bytes that are kept of each of stdout and stderr")] = (
        10 * 1024 * 1024
    )
    folder: Annotated[
        str | None, Meta(description="where they are kept track of; default: NAME.processes beside the state")
    ] = None


class Process(Provider):
    """Local processes."""

    Properties = Program
    Options = Settings
    example = {"command": "sleep", "arguments": ["600"]}
    batch = 100
    options: Settings

    def __init__(self, name: str, folder: Path, options: Settings | None = None) -> None:
        super().__init__(name, folder, options)
        self._places = Places(Path(self.options.folder or folder / f"{name}.processes").absolute())
        self._children: set[int] = set()
        self._reaping = threading.Lock()

    def start(self) -> None:
        if not hasattr(os, "pidfd_open"):
            raise CannotStart("provider process: expected Linux 5.4 or newer")
        self._account = who.account(self.options.user)
        self._boot, _ = proc.boot()
        _make_private(self._places.folder)
        self._places.tidy()
        _keep_files_to_ourselves()

    def parse(self, properties: Raw | None) -> Program:
        """Give properties as a `Program`; raise `InvalidSpec`, also for what no process can be given."""
        program: Program = super().parse(properties)
        _check_texts("command", program.command)
        _check_texts("arguments", *program.arguments)
        _check_texts("directory", program.directory)
        for name, value in program.environment.items():
            _check_variable(name)
            _check_texts(f"environment.{name}", value)
        return program

    def provision(self, id: str, spec: Spec) -> Machine:
        program = self.parse(spec.properties)
        about = About(self.mark, spec.logical_id, dict(spec.tags))
        variables = starting.variables(self._account, program.environment, id, self.mark)
        work = Work(self._account, variables, program.directory, [program.command, *program.arguments], spec.init)
        with _disk_errors():
            place = self._places.made(id, about)
            life = self._begun(place, work)
            if life.main is None:
                raise GiveUp(starting.failure(place, life.failure, work))
            return self._machine(place, about, life)

    def _begun(self, place: Place, work: Work) -> Life:
        """Start the process, unless somebody has, and wait until the command begins or it is known why not."""
        begin, pause, started = time.monotonic(), 0.002, False
        while time.monotonic() < begin + self.options.init_timeout:
            with place.locked() as lock:
                if (life := place.life()).is_settled:
                    return life
                if lock is not None and started:
                    raise TryAgain("its start broke off: somebody ended it, or the disk is full")
                if lock is not None:
                    self._start(place, lock, work)
                    started = True
            time.sleep(pause)
            pause = min(LONGEST_LOOK, pause * 1.5)
        raise GiveUp(f"Init has not ended after {self.options.init_timeout:g} s")

    def _start(self, place: Place, lock: int, work: Work) -> None:
        """Start it, once nothing is left of an attempt that a crash ended, if there was one."""
        if place.life().boot and (left := self._ended([place], lambda place: True)):
            raise left[place.id]
        with self._reaping:
            self._children.add(starting.start(place, lock, work))

    def destroy(self, instances: Sequence[Record], reason: str) -> dict[str, TryAgain]:
        places = [place for each in instances if (place := self._places.get(each.id)) is not None]
        errors = self._ended([place for place in places if place.about().mark == self.mark], _removed)
        self._reap()
        return errors

    def _ended(self, places: Iterable[Place], gone: Callable[[Place], bool]) -> dict[str, TryAgain]:
        left = ending.ended(places, self.mark, self._account.uid, self.options.grace, gone)
        return {
            id: TryAgain(f"still there after SIGKILL: {', '.join(map(str, pids)) or 'its folder'}")
            for id, pids in left.items()
        }

    def observe(self) -> list[Machine]:
        self._reap()
        end = time.monotonic() + SETTLING
        with _disk_errors():
            return [
                machine for place, about in self._places.of(self.mark) if (machine := self._if_there(place, about, end))
            ]

    def _if_there(self, place: Place, about: About, end: float) -> Machine | None:
        """Observe an instance; give None where it was destroyed meanwhile."""
        try:
            return self._observed(place, about, end)
        except FileNotFoundError:
            if place.is_there():
                raise
            return None

    def _observed(self, place: Place, about: About, end: float) -> Machine:
        place.trim(self.options.log_size)
        life = place.life()
        while life.status is None and life.trouble(self._boot) and place.is_at_work():
            if life.main is None:
                return Machine(place.id, None, False, "starting", None, about.tags, about.logical_id)
            if time.monotonic() >= end:
                break
            time.sleep(0.01)
            life = place.life()
        return self._machine(place, about, life)

    def _machine(self, place: Place, about: About, life: Life) -> Machine:
        trouble = life.trouble(self._boot)
        handle, properties = None, None
        if life.main is not None:
            handle = str(life.main.pid)
            properties = {"pid": life.main.pid, "started": life.started, "status": trouble or "running"}
        return Machine(place.id, handle, not trouble, trouble, properties, about.tags, about.logical_id)

    def label(self, instance: Record, tags: Mapping[str, str]) -> None:
        place = self._places.get(instance.id)
        with _disk_errors():
            if place is not None and place.about().mark == self.mark:
                place.label(tags)

    def _reap(self) -> None:
        """Let go of those that have ended, of the shells that this run of the daemon started."""
        with self._reaping:
            self._children -= {pid for pid in self._children if proc.reap(pid)}


def _check_texts(field: str, *texts: str) -> None:
    if any("\0" in text for text in texts):
        raise InvalidSpec(f"Properties.{field}", "expected no character with the code 0")


def _check_variable(name: str) -> None:
    """Refuse names that a shell does not pass on, and those by which processes are known."""
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise InvalidSpec(f"Properties.environment.{name}", "expected the name of a variable: letters, digits, _")
    if name in (starting.INSTANCE_VARIABLE, starting.MARK_VARIABLE):
        raise InvalidSpec(f"Properties.environment.{name}", "is set by the provider")


def _removed(place: Place) -> bool:
    """Remove a place, unless somebody still starts something there; give whether it is gone."""
    try:
        with place.locked() as lock:
            if lock is not None:
                place.remove()
            return lock is not None
    except OSError:
        return not place.is_there()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Tell what is wrong with the disk: it is full, say."""
    try:
        yield
    except OSError as error:
        raise TryAgain(f"{error.filename or 'the provider'}: {error.strerror}") from None


def _make_private(folder: Path) -> None:
    """Make a folder that nobody else may look into: as root, what stands there says whom signals go to."""
    try:
        folder.mkdir(0o700, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise CannotStart(f"folder {folder}: {error.strerror}") from None
    if not folder.is_dir() or state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise CannotStart(f"folder {folder}: expected one that is ours, and that nobody else may use (mode 0700)")


def _keep_files_to_ourselves() -> None:
    """Have no process inherit what the daemon itself was given open; what Python opens none does."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)
