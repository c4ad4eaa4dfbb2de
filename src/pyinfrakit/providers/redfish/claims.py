"""Claims: which machine belongs to which instance. They are in asset tags on the machines, and in a file.

The asset tag tells everybody who shares the pool. It has room for the mark and the instance ID only. The file
keeps the rest: the operator's own tag and the previous boot source, which a release restores. A claim is written to
the file before the tag, so that after a crash the file names every machine that may have been claimed.
"""

import re
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from pyinfrakit.disk import Disk
from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

CLEANING = "cleaning"
"""The phase of an owner whose machine is being cleaned."""

TAG = re.compile(r"infrakit:(?P<mark>[!-9;-~]+):(?P<id>[A-Za-z0-9-]+)(:(?P<phase>[a-z]+))?")


class Owner(Struct, frozen=True):
    """The owner of a machine, from its asset tag."""

    mark: str
    id: str
    phase: str = ""

    @property
    def tag(self) -> str:
        return ":".join(["infrakit", self.mark, self.id, *([self.phase] if self.phase else [])])


def parse_tag(tag: str) -> Owner | None:
    """Return the owner in an asset tag; None if it is not a claim."""
    match = TAG.fullmatch(tag)
    return None if match is None else Owner(match["mark"], match["id"], match["phase"] or "")


class Claim(Struct, frozen=True, omit_defaults=True):
    """A machine that belongs to an instance. *tag*, *boot* and *boot_enabled* are its settings before the claim.

    *image* is the image with its `Init`. *cycled* is the time of its last power cycle, in seconds since 1970.
    """

    machine: str
    mark: str
    tag: str = ""
    boot: str = ""
    boot_enabled: str = ""
    image: str = ""
    cycled: float = 0.0


class Claims:
    """The file of claims, by instance ID. Claims with another mark stay in the file, but no method returns them.

    Every change is on the disk when its method returns. If that fails, the methods raise `TryAgain`.
    """

    def __init__(self, path: Path, mark: str) -> None:
        """Read the file. Raise `CannotStart` if that is impossible: damage must not pass for an empty file."""
        self._path = path
        self._mark = mark
        self._lock = threading.Lock()
        # Readers need no lock: a write replaces this dictionary, and never changes it.
        self._claims: dict[str, Claim] = {}
        try:
            self._claims = decode(path.read_bytes(), dict[str, Claim])
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CannotStart(f"claims file {path}: {error.strerror}") from None
        except (NotJSON, WrongShape) as error:
            advice = "repair it, or remove it: the machines' asset tags hold most of it"
            raise CannotStart(f"claims file {path}: {error}; {advice}") from None

    def find(self, id: str) -> Claim | None:
        claim = self._claims.get(id)
        return claim if claim is not None and claim.mark == self._mark else None

    def list_own(self) -> Mapping[str, Claim]:
        return {id: claim for id, claim in self._claims.items() if claim.mark == self._mark}

    def save(self, id: str, claim: Claim) -> None:
        with self._lock:
            self._write({**self._claims, id: claim})

    def remove(self, id: str) -> None:
        with self._lock:
            if id in self._claims:
                self._write({each: claim for each, claim in self._claims.items() if each != id})

    def _write(self, claims: dict[str, Claim]) -> None:
        try:
            Disk().replace(self._path, [msgspec.json.format(msgspec.json.encode(claims)), b"\n"])
        except OSError as error:
            advice = "free some disk space; no machine is lost"
            raise TryAgain(f"claims file {self._path} can't be written: {error.strerror}; {advice}") from None
        self._claims = claims
