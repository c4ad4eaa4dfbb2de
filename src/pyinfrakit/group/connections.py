"""Connections to members, over TCP and HTTP. Errors tell the member's trouble from this host's own."""

import asyncio
import errno
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pyinfrakit.errors import TryAgain
from pyinfrakit.group.threads import call_apart

LATE = 1.0
"""Seconds after which a time-out that comes late says more about this host than about the other side."""

LOOKUPS = 200
"""The most host names that are looked up at once: each takes a thread, for as long as the name service hangs."""

_OWN_TROUBLE = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EACCES,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
"""Errors of this host, from which nothing follows for the other side."""

_NO_URL = "expected a URL such as http://10.0.0.1:80/"

_lookups = threading.BoundedSemaphore(LOOKUPS)


class CanNotCheck(Exception):
    """The check can't be made, so that nothing follows for the member. The text says why."""


class Broken(Exception):
    """The other side does not answer, or wrongly. The text says how."""


@asynccontextmanager
async def limit(seconds: float) -> AsyncIterator[None]:
    """Raise `Broken` after so many seconds, or `CanNotCheck` if that is noticed too late to mean anything."""
    begin = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        if time.monotonic() - begin > seconds + LATE:
            raise CanNotCheck("this host is too busy") from None
        raise Broken(f"no answer within {seconds:g}s") from None


async def connect(host: str, port: int, timeout: float) -> None:
    """Make a connection, and close it. Raise `Broken` or `CanNotCheck`."""
    addresses = await _resolve(host, timeout)
    errors: list[OSError] = []
    async with limit(timeout):
        for address in addresses:
            try:
                _, writer = await asyncio.open_connection(address, port)
            except OSError as error:
                errors.append(error)
            else:
                writer.transport.abort()  # what the other side may have sent is of no interest
                return
    raise _explain(*errors)


async def request(method: str, url: str, timeout: float) -> int:
    """Return the status that a URL answers with, on a connection of its own. Follow no redirect; read no body.

    Raise `Broken` or `CanNotCheck`.
    """
    host = _find_host(url)
    connector = aiohttp.TCPConnector(force_close=True, resolver=_Resolved(await _resolve(host, timeout)))
    headers, unlimited = {"User-Agent": "pyinfrakit"}, aiohttp.ClientTimeout(total=None)
    # A session ignores the proxies of the environment by default.
    async with limit(timeout), aiohttp.ClientSession(connector=connector, timeout=unlimited) as session:
        try:
            async with session.request(method, url, headers=headers, allow_redirects=False) as response:
                return response.status
        except aiohttp.InvalidURL:
            raise CanNotCheck(_NO_URL) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _explain(error) from None


def _find_host(url: str) -> str:
    """Return the host of a URL. Raise `CanNotCheck` if it has none, or is not for HTTP."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise CanNotCheck(_NO_URL) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CanNotCheck(_NO_URL)
    return parts.hostname


class _Resolved(AbstractResolver):
    """The addresses that a host name stands for, for aiohttp."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


async def _resolve(host: str, timeout: float) -> Sequence[str]:
    """Return the addresses of a host. Raise `CanNotCheck` if its name can't be resolved in time."""
    try:
        ipaddress.ip_address(host)
        return [host]
    except ValueError:
        pass
    try:
        async with asyncio.timeout(timeout):
            return await call_apart(lambda: _look_up(host))
    except TimeoutError:
        problem = f"no answer within {timeout:g}s"
    except (OSError, UnicodeError, ValueError, TryAgain) as error:
        problem = getattr(error, "strerror", None) or str(error)
    raise CanNotCheck(f"the host name can't be resolved: {problem}")


def _look_up(host: str) -> Sequence[str]:
    if not _lookups.acquire(blocking=False):
        raise TryAgain("too many other names are not resolved yet")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    finally:
        _lookups.release()
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def hide_credentials(url: str) -> str:
    """Return a URL without user, password and query."""
    return re.sub(r"//[^/?#]*@", "//", url).partition("?")[0]


def _explain(*errors: Exception) -> Broken | CanNotCheck:
    """Return what the errors from all addresses say of the other side, or that they say nothing."""
    causes = [getattr(each, "certificate_error", None) or getattr(each, "os_error", None) or each for each in errors]
    for cause in causes:
        if isinstance(cause, ssl.SSLError):  # its numbers are not the system's
            return Broken(f"TLS: {getattr(cause, 'verify_message', '') or cause.reason or cause}")
    numbers = {number for cause in causes for number in _find_numbers(cause)}
    text = ", ".join(os.strerror(number) for number in sorted(numbers))
    if numbers and numbers <= _OWN_TROUBLE:
        return CanNotCheck(text)
    error = errors[-1]
    return Broken(text or getattr(error, "message", "") or str(error) or type(error).__name__)


def _find_numbers(error: object) -> set[int]:
    """Return the system's error numbers. aiohttp's error may be about several addresses, and have them in its text only."""
    if isinstance(error, OSError) and error.errno is not None:
        return {error.errno}
    return {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
