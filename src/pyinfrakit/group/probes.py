"""Probes: one health check of one member, over HTTP or TCP or by a command.

| what happens                                                      | outcome |
|-------------------------------------------------------------------|---------|
| HTTP: a status of 200-399; TCP: a connection; Exec: exit status 0 | success |
| another status, a refused or broken connection, a bad certificate, or a time-out | failure |
| a template names what the member lacks, or makes no address       | unknown |
| a host name that can't be resolved, or no route to any network    | unknown |
| this host is out of files, memory, ports or time                  | unknown |
| Exec: no such executable, exit status 126 or 127, or a signal     | unknown |
"""

import asyncio
import errno
import os
import re
import socket
import ssl
import time
from collections.abc import Coroutine, Sequence

import aiohttp

from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.group import commands
from pyinfrakit.group.commands import shorten
from pyinfrakit.group.judgment import Outcome
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Check
from pyinfrakit.group.templates import expand

LATE = 1.0
"""Seconds after which a time-out that comes late says more about this host than about the member."""

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
"""Errors of this host, from which nothing follows for the member."""

_NOT_RUN = (126, 127)
"""The exit statuses of a shell whose command can't be run, or does not exist."""


class CanNotCheck(Exception):
    """The check can't be made. The text says why."""


class Broken(Exception):
    """The connection can't be made, or broke. The text says why."""


async def probe(check: Check, member: Description) -> tuple[Outcome, str]:
    """Check a member once. Return the outcome, and a reason in one line, or an empty text for a success."""
    begin = time.monotonic()
    subject = ""
    try:
        subject, attempt = _prepare(check, member)
        async with asyncio.timeout(check.timeout):
            problem = await attempt
    except TimeoutError:
        if time.monotonic() - begin > check.timeout + LATE:
            return Outcome.UNKNOWN, f"{subject}: can't be checked: this host is too busy"
        problem = f"no answer within {check.timeout}"
    except Broken as error:
        problem = str(error)
    except (CanNotCheck, TryAgain, CannotStart, ValueError) as error:
        return Outcome.UNKNOWN, shorten(f"{subject}: can't be checked: {error}".removeprefix(": "))
    return (Outcome.FAILURE, shorten(f"{subject}: {problem}")) if problem else (Outcome.SUCCESS, "")


def _prepare(check: Check, member: Description) -> tuple[str, Coroutine[None, None, str]]:
    """Return the name of a check for reasons, and the attempt, which returns the problem or an empty text."""
    if check.http is not None:
        url = expand(check.http, member)
        return f"GET {hide_credentials(url)}", _get(url)
    if check.tcp is not None:
        address = expand(check.tcp, member)
        return f"TCP {address}", _connect(address)
    command = [expand(text, member) for text in check.exec or ()]
    return f"Exec {command[0]}", _execute(command, check.timeout, member)


async def _get(url: str) -> str:
    status = await request("GET", url)
    return "" if 200 <= status < 400 else f"status {status}"


async def _connect(address: str) -> str:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise CanNotCheck("expected HOST:PORT")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError as error:
        raise _explain(error) from None
    writer.transport.abort()  # what the member may have sent is of no interest
    return ""


async def _execute(command: Sequence[str], timeout: float, member: Description) -> str:
    status, last_line = await commands.run(command, timeout, member)
    if status < 0 or status in _NOT_RUN:
        raise CanNotCheck(describe_exit(status, last_line))
    return describe_exit(status, last_line) if status else ""


def describe_exit(status: int, last_line: str) -> str:
    """Return an exit status and the last line of the output in words."""
    text = f"exit status {status}" if status >= 0 else f"ended by signal {-status}"
    return f"{text}: {last_line}" if last_line else text


async def request(method: str, url: str) -> int:
    """Return the status that a URL answers with, on a connection of its own. Follow no redirect; read no body.

    Raise `Broken`, or `CanNotCheck` if nothing follows for the other side.
    """
    connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False)
    headers, timeout = {"User-Agent": "pyinfrakit"}, aiohttp.ClientTimeout(total=None)
    # A session ignores the proxies of the environment by default.
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        try:
            async with session.request(
                method, url, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status
        except aiohttp.InvalidURL:
            raise CanNotCheck("expected a URL such as http://10.0.0.1:80/") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _explain(error) from None


def hide_credentials(url: str) -> str:
    """Return a URL without user, password and query."""
    return re.sub(r"//[^/?#]*@", "//", url).partition("?")[0]


def _explain(error: Exception) -> Broken | CanNotCheck:
    """Return what an error says of the other side, or that it says nothing."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, socket.gaierror):
        return CanNotCheck(f"the host name can't be resolved: {cause.strerror}")
    if isinstance(cause, ssl.SSLError):  # its numbers are not the system's
        return Broken(f"TLS: {getattr(cause, 'verify_message', '') or cause.reason or cause}")
    numbers = _find_numbers(cause)
    text = ", ".join(os.strerror(number) for number in sorted(numbers))
    if numbers and numbers <= _OWN_TROUBLE:
        return CanNotCheck(text)
    return Broken(text or getattr(error, "message", "") or str(error) or type(error).__name__)


def _find_numbers(error: object) -> set[int]:
    """Return the system's error numbers. A host may have several addresses, and an error for each."""
    if isinstance(error, OSError) and error.errno is not None:
        return {error.errno}
    return {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}
