"""What an operator says of the pool, and what InfraKit's users ask of it: types alone."""

import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from pyinfrakit.errors import CannotStart, InvalidSpec
from pyinfrakit.schema.secrets import Secret

Seconds = Annotated[float, Meta(gt=0)]


class System(Struct, forbid_unknown_fields=True, frozen=True):
    """A machine."""

    name: Annotated[
        str,
        Meta(
            description="what it is called: the instance's handle",
            examples=["r1u07"],
            pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$",
        ),
    ]
    system: Annotated[
        str | None,
        Meta(description="its resource at the BMC; else the only one there", examples=["/redfish/v1/Systems/1"]),
    ] = None
    tags: Annotated[
        dict[str, str], Meta(description="by which specs find it", examples=[{"rack": "1", "size": "large"}])
    ] = {}
    aside: Annotated[str, Meta(description="why it is not to be used, such as a repair; else it is")] = ""


class Controller(Struct, forbid_unknown_fields=True, frozen=True):
    """A BMC. Credentials that it does not have are the options'."""

    address: Annotated[str, Meta(description="where its Redfish service is", examples=["https://10.0.0.11"])]
    machines: Annotated[list[System], Meta(min_length=1)]
    username: Annotated[Secret | None, Meta(description="else that of all")] = None
    password: Annotated[Secret | None, Meta(description="else that of all")] = None
    ca: Annotated[str | None, Meta(description="a file with the CA of its certificate; else that of all")] = None
    verify: Annotated[bool | None, Meta(description="whether its certificate is checked; else as for all")] = None


class Media(Struct, forbid_unknown_fields=True, frozen=True):
    """Where images with `Init` are put, for BMCs to fetch."""

    folder: Annotated[str, Meta(description="a folder that a web server serves", examples=["/srv/www/init"])]
    url: Annotated[str, Meta(description="where BMCs find that folder", examples=["http://10.0.0.1/init"])]


class Settings(Struct, forbid_unknown_fields=True, frozen=True):
    """The pool."""

    bmcs: Annotated[list[Controller], Meta(description="the BMCs, with their machines", min_length=1)]
    username: Annotated[Secret | None, Meta(description="for BMCs without one of their own")] = None
    password: Annotated[Secret | None, Meta(description="for BMCs without one of their own")] = None
    ca: Annotated[str | None, Meta(description="a file with the CA of BMCs' certificates; else the system's")] = None
    verify: Annotated[bool, Meta(description="whether BMCs' certificates are checked")] = True
    media: Annotated[Media | None, Meta(description="how machines get `Init`; else a spec with one is refused")] = None
    timeout: Annotated[Seconds, Meta(description="seconds that a BMC may take for a request")] = 20
    poll_timeout: Annotated[Seconds, Meta(description="seconds that it may take to tell of all its machines")] = 30
    unreachable_after: Annotated[
        Seconds, Meta(description="seconds after which a machine that its BMC can't tell of is non-functional")
    ] = 300
    longest_pause: Annotated[Seconds, Meta(description="seconds between attempts to reach a BMC, at most")] = 60
    power_timeout: Annotated[Seconds, Meta(description="seconds until a machine must be on, or forced off")] = 120
    graceful_timeout: Annotated[Seconds, Meta(description="seconds that a machine has to shut down by itself")] = 60
    power_cycle: Annotated[
        bool, Meta(description="whether a machine that fails is power-cycled once before it is given up")
    ] = False
    doubtful: Annotated[Seconds, Meta(description="seconds for which a machine that did not come on is left alone")] = (
        600
    )
    cleaning: Annotated[
        list[str] | None,
        Meta(
            description="a command, and its arguments, that must succeed before a machine is free again",
            examples=[["/usr/local/bin/wipe"]],
        ),
    ] = None
    cleaning_timeout: Annotated[Seconds, Meta(description="seconds that it may take")] = 1500


class Wanted(Struct, forbid_unknown_fields=True, frozen=True):
    """What a spec's properties say."""

    machine: Annotated[str | None, Meta(description="that one; else any that fits", examples=["r1u07"])] = None
    tags: Annotated[
        dict[str, str], Meta(description="tags that the machine must have", examples=[{"size": "large"}])
    ] = {}
    boot: Annotated[Literal["disk", "pxe", "http", "iso"], Meta(description="what it boots from", examples=["pxe"])] = (
        "disk"
    )
    url: Annotated[str | None, Meta(description="for http and iso: of the image")] = None
    always: Annotated[bool, Meta(description="whether it boots so always, and not just once")] = False

    def check(self) -> None:
        """Raise `InvalidSpec` for what the type can't say."""
        if self.boot == "iso" and self.url is None:
            raise InvalidSpec("Properties.url", "expected the address of an ISO image, as boot is iso; got none")
        if self.url is not None and self.boot in ("disk", "pxe"):
            raise InvalidSpec("Properties.url", f"expected none, as boot is {self.boot}; got {self.url!r}")
        if self.url is not None and not _is_web(self.url):
            raise InvalidSpec("Properties.url", f"expected an address as http://HOST/PATH, got {self.url!r}")
        if self.url is not None and urllib.parse.urlsplit(self.url).username is not None:
            raise InvalidSpec(
                "Properties.url", "expected an address without credentials, as it is shown to whoever asks"
            )


def machines(settings: Settings) -> Iterator[tuple[Controller, System]]:
    """Give all machines, each with its BMC."""
    return ((bmc, machine) for bmc in settings.bmcs for machine in bmc.machines)


def check(settings: Settings) -> None:
    """Raise `CannotStart` for an inventory that makes no sense."""
    _check_twice([machine.name for _, machine in machines(settings)], "machines: two are called")
    _check_twice([bmc.address.rstrip("/") for bmc in settings.bmcs], "bmcs: two have the address")
    for bmc in settings.bmcs:
        parts = urllib.parse.urlsplit(bmc.address)
        if not _is_web(bmc.address) or parts.username is not None:
            raise CannotStart(
                f"bmcs: expected an address as https://HOST, without credentials, got one at {parts.hostname}"
            )
        for what in ("username", "password"):
            if getattr(bmc, what) is None and getattr(settings, what) is None:
                raise CannotStart(f"bmcs: {bmc.address} has no {what}, and neither have the options for all")
        if len(bmc.machines) > 1 and any(machine.system is None for machine in bmc.machines):
            raise CannotStart(
                f"bmcs: {bmc.address} has several machines: each needs its system, as /redfish/v1/Systems/1"
            )
        _check_file(bmc.ca or settings.ca)
        _check_twice(
            [machine.system or "" for machine in bmc.machines], f"bmcs: {bmc.address} has two machines with the system"
        )


def _check_file(ca: str | None) -> None:
    if ca is not None and not Path(ca).exists():
        raise CannotStart(f"ca: {ca}: no such file")


def _check_twice(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise CannotStart(f"{what} {name}")


def _is_web(address: str) -> bool:
    parts = urllib.parse.urlsplit(address)
    return parts.scheme in ("http", "https") and bool(parts.hostname)
