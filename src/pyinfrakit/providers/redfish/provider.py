"""The provider: an instance is a machine of the pool that was claimed for it."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Raw

from pyinfrakit.errors import CannotStart, GiveUp, TryAgain
from pyinfrakit.provider import Machine, PoolMachine, Provider
from pyinfrakit.providers.redfish import claims, health, inventory
from pyinfrakit.providers.redfish.bmc import BOOT, Changed, Refuses
from pyinfrakit.providers.redfish.claims import Claim, Claims, Owner
from pyinfrakit.providers.redfish.drive import KINDS, Drive
from pyinfrakit.providers.redfish.health import Health
from pyinfrakit.providers.redfish.hook import Hook
from pyinfrakit.providers.redfish.inventory import Settings, Wanted
from pyinfrakit.providers.redfish.polls import Polls
from pyinfrakit.providers.redfish.pool import Place, Pool, why_taken
from pyinfrakit.providers.redfish.power import NoPower, Power
from pyinfrakit.providers.redfish.release import Release
from pyinfrakit.record import Record, Spec

log = logging.getLogger(__name__)

FRESH = 30.0
"""Seconds for which it is believed that a machine is not free: beyond that it is looked at again."""


class Redfish(Provider):
    """Physical machines of a pool, by their BMCs."""

    Properties = Wanted
    Options = Settings
    example = {"tags": {"size": "large"}, "boot": "pxe"}
    options: Settings

    def __init__(self, name: str, folder: Path, options: Settings) -> None:
        super().__init__(name, folder, options)
        inventory.check(options)
        self._pool = Pool(options)
        self.polls = Polls(self._pool, options.poll_timeout)
        self._power = Power(options)
        self._drive = None if options.media is None else Drive(options.media, folder)
        self._hook = None if options.cleaning is None else Hook(options.cleaning, options.cleaning_timeout, folder)

    def start(self) -> None:
        """Know what was claimed. No BMC is asked: one that does not answer must not keep the others waiting."""
        if claims.owner(Owner(self.mark, "1").tag) is None:
            raise CannotStart(
                f"mark {self.mark!r}: expected ASCII without blanks and colons, as it is written into asset tags"
            )
        self._claims = Claims(self.folder / f"{self.name}.claims", self.mark)
        for record in self.known:
            if record.handle is not None and self._claims.of(record.id) is None:
                self._claims.put(record.id, Claim(record.handle, self.mark))
        self._health = Health(self.options, self._claims, self.mark)
        self._release = Release(self._claims, self._power, self._drive, self._hook)

    def stop(self) -> None:
        self._power.stop()

    def validate(self, properties: Raw | None) -> None:
        self.parse(properties).check()

    def provision(self, id: str, spec: Spec) -> Machine:
        wanted: Wanted = self.parse(spec.properties)
        if spec.init and self._drive is None:
            raise GiveUp("Init: the plugin has no folder for it: set the option `media`, or leave Init out")
        place = self._claimed(id) or self._claim(id, spec, wanted)
        try:
            with place.busy:
                self._set_up(id, place, spec, wanted)
        except (NoPower, Refuses) as error:
            place.doubted(str(error), self.options.doubtful)
            raise
        return Machine(id, place.machine.name, properties=health.live(place))

    def _claimed(self, id: str) -> Place | None:
        """Give the machine that an instance has already; None where a crash came before it had one."""
        claim = self._claims.of(id)
        if claim is None:
            place = self._pool.owned_by(self.mark, id)
            if place is not None:
                self._claims.put(id, Claim(place.machine.name, self.mark))
            return place
        place = self._pool.places.get(claim.machine)
        if place is None:
            raise GiveUp(f"machine {claim.machine} is not in the inventory any more: put it back")
        place.look()
        if place.owner == Owner(self.mark, id):
            return place
        self._claims.drop(id)
        return None

    def _claim(self, id: str, spec: Spec, wanted: Wanted) -> Place:
        """Claim the first machine that is free; raise `GiveUp` where none is."""
        passed: dict[str, str] = {}
        fit = self._pool.fitting(wanted, spec.logical_id)
        for place in fit:
            taken = why_taken(place)
            if taken is not None and (place.machine.aside or time.monotonic() - place.seen_at < FRESH):
                continue
            with self._pool.reserved(place) as is_mine:
                if is_mine and self._claim_one(id, place, passed):
                    return place
        raise self._pool.none_free(fit, wanted, passed)

    def _claim_one(self, id: str, place: Place, passed: dict[str, str]) -> bool:
        """Claim a machine if it really is free; say whether it was."""
        name = place.machine.name
        try:
            sight = place.look()
        except TryAgain as error:
            place.trouble = passed[name] = str(error)
            return False
        if why_taken(place) is not None:
            return False
        owner = Owner(self.mark, id)
        self._claims.put(id, Claim(name, self.mark, sight.tag, sight.boot, sight.boot_enabled))
        try:
            place.bmc.write_tag(place.machine, owner.tag, sight.etag)
        except Changed:
            passed[name] = "another plugin was quicker"
        except Refuses as error:
            place.doubted(str(error), self.options.doubtful)
            raise  # it may be written all the same: what follows is a destroy
        else:
            place.look()
            if place.owner == owner:
                return True
            passed[name] = f"its BMC did not keep its asset tag, {owner.tag!r}: is there room for so many characters?"
        self._claims.drop(id)
        return False

    def _set_up(self, id: str, place: Place, spec: Spec, wanted: Wanted) -> None:
        """Have the machine boot as wanted. One that is on was set up before: it was off when it was claimed."""
        machine, bmc = place.machine, place.bmc
        if place.sight is not None and place.sight.is_on:
            return
        if wanted.boot == "iso" and wanted.url is not None:
            bmc.insert(machine, wanted.url, ("CD", "DVD"))
        if spec.init:
            self._offer_init(id, place, spec)
        url = wanted.url if wanted.boot == "http" else None
        bmc.set_boot(machine, BOOT[wanted.boot], "Continuous" if wanted.always else "Once", url)
        self._power.on(place)
        log.info("%s: machine %s is on, and boots from %s", id, machine.name, wanted.boot)

    def _offer_init(self, id: str, place: Place, spec: Spec) -> None:
        claim, drive = self._claims.of(id), self._drive
        assert claim is not None
        assert drive is not None
        image = claim.image or drive.name()
        self._claims.note(id, image=image)
        drive.write(image, id, spec, place.machine.name)
        place.bmc.insert(place.machine, drive.url(image), KINDS)

    def destroy(self, instances: Sequence[Record], reason: str) -> None:
        for instance in instances:
            claim = self._claims.of(instance.id)
            place = self._pool.places.get(claim.machine) if claim else self._pool.owned_by(self.mark, instance.id)
            self._release.free(instance.id, place, claim or Claim("", self.mark))

    def observe(self) -> Iterator[Machine]:
        self.polls.look()
        mine = dict(self._claims.mine())
        for place in self._pool.places.values():
            if (owner := place.owner) is not None and owner.mark == self.mark and owner.id not in mine:
                mine[owner.id] = Claim(place.machine.name, self.mark)
        for id, claim in mine.items():
            machine = self._health.judged(id, claim, self._pool.places.get(claim.machine), self.ready)
            if machine is not None:
                yield machine

    def adopt(self, id: str, handle: str, spec: Spec) -> Machine:
        place = self._pool.places.get(handle)
        if place is None:
            raise GiveUp(f"no machine {handle!r} in the pool: it has {', '.join(self._pool.places)}")
        sight = place.look()
        taken = why_taken(place)
        if taken is None:
            raise GiveUp(
                f"machine {handle} is off, and free: there is nothing to adopt; provision it, by its name as the logical ID"
            )
        if taken.kind != "running":
            raise GiveUp(f"machine {handle} can't be adopted: {taken.why}")
        with self._pool.reserved(place):
            self._claims.put(id, Claim(handle, self.mark, sight.tag, sight.boot, sight.boot_enabled))
            try:
                place.bmc.write_tag(place.machine, Owner(self.mark, id).tag, sight.etag)
            except Changed:
                self._claims.drop(id)
                raise GiveUp(f"machine {handle}: another plugin was quicker") from None
        place.look()
        return Machine(id, handle, properties=health.live(place))

    def pool(self) -> Iterator[PoolMachine]:
        for place in self._pool.places.values():
            sight, owner, taken = place.sight, place.owner, why_taken(place)
            yield PoolMachine(
                name=place.machine.name,
                at=place.bmc.address,
                power=sight.power if sight and not place.trouble else "",
                health=sight.health if sight and not place.trouble else "",
                id=owner.id if owner is not None and owner.mark == self.mark else None,
                reason="; ".join(filter(None, [taken.why if taken else "", place.trouble if owner else ""])),
                is_free=taken is None,
            )
