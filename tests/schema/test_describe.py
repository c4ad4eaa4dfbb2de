"""What types say of themselves: examples, schemas, tables, and what of their values is shown."""

import enum
import json
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Raw, Struct

from pyinfrakit.provider import Secret
from pyinfrakit.schema import describe, secrets
from pyinfrakit.schema.decode import WrongShape, decode
from pyinfrakit.schema.describe import make_example


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Disk(Struct, forbid_unknown_fields=True, rename="kebab"):
    size_gb: Annotated[int, Meta(ge=10, description="in GB")]
    kind: Literal["ssd", "hdd"] = "ssd"


class Iso(Struct, tag="iso", forbid_unknown_fields=True):
    path: str


class Net(Struct, tag="net", forbid_unknown_fields=True):
    password: Secret


class Everything(Struct, forbid_unknown_fields=True):
    image: Annotated[str, Meta(examples=["debian-12"], description="what it boots")]
    size: Size
    disks: Annotated[list[Disk], Meta(min_length=2)]
    boot: Net | Iso
    token: Secret
    at: datetime
    pair: tuple[int, str]
    labels: dict[str, Annotated[str, Meta(max_length=2)]]
    anything: Any
    maybe: Annotated[Secret, Meta(description="not needed")] | None
    mac: Annotated[str, Meta(pattern="^[0-9a-f:]+$", examples=["52:54:00:00:00:01"])]
    small: Annotated[float, Meta(gt=0, lt=0.5)]
    children: list["Everything"] = []
    parent: "Everything | None" = None
    cpus: Annotated[int, Meta(ge=1, description="how many")] = 2
    delay: Annotated[float | None, Meta(examples=[2])] = None


class Tree(Struct):
    children: "list[Tree]"
    left: "Tree | None"
    by_name: "dict[str, Tree]"


class Row(Struct, array_like=True):
    number: int
    name: str


class Login(Struct, forbid_unknown_fields=True):
    user: str
    password: Secret


class Account(Struct, forbid_unknown_fields=True):
    login: Login
    others: dict[str, Login] = {}
    port: int = 80


def is_right(shape: Any) -> Any:
    """Give a type's example, once it has been found to be of the type."""
    made = make_example(shape)
    decode(msgspec.json.encode(made), shape, hook=secrets.decode_secret)
    return made


@pytest.mark.parametrize(
    "shape", [Everything, Tree, Row, Login, Account, Disk, Size, Raw, dict[str, int], set[str], bytes]
)
def test_an_example_is_right(shape: Any) -> None:
    """A type's example is of that type."""
    is_right(shape)


def test_an_example_has_what_is_required_and_what_has_an_example() -> None:
    """Fields with a default are left out, unless they have an example of their own; nested types have theirs."""
    made = is_right(Everything)
    assert {"cpus", "children", "parent"}.isdisjoint(made)
    assert ("debian-12", 2, "small") == (made["image"], made["delay"], made["size"])
    assert [{"size-gb": 10}, {"size-gb": 10}] == made["disks"]
    assert {"type": "net", "password": "secret"} == made["boot"]


def test_an_example_s_secrets_can_be_named() -> None:
    """What stands for a secret in an example may depend on the field."""
    assert {"user": "user", "password": "PASSWORD"} == make_example(Login, str.upper)


BOUNDS = st.one_of(st.none(), st.integers(-20, 20))


@settings(deadline=None)
@given(kind=st.sampled_from([int, float]), low=BOUNDS, high=BOUNDS, open_low=st.booleans(), open_high=st.booleans())
def test_an_example_number_is_within_its_bounds(
    kind: type, low: int | None, high: int | None, open_low: bool, open_high: bool
) -> None:
    """Whatever bounds a number has, as long as there are numbers in them, the example is one."""
    if low is not None and high is not None and high < low + 2:
        high = low + 2
    bounds: dict[str, Any] = {"gt" if open_low else "ge": low, "lt" if open_high else "le": high}
    is_right(Annotated[kind, Meta(**{name: bound for name, bound in bounds.items() if bound is not None})])


@settings(deadline=None)
@given(step=st.integers(1, 7), low=BOUNDS)
def test_an_example_number_is_a_multiple(step: int, low: int | None) -> None:
    """Where only multiples are right, the example is one."""
    is_right(Annotated[int, Meta(multiple_of=step) if low is None else Meta(multiple_of=step, gt=low)])


@settings(deadline=None)
@given(
    low=st.integers(0, 12),
    extra=st.one_of(st.none(), st.integers(0, 3)),
    kind=st.sampled_from([str, list[int], dict[str, int]]),
)
def test_an_example_s_length_is_within_its_bounds(low: int, extra: int | None, kind: Any) -> None:
    """Texts, lists and objects are as long as they may be; an object of several needs an example of its own."""
    low = min(low, 1) if kind == dict[str, int] else low
    is_right(Annotated[kind, Meta(min_length=low, max_length=None if extra is None else low + extra)])


def test_a_schema_marks_secrets_as_write_only() -> None:
    """The JSON Schema has a secret as a string that is only written."""
    schema = describe.describe_schema(Login)
    assert {"type": "string", "writeOnly": True} == schema["$defs"]["Login"]["properties"]["password"]
    json.dumps(describe.describe_schema(Everything))


def test_fields_are_told_with_type_default_and_description() -> None:
    """A table has each field, those of nested types by their path, and ends where a type lies in itself."""
    rows = {row.name: row for row in describe.list_fields(Everything)}
    assert describe.FieldRow("image", "string", None, "what it boots") == rows["image"]
    assert describe.FieldRow("cpus", "integer >= 1", "2", "how many") == rows["cpus"]
    assert describe.FieldRow("disks[].size-gb", "integer >= 10", None, "in GB") == rows["disks[].size-gb"]
    assert describe.FieldRow("disks[].kind", 'one of "hdd", "ssd"', '"ssd"', "") == rows["disks[].kind"]
    assert describe.FieldRow("maybe", "secret", None, "not needed") == rows["maybe"]
    assert describe.FieldRow("delay", "number", "", "") == rows["delay"]
    assert ["children", "left", "by_name"] == [row.name for row in describe.list_fields(Tree)]


def test_what_has_no_secret_is_shown_byte_for_byte() -> None:
    """Properties of a type without secrets are given as they are, even if they are of another type."""
    raw = Raw(b'{ "size-gb" : "x" }')
    assert secrets.redact_properties(raw, Disk) is raw
    assert secrets.redact_properties(raw, Raw) is raw


def test_secrets_are_hidden_wherever_they_are() -> None:
    """Every secret in properties is replaced, in nested types too; the rest is shown."""
    raw = Raw(b'{"login":{"user":"u","password":"s1"},"others":{"x":{"user":"v","password":"s2"}}}')
    hidden = {"user": "u", "password": "***"}
    expected = {"login": hidden, "others": {"x": {"user": "v", "password": "***"}}, "port": 80}
    assert expected == json.loads(bytes(secrets.redact_properties(raw, Account)))


def test_secrets_are_hidden_also_where_a_provider_tells_them_again() -> None:
    """In what a provider says of a machine, strings that are secrets of its spec are replaced, and nothing else is."""
    asked = Raw(b'{"login":{"user":"u","password":"s1"}}')
    told = Raw(b'{"password":"s1","users":["u",{"pass":"s1"}],"note":"s1 too","n":1}')
    shown = json.loads(bytes(secrets.redact_live(told, asked, Account)))
    assert {"password": "***", "users": ["u", {"pass": "***"}], "note": "s1 too", "n": 1} == shown
    assert secrets.redact_live(told, asked, Disk) is told


@pytest.mark.parametrize("raw", [b'{"login":"s1"}', b'"s1"', b'{"login":{"usr":"s1"}}', b"[1]", b"s1"])
def test_what_is_of_another_type_is_not_shown(raw: bytes) -> None:
    """Where a type has secrets, properties that are not of it may have them anywhere: nothing is shown."""
    assert b"{}" == bytes(secrets.redact_properties(Raw(raw), Account))


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b'{"login":{"user":"u","password":51}}', "P.login.password"),
        (b'{"login":{"user":"u","password":1e999}}', "P.login.password"),
        (b'{"login":{"user":"u","password":["51"]}}', "P.login.password"),
        (b'{"login":51}', "P.login"),
        (b'{"login":{"user":"u","password":"x"},"others":{"x":51}}', "P.others.x"),
        (b'{"login":{"user":"u","password":"x"},"others":51}', "P.others"),
        (b"51", "P"),
    ],
)
def test_errors_do_not_show_what_may_be_a_secret(raw: bytes, where: str) -> None:
    """What is wrong in a secret's place, or where there should be something with a secret in it, is named and not shown."""
    with pytest.raises(WrongShape) as caught:
        decode(raw, Account, "P", secrets.decode_secret)
    assert where == caught.value.where
    assert "51" not in str(caught.value)
    assert "999" not in str(caught.value)


def test_errors_beside_a_secret_show_what_was_given() -> None:
    """A wrong value where no secret belongs is shown, as in any type."""
    with pytest.raises(WrongShape, match=r'^P\.port: expected an integer, got "eighty"$'):
        decode(b'{"login":{"user":"u","password":"x"},"port":"eighty"}', Account, "P", secrets.decode_secret)
