"""The actions of a group, on plugins that do not keep their word."""

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import Raw

from pyinfrakit.errors import GiveUp
from pyinfrakit.events import EventLog
from pyinfrakit.group.builtin import Vanilla
from pyinfrakit.group.flavors import Flavor
from pyinfrakit.group.plugins import Description, InstancePlugin
from pyinfrakit.group.roster import Roster
from pyinfrakit.group.situation import Create, Destroy, SetAside
from pyinfrakit.group.spec import parse
from pyinfrakit.group.work import UNKNOWN_TIME, Work
from pyinfrakit.record import Spec

SPEC = parse("g", Raw(b'{"Allocation": {"Size": 1}, "Instance": {"Plugin": "stubborn"}}'))


class Stubborn(InstancePlugin):
    """Accepts every destroy and keeps the instance, sets nothing aside, and never ends a provision."""

    def __init__(self) -> None:
        self.destroyed: list[str] = []

    async def validate(self, properties: Raw | None) -> None:
        pass

    async def provision(self, spec: Spec) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def destroy(self, id: str, reason: str) -> None:
        self.destroyed.append(id)

    async def label(self, id: str, tags: object) -> None:
        pass

    async def describe(self, group: str) -> Sequence[Description]:
        return [Description("a")]

    async def set_aside(self, id: str, reason: str) -> None:
        raise GiveUp("it can't")

    def follow(self, callback: Callable[[str], None]) -> Callable[[], None]:
        return lambda: None


def build(plugin: Stubborn) -> Work:
    async def find_plugin(name: str) -> InstancePlugin:
        return plugin

    async def find_flavor(name: str) -> Flavor:
        return Vanilla()

    roster = Roster()
    roster.observe("stubborn", [Description("a")], time.monotonic(), time.time())
    return Work("g", roster, find_plugin, find_flavor, EventLog(), lambda pool: None)


async def settle(work: Work) -> None:
    """Wait until no action is under way."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


def test_a_member_that_outlives_its_destroy_may_be_destroyed_again() -> None:
    """A member that a plugin still describes long after it accepted the destroy counts as a member again."""

    async def check() -> None:
        work = build(plugin := Stubborn())
        work.destroy(Destroy("a", "too many"), SPEC)
        await settle(work)
        assert (["a"], True) == (plugin.destroyed, work.is_ended("a"))
        now = time.monotonic()
        work.settle("stubborn", (), (), now + UNKNOWN_TIME / 2)
        assert work.is_ended("a")
        work.settle("stubborn", (), (), now + UNKNOWN_TIME + 1)
        assert (False, {}) == (work.is_ended("a"), work.going)

    asyncio.run(check())


def test_a_member_is_destroyed_if_its_plugin_cannot_set_it_aside() -> None:
    """A failed member of a plugin without that call is destroyed instead."""

    async def check() -> None:
        work = build(plugin := Stubborn())
        work.set_aside(SetAside("a", "unhealthy"), SPEC)
        await settle(work)
        assert (["a"], True) == (plugin.destroyed, work.is_ended("a"))

    asyncio.run(check())


def test_a_request_counts_until_its_call_ends() -> None:
    """A member that was asked for counts while its provision is under way, and no longer once that is cancelled."""

    async def check() -> None:
        work = build(Stubborn())
        work.create(Create("stubborn", "a member is missing"), SPEC)
        await asyncio.sleep(0.05)
        assert ["stubborn"] == [asked.pool for asked in work.asked]
        await work.stop()
        assert [] == work.asked

    asyncio.run(check())
