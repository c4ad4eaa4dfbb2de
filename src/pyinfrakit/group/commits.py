"""Before a commit: what only plugins and flavors can check of a spec, and a spec with another allocation."""

import asyncio
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from pyinfrakit.errors import InvalidSpec
from pyinfrakit.group.flavors import FindFlavor
from pyinfrakit.group.plugins import FindPlugin
from pyinfrakit.group.spec import GroupSpec
from pyinfrakit.group.templates import check_template


async def check_spec(spec: GroupSpec, find_plugin: FindPlugin, find_flavor: FindFlavor) -> None:
    """Have the flavor and each pool's plugin check their parts of a spec, all at once.

    Raise `InvalidSpec`, or `Unreachable` for a plugin that does not run.
    """
    _check_templates(spec)
    pools = (_check_pool(spec, number, find_plugin) for number in range(len(spec.pools)))
    await asyncio.gather(_check_flavor(spec, find_flavor), *pools)


async def _check_flavor(spec: GroupSpec, find_flavor: FindFlavor) -> None:
    wanted = spec.properties.flavor
    flavor = await find_flavor(wanted.plugin)
    try:
        await flavor.validate(wanted.properties, spec.properties.allocation)
    except InvalidSpec as error:
        raise InvalidSpec(f"Properties.Flavor.{error.field}", error.problem) from None


async def _check_pool(spec: GroupSpec, number: int, find_plugin: FindPlugin) -> None:
    pool = spec.pools[number]
    where = f"Properties.Instance[{number}]" if len(spec.pools) > 1 else "Properties.Instance"
    plugin = await find_plugin(pool.plugin)
    try:
        await plugin.validate(pool.properties)
    except InvalidSpec as error:
        raise InvalidSpec(f"{where}.{error.field}", error.problem) from None


def _check_templates(spec: GroupSpec) -> None:
    """Raise `InvalidSpec` for a text of a check or of the drain hook that names nothing of a member."""
    for number, check in enumerate(spec.properties.health):
        _check_texts(f"Properties.Health[{number}]", check.http, check.tcp, *(check.exec or ()))
    if (hook := spec.properties.drain) is not None:
        _check_texts("Properties.Drain", hook.http, *(hook.exec or ()))


def _check_texts(where: str, *texts: str | None) -> None:
    for text in filter(None, texts):
        try:
            check_template(text)
        except ValueError as error:
            raise InvalidSpec(where, str(error)) from None


def reallocate(properties: Raw, allocation: Mapping[str, object]) -> Raw:
    """Return properties with another allocation. Everything else stays, byte for byte."""
    fields = msgspec.json.decode(properties, type=dict[str, Raw])
    name = next((each for each in fields if each.lower() == "allocation"), "Allocation")
    return Raw(msgspec.json.encode({**fields, name: Raw(msgspec.json.encode(allocation))}))
