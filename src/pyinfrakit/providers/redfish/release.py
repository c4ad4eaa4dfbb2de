"""Give a machine back to the pool."""

import contextlib

from pyinfrakit.errors import TryAgain
from pyinfrakit.providers.redfish.bmc import Changed
from pyinfrakit.providers.redfish.claims import CLEANING, Claim, Claims, Owner
from pyinfrakit.providers.redfish.drive import Drive
from pyinfrakit.providers.redfish.hook import Hook
from pyinfrakit.providers.redfish.pool import Place
from pyinfrakit.providers.redfish.power import Power

ATTEMPTS = 3
"""To write an asset tag to a machine that something else changes at the same time."""


class Release:
    """Frees machines, step by step, each of which may be repeated; the mark goes last, so that none is lost half-way."""

    def __init__(self, claims: Claims, power: Power, drive: Drive | None, hook: Hook | None) -> None:
        self._claims = claims
        self._power = power
        self._drive = drive
        self._hook = hook

    def free(self, id: str, place: Place | None, claim: Claim) -> None:
        """Free an instance's machine, if it has one. What is by now another's is left alone."""
        with contextlib.nullcontext() if place is None else place.busy:
            self._free(id, place, claim)

    def _free(self, id: str, place: Place | None, claim: Claim) -> None:
        if place is not None:
            place.look()
            if self._is_its(id, place, claim):
                self._shut_down(place, claim)
                self._clean(id, place, claim)
                self._mark(id, place, claim, claim.tag)
        if claim.image and self._drive is not None:
            self._drive.remove(claim.image)
        self._claims.drop(id)

    @staticmethod
    def _is_its(id: str, place: Place, claim: Claim) -> bool:
        owner = place.owner
        return owner is not None and (owner.mark, owner.id) == (claim.mark, id)

    def _shut_down(self, place: Place, claim: Claim) -> None:
        """Leave it as it was before it was claimed, as far as that is known."""
        self._power.off(place)
        place.bmc.eject(place.machine)
        if claim.boot_enabled or claim.boot:
            place.bmc.set_boot(place.machine, claim.boot, claim.boot_enabled)

    def _clean(self, id: str, place: Place, claim: Claim) -> None:
        """Have the operator's command succeed, which may have had it boot, and insert media."""
        if self._hook is None:
            return
        self._mark(id, place, claim, Owner(claim.mark, id, CLEANING).tag)
        told = {
            "MACHINE": place.machine.name,
            "BMC": place.bmc.address,
            "SYSTEM": place.machine.system or "",
            "INSTANCE": id,
        }
        self._hook.run(place.machine.name, told)
        self._shut_down(place, claim)

    def _mark(self, id: str, place: Place, claim: Claim, tag: str) -> None:
        for _ in range(ATTEMPTS):
            sight = place.look()
            if not self._is_its(id, place, claim):
                return
            try:
                place.bmc.write_tag(place.machine, tag, sight.etag)
            except Changed:
                continue
            place.look()
            return
        raise TryAgain(
            f"machine {place.machine.name}: BMC {place.bmc.address}: its asset tag changes all the time: who else writes it?"
        )
