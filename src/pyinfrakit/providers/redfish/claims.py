"""Which machine is whose: written on the machine, as its asset tag, and remembered in a file.

The asset tag says it to all who share the pool. It has no room for more than the mark and the ID, and what the operator had put
there is kept in the file, to be written back, with what the machine booted from. The file also says which machine an ID was
about to be given when a crash came: it is written first.
"""

import re
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

PREFIX = "infrakit"
CLEANING = "cleaning"
TAG = re.compile(rf"{PREFIX}:(?P<mark>[!-9;-~]+):(?P<id>[A-Za-z0-9-]+)(:(?P<phase>[a-z]+))?")


class Owner(Struct, frozen=True):
    """Whose a machine is, as its asset tag says."""

    mark: str
    id: str
    phase: str = ""

    @property
    def tag(self) -> str:
        return ":".join([PREFIX, self.mark, self.id, *([self.phase] if self.phase else [])])


def owner(tag: str) -> Owner | None:
    """Read an asset tag; None where it says nothing of that kind."""
    found = TAG.fullmatch(tag)
    return None if found is None else Owner(found["mark"], found["id"], found["phase"] or "")


class Claim(Struct, frozen=True, omit_defaults=True):
    """A machine that is an instance's. *tag*, *boot* and *boot_enabled* are as they were before.

    *image* has its `Init`; *cycled* is when it was power-cycled last, in seconds since 1970.
    """

    machine: str
    mark: str
    tag: str = ""
    boot: str = ""
    boot_enabled: str = ""
    image: str = ""
    cycled: float = 0.0


class Claims:
    """The claims of a plugin, by instance ID, in a file. Those with another mark are kept, and not shown."""

    def __init__(self, path: Path, mark: str) -> None:
        self._path = path
        self._mark = mark
        self._lock = threading.Lock()
        self._all = _read(path)

    def of(self, id: str) -> Claim | None:
        """Give the claim of an instance."""
        with self._lock:
            found = self._all.get(id)
            return found if found is not None and found.mark == self._mark else None

    def mine(self) -> Mapping[str, Claim]:
        """Give all with this plugin's mark."""
        with self._lock:
            return {id: claim for id, claim in self._all.items() if claim.mark == self._mark}

    def put(self, id: str, claim: Claim) -> None:
        """Keep a claim; returns once that is on the disk."""
        with self._lock:
            self._write({**self._all, id: claim})

    def note(self, id: str, **changes: object) -> None:
        """Change what is kept of a claim, where there still is one."""
        with self._lock:
            if id in self._all:
                self._write({**self._all, id: replace(self._all[id], **changes)})

    def drop(self, id: str) -> None:
        """Forget a claim."""
        with self._lock:
            if id in self._all:
                self._write({each: claim for each, claim in self._all.items() if each != id})

    def _write(self, claims: dict[str, Claim]) -> None:
        try:
            Disk().replace(self._path, [msgspec.json.format(msgspec.json.encode(claims)), b"\n"])
        except OSError as error:
            raise TryAgain(
                f"claims file {self._path} can't be written: {error.strerror}; make room, and no machine is lost"
            ) from None
        self._all = claims


def _read(path: Path) -> dict[str, Claim]:
    try:
        return decode(path.read_bytes(), dict[str, Claim])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CannotStart(f"claims file {path}: {error.strerror}") from None
    except (NotJSON, WrongShape) as error:
        raise CannotStart(
            f"claims file {path}: {error}; where it can't be mended, remove it: the machines' asset tags say the most of it"
        ) from None
