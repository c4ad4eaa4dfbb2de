"""The inventory, which an operator writes, and the properties of a spec, with the checks that types can't express."""

import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from pyinfrakit.errors import CannotStart, InvalidSpec
from pyinfrakit.schema.secrets import Secret

Seconds = Annotated[float, Meta(gt=0)]
Tags = dict[str, str]

# The pattern allows for file names: each machine has a lock for its cleaning.
NAME = Meta(description="its unique name and handle", examples=["r1u07"], pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
SYSTEM = Meta(description="its Redfish path; optional if its BMC has only one", examples=["/redfish/v1/Systems/1"])
TAGS = Meta(description="tags by which specs select the machine", examples=[{"rack": "1", "size": "large"}])
WIPE = Meta(description="command that must succeed before a machine is free again", examples=[["/usr/local/bin/wipe"]])


class System(Struct, forbid_unknown_fields=True, frozen=True):
    """A machine."""

    name: Annotated[str, NAME]
    system: Annotated[str | None, SYSTEM] = None
    tags: Annotated[Tags, TAGS] = {}
    aside: Annotated[str, Meta(description="reason not to use the machine, such as a repair")] = ""


class Controller(Struct, forbid_unknown_fields=True, frozen=True):
    """A BMC. The options have defaults for its credentials and its certificate."""

    address: Annotated[str, Meta(description="address of its Redfish service", examples=["https://10.0.0.11"])]
    machines: Annotated[list[System], Meta(description="the machines that it manages", min_length=1)]
    username: Annotated[Secret | None, Meta(description="default: as for all")] = None
    password: Annotated[Secret | None, Meta(description="default: as for all")] = None
    ca: Annotated[str | None, Meta(description="file with the CA of its certificate; default: as for all")] = None
    verify: Annotated[bool | None, Meta(description="whether to check its certificate; default: as for all")] = None


class Media(Struct, forbid_unknown_fields=True, frozen=True):
    """A folder for images with `Init`, from which BMCs fetch them."""

    folder: Annotated[str, Meta(description="folder that a web server serves", examples=["/srv/www/init"])]
    url: Annotated[str, Meta(description="address of that folder for BMCs", examples=["http://10.0.0.1/init"])]


class Options(Struct, forbid_unknown_fields=True, frozen=True):
    """The pool."""

    bmcs: Annotated[list[Controller], Meta(description="the BMCs and their machines", min_length=1)]
    username: Annotated[Secret | None, Meta(description="for BMCs without one of their own")] = None
    password: Annotated[Secret | None, Meta(description="for BMCs without one of their own")] = None
    ca: Annotated[str | None, Meta(description="file with the CA of their certificates; default: the system's")] = None
    verify: Annotated[bool, Meta(description="whether to check their certificates")] = True
    media: Annotated[Media | None, Meta(description="for specs with `Init`, which are refused without it")] = None
    timeout: Annotated[Seconds, Meta(description="seconds before a request to a BMC times out")] = 20
    poll_timeout: Annotated[Seconds, Meta(description="seconds before an observation stops waiting for a BMC")] = 30
    unreachable_after: Annotated[Seconds, Meta(description="seconds until an unreachable machine is set aside")] = 300
    longest_pause: Annotated[Seconds, Meta(description="most seconds between attempts to reach a BMC")] = 60
    power_timeout: Annotated[Seconds, Meta(description="seconds a machine may take to turn on, or off by force")] = 120
    graceful_timeout: Annotated[Seconds, Meta(description="seconds a machine may take to shut down by itself")] = 60
    power_cycle: Annotated[bool, Meta(description="whether to power-cycle a failed machine once")] = False
    doubtful: Annotated[Seconds, Meta(description="seconds to avoid a machine that failed to power on")] = 600
    cleaning: Annotated[list[str] | None, WIPE] = None
    cleaning_timeout: Annotated[Seconds, Meta(description="seconds before that command times out")] = 1500

    def check(self) -> None:
        """Raise `CannotStart` if the inventory contradicts itself or lacks something."""
        _check_unique((machine.name for bmc in self.bmcs for machine in bmc.machines), "machines: duplicate name")
        _check_unique((bmc.address.rstrip("/") for bmc in self.bmcs), "bmcs: duplicate address")
        for bmc in self.bmcs:
            url = urllib.parse.urlsplit(bmc.address)
            if not _is_web(bmc.address) or url.username is not None:
                # The address itself may hold a password.
                raise CannotStart(f"bmcs: expected https://HOST, without credentials, got an address at {url.hostname}")
            for field in ("username", "password"):
                if getattr(bmc, field) is None and getattr(self, field) is None:
                    raise CannotStart(f"bmcs: {bmc.address} has no {field}: set it there, or in the options for all")
            if len(bmc.machines) > 1 and any(machine.system is None for machine in bmc.machines):
                raise CannotStart(f"bmcs: {bmc.address} has several machines: set the `system` of each")
            _check_unique((machine.system or "" for machine in bmc.machines), f"bmcs: {bmc.address}: duplicate system")
            if (ca := bmc.ca or self.ca) is not None and not Path(ca).exists():
                raise CannotStart(f"ca: {ca}: no such file")


class Properties(Struct, forbid_unknown_fields=True, frozen=True):
    """The properties of a spec."""

    machine: Annotated[str | None, Meta(description="a machine's name; default: any match", examples=["r1u07"])] = None
    tags: Annotated[Tags, Meta(description="tags that the machine must have", examples=[{"size": "large"}])] = {}
    boot: Annotated[Literal["disk", "pxe", "http", "iso"], Meta(description="boot source", examples=["pxe"])] = "disk"
    url: Annotated[str | None, Meta(description="address of the image, for the boot sources http and iso")] = None
    always: Annotated[bool, Meta(description="whether to boot from there always, and not just once")] = False

    def __post_init__(self) -> None:
        """Raise `InvalidSpec` if *boot* and *url* do not go together."""
        problem = ""
        if self.url is None:
            if self.boot == "iso":
                problem = "expected the address of an ISO image, as boot is iso; got none"
        elif urllib.parse.urlsplit(self.url).username is not None:
            problem = "expected an address without credentials, because every client can read it"
        elif self.boot in ("disk", "pxe"):
            problem = f"expected none, as boot is {self.boot}; got {self.url!r}"
        elif not _is_web(self.url):
            problem = f"expected an address such as http://HOST/PATH, got {self.url!r}"
        if problem:
            raise InvalidSpec("Properties.url", problem)


def _check_unique(names: Iterable[str], problem: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CannotStart(f"{problem} {name}")
        seen.add(name)


def _is_web(address: str) -> bool:
    parts = urllib.parse.urlsplit(address)
    return parts.scheme in ("http", "https") and bool(parts.hostname)
