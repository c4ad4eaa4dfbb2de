"""The provider: a provision claims a machine of the pool, and a destroy releases it."""

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from pyinfrakit.errors import CannotStart, GiveUp, TryAgain
from pyinfrakit.provider import Machine, PoolMachine, Provider
from pyinfrakit.providers.redfish.bmc import BOOT_SOURCES, BmcRefusal, SystemStatus, TagConflict
from pyinfrakit.providers.redfish.claims import Claim, Claims, Owner, parse_tag
from pyinfrakit.providers.redfish.health import Health, describe
from pyinfrakit.providers.redfish.media import DiscFolder
from pyinfrakit.providers.redfish.options import Options as RedfishOptions
from pyinfrakit.providers.redfish.options import Properties as RedfishProperties
from pyinfrakit.providers.redfish.pool import Poller, Pool, RackMachine
from pyinfrakit.providers.redfish.release import Cleaning, Power, PowerFailure, Release
from pyinfrakit.record import Record, Spec

log = logging.getLogger(__name__)


class Redfish(Provider):
    """Physical machines of a pool, managed through their BMCs."""

    Properties = RedfishProperties
    Options = RedfishOptions
    example = {"tags": {"size": "large"}, "boot": "pxe"}
    options: RedfishOptions

    def __init__(self, name: str, folder: Path, options: RedfishOptions) -> None:
        super().__init__(name, folder, options)
        options.check()
        self._pool = Pool(options)
        self.poller = Poller(self._pool, options.poll_timeout)
        self._power = Power(options)
        self._discs = None if options.media is None else DiscFolder(options.media, folder)
        self._cleaning = None if options.cleaning is None else Cleaning(options, folder)

    def start(self) -> None:
        """Read the claims. No BMC gets a request: one that does not answer must not delay the others."""
        if parse_tag(Owner(self.mark, "1").tag) is None:
            raise CannotStart(f"mark {self.mark!r}: expected ASCII without blanks and colons, for asset tags")
        self._claims = Claims(self.folder / f"{self.name}.claims", self.mark)
        # After a loss of the file, the records still know the machines, also those whose BMC does not answer.
        for record in self.known:
            if record.handle is not None and self._claims.find(record.id) is None:
                self._claims.save(record.id, Claim(record.handle, self.mark))
        self._health = Health(self.options, self._claims, self.mark)
        self._release = Release(self._claims, self._power, self._discs, self._cleaning)

    def stop(self) -> None:
        self._power.stop()

    def provision(self, id: str, spec: Spec) -> Machine:
        properties: RedfishProperties = self.parse(spec.properties)
        if spec.init and self._discs is None:
            raise GiveUp("Init: the plugin has no web folder for it: set the option `media`, or leave Init out")
        machine = self._find_claimed(id) or self._claim_any(id, spec, properties)
        try:
            with machine.work_lock:
                self._set_up(id, machine, spec, properties)
        except (PowerFailure, BmcRefusal) as error:
            machine.avoid(str(error), self.options.doubtful)
            raise
        return Machine(id, machine.name, properties=describe(machine))

    def _find_claimed(self, id: str) -> RackMachine | None:
        """Return the machine that an instance has already; None if a crash came before its claim."""
        claim = self._claims.find(id)
        if claim is None:
            machine = self._pool.find_owned(self.mark, id)
            if machine is not None:
                self._claims.save(id, Claim(machine.name, self.mark))
            return machine
        machine = self._pool.machines.get(claim.machine)
        if machine is None:
            raise GiveUp(f"machine {claim.machine} is not in the inventory: restore it there")
        machine.read_status()
        if machine.owner == Owner(self.mark, id):
            return machine
        self._claims.remove(id)
        return None

    def _claim_any(self, id: str, spec: Spec, properties: RedfishProperties) -> RackMachine:
        """Claim the first machine that is free. Raise `NoCapacity` if none is, or `GiveUp` if none matches."""
        failures: dict[str, str] = {}
        matches = self._pool.find_matches(properties, spec.logical_id)
        for machine in matches:
            # After 30 seconds, an unavailable machine may be free again, and needs a second look.
            is_fresh = machine.entry.aside or time.monotonic() - machine.read_at < 30
            if machine.find_unavailability() is not None and is_fresh:
                continue
            if machine.claim_lock.acquire(blocking=False):
                try:
                    if self._claim_if_free(id, machine, failures):
                        return machine
                finally:
                    machine.claim_lock.release()
        raise self._pool.explain_shortage(matches, properties, failures)

    def _claim_if_free(self, id: str, machine: RackMachine, failures: dict[str, str]) -> bool:
        """Return whether the machine was free and is claimed now. Add the reason of a failure to *failures*."""
        try:
            status = machine.read_status()
        except TryAgain as error:
            machine.trouble = failures[machine.name] = str(error)
            return False
        if machine.find_unavailability() is not None:
            return False
        try:
            problem = self._claim(id, machine, status)
        except BmcRefusal as error:
            # The tag may be written all the same. The plugin destroys the instance next, which removes it.
            machine.avoid(str(error), self.options.doubtful)
            raise
        if problem:
            failures[machine.name] = problem
        return not problem

    def _claim(self, id: str, machine: RackMachine, status: SystemStatus) -> str:
        """Claim a machine, if it still has this *status*. Return the problem, or an empty string."""
        owner = Owner(self.mark, id)
        self._claims.save(id, Claim(machine.name, self.mark, status.tag, status.boot, status.boot_enabled))
        try:
            machine.bmc.write_tag(machine.entry, owner.tag, status.etag)
        except TagConflict:
            problem = "another plugin was quicker"
        else:
            # Read back, because some BMCs shorten a tag, or accept it and then ignore it.
            machine.read_status()
            if machine.owner == owner:
                return ""
            problem = f"its BMC did not keep its asset tag, {owner.tag!r}: check how many characters it has room for"
        self._claims.remove(id)
        return problem

    def _set_up(self, id: str, machine: RackMachine, spec: Spec, properties: RedfishProperties) -> None:
        """Boot a machine from its boot source."""
        # It was off when it was claimed. If it is on, it was set up before a crash, and may have booted already.
        if machine.status is not None and machine.status.is_on:
            return
        bmc, boot = machine.bmc, properties.boot
        if boot == "iso" and properties.url is not None:
            bmc.insert(machine.entry, properties.url, ("CD", "DVD"))
        if spec.init:
            self._insert_init(id, machine, spec)
        url = properties.url if boot == "http" else None
        bmc.set_boot(machine.entry, BOOT_SOURCES[boot], "Continuous" if properties.always else "Once", url)
        self._power.turn_on(machine)
        log.info("%s: machine %s is on, and boots from %s", id, machine.name, boot)

    def _insert_init(self, id: str, machine: RackMachine, spec: Spec) -> None:
        claim, discs = self._claims.find(id), self._discs
        assert claim is not None
        assert discs is not None
        # The name is as good as a password: it is all that one needs to fetch `Init`.
        image = claim.image or f"{secrets.token_hex(16)}.iso"
        # Recorded first, so that a destroy removes the image even after a crash.
        self._claims.save(id, replace(claim, image=image))
        url = discs.write(image, id, spec, machine.name)
        machine.bmc.insert(machine.entry, url, ("CD", "DVD", "USBStick", "Floppy"))

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        for instance in instances:
            claim = self._claims.find(instance.id)
            machine = self._pool.machines.get(claim.machine) if claim else self._pool.find_owned(self.mark, instance.id)
            self._release.release(instance.id, machine, claim or Claim("", self.mark))

    def observe(self) -> Iterator[Machine]:
        self.poller.poll()
        claims = dict(self._claims.list_own())
        # After a loss of the claims file, the asset tags still tell.
        for machine in self._pool.machines.values():
            if (owner := machine.owner) is not None and owner.mark == self.mark:
                claims.setdefault(owner.id, Claim(machine.name, self.mark))
        for id, claim in claims.items():
            if judgment := self._health.judge(id, claim, self._pool.machines.get(claim.machine), self.ready):
                yield judgment

    def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        machine = self._pool.machines.get(handle)
        if machine is None:
            raise GiveUp(f"no machine {handle!r} in the pool: it has {', '.join(self._pool.machines)}")
        with machine.claim_lock:
            status = machine.read_status()
            problem = machine.find_unavailability()
            if problem is None:
                raise GiveUp(f"machine {handle} is off, and free: provision it, with its name as the logical ID")
            if problem.category != "running":
                raise GiveUp(f"machine {handle} can't be adopted: {problem.reason}")
            if failure := self._claim(id, machine, status):
                raise GiveUp(f"machine {handle} can't be adopted: {failure}")
        return Machine(id, handle, properties=describe(machine))

    def pool(self) -> Iterator[PoolMachine]:
        for machine in self._pool.machines.values():
            # A status from before the trouble may be wrong by now.
            status = None if machine.trouble else machine.status
            owner, problem = machine.owner, machine.find_unavailability()
            yield PoolMachine(
                name=machine.name,
                at=machine.bmc.address,
                power=status.power if status else "",
                health=status.health if status else "",
                id=owner.id if owner is not None and owner.mark == self.mark else None,
                reason="; ".join(filter(None, [problem.reason if problem else "", machine.trouble if owner else ""])),
                is_free=problem is None,
            )
