"""Look at all machines: all BMCs at once, each of them at its own pace."""

import threading
import time

from pyinfrakit.errors import TryAgain
from pyinfrakit.providers.redfish.bmc import Bmc, Unanswered
from pyinfrakit.providers.redfish.pool import Place, Pool


class Polls:
    """Looks at BMCs, each in a thread of its own; one that takes too long is not waited for, and not asked again meanwhile."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._under_way: dict[str, threading.Thread] = {}
        self.took: dict[str, float] = {}
        """Seconds that each BMC took, the last time that it was done."""

    def look(self) -> None:
        """Look at every machine. Those that can't be looked at have that as their trouble."""
        end = time.monotonic() + self._timeout
        for bmc in self._pool.bmcs.values():
            if not self._is_under_way(bmc):
                self._begin(bmc)
        for address, thread in self._under_way.items():
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                _missed(self._pool.of(self._pool.bmcs[address]), self._timeout)

    def _is_under_way(self, bmc: Bmc) -> bool:
        thread = self._under_way.get(bmc.address)
        return thread is not None and thread.is_alive()

    def _begin(self, bmc: Bmc) -> None:
        thread = self._under_way[bmc.address] = threading.Thread(
            target=self._poll, args=(bmc,), name="bmc", daemon=True
        )
        thread.start()

    def _poll(self, bmc: Bmc) -> None:
        began = time.monotonic()
        places = self._pool.of(bmc)
        for count, place in enumerate(places):
            try:
                place.look()
            except Unanswered as error:
                for left in places[count:]:
                    left.trouble = str(error)
                break
            except TryAgain as error:
                place.trouble = str(error)
        self.took[bmc.address] = time.monotonic() - began


def _missed(places: list[Place], timeout: float) -> None:
    """Say that a BMC has not told of its machines, but for those that it told of a moment ago."""
    for place in places:
        if time.monotonic() - place.seen_at > timeout:
            where = f"machine {place.machine.name}: BMC {place.bmc.address}"
            place.trouble = (
                f"{where}: it did not tell of its machines within {timeout:g} s: is the management network up?"
            )
