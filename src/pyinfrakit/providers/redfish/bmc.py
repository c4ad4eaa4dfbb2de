"""A BMC: what is asked of it, one request at a time, and what it answers, in the project's own words.

The one place that knows sushy. Whatever a BMC does that is wrong comes as `Unanswered`, where nothing can be had of it now, or
`Refuses`, which is about one machine; both name the machine, the BMC, and what to do. A BMC that failed is left alone for
a while, longer and longer: it may be starting, and accounts are locked after a few wrong passwords.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import requests
import sushy
from msgspec import Struct
from sushy import exceptions as wrong

from pyinfrakit.errors import TryAgain
from pyinfrakit.providers.redfish.inventory import Controller, Settings, System

logging.getLogger("sushy").setLevel(
    logging.CRITICAL + 1
)  # it would log what is told in errors, and addresses of images

T = TypeVar("T")

FIRST_PAUSE = 1.0
"""Seconds until a BMC that failed is asked again."""

BOOT = {"disk": "Hdd", "pxe": "Pxe", "http": "UefiHttp", "iso": "Cd"}

NONSENSE = (ValueError, TypeError, AttributeError, KeyError, LookupError)
"""What sushy raises where a BMC's answer is JSON of another shape, or none."""


class Unanswered(TryAgain):
    """The BMC can't be asked now."""


class Refuses(TryAgain):
    """The BMC answers, but not what it should, for one machine."""


class Changed(Exception):
    """The machine is not as it was when it was looked at: a condition of a write did not hold."""


class Sight(Struct, frozen=True):
    """What a BMC says of a machine. *etag* is None where it has none."""

    power: str
    health: str
    tag: str
    etag: str | None
    model: str
    serial: str
    boot: str
    boot_enabled: str

    @property
    def is_on(self) -> bool:
        return self.power != "Off"


class Bmc:
    """The BMC of one or several machines."""

    def __init__(self, controller: Controller, settings: Settings) -> None:
        self.address = controller.address.rstrip("/")
        self._machines = {machine.name: machine for machine in controller.machines}
        self._settings = settings
        username, password = controller.username or settings.username, controller.password or settings.password
        assert username is not None
        assert password is not None
        self._secrets = (password.reveal(), username.reveal())
        verify = settings.verify if controller.verify is None else controller.verify
        self._verify: bool | str = (controller.ca or settings.ca or True) if verify else False
        self._turn = threading.Lock()
        self._root: Any = None
        self._paths: dict[str, str] = {}
        self._failures = 0
        self._again_at = 0.0
        self._trouble = ""

    def look(self, machine: System) -> Sight:
        """Say how a machine is."""
        return self._ask(machine, "look at it", _sight)

    def write_tag(self, machine: System, tag: str, etag: str | None) -> None:
        """Write the asset tag; raise `Changed` where the machine is not as it was when it had *etag*."""
        headers = {"If-Match": etag} if etag is not None else None

        def write(system: Any) -> None:
            try:
                # sushy's own argument `etag` would have it write once more, without the condition
                self._root._conn.patch(system.path, data={"AssetTag": tag}, headers=headers)
            except wrong.HTTPError as error:
                if error.status_code == 412:
                    raise Changed from None
                raise

        self._ask(machine, "write its asset tag", write)

    def set_boot(self, machine: System, target: str, enabled: str, url: str | None = None) -> None:
        """Say what it boots from. ``None`` as a target is no override, which not all BMCs list among what they can."""
        source = sushy.BootSource(target) if target not in ("", "None") else None
        how_long = sushy.BootSourceOverrideEnabled(enabled or "Disabled")
        self._ask(
            machine,
            f"have it boot from {target}",
            lambda system: system.set_system_boot_options(target=source, enabled=how_long, http_boot_uri=url),
        )

    def reset(self, machine: System, how: str) -> None:
        """Change its power: ``On``, ``GracefulShutdown``, ``ForceOff``, ``ForceRestart``."""
        self._ask(machine, f"change its power ({how})", lambda system: system.reset_system(sushy.ResetType(how)))

    def insert(self, machine: System, url: str, kinds: tuple[str, ...]) -> None:
        """Put an image into a drive of one of *kinds* that is empty, or has it already."""
        self._ask(machine, "insert virtual media", lambda system: _insert(system, url, kinds))

    def eject(self, machine: System) -> None:
        """Take out whatever virtual media there are."""
        self._ask(machine, "eject virtual media", _eject)

    def trouble(self, machine: System) -> str:
        """Say why it is left alone now; empty where it is not."""
        return self._trouble if time.monotonic() < self._again_at else ""

    def _ask(self, machine: System, what: str, work: Callable[[Any], T]) -> T:
        with self._turn:
            if (left := self._again_at - time.monotonic()) > 0:
                raise Unanswered(f"machine {machine.name}: {self._trouble}", after=left)
            try:
                result = work(self._system(machine))
            except (wrong.SushyError, requests.RequestException, Refuses, *NONSENSE) as error:
                raise self._told(machine, what, error) from None
            self._failures = 0
            return result

    def _system(self, machine: System) -> Any:
        if self._root is None:
            self._root = self._connected()
        path = machine.system or self._paths.get(machine.name)
        if path is None:
            path = self._paths[machine.name] = _only(self._root)
        return self._root.get_system(path)

    def _connected(self) -> Any:
        """Log in by each request's own header: sessions that a crash leaves behind are few, and then none is left."""
        password, username = self._secrets
        timeout = self._settings.timeout
        return sushy.Sushy(
            self.address,
            auth=sushy.auth.BasicAuth(username, password),
            verify=self._verify,
            server_side_retries=1,  # 0 means three, with pauses
            server_side_retries_delay=0,
            read_timeout=timeout,
            connect_timeout=timeout,
        )

    def _told(self, machine: System, what: str, error: Exception) -> TryAgain:
        """Say what went wrong; where it is the BMC, leave it alone for a while."""
        problem, is_its_own = _problem(error, self._settings.timeout)
        text = self._clean(f"BMC {self.address}: can't {what}: {problem}")
        if not is_its_own:
            return Refuses(f"machine {machine.name}: {text}")
        self._root = None
        pause = min(self._settings.longest_pause, FIRST_PAUSE * 2 ** min(self._failures, 20))
        self._failures += 1
        self._again_at = time.monotonic() + pause
        self._trouble = text
        return Unanswered(f"machine {machine.name}: {text}", after=pause)

    def _clean(self, text: str) -> str:
        """Take out credentials, which a BMC may repeat, and line ends."""
        for secret in self._secrets:
            if len(secret) > 2:
                text = text.replace(secret, "***")
        return " ".join(text.split())[:500]


def _sight(system: Any) -> Sight:
    status, boot = system.status, system.boot
    health = (status and (status.health_rollup or status.health)) or None
    return Sight(
        power=_value(system.power_state),
        health=_value(health),
        tag=str(system.asset_tag or ""),
        etag=system._get_etag(),
        model=str(system.model or ""),
        serial=str(system.serial_number or ""),
        boot=_value(boot and boot.target),
        boot_enabled=_value(boot and boot.enabled),
    )


def _value(of: Any) -> str:
    return "" if of is None else str(getattr(of, "value", of))


def _only(root: Any) -> str:
    paths = root.get_system_collection().members_identities
    if len(paths) != 1:
        raise Refuses(f"it has {len(paths)} systems: say in the inventory which one this machine is, by `system`")
    return str(paths[0])


def _media(system: Any) -> list[Any]:
    """Give the drives of a system, or of its BMC where systems have none of their own."""
    try:
        return list(system.virtual_media.get_members())
    except wrong.MissingAttributeError:
        pass
    try:
        return [drive for manager in system.managers for drive in manager.virtual_media.get_members()]
    except wrong.MissingAttributeError:
        return []


def _insert(system: Any, url: str, kinds: tuple[str, ...]) -> None:
    drives = [drive for drive in _media(system) if {_value(kind) for kind in drive.media_types} & set(kinds)]
    if any(drive.image == url and drive.inserted for drive in drives):
        return
    for drive in sorted(
        drives, key=lambda drive: min(kinds.index(_value(k)) for k in drive.media_types if _value(k) in kinds)
    ):
        if not drive.inserted:
            drive.insert_media(url)
            return
    raise Refuses(f"it has no empty drive for {' or '.join(kinds)}: eject what is in there, by the BMC's own page")


def _eject(system: Any) -> None:
    for drive in _media(system):
        if drive.inserted:
            drive.eject_media()


def _problem(error: Exception, timeout: float) -> tuple[str, bool]:
    """Say what is wrong and what to do, and whether it is the BMC that can't be asked."""
    match error:
        case wrong.ConnectionError() | requests.RequestException():
            return _unreached(error, timeout), not _is_nonsense(error)
        case wrong.AccessError():
            return (
                f"it refuses the credentials ({error.status_code}): check them in the inventory, and its accounts",
                True,
            )
    return _machine_problem(error), False


def _machine_problem(error: Exception) -> str:
    match error:
        case Refuses():
            return str(error)
        case wrong.ResourceNotFoundError():
            return "it has no such thing (404): check the machine's `system` in the inventory, and whether the machine is in place"
        case wrong.ServerSideError():
            return f"it fails ({error.status_code}: {error.detail or 'no reason given'}): look into its own log, or reset it"
        case wrong.HTTPError():
            return f"it refuses ({error.status_code}: {error.detail or 'no reason given'}): look into its own log"
        case wrong.SushyError():
            return f"it can't do that ({error}): look for newer firmware"
    return f"it answers what is not Redfish ({type(error).__name__}): is the address a BMC's? Or reset it"


def _is_nonsense(error: Exception) -> bool:
    return isinstance(error, json.JSONDecodeError)


def _unreached(error: Exception, timeout: float) -> str:
    text = str(error)
    if "Max retries" not in text and _is_nonsense(error):
        return "it answers what is not JSON: is the address a BMC's? Or reset it"
    if "CERTIFICATE_VERIFY_FAILED" in text or "SSL" in text:
        return "its certificate is not trusted: give its CA by `ca`, or say `verify = false`"
    if "refused" in text:
        return "it refuses the connection: is the address right, and its Redfish service enabled?"
    if "timed out" in text or "timeout" in text.lower():
        return f"no answer within {timeout:g} s: is the management network up? Or reset it"
    if "resolve" in text or "getaddrinfo" in text:
        return "there is no such name: is the address right?"
    return "it broke off in the middle of its answer: is the management network up? Or reset it"
