"""The machines of the pool: how each was last seen, and which one a spec gets."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct, field

from pyinfrakit.errors import CannotStart, GiveUp
from pyinfrakit.providers.redfish import claims
from pyinfrakit.providers.redfish.bmc import Bmc, Sight
from pyinfrakit.providers.redfish.inventory import Settings, System, Wanted

CRITICAL = "Critical"


class Place(Struct, eq=False):
    """A machine of the pool. *seen_at* is when it was last looked at with success, *trouble* why not since then."""

    machine: System
    bmc: Bmc
    sight: Sight | None = None
    seen_at: float = 0.0
    trouble: str = ""
    doubted_until: float = 0.0
    doubt: str = ""
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever sets it up, frees it, or power-cycles it."""

    def look(self) -> Sight:
        """Look at it now, and remember."""
        sight = self.bmc.look(self.machine)
        self.sight, self.seen_at, self.trouble = sight, time.monotonic(), ""
        return sight

    def doubted(self, why: str, seconds: float) -> None:
        """Leave it alone for a while: it would be chosen again at once."""
        self.doubt, self.doubted_until = why, time.monotonic() + seconds

    @property
    def owner(self) -> claims.Owner | None:
        return None if self.sight is None else claims.owner(self.sight.tag)


class Taken(Struct, frozen=True):
    """Why a machine is not free: in what way, for a count, and in words."""

    kind: str
    why: str


def why_taken(place: Place) -> Taken | None:
    """Say why a machine is not free, as it was last seen; None where it is."""
    machine, sight, owner = place.machine, place.sight, place.owner
    if machine.aside:
        return Taken("set aside", machine.aside)
    if owner is not None:
        phase = f" ({owner.phase})" if owner.phase else ""
        return Taken("in use", f"in use by {owner.id} of the plugin with mark {owner.mark}{phase}")
    if time.monotonic() < place.doubted_until:
        return Taken("unhealthy", place.doubt)
    if place.trouble or sight is None:
        return Taken("unreachable", place.trouble or "not looked at yet")
    if sight.health == CRITICAL:
        return Taken("unhealthy", "its health is Critical")
    if sight.is_on:
        return Taken(
            "running", f"its power is {sight.power or 'unknown'}, though nobody claims it: power it off, or adopt it"
        )
    return None


class Pool:
    """All machines, by name, and which of them somebody is about to claim."""

    def __init__(self, settings: Settings) -> None:
        self.bmcs = {bmc.address: Bmc(bmc, settings) for bmc in settings.bmcs}
        bmcs = [(self.bmcs[bmc.address], bmc.machines) for bmc in settings.bmcs]
        self.places = {machine.name: Place(machine, bmc) for bmc, machines in bmcs for machine in machines}
        self._lock = threading.Lock()
        self._reserved: set[str] = set()

    def place(self, name: str) -> Place:
        """Give a machine; raise `CannotStart` where the inventory has it no more."""
        try:
            return self.places[name]
        except KeyError:
            raise CannotStart(
                f"machine {name} is an instance's, and the inventory has it no more: put it back, or destroy it"
            ) from None

    def of(self, bmc: Bmc) -> list[Place]:
        """Give a BMC's machines."""
        return [place for place in self.places.values() if place.bmc is bmc]

    def owned_by(self, mark: str, id: str) -> Place | None:
        """Give the machine whose asset tag said, when it was last seen, that it is this instance's."""
        for place in self.places.values():
            if (owner := place.owner) is not None and (owner.mark, owner.id) == (mark, id):
                return place
        return None

    def fitting(self, wanted: Wanted, logical_id: str | None) -> list[Place]:
        """Give the machines that fit, those first that seem free. A logical ID that is a machine's name means that one."""
        name = logical_id if logical_id in self.places else wanted.machine
        if name is not None and name not in self.places:
            raise GiveUp(f"no machine {name!r} in the pool")
        chosen = self.places.values() if name is None else [self.places[name]]
        fit = [place for place in chosen if wanted.tags.items() <= place.machine.tags.items()]
        if wanted.machine is not None and name != wanted.machine:
            raise GiveUp(
                f"the logical ID names machine {name}, and Properties.machine {wanted.machine}: say one of them"
            )
        return sorted(fit, key=lambda place: why_taken(place) is not None)

    @contextmanager
    def reserved(self, place: Place) -> Iterator[bool]:
        """Keep others of this plugin from a machine for a moment; say whether nobody else does."""
        name = place.machine.name
        with self._lock:
            is_mine = name not in self._reserved
            self._reserved.add(name)
        try:
            yield is_mine
        finally:
            if is_mine:
                with self._lock:
                    self._reserved.discard(name)

    def none_free(self, fit: Iterable[Place], wanted: Wanted, passed: Mapping[str, str]) -> GiveUp:
        """Say that there is no free machine, and count why. *passed* has why one was not taken that seemed free."""
        places = list(fit)
        if len(places) == 1:
            (place,) = places
            taken = why_taken(place)
            why = passed.get(place.machine.name) or (taken.why if taken else "it is being claimed")
            return GiveUp(f"machine {place.machine.name} at BMC {place.bmc.address} is not free: {why}")
        tags = ", ".join(f"{key}={value}" for key, value in sorted(wanted.tags.items()))
        which = f"{len(places)} of {len(self.places)} fit{f' {tags}' if tags else ''}"
        kinds = Counter((taken.kind if (taken := why_taken(place)) else "being claimed") for place in places)
        counts = [f"{kinds.pop(kind, 0)} {kind}" for kind in ("in use", "unhealthy", "set aside", "unreachable")]
        counts += [f"{count} {kind}" for kind, count in kinds.items()]
        return GiveUp(f"no free machine: {which}{', of which ' + ', '.join(counts) if places else ''}")
