"""The page about flavors shows what works."""

import asyncio
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Raw

from pyinfrakit.group.builtin import Combo, VanillaProperties, make_builtin
from pyinfrakit.group.flavors import Flavor, Health, Index
from pyinfrakit.group.go_template import Context, Template
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Allocation
from pyinfrakit.record import Spec
from pyinfrakit.rpc.finder import Finder
from support.harness import ROOT, Daemon

PAGE = (ROOT / "docs" / "flavors.md").read_text()


def find_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_program_serves_a_flavor(tmp_path: Path, run: Callable[..., Daemon]) -> None:
    """The example program serves a flavor that the controller can use."""
    (program,) = find_blocks("python")
    (tmp_path / "picky.py").write_text(program)
    daemon = run(name="picky", program=(sys.executable, str(tmp_path / "picky.py")))

    async def check() -> list[Health]:
        finder = Finder(daemon.socket.parent, {})
        flavor = await finder.find_flavor("picky")
        members = [Description("a"), Description("b", tags={"checked": "yes"})]
        health = [await flavor.healthy(None, member) for member in members]
        await finder.close()
        return health

    assert [Health.UNHEALTHY, Health.HEALTHY] == asyncio.run(check())


def test_the_template_is_rendered() -> None:
    """The example template assigns another role to the first member."""
    (text,) = [block for block in find_blocks("") if "start-leader" in block]
    template = Template(text)
    assert "#!/bin/sh\nhostname 10.0.0.1\nstart-leader\n" == template.render(Context("10.0.0.1"))
    assert "#!/bin/sh\nhostname a\nstart-follower --leader 10.0.0.1\n" == template.render(Context("a"))


def test_the_combo_is_valid() -> None:
    """The properties of the example combo are valid, and prepare a member, apart from the flavor of others."""
    (text,) = find_blocks("json")

    async def find(name: str) -> Flavor:
        return make_builtin(find)["vanilla"]

    async def check() -> Spec:
        parts = [part for part in json.loads(text) if part["Plugin"] == "vanilla"]
        combo, properties = Combo(find), Raw(json.dumps(parts).encode())
        await combo.validate(properties, Allocation(size=1))
        return await combo.prepare(properties, Spec(), Allocation(size=1), Index("web", 1))

    assert Spec(init="#!/bin/sh\nset -e", tags={"tier": "web"}) == asyncio.run(check())


def test_every_property_of_vanilla_is_described() -> None:
    """The table of vanilla's properties has all of them."""
    table = PAGE.partition("## vanilla")[2].partition("## combo")[0]
    assert list(VanillaProperties.__struct_fields__) == re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
