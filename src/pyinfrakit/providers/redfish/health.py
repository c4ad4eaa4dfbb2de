"""What is said of an instance's machine: that it works, that it does not and why, or that this can't be told now."""

import time
from collections.abc import Container
from typing import Any

from pyinfrakit.errors import TryAgain
from pyinfrakit.provider import Machine
from pyinfrakit.providers.redfish.claims import CLEANING, Claim, Claims
from pyinfrakit.providers.redfish.inventory import Settings
from pyinfrakit.providers.redfish.pool import CRITICAL, Place

STEADY = 600.0
"""Seconds after a power cycle during which another failure is the same one."""


class Health:
    """Judges machines by how they were last seen."""

    def __init__(self, settings: Settings, claims: Claims, mark: str) -> None:
        self._settings = settings
        self._claims = claims
        self._mark = mark
        self._started = time.monotonic()

    def judged(self, id: str, claim: Claim, place: Place | None, ready: Container[str]) -> Machine | None:
        """Say how an instance's machine is; None where it is not the instance's any more. Those not *ready* are left alone."""
        if place is None:
            problem = f"machine {claim.machine} is not in the inventory any more: put it back, or destroy this instance"
            return Machine(id, claim.machine, functional=False, reason=problem)
        if place.trouble or place.sight is None:
            return self._unseen(id, place)
        owner = place.owner
        if owner is None:
            return None
        if (owner.mark, owner.id) != (self._mark, id):
            whose = f"its asset tag says that it is {owner.id}, of the plugin with mark {owner.mark}"
            return _broken(
                id, place, f"claimed twice: {whose}; destroy this instance, which leaves the machine to that one"
            )
        if owner.phase == CLEANING:
            return _broken(id, place, "being cleaned")
        if place.machine.aside:
            return _broken(id, place, place.machine.aside)
        problem = _problem(place)
        return self._failing(id, claim, place, problem, ready) if problem else _machine(id, place)

    def _unseen(self, id: str, place: Place) -> Machine:
        """Not known is not broken, until it was not known for too long."""
        limit = self._settings.unreachable_after
        if time.monotonic() - max(place.seen_at, self._started) < limit:
            return Machine(id, place.machine.name, unknown=True)
        return _broken(id, place, f"not seen for more than {limit:g} s: {place.trouble or 'not looked at'}")

    def _failing(self, id: str, claim: Claim, place: Place, problem: str, ready: Container[str]) -> Machine:
        """Give it up; before that, where this is asked for, power-cycle it once, and wait for what comes of it."""
        if not self._settings.power_cycle or id not in ready:
            return _broken(id, place, problem)
        age = time.time() - claim.cycled
        if age < self._settings.power_timeout:
            return Machine(id, place.machine.name, unknown=True)
        if age < max(STEADY, 2 * self._settings.power_timeout):
            return _broken(id, place, f"{problem}, also after a power cycle")
        if not place.busy.acquire(blocking=False):
            return Machine(id, place.machine.name, unknown=True)
        try:
            return self._cycle(id, place, problem, ready)
        finally:
            place.busy.release()

    def _cycle(self, id: str, place: Place, problem: str, ready: Container[str]) -> Machine:
        """Note it first: a crash in between must not have it done twice."""
        if self._claims.of(id) is None or id not in ready:  # it was freed, or set aside, meanwhile
            return Machine(id, place.machine.name, unknown=True)
        self._claims.note(id, cycled=time.time())
        try:
            place.bmc.reset(place.machine, "ForceRestart" if place.sight and place.sight.is_on else "On")
        except TryAgain as error:
            return _broken(id, place, f"{problem}, and it can't be power-cycled: {error}")
        return Machine(id, place.machine.name, unknown=True)


def live(place: Place) -> dict[str, Any]:
    """Give what is known of a machine now."""
    sight = place.sight
    known = {} if sight is None else {
        "power": sight.power, "health": sight.health, "model": sight.model, "serial": sight.serial, "boot": sight.boot,
    }  # fmt: skip
    return {"machine": place.machine.name, "bmc": place.bmc.address, **known, "tags": place.machine.tags}


def _problem(place: Place) -> str:
    assert place.sight is not None
    if place.sight.health == CRITICAL:
        return "its health is Critical: its BMC's log says more"
    return "" if place.sight.is_on else "it is powered off, and should not be"


def _machine(id: str, place: Place) -> Machine:
    return Machine(id, place.machine.name, properties=live(place))


def _broken(id: str, place: Place, reason: str) -> Machine:
    return Machine(id, place.machine.name, functional=False, reason=reason, properties=live(place))
