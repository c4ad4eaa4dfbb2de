"""The machines of the pool: the last status of each, the polls that renew it, and the choice for a spec."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from pyinfrakit.errors import GiveUp, NoCapacity, TryAgain
from pyinfrakit.providers.redfish.bmc import Bmc, BmcUnavailable, SystemStatus
from pyinfrakit.providers.redfish.claims import Owner, parse_tag
from pyinfrakit.providers.redfish.options import Options, Properties, System

CRITICAL = "Critical"


class Unavailability(Struct, frozen=True):
    """Why a machine is unavailable: a *category*, by which errors count machines, and the *reason* for people."""

    category: str
    reason: str


class RackMachine(Struct, eq=False):
    """A machine of the pool. *status* is from *read_at*, a monotonic time; *trouble* is why later reads failed."""

    entry: System
    bmc: Bmc
    status: SystemStatus | None = None
    read_at: float = 0.0
    trouble: str = ""
    doubt: str = ""
    doubt_end: float = 0.0
    claim_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the machine is being claimed."""
    work_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the machine is set up, released or power-cycled."""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def title(self) -> str:
        """The start of each message about the machine."""
        return f"machine {self.name}: BMC {self.bmc.address}"

    @property
    def owner(self) -> Owner | None:
        return None if self.status is None else parse_tag(self.status.tag)

    def is_owned_by(self, mark: str, id: str) -> bool:
        """Return whether the asset tag, when last read, named this instance."""
        return (owner := self.owner) is not None and (owner.mark, owner.id) == (mark, id)

    def read_status(self) -> SystemStatus:
        """Return the present status, and remember it."""
        status = self.bmc.read_status(self.entry)
        self.status, self.read_at, self.trouble = status, time.monotonic(), ""
        return status

    def avoid(self, reason: str, seconds: float) -> None:
        """Make the machine unavailable for a while. It would otherwise be the next one to be chosen again."""
        self.doubt, self.doubt_end = reason, time.monotonic() + seconds

    def find_unavailability(self) -> Unavailability | None:
        """Return why the machine is unavailable according to its last status; None if it is free."""
        status, owner = self.status, self.owner
        if self.entry.aside:
            return Unavailability("set aside", self.entry.aside)
        if owner is not None:
            phase = f" ({owner.phase})" if owner.phase else ""
            return Unavailability("in use", f"in use by {owner.id} of the plugin with mark {owner.mark}{phase}")
        if time.monotonic() < self.doubt_end:
            return Unavailability("unhealthy", self.doubt)
        if self.trouble or status is None:
            return Unavailability("unreachable", self.trouble or "its status is not known yet")
        if status.health == CRITICAL:
            return Unavailability("unhealthy", "its health is Critical")
        if status.is_on:
            # Somebody may be working on it.
            reason = f"its power is {status.power or 'unknown'}, but no plugin claims it: power it off, or adopt it"
            return Unavailability("running", reason)
        return None


class Pool:
    """All machines by name, and by their BMCs."""

    def __init__(self, options: Options) -> None:
        self.by_bmc: dict[Bmc, list[RackMachine]] = {}
        for controller in options.bmcs:
            bmc = Bmc(controller, options)
            self.by_bmc[bmc] = [RackMachine(entry, bmc) for entry in controller.machines]
        self.machines = {machine.name: machine for machines in self.by_bmc.values() for machine in machines}

    def find_owned(self, mark: str, id: str) -> RackMachine | None:
        """Return the machine that an instance owns according to the asset tags, or None."""
        return next((machine for machine in self.machines.values() if machine.is_owned_by(mark, id)), None)

    def find_matches(self, properties: Properties, logical_id: str | None) -> list[RackMachine]:
        """Return the machines that match a spec, free ones first. A logical ID may be the name of a machine.

        Raise `GiveUp` if the spec names a machine that is not in the pool, or two of them.
        """
        name = logical_id if logical_id in self.machines else properties.machine
        if name is not None and name not in self.machines:
            raise GiveUp(f"no machine {name!r} in the pool: name one that is in the inventory")
        if properties.machine not in (None, name):
            raise GiveUp(f"the logical ID names machine {name}, but Properties.machine {properties.machine}: use one")
        choice = self.machines.values() if name is None else [self.machines[name]]
        matches = [machine for machine in choice if properties.tags.items() <= machine.entry.tags.items()]
        return sorted(matches, key=lambda machine: machine.find_unavailability() is not None)

    def explain_shortage(
        self, matches: Sequence[RackMachine], properties: Properties, failures: Mapping[str, str]
    ) -> GiveUp:
        """Return the error that no match is free: a `NoCapacity`, unless there is no match.

        *failures* are the reasons of failed claims, by machine.
        """
        if len(matches) == 1:
            (machine,) = matches
            problem = machine.find_unavailability() or Unavailability("", "it is being claimed")
            reason = failures.get(machine.name) or problem.reason
            return NoCapacity(f"machine {machine.name} at BMC {machine.bmc.address} is not free: {reason}")
        tags = ", ".join(f"{key}={value}" for key, value in sorted(properties.tags.items()))
        # These four are always shown, so that an operator sees that the zeros were counted.
        counts = Counter({"in use": 0, "unhealthy": 0, "set aside": 0, "unreachable": 0})
        for machine in matches:
            problem = machine.find_unavailability() or Unavailability("being claimed", "")
            counts[problem.category] += 1
        shortage = f"no free machine: {len(matches)} of {len(self.machines)} match{' ' * bool(tags)}{tags}"
        if not matches:
            return GiveUp(shortage)
        return NoCapacity(f"{shortage}: " + ", ".join(f"{count} {category}" for category, count in counts.items()))


class Poller:
    """Reads the status of all machines: all BMCs at once, each at its own pace and in a thread of its own."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._threads: dict[Bmc, threading.Thread] = {}
        self.durations: dict[str, float] = {}
        """Seconds of the last complete poll of each BMC, by address."""

    def poll(self) -> None:
        """Read all machines. If a read fails, or its BMC takes too long, the machine's trouble says so."""
        deadline = time.monotonic() + self._timeout
        for bmc, machines in self._pool.by_bmc.items():
            thread = self._threads.get(bmc)
            # A BMC that is still busy with the last poll gets no second one.
            if thread is None or not thread.is_alive():
                # A daemon thread, because a BMC that hangs must not keep the plugin from stopping.
                thread = threading.Thread(target=self._poll_bmc, args=(bmc, machines), name="bmc", daemon=True)
                self._threads[bmc] = thread
                thread.start()
        for bmc, thread in self._threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            if not thread.is_alive():
                continue
            for machine in self._pool.by_bmc[bmc]:
                # A slow BMC has reported on some of its machines.
                if time.monotonic() - machine.read_at > self._timeout:
                    problem = f"it did not report on its machines within {self._timeout:g} s"
                    machine.trouble = f"{machine.title}: {problem}: check the management network"

    def _poll_bmc(self, bmc: Bmc, machines: Sequence[RackMachine]) -> None:
        start = time.monotonic()
        for number, machine in enumerate(machines):
            try:
                machine.read_status()
            except BmcUnavailable as error:
                for rest in machines[number:]:
                    rest.trouble = str(error)
                break
            except TryAgain as error:
                machine.trouble = str(error)
        self.durations[bmc.address] = time.monotonic() - start
