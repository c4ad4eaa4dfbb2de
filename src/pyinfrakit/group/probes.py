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

from collections.abc import Coroutine, Sequence

from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.group import commands
from pyinfrakit.group.commands import describe_exit, hide_secrets, shorten
from pyinfrakit.group.connections import Broken, CanNotCheck, connect, hide_credentials, limit, request
from pyinfrakit.group.judgment import Outcome
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Check
from pyinfrakit.group.templates import expand

_NOT_RUN = (126, 127)
"""The exit statuses of a shell whose command can't be run, or does not exist."""


async def probe(check: Check, member: Description) -> tuple[Outcome, str]:
    """Check a member once. Return the outcome, and a reason in one line, or an empty text for a success."""
    subject = ""
    try:
        subject, attempt = _prepare(check, member)
        await attempt
    except Broken as error:
        return Outcome.FAILURE, shorten(hide_secrets(f"{subject}: {error}", member))
    except (CanNotCheck, TryAgain, CannotStart, ValueError) as error:
        text = f"{subject}: can't be checked: {error}".removeprefix(": ")
        return Outcome.UNKNOWN, shorten(hide_secrets(text, member))
    return Outcome.SUCCESS, ""


def _prepare(check: Check, member: Description) -> tuple[str, Coroutine[None, None, None]]:
    """Return the name of a check, for reasons, and the attempt. Raise ValueError if a template does not expand."""
    if check.http is not None:
        url = expand(check.http, member)
        return f"GET {hide_credentials(url)}", _get(url, check.timeout)
    if check.tcp is not None:
        address = expand(check.tcp, member)
        return f"TCP {address}", _connect(address, check.timeout)
    command = [expand(text, member) for text in check.exec or ()]
    return f"Exec {command[0]}", _execute(command, check.timeout, member)


async def _get(url: str, timeout: float) -> None:
    status = await request("GET", url, timeout)
    if not 200 <= status < 400:
        raise Broken(f"status {status}")


async def _connect(address: str, timeout: float) -> None:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise CanNotCheck("expected HOST:PORT")
    await connect(host, int(port), timeout)


async def _execute(command: Sequence[str], timeout: float, member: Description) -> None:
    async with limit(timeout):
        status, last_line = await commands.run(command, timeout, member)
    if status:
        error = CanNotCheck if status < 0 or status in _NOT_RUN else Broken
        raise error(describe_exit(status, last_line))
