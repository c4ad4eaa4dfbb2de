"""Types describe themselves with examples, schemas and tables, and mark values that stay hidden."""

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
    image: Annotated[str, Meta(examples=["debian-12"], description="image to boot")]
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


def make_valid_example(shape: Any) -> Any:
    """Return a type's example after checking that it is of that type."""
    example = make_example(shape)
    decode(msgspec.json.encode(example), shape, hook=secrets.decode_secret)
    return example


@pytest.mark.parametrize(
    "shape", [Everything, Tree, Row, Login, Account, Disk, Size, Raw, dict[str, int], set[str], bytes]
)
def test_an_example_is_valid(shape: Any) -> None:
    """A type's example is of that type."""
    make_valid_example(shape)


def test_an_example_has_required_fields_and_own_examples() -> None:
    """An example omits fields with a default unless they have their own example; nested types follow the same rule."""
    example = make_valid_example(Everything)
    assert {"cpus", "children", "parent"}.isdisjoint(example)
    assert ("debian-12", 2, "small") == (example["image"], example["delay"], example["size"])
    assert [{"size-gb": 10}, {"size-gb": 10}] == example["disks"]
    assert {"type": "net", "password": "secret"} == example["boot"]


def test_an_example_s_secrets_can_be_named() -> None:
    """A caller can choose the text for a secret in an example by its field."""
    assert {"user": "user", "password": "PASSWORD"} == make_example(Login, str.upper)


BOUNDS = st.one_of(st.none(), st.integers(-20, 20))


@settings(deadline=None)
@given(
    number_type=st.sampled_from([int, float]), low=BOUNDS, high=BOUNDS, open_low=st.booleans(), open_high=st.booleans()
)
def test_an_example_number_is_within_its_bounds(
    number_type: type, low: int | None, high: int | None, open_low: bool, open_high: bool
) -> None:
    """An example number is within its bounds, whatever they are."""
    if low is not None and high is not None and high < low + 2:
        high = low + 2
    bounds: dict[str, Any] = {"gt" if open_low else "ge": low, "lt" if open_high else "le": high}
    make_valid_example(
        Annotated[number_type, Meta(**{name: bound for name, bound in bounds.items() if bound is not None})]
    )


@settings(deadline=None)
@given(step=st.integers(1, 7), low=BOUNDS)
def test_an_example_number_is_a_multiple(step: int, low: int | None) -> None:
    """An example number is a multiple of the step that its type requires."""
    make_valid_example(Annotated[int, Meta(multiple_of=step) if low is None else Meta(multiple_of=step, gt=low)])


@settings(deadline=None)
@given(
    low=st.integers(0, 12),
    extra=st.one_of(st.none(), st.integers(0, 3)),
    shape=st.sampled_from([str, list[int], dict[str, int]]),
)
def test_an_example_s_length_is_within_its_bounds(low: int, extra: int | None, shape: Any) -> None:
    """Example texts, lists and objects have an allowed length; an object with several keys needs its own example."""
    low = min(low, 1) if shape == dict[str, int] else low
    make_valid_example(Annotated[shape, Meta(min_length=low, max_length=None if extra is None else low + extra)])


def test_a_schema_marks_secrets_as_write_only() -> None:
    """The JSON Schema has a secret as a write-only string."""
    schema = describe.describe_schema(Login)
    assert {"type": "string", "writeOnly": True} == schema["$defs"]["Login"]["properties"]["password"]
    json.dumps(describe.describe_schema(Everything))


def test_a_table_has_type_default_and_description() -> None:
    """A table lists all fields, nested ones by path, and stops at a type that contains itself."""
    rows = {row.name: row for row in describe.list_fields(Everything)}
    assert describe.FieldRow("image", "string", None, "image to boot") == rows["image"]
    assert describe.FieldRow("cpus", "integer >= 1", "2", "how many") == rows["cpus"]
    assert describe.FieldRow("disks[].size-gb", "integer >= 10", None, "in GB") == rows["disks[].size-gb"]
    assert describe.FieldRow("disks[].kind", 'one of "hdd", "ssd"', '"ssd"', "") == rows["disks[].kind"]
    assert describe.FieldRow("maybe", "secret", None, "not needed") == rows["maybe"]
    assert describe.FieldRow("delay", "number", "", "") == rows["delay"]
    assert ["children", "left", "by_name"] == [row.name for row in describe.list_fields(Tree)]


def test_properties_without_secrets_stay_byte_for_byte() -> None:
    """Properties of a type without secrets stay as they are, even if they do not match the type."""
    raw = Raw(b'{ "size-gb" : "x" }')
    assert secrets.redact_properties(raw, Disk) is raw
    assert secrets.redact_properties(raw, Raw) is raw


def test_secrets_are_hidden_at_every_depth() -> None:
    """Every secret in properties is replaced, even in nested types, and other values stay."""
    raw = Raw(b'{"login":{"user":"u","password":"s1"},"others":{"x":{"user":"v","password":"s2"}}}')
    hidden = {"user": "u", "password": "***"}
    expected = {"login": hidden, "others": {"x": {"user": "v", "password": "***"}}, "port": 80}
    assert expected == json.loads(bytes(secrets.redact_properties(raw, Account)))


def test_secrets_are_told_from_other_strings() -> None:
    """The type of properties says which strings are secrets; in properties of another form, all may be."""
    assert ({"s1"}, {"u"}) == secrets.split_strings(Raw(b'{"login":{"user":"u","password":"s1"}}'), Account)
    assert ({"s1", "u"}, set()) == secrets.split_strings(Raw(b'{"login":["u","s1"]}'), Account)
    assert (set(), {"s1", "u"}) == secrets.split_strings(Raw(b'{"login":["u","s1"]}'), Disk)


@pytest.mark.parametrize("raw", [b'{"login":"s1"}', b'"s1"', b'{"login":{"usr":"s1"}}', b"[1]", b"s1"])
def test_mismatched_properties_are_hidden_entirely(raw: bytes) -> None:
    """Properties that do not match a type with secrets are hidden entirely, as a secret could be anywhere in them."""
    assert b"{}" == bytes(secrets.redact_properties(Raw(raw), Account))


@pytest.mark.parametrize(
    ("raw", "path"),
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
def test_errors_hide_possible_secrets(raw: bytes, path: str) -> None:
    """An error about a secret, or about a value that should contain one, names the path and hides the value."""
    with pytest.raises(WrongShape) as caught:
        decode(raw, Account, "P", secrets.decode_secret)
    assert path == caught.value.where
    assert "51" not in str(caught.value)
    assert "999" not in str(caught.value)


def test_errors_show_other_values() -> None:
    """An error about a value that contains no secret shows that value."""
    with pytest.raises(WrongShape, match=r'^P\.port: expected an integer, got "eighty"$'):
        decode(b'{"login":{"user":"u","password":"x"},"port":"eighty"}', Account, "P", secrets.decode_secret)
