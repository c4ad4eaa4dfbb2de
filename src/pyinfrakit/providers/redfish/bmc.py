"""A BMC: its requests, one at a time, and its answers in the project's own words. The one module that uses sushy.

Every failure of a BMC becomes one of two errors: `BmcUnavailable` if no request can succeed now, and `BmcRefusal`
if the problem concerns one machine. Both name the machine, the BMC and the remedy.

After a failure of the first kind, the BMC is left alone for a while, longer each time: it may be restarting, and
many BMCs lock an account after a few wrong passwords.
"""

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import requests
import sushy
from msgspec import Struct
from sushy import exceptions

from pyinfrakit.errors import TryAgain
from pyinfrakit.providers.redfish.options import Controller, Options, System
from pyinfrakit.schema.redactor import Redactor

# sushy logs the same failures that these errors report, and addresses of images, which are as good as passwords.
logging.getLogger("sushy").setLevel(logging.CRITICAL + 1)

T = TypeVar("T")

BOOT_SOURCES = {"disk": "Hdd", "pxe": "Pxe", "http": "UefiHttp", "iso": "Cd"}

# sushy raises these if an answer is not JSON, or is JSON of an unexpected shape.
INVALID_ANSWER = (ValueError, TypeError, AttributeError, LookupError)

# requests has one exception for most of these: only its text tells them apart. The last one matches any text.
CONNECTION_PROBLEMS = (
    ("CERTIFICATE_VERIFY_FAILED|SSL", "its certificate is not trusted: set `ca` to its CA, or `verify = false`"),
    ("refused", "it refuses the connection: check its address, and that its Redfish service is enabled"),
    ("(?i)timed out|timeout", "no answer within {timeout:g} s: check the management network, or reset the BMC"),
    ("resolve|getaddrinfo", "its name does not resolve: check its address"),
    ("", "it closed the connection before the end of its answer: check the management network, or reset the BMC"),
)


class BmcUnavailable(TryAgain):
    """The BMC answers no requests now, for any machine."""


class BmcRefusal(TryAgain):
    """The BMC answers, but a request for one machine failed."""


class TagConflict(Exception):
    """The machine has changed since its status was read, so its asset tag was not written."""


class SystemStatus(Struct, frozen=True):
    """A BMC's report on a machine. Values that it lacks are empty; *etag* is then None."""

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
        # Also if the power is unknown or changing: only a machine that is surely off may be taken.
        return self.power != "Off"


class Bmc:
    """The BMC of one or several machines. Its methods raise `BmcUnavailable` and `BmcRefusal`."""

    def __init__(self, controller: Controller, options: Options) -> None:
        self.address = controller.address.rstrip("/")
        self._options = options
        username, password = controller.username or options.username, controller.password or options.password
        assert username is not None
        assert password is not None
        self._credentials = (username.reveal(), password.reveal())
        self._redactor = Redactor(self._credentials)
        verify = options.verify if controller.verify is None else controller.verify
        self._verify: bool | str = (controller.ca or options.ca or True) if verify else False
        # Many BMCs are slow computers that answer parallel requests with errors.
        self._lock = threading.Lock()
        self._root: Any = None
        self._only_path: str | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._problem = ""

    def read_status(self, machine: System) -> SystemStatus:
        return self._request(machine, "read its status", _read_status)

    def write_tag(self, machine: System, tag: str, etag: str | None) -> None:
        """Write the asset tag. Raise `TagConflict` if the machine has changed since it had *etag*."""
        headers = {"If-Match": etag} if etag is not None else None

        def write(system: Any) -> None:
            try:
                # Not by sushy's own argument `etag`: after a 412, it would write again without the condition.
                self._root._conn.patch(system.path, data={"AssetTag": tag}, headers=headers)
            except exceptions.HTTPError as error:
                if error.status_code == 412:
                    raise TagConflict from None
                raise

        self._request(machine, "write its asset tag", write)

    def set_boot(self, machine: System, target: str, enabled: str, url: str | None = None) -> None:
        """Set the boot source, as Redfish calls it, and for how long. ``None`` or empty: no override."""
        # Not all BMCs list "None" among their boot sources, so it is not sent.
        source = sushy.BootSource(target) if target not in ("", "None") else None
        duration = sushy.BootSourceOverrideEnabled(enabled or "Disabled")
        boot = {"target": source, "enabled": duration, "http_boot_uri": url}
        action = f"set its boot source to {target}"
        self._request(machine, action, lambda system: system.set_system_boot_options(**boot))

    def reset(self, machine: System, action: str) -> None:
        """Change its power: ``On``, ``GracefulShutdown``, ``ForceOff``, ``ForceRestart``."""
        self._request(machine, f"send {action}", lambda system: system.reset_system(sushy.ResetType(action)))

    def insert(self, machine: System, url: str, media_types: tuple[str, ...]) -> None:
        """Insert an image, unless it is in a drive already. The first of *media_types* is preferred."""
        self._request(machine, "insert virtual media", lambda system: _insert(system, url, media_types))

    def eject(self, machine: System) -> None:
        self._request(machine, "eject virtual media", _eject)

    def _request(self, machine: System, action: str, send: Callable[[Any], T]) -> T:
        with self._lock:
            if (pause := self._retry_at - time.monotonic()) > 0:
                raise BmcUnavailable(f"machine {machine.name}: {self._problem}", after=pause)
            try:
                result = send(self._get_system(machine))
            except (exceptions.SushyError, requests.RequestException, BmcRefusal, *INVALID_ANSWER) as error:
                raise self._convert(machine, action, error) from None
            self._failures = 0
            return result

    def _get_system(self, machine: System) -> Any:
        if self._root is None:
            username, password = self._credentials
            # Basic authentication: BMCs have few sessions, and each crash of the plugin would leak one.
            self._root = sushy.Sushy(
                self.address,
                auth=sushy.auth.BasicAuth(username, password),
                verify=self._verify,
                server_side_retries=1,  # 0 means three, with pauses
                server_side_retries_delay=0,
                read_timeout=self._options.timeout,
                connect_timeout=self._options.timeout,
            )
        path = machine.system or self._only_path
        if path is None:
            paths = self._root.get_system_collection().members_identities
            if len(paths) != 1:
                raise BmcRefusal(f"it has {len(paths)} systems: set this machine's `system` in the inventory")
            path = self._only_path = str(paths[0])
        return self._root.get_system(path)

    def _convert(self, machine: System, action: str, error: Exception) -> TryAgain:
        """Return the error to raise. If it concerns the whole BMC, send no requests for a while."""
        text = f"BMC {self.address}: can't {action}: {_explain(error, self._options.timeout)}"
        # The credentials are hidden because BMCs may repeat them in their answers.
        text = " ".join(self._redactor.redact(text).split())[:500]
        outages = exceptions.ConnectionError, exceptions.AccessError, requests.RequestException
        # requests' error about invalid JSON is one of its connection errors, too, but another answer may be valid.
        if not isinstance(error, outages) or isinstance(error, json.JSONDecodeError):
            return BmcRefusal(f"machine {machine.name}: {text}")
        self._root = None
        # One second after the first failure, then doubled.
        pause = min(self._options.longest_pause, 2.0 ** min(self._failures, 20))
        self._failures += 1
        self._retry_at = time.monotonic() + pause
        self._problem = text
        return BmcUnavailable(f"machine {machine.name}: {text}", after=pause)


def _read_status(system: Any) -> SystemStatus:
    # The tag and the ETag must be those of one response. sushy asks for the ETag once more, and another plugin's
    # claim in between would be overwritten.
    answer = system._reader.get_data()
    system.refresh(json_doc=answer.json_doc)
    status, boot = system.status, system.boot
    return SystemStatus(
        power=_text(system.power_state),
        # The rollup includes the machine's components.
        health=_text((status and (status.health_rollup or status.health)) or None),
        tag=str(system.asset_tag or ""),
        etag=answer.headers.get("ETag"),
        model=str(system.model or ""),
        serial=str(system.serial_number or ""),
        boot=_text(boot and boot.target),
        boot_enabled=_text(boot and boot.enabled),
    )


def _text(value: Any) -> str:
    """Return a value of one of sushy's enumerations, or a BMC's own value that is not in it."""
    return "" if value is None else str(getattr(value, "value", value))


def _find_drives(system: Any) -> list[Any]:
    """Return the virtual drives of a system, or else those of its BMC: both are in Redfish, old and new."""
    with contextlib.suppress(exceptions.MissingAttributeError):
        return list(system.virtual_media.get_members())
    with contextlib.suppress(exceptions.MissingAttributeError):
        return [drive for manager in system.managers for drive in manager.virtual_media.get_members()]
    return []


def _insert(system: Any, url: str, media_types: tuple[str, ...]) -> None:
    drives = [(drive, {_text(each) for each in drive.media_types}) for drive in _find_drives(system)]
    drives = [(drive, types) for drive, types in drives if not types.isdisjoint(media_types)]
    # A crash may have come after an earlier insertion.
    if any(drive.image == url and drive.inserted for drive, _ in drives):
        return
    for media_type in media_types:
        for drive, types in drives:
            if media_type in types and not drive.inserted:
                drive.insert_media(url)
                return
    raise BmcRefusal(f"it has no empty drive for {' or '.join(media_types)}: eject a medium on the BMC's own page")


def _eject(system: Any) -> None:
    for drive in _find_drives(system):
        if drive.inserted:
            drive.eject_media()


def _explain(error: Exception, timeout: float) -> str:
    """Return the problem and its remedy."""
    match error:
        case BmcRefusal():
            return str(error)
        case json.JSONDecodeError():
            return "its answer is not JSON: check that the address is a BMC's, or reset the BMC"
        case exceptions.ConnectionError() | requests.RequestException():
            matches = (text for pattern, text in CONNECTION_PROBLEMS if re.search(pattern, str(error)))
            return next(matches).format(timeout=timeout)
        case exceptions.AccessError():
            return f"it refuses the credentials ({error.status_code}): check the inventory, and the BMC's accounts"
        case exceptions.ResourceNotFoundError():
            return "it has no such resource (404): check `system` in the inventory, and that the machine is in place"
        case exceptions.HTTPError():
            failure = "fails" if isinstance(error, exceptions.ServerSideError) else "refuses"
            return f"it {failure} ({error.status_code}: {error.detail or 'no reason'}): read its log, or reset the BMC"
        case exceptions.SushyError():
            return f"it does not support that ({error}): try newer firmware"
    return f"its answer is not Redfish ({type(error).__name__}): check that the address is a BMC's, or reset the BMC"
