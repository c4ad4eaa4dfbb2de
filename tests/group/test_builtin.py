"""The flavors that are built in."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from pyinfrakit.errors import InvalidSpec, PyInfrakitError, TryAgain, Unreachable
from pyinfrakit.group import scripts
from pyinfrakit.group.builtin import Combo, Vanilla, make_builtin
from pyinfrakit.group.flavors import Flavor, Health, Index
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.spec import Allocation
from pyinfrakit.record import Attachment, Spec
from support.web import served

SIZE = Allocation(size=3)
INDEX = Index("workers", 2)
MEMBER = Description("i-1")


def encode(value: Any) -> Raw:
    return Raw(json.dumps(value).encode())


async def find(name: str) -> Flavor:
    flavors = {**make_builtin(find), "odd": Odd()}
    if name not in flavors:
        raise Unreachable(f"Failed to find Flavor plugin '{name}'")
    return flavors[name]


class Odd(Flavor):
    """A flavor that refuses properties, finds all members unhealthy, and fails to drain them."""

    async def validate(self, properties: Raw | None, allocation: Allocation) -> None:
        raise InvalidSpec("Properties.size", "expected nothing")

    async def prepare(self, properties: Raw | None, spec: Spec, allocation: Allocation, index: Index) -> Spec:
        return spec

    async def healthy(self, properties: Raw | None, member: Description) -> Health:
        return Health.UNHEALTHY

    async def drain(self, properties: Raw | None, member: Description) -> None:
        raise TryAgain("not today")


def prepare(flavor: Flavor, properties: Any, spec: Spec = Spec()) -> Spec:
    return asyncio.run(flavor.prepare(encode(properties), spec, SIZE, INDEX))


def test_vanilla_adds_to_the_spec() -> None:
    """Vanilla appends its lines and attachments to those of the spec, and adds its tags."""
    spec = Spec(
        properties=Raw(b'{"a":1}'), tags={"a": "1", "b": "1"}, init="l0\nl1", attachments=(Attachment("a0", ""),)
    )
    properties = {"Init": ["l2", "l3"], "Tags": {"b": "2"}, "Attachments": [{"ID": "a1", "Type": "ebs"}]}
    assert prepare(Vanilla(), properties, spec) == Spec(
        properties=Raw(b'{"a":1}'),
        tags={"a": "1", "b": "2"},
        init="l0\nl1\nl2\nl3",
        attachments=(Attachment("a0", ""), Attachment("a1", "ebs")),
    )


@pytest.mark.parametrize("properties", [None, Raw(b"null"), Raw(b"{}")])
@pytest.mark.parametrize("name", ["vanilla", "flavor-vanilla", "combo", "flavor-combo"])
def test_missing_properties_are_empty(name: str, properties: Raw | None) -> None:
    """A built-in flavor without properties is valid, and leaves the spec as it is."""

    async def check() -> Spec:
        flavor = await find(name)
        await flavor.validate(properties, SIZE)
        assert Health.HEALTHY is await flavor.healthy(properties, MEMBER)
        await flavor.drain(properties, MEMBER)
        return await flavor.prepare(properties, Spec(init="l0", tags={"a": "1"}), SIZE, INDEX)

    assert Spec(init="l0", tags={"a": "1"}) == asyncio.run(check())


WRONG: list[tuple[str, Any, str]] = [
    ("vanilla", {"init": []}, "Properties: has an unknown field init; known: Init, InitScriptTemplateURL, Tags"),
    ("vanilla", {"Init": "echo"}, "Properties.Init: expected an array or null, got a string"),
    ("vanilla", {"Tags": {"a": 1}}, "Properties.Tags.a: expected a string, got 1"),
    ("vanilla", {"Attachments": [{}]}, "Properties.Attachments[0]: missing required field ID"),
    ("vanilla", [], "Properties: expected an object, got an array"),
    (
        "vanilla",
        {"Init": ["a"], "InitScriptTemplateURL": "str://b"},
        'Either "Init" or "InitScriptTemplateURL" can be specified but not both',
    ),
    ("combo", [{}], "Properties[0].Plugin: expected the name of a flavor, got nothing"),
    ("combo", [{"Plugin": "vanilla", "Nope": 1}], "Properties[0]: has an unknown field Nope"),
    (
        "combo",
        [{"Plugin": "vanilla"}, {"Plugin": "vanilla", "Properties": {"Init": 1}}],
        "Properties[1].Properties.Init:",
    ),
    ("combo", [{"Plugin": "combo", "Properties": [{"Plugin": "odd"}]}], "Properties[0].Properties[0].Properties.size:"),
    ("combo", {"Flavors": [{"Plugin": "gone"}]}, "Failed to find Flavor plugin 'gone'"),
]


@pytest.mark.parametrize(("name", "properties", "problem"), WRONG)
def test_wrong_properties_are_refused_with_their_place(name: str, properties: Any, problem: str) -> None:
    """The error about wrong properties of a built-in flavor names the field."""

    async def check() -> None:
        flavor = await find(name)
        with pytest.raises(PyInfrakitError) as error:
            await flavor.validate(encode(properties), SIZE)
        assert problem in str(error.value)

    asyncio.run(check())


PARTS = [
    {
        "Plugin": "vanilla",
        "Properties": {"Init": ["a", "b"], "Tags": {"x": "1", "y": "1"}, "Attachments": [{"ID": "1"}]},
    },
    {"Plugin": "odd"},
    {"Plugin": "flavor-vanilla", "Properties": {"Init": ["c"], "Tags": {"y": "2"}, "Attachments": [{"ID": "2"}]}},
]


@pytest.mark.parametrize("properties", [PARTS, {"Flavors": PARTS}])
def test_combo_merges_its_flavors(properties: Any) -> None:
    """A combo joins the scripts of its flavors by newlines, appends their attachments, and merges their tags in order."""
    spec = Spec(tags={"x": "0", "z": "0"}, init="first", attachments=(Attachment("0", ""),))
    assert prepare(Combo(find), properties, spec) == Spec(
        tags={"x": "1", "y": "2", "z": "0"},
        init="first\na\nb\nc",
        attachments=tuple(Attachment(id, "") for id in "012"),
    )


def test_the_first_that_is_not_healthy_decides() -> None:
    """A member of a combo has the first health that is not healthy, and each flavor drains it even if one fails."""

    async def check() -> None:
        combo = Combo(find)
        assert Health.UNHEALTHY is await combo.healthy(encode(PARTS), MEMBER)
        assert Health.HEALTHY is await combo.healthy(encode(PARTS[:1]), MEMBER)
        with pytest.raises(TryAgain, match="not today"):
            await combo.drain(encode(PARTS), MEMBER)
        with pytest.raises(TryAgain, match="not today"):
            await combo.drain(encode([*PARTS, {"Plugin": "gone"}]), MEMBER)

    asyncio.run(check())


def test_a_script_comes_from_a_template(tmp_path: Path) -> None:
    """Vanilla renders the template for each member. A template that changes is read again by the next validation."""
    script = tmp_path / "init.sh"
    properties = encode({"InitScriptTemplateURL": f"file://{script}"})

    async def check() -> list[str]:
        vanilla = Vanilla()
        inits = []
        for text in ("join {{ INSTANCE_LOGICAL_ID }}", "leave {{ INDEX.Sequence }}"):
            script.write_text(text)
            for _ in range(2):
                spec = await vanilla.prepare(properties, Spec(init="l0", logical_id="a"), SIZE, INDEX)
                inits.append(spec.init)
                await vanilla.validate(properties, SIZE)
        return inits

    assert ["l0\njoin a", "l0\njoin a", "l0\njoin a", "l0\nleave 2"] == asyncio.run(check())


def test_a_template_is_fetched_once_for_many_members(tmp_path: Path) -> None:
    """A template from the web is fetched once at a commit, however many members are prepared, and bounded in size."""
    (tmp_path / "init.sh").write_text("echo {{ INDEX.Group }}")
    (tmp_path / "large.sh").write_bytes(b" " * (scripts.MAX_SCRIPT + 1))

    async def check(base: str) -> None:
        vanilla = Vanilla()
        properties = encode({"InitScriptTemplateURL": f"{base}/init.sh"})
        await vanilla.validate(properties, SIZE)
        (tmp_path / "init.sh").unlink()
        specs = await asyncio.gather(*(vanilla.prepare(properties, Spec(), SIZE, INDEX) for _ in range(100)))
        assert {"echo workers"} == {each.init for each in specs}
        for path, problem in (("gone.sh", "the server answered 404"), ("large.sh", "is larger than 1 MiB")):
            with pytest.raises(InvalidSpec, match=problem):
                await vanilla.validate(encode({"InitScriptTemplateURL": f"{base}/{path}"}), SIZE)

    with served(tmp_path) as base:
        asyncio.run(check(base))


def refuse(url: str) -> str:
    async def check() -> str:
        with pytest.raises(PyInfrakitError) as error:
            await Vanilla().validate(encode({"InitScriptTemplateURL": url}), SIZE)
        return f"{type(error.value).__name__}: {error.value}"

    return asyncio.run(check())


def test_a_template_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The error about a template names its address, and what is wrong there: it is in the spec, or will pass."""
    (tmp_path / "wrong.sh").write_text("a\n{{ .X }}")
    (tmp_path / "latin.sh").write_bytes(b"caf\xe9")
    os.mkfifo(tmp_path / "pipe")
    where = "InvalidSpec: Properties.InitScriptTemplateURL: "
    base = f"file://{tmp_path}"
    assert f"{where}{base}/gone: No such file or directory" == refuse(f"{base}/gone")
    assert f"{where}{base}/pipe: is not a regular file" == refuse(f"{base}/pipe")
    assert f"{where}{base}: Is a directory" == refuse(base)
    assert f"{where}{base}/latin.sh: is not UTF-8 at byte 3" == refuse(f"{base}/latin.sh")
    assert refuse(f"{base}/wrong.sh").startswith(f"{where}{base}/wrong.sh: line 2, column 4: '.X' is not supported")
    assert refuse("init.sh").startswith(f"{where}init.sh: expected an address such as file:///srv/init.sh")
    assert refuse("http://localhost:1/x").startswith(
        "TryAgain: Properties.InitScriptTemplateURL: http://localhost:1/x can't"
    )
    assert refuse("http://[x/").startswith(f"{where}http://[x/: is no web address")
