"""Have a machine on or off, and see that it is: a BMC says yes to what it then does not do."""

import logging
import threading
import time

from pyinfrakit.errors import TryAgain
from pyinfrakit.providers.redfish.bmc import Refuses
from pyinfrakit.providers.redfish.inventory import Settings
from pyinfrakit.providers.redfish.pool import Place

log = logging.getLogger(__name__)

FIRST_LOOK, LONGEST_LOOK = 0.05, 2.0
"""Seconds between looks at a machine whose power is to change."""


class NoPower(TryAgain):
    """A machine did not come on, or did not go off."""


class Power:
    """Changes machines' power, until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End all waits: the next start makes the calls again."""
        self._stopping.set()

    def on(self, place: Place) -> None:
        """Power it on, and watch that it comes on; raise `NoPower`."""
        if place.look().is_on:
            return
        place.bmc.reset(place.machine, "On")
        if not self._becomes(place, True, self._settings.power_timeout):
            raise NoPower(
                _text(place, "off", self._settings.power_timeout, "On", "look at its power supply, or press its button")
            )

    def off(self, place: Place) -> None:
        """Have it shut down, and force it off where that takes too long; raise `NoPower`."""
        if not place.look().is_on or self._shuts_down(place):
            return
        place.bmc.reset(place.machine, "ForceOff")
        if not self._becomes(place, False, self._settings.power_timeout):
            raise NoPower(
                _text(place, "on", self._settings.power_timeout, "ForceOff", "switch it off by hand, or at its PDU")
            )

    def _shuts_down(self, place: Place) -> bool:
        try:
            place.bmc.reset(place.machine, "GracefulShutdown")
        except Refuses as error:
            log.info("%s; it is forced off", error)  # not all BMCs can, and none with a machine that does not listen
            return False
        return self._becomes(place, False, self._settings.graceful_timeout)

    def _becomes(self, place: Place, is_on: bool, seconds: float) -> bool:
        end, pause = time.monotonic() + seconds, FIRST_LOOK
        while place.look().is_on is not is_on:
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._stopping.wait(min(pause, left)):
                raise TryAgain(f"machine {place.machine.name}: the plugin stops; the next start goes on with it")
            pause = min(LONGEST_LOOK, pause * 1.5)
        return True


def _text(place: Place, state: str, seconds: float, how: str, remedy: str) -> str:
    return f"machine {place.machine.name}: BMC {place.bmc.address}: still {state} {seconds:g} s after {how}: {remedy}"
