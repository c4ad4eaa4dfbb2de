"""Drain: prepare a member for its end, in limited time. What fails is said, and prevents nothing."""

import asyncio

from pyinfrakit.errors import PyInfrakitError
from pyinfrakit.group import commands
from pyinfrakit.group.commands import describe_exit, shorten
from pyinfrakit.group.connections import Broken, CanNotCheck, hide_credentials, request
from pyinfrakit.group.flavors import Flavor
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import DrainHook, GroupSpec
from pyinfrakit.group.templates import expand

FLAVOR_TIMEOUT = 30.0
"""Seconds before a flavor's drain times out."""


def find_bound(hook: DrainHook | None) -> float:
    """Return after how many seconds a drain is over at the latest."""
    return FLAVOR_TIMEOUT if hook is None else FLAVOR_TIMEOUT + hook.timeout


async def drain(hook: DrainHook | None, flavor: Flavor, spec: GroupSpec, member: Description) -> str:
    """Have the flavor drain a member, then the hook. Return the problems in one line, or an empty text."""
    if spec.skips_drain:
        return ""
    problems = [await _drain_by_flavor(flavor, spec, member)]
    if hook is not None:
        problems.append(await _drain_by_hook(hook, member))
    return "; ".join(problem for problem in problems if problem)


async def _drain_by_flavor(flavor: Flavor, spec: GroupSpec, member: Description) -> str:
    wanted = spec.properties.flavor
    try:
        async with asyncio.timeout(FLAVOR_TIMEOUT):
            await flavor.drain(wanted.properties, member)
    except TimeoutError:
        return f"flavor {wanted.plugin}: the drain timed out after {FLAVOR_TIMEOUT:g} s"
    except PyInfrakitError as error:
        return shorten(f"flavor {wanted.plugin}: the drain failed: {error}")
    return ""


async def _drain_by_hook(hook: DrainHook, member: Description) -> str:
    try:
        async with asyncio.timeout(hook.timeout):
            problem = await (
                _post(hook.http, hook.timeout, member) if hook.http is not None else _execute(hook, member)
            )
    except TimeoutError:
        problem = f"timed out after {hook.timeout}"
    except (Broken, CanNotCheck, PyInfrakitError, ValueError) as error:
        problem = str(error)
    return shorten(f"drain hook: {problem}") if problem else ""


async def _post(template: str, timeout: float, member: Description) -> str:
    url = expand(template, member)
    status = await request("POST", url, timeout)
    return "" if 200 <= status < 300 else f"POST {hide_credentials(url)}: status {status}"


async def _execute(hook: DrainHook, member: Description) -> str:
    command = [expand(text, member) for text in hook.exec or ()]
    status, last_line = await commands.run(command, hook.timeout, member)
    return f"{command[0]}: {describe_exit(status, last_line)}" if status else ""
