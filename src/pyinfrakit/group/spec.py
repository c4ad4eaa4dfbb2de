"""A group's spec: InfraKit's form, with this project's additions. Frozen data; no I/O.

InfraKit's fields are `Allocation`, `Instance`, `Flavor`, `Updating.Duration`, `Updating.Count` and
`SkipBeforeInstanceDestroy`; all others are additions. Only `Instance` and `Flavor` make up a member's
configuration: a change to anything else replaces no member.
"""

import math
import re
import typing
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from pyinfrakit.errors import InvalidSpec
from pyinfrakit.schema.decode import NotJSON, WrongShape, decode

_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)  # Go writes both kinds of µ
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%", re.ASCII)

MAX_ID = 200
"""Longest ID of a group, in bytes: it is part of the names of files."""

MAX_SIZE = 1_000_000
"""Largest size of a group: a larger one is a mistake, such as a wrapped -1."""


class Duration(float):
    """A time in seconds. In a spec it is a number of seconds, or a text such as ``1m30s``, as Go writes it."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: Any) -> "Duration":
        """Raise ValueError if *value* is no duration."""
        seconds = None
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str) and _DURATION.sub("", value) == "" and value:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(value))
        elif value == "0":
            seconds = 0.0
        if seconds is None or seconds < 0 or not math.isfinite(seconds):
            raise ValueError(f'expected a duration, such as 30 or "1m30s", got {_show(value)}')
        return cls(seconds)

    def __str__(self) -> str:
        return f"{float(self):g}s"


class Share:
    """A number of members: absolute, or a percentage of the group's size."""

    __slots__ = ("_number", "_percent")

    def __init__(self, value: Any) -> None:
        """Raise ValueError unless *value* is an integer of 0 or more, or a text such as ``20%``."""
        self._number, self._percent = 0, 0.0
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is not None and float(match[1]) <= 100:
            self._percent = float(match[1])
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            self._number = value
        else:
            raise ValueError(f'expected a number of members or a percentage, such as 2 or "20%", got {_show(value)}')

    def of(self, size: int) -> int:
        """Return the number of members in a group of *size*. A percentage is rounded down, but is one at least."""
        if not self._percent or not size:
            return self._number
        return max(1, math.floor(round(size * self._percent / 100, 6)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Share) and (self._number, self._percent) == (other._number, other._percent)

    def __hash__(self) -> int:
        return hash((self._number, self._percent))

    def __repr__(self) -> str:
        return f"{self._percent:g}%" if self._percent else str(self._number)


def _show(value: Any) -> str:
    """Return a value as JSON, shortened."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def decode_field(type_: type, value: Any) -> Any:
    """Return a `Duration` or a `Share`, as msgspec's ``dec_hook``."""
    if type_ is Duration:
        return Duration.parse(value)
    if type_ is Share:
        return Share(value)
    raise NotImplementedError(f"{type_!r} is no type of a group's spec")


class _Part(Struct, frozen=True, rename="pascal", forbid_unknown_fields=True, omit_defaults=True):
    """A part of a spec. Its names on the wire are in Pascal case."""


class Allocation(_Part, frozen=True):
    """The number of members, or their logical IDs."""

    size: int | None = None
    logical_ids: list[str] | None = field(default=None, name="LogicalIDs")

    @property
    def total(self) -> int:
        """The number of members."""
        return len(self.logical_ids) if self.logical_ids else self.size or 0


class PluginSpec(_Part, frozen=True):
    """A plugin and the properties for it, which only the plugin understands. Part of a member's configuration."""

    plugin: str = ""
    raw: Raw | UnsetType = field(default=UNSET, name="Properties")  # of `Raw | None`, msgspec takes null alone

    @property
    def properties(self) -> Raw | None:
        """The properties, byte for byte; None if they are null or absent."""
        return None if self.raw is UNSET or bytes(self.raw) == b"null" else self.raw


class Pool(PluginSpec, frozen=True):
    """One of several instance plugins, or kinds of instances, that a group's members come from."""

    max: Annotated[int, Meta(ge=0)] | None = None


class PoolOrder(_Part, frozen=True):
    """How members are spread over the pools.

    ``first``: each comes from the first pool that has room; with *return_*, members drift back to earlier
    pools once these have room again. ``even``: pools have equal numbers of members.
    """

    order: Literal["first", "even"] = "first"
    return_: bool = field(default=False, name="Return")


class Updating(_Part, frozen=True):
    """How a new configuration reaches the members.

    At most *surge* members exist beyond the size, and at most *unavailable* fewer are healthy (within the
    group's budget). A replacement counts once it has been healthy for *min_ready* seconds; if that takes
    longer than *deadline* seconds, the update stops. The first *canary* replacements are proven before
    any other begins. *duration* and *count* (polls) are InfraKit's forms of *min_ready*.
    """

    surge: Share = Share(0)
    unavailable: Share | None = None
    min_ready: Duration = Duration(0)
    deadline: Duration = Duration(600)
    canary: Share = Share(0)
    on_failure: Literal["pause", "undo"] = "pause"
    duration: Duration = Duration(0)
    count: Annotated[int, Meta(ge=0)] = 0
    skip_before_instance_destroy: str | None = None

    def find_min_ready(self, poll: float) -> float:
        """Return the longest of the three forms of *min_ready*, for polls of *poll* seconds."""
        return max(self.min_ready, self.duration, self.count * poll)


class Check(_Part, frozen=True, kw_only=True):
    """A health check: one of *http* (GET answers with a status of 200-399), *tcp* (a connection is accepted)
    or *exec* (a command exits with status 0).

    *interval* and *timeout* are in seconds. A member turns healthy after *healthy* consecutive successes, and
    unhealthy after *unhealthy* consecutive failures. Failures in the first *grace* seconds of its life do not count.
    ``{Properties.NAME}``, ``{Tags.NAME}``, ``{ID}`` and ``{LogicalID}`` in texts stand for the member's own.
    """

    http: str | None = field(default=None, name="HTTP")
    tcp: str | None = field(default=None, name="TCP")
    exec: list[str] | None = None
    interval: Duration = Duration(10)
    timeout: Duration = Duration(5)
    healthy: Annotated[int, Meta(ge=1)] = 1
    unhealthy: Annotated[int, Meta(ge=1)] = 3
    grace: Duration = Duration(0)

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.http, self.tcp, self.exec)) != 1:
            raise ValueError("expected one of HTTP, TCP and Exec")
        if self.exec == [] or self.interval <= 0 or self.timeout <= 0:
            raise ValueError("expected a command in Exec, and more than 0 s as Interval and Timeout")


class DrainHook(_Part, frozen=True, kw_only=True):
    """A command, or a URL for a POST, that prepares a member for its end. After *timeout* seconds it ends anyhow."""

    http: str | None = field(default=None, name="HTTP")
    exec: list[str] | None = None
    timeout: Duration = Duration(30)

    def __post_init__(self) -> None:
        if (self.http is None) == (self.exec is None):
            raise ValueError("expected one of HTTP and Exec")


class Limits(_Part, frozen=True):
    """Hard limits: a group never has more than *max* members, whatever its size and surge."""

    max: Annotated[int, Meta(ge=0)] | None = None


class Properties(_Part, frozen=True, kw_only=True):
    """A group's properties, as they are committed.

    *unavailable* is the budget: the most members that may be unavailable at once; by default, the larger of
    1 and 20 %. *keep* failed members are kept for diagnosis.
    """

    allocation: Allocation = Allocation()
    instance: PluginSpec | list[Pool] = PluginSpec()
    pools: PoolOrder = PoolOrder()
    flavor: PluginSpec = PluginSpec()
    updating: Updating = Updating()
    health: list[Check] = []
    unavailable: Share | None = None
    remediate: bool = True
    keep: Annotated[int, Meta(ge=0)] = 0
    scale_in: Literal["smallest", "oldest"] = "smallest"
    drain: DrainHook | None = None
    limits: Limits = Limits()
    skip_before_instance_destroy: str | None = None


class GroupSpec(Struct, frozen=True):
    """A valid spec: the group's ID, its properties, and these as JSON, as they were committed."""

    id: str
    properties: Properties
    raw: Raw

    @property
    def size(self) -> int:
        """The wanted number of members."""
        return self.properties.allocation.total

    @property
    def pools(self) -> Sequence[Pool]:
        """The pools, at least one."""
        instance = self.properties.instance
        return instance if isinstance(instance, list) else [Pool(instance.plugin, instance.raw)]

    def find_pool(self, plugin: str) -> Pool:
        """Return the pool of a plugin, or the first one if the spec has none of this plugin."""
        return next((pool for pool in self.pools if pool.plugin == plugin), self.pools[0])

    @property
    def budget(self) -> int:
        """The most members that may be unavailable at once."""
        share = self.properties.unavailable
        return max(1, self.size // 5) if share is None else share.of(self.size)

    @property
    def skips_drain(self) -> bool:
        """Whether members are destroyed without a drain."""
        properties = self.properties
        return "drain" in (properties.skip_before_instance_destroy, properties.updating.skip_before_instance_destroy)


def parse(id: str, raw: Raw) -> GroupSpec:
    """Return the spec of group *id* from its properties as JSON. Raise `InvalidSpec`, with InfraKit's texts."""
    if not id or id.startswith(".") or "/" in id or not id.isprintable() or len(id.encode()) > MAX_ID:
        problem = f"expected a printable name without slashes, at most {MAX_ID} bytes long, got {_show(id)}"
        raise InvalidSpec("ID", problem if id else "Group ID must not be blank")
    properties = _decode(raw)
    _check_allocation(properties)
    _check_pools(properties)
    _check_updating(properties)
    return GroupSpec(id, properties, raw)


def _decode(raw: Raw) -> Properties:
    # As Go does, accept names in any letter case, and null for absent. Most specs need no second try.
    try:
        try:
            return decode(raw, Properties, "Properties", decode_field)
        except WrongShape:
            return decode(_fold(raw, Properties), Properties, "Properties", decode_field)
    except WrongShape as error:
        raise InvalidSpec(error.where, error.problem) from None
    except NotJSON as error:
        raise InvalidSpec("Properties", str(error)) from None


def _fold(value: Raw, type_: Any) -> Raw:
    """Spell names as in *type_* and the types within it, and drop null. Properties of plugins stay byte for byte."""
    types = (type_, *typing.get_args(type_))
    start = bytes(value).lstrip()[:1]
    if start == b"{" and (shape := next((each for each in types if _is_part(each)), None)):
        fields = {f.encode_name.lower(): f for f in msgspec.structs.fields(shape)}
        folded = {}
        for key, member in msgspec.json.decode(value, type=dict[str, Raw]).items():
            field = fields.get(key.lower())
            if field is None:
                folded[key] = member
            elif bytes(member).strip() != b"null":
                folded[field.encode_name] = _fold(member, field.type)
        return Raw(msgspec.json.encode(folded))
    if start == b"[" and (elements := next((each for each in types if typing.get_origin(each) is list), None)):
        (element,) = typing.get_args(elements)
        return Raw(msgspec.json.encode([_fold(each, element) for each in msgspec.json.decode(value, type=list[Raw])]))
    return value


def _is_part(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, _Part)


def _check_allocation(properties: Properties) -> None:
    size, logical_ids = properties.allocation.size, properties.allocation.logical_ids
    where = "Properties.Allocation"
    if size is None and not logical_ids:
        raise InvalidSpec(where, "Allocation must not be blank: expected Size or LogicalIDs")
    if size and logical_ids:
        raise InvalidSpec(where, "Only one Allocation method may be used: Size or LogicalIDs")
    if size is not None and not 0 <= size <= MAX_SIZE:
        raise InvalidSpec(f"{where}.Size", f"expected a number from 0 to {MAX_SIZE}, got {size}")
    for id, count in Counter(logical_ids or ()).items():
        if not id or count > 1:
            got = f"{_show(id)} {count} times" if id else '""'
            raise InvalidSpec(f"{where}.LogicalIDs", f"expected different names, got {got}")
    limit = properties.limits.max
    if limit is not None and properties.allocation.total > limit:
        raise InvalidSpec(where, f"{properties.allocation.total} members are over the group's Limits.Max of {limit}")


def _check_pools(properties: Properties) -> None:
    instance = properties.instance
    pools = instance if isinstance(instance, list) else [instance]
    if not pools:
        raise InvalidSpec("Properties.Instance", "expected one pool or several, got an empty list")
    for plugin, count in Counter(pool.plugin for pool in pools).items():
        if not plugin:
            raise InvalidSpec("Properties.Instance.Plugin", "expected the name of an instance plugin, got nothing")
        if count > 1:
            raise InvalidSpec("Properties.Instance", f"expected different plugins, got {_show(plugin)} {count} times")
    if not properties.pools.return_:
        return
    where = "Properties.Pools.Return"
    if properties.pools.order != "first":
        raise InvalidSpec(where, "expected false, because no pool is the first with Order even")
    if properties.updating.surge == Share(0):
        raise InvalidSpec(where, "members return one by one, each after its replacement: expected a Surge of 1 or more")


def _check_updating(properties: Properties) -> None:
    updating, size = properties.updating, properties.allocation.total
    where = "Properties.Updating"
    if updating.duration and updating.count:
        raise InvalidSpec(where, "Only one Updating method may be used: Duration or Count")
    surge = updating.surge.of(size)
    if updating.surge != Share(0) and properties.allocation.logical_ids:
        raise InvalidSpec(f"{where}.Surge", "members with logical IDs can't be doubled: expected 0")
    blocked = _explain_blocked(properties, size, surge)
    if not size or not blocked:
        return
    if not surge:
        raise InvalidSpec(where, f"with {blocked}, nothing could be replaced: expected a Surge of 1 or more")
    limit = properties.limits.max
    if limit is not None and limit <= size:
        problem = f"with {blocked}, nothing could be replaced: expected a Max of {size + 1} or more, got {limit}"
        raise InvalidSpec("Properties.Limits.Max", problem)


def _explain_blocked(properties: Properties, size: int, surge: int) -> str:
    """Return why no member may be unavailable during an update, or an empty string."""
    down, budget = properties.updating.unavailable, properties.unavailable
    if budget is not None and budget.of(size) == 0:
        return "the group's Unavailable 0"
    if down is not None and down.of(size) == 0:
        return "Unavailable 0"
    return "a Surge, and no Unavailable" if surge and down is None else ""
