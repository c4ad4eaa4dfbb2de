"""The flavors that are built in: vanilla and combo."""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from pyinfrakit.errors import InvalidSpec, PyInfrakitError
from pyinfrakit.group.flavors import FindFlavor, Flavor, Health, Index
from pyinfrakit.group.go_template import Context
from pyinfrakit.group.plugins import Description
from pyinfrakit.group.scripts import Scripts
from pyinfrakit.group.spec import Allocation, PluginSpec
from pyinfrakit.record import Attachment, Spec
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode
from pyinfrakit.schema.secrets import HIDDEN, Script

T = TypeVar("T")


class _Attachment(Struct, frozen=True, forbid_unknown_fields=True):
    ID: str
    Type: str = ""


class VanillaProperties(Struct, frozen=True, forbid_unknown_fields=True):
    """The properties of vanilla: the lines of a script or the address of a template for it, tags and attachments."""

    Init: Annotated[list[Script], HIDDEN] | None = None
    InitScriptTemplateURL: str = ""
    Tags: dict[str, str] | None = None
    Attachments: list[_Attachment] | None = None


class _Flavors(Struct, frozen=True, forbid_unknown_fields=True):
    """The properties of combo, in the form of releases up to 0.4."""

    Flavors: list[PluginSpec] | None = None


VANILLA, COMBO = ("", "vanilla", "flavor-vanilla"), ("combo", "flavor-combo")
"""The names of the built-in flavors: ours, and those of InfraKit's programs. A group without a flavor is vanilla."""


def make_builtin(find: FindFlavor) -> Mapping[str, Flavor]:
    """Return the built-in flavors by their names. *find* finds the flavors that a combo names."""
    return {**dict.fromkeys(VANILLA, Vanilla()), **dict.fromkeys(COMBO, Combo(find))}


class Vanilla(Flavor):
    """Adds a script, tags and attachments to each member. All members are healthy, and end without a drain."""

    def __init__(self) -> None:
        self._scripts = Scripts()

    async def validate(self, properties: Raw | None, allocation: Allocation) -> None:
        wanted = _decode(properties, VanillaProperties, VanillaProperties())
        if wanted.Init and wanted.InitScriptTemplateURL:
            raise InvalidSpec("Properties", 'Either "Init" or "InitScriptTemplateURL" can be specified but not both')
        if wanted.InitScriptTemplateURL:
            await self._scripts.fetch(wanted.InitScriptTemplateURL, anew=True)

    async def prepare(self, properties: Raw | None, spec: Spec, allocation: Allocation, index: Index) -> Spec:
        wanted = _decode(properties, VanillaProperties, VanillaProperties())
        lines = wanted.Init or []
        if wanted.InitScriptTemplateURL:
            template = await self._scripts.fetch(wanted.InitScriptTemplateURL)
            lines = [template.render(Context(spec.logical_id or "", index.group, index.sequence))]
        attachments = (Attachment(each.ID, each.Type) for each in wanted.Attachments or ())
        return replace(
            spec,
            init="\n".join([spec.init, *lines] if spec.init else lines),
            tags={**spec.tags, **(wanted.Tags or {})},
            attachments=(*spec.attachments, *attachments),
        )

    async def healthy(self, properties: Raw | None, member: Description) -> Health:
        return Health.HEALTHY

    async def drain(self, properties: Raw | None, member: Description) -> None:
        pass


class Combo(Flavor):
    """Several flavors, one after the other. *find* finds them."""

    def __init__(self, find: FindFlavor) -> None:
        self._find = find

    async def validate(self, properties: Raw | None, allocation: Allocation) -> None:
        for number, part in enumerate(_read_parts(properties)):
            flavor = await self._find(part.plugin)
            try:
                await flavor.validate(part.properties, allocation)
            except InvalidSpec as error:
                raise InvalidSpec(f"Properties[{number}].{error.field}", error.problem) from None

    async def prepare(self, properties: Raw | None, spec: Spec, allocation: Allocation, index: Index) -> Spec:
        """Each flavor starts from the spec without Init and attachments. What it adds or changes counts."""
        merged = spec
        for part in _read_parts(properties):
            flavor = await self._find(part.plugin)
            own = await flavor.prepare(part.properties, replace(spec, init="", attachments=()), allocation, index)
            merged = replace(
                merged,
                init="\n".join(filter(None, (merged.init, own.init))),
                tags={**merged.tags, **dict(own.tags.items() - spec.tags.items())},
                attachments=(*merged.attachments, *own.attachments),
            )
        return merged

    async def healthy(self, properties: Raw | None, member: Description) -> Health:
        """Return the first answer that is not healthy."""
        for part in _read_parts(properties):
            flavor = await self._find(part.plugin)
            health = await flavor.healthy(part.properties, member)
            if health is not Health.HEALTHY:
                return health
        return Health.HEALTHY

    async def drain(self, properties: Raw | None, member: Description) -> None:
        """Have every flavor drain the member, and then raise the first error of all."""
        failures: list[PyInfrakitError] = []
        for part in _read_parts(properties):
            try:
                flavor = await self._find(part.plugin)
                await flavor.drain(part.properties, member)
            except PyInfrakitError as error:
                failures.append(error)
        if failures:
            raise failures[0]


def _read_parts(properties: Raw | None) -> Sequence[PluginSpec]:
    """Return the flavors of a combo. Up to InfraKit 0.4 they are in an object, as its only field."""
    if properties is not None and bytes(properties).lstrip()[:1] == b"{":
        parts = _decode(properties, _Flavors, _Flavors()).Flavors or []
    else:
        parts = _decode(properties, list[PluginSpec], [])
    for number, part in enumerate(parts):
        if not part.plugin:
            raise InvalidSpec(f"Properties[{number}].Plugin", "expected the name of a flavor, got nothing")
    return parts


def _decode(properties: Raw | None, shape: type[T], default: T) -> T:
    if properties is None or bytes(properties) == b"null":
        return default
    try:
        return decode(properties, shape, "Properties")
    except WrongShape as error:
        raise InvalidSpec(error.where or "Properties", error.problem) from None
    except (NotJSON, msgspec.DecodeError) as error:
        raise InvalidSpec("Properties", str(error)) from None
