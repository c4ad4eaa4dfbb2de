"""YAML, JSON and TOML mean the same here, and errors in them have a line and a column."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pyinfrakit import config
from pyinfrakit.errors import CannotStart
from pyinfrakit.schema.decode import WrongShape
from pyinfrakit.source import parse

KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)


def read(text: str, format: str = "YAML") -> Any:
    return json.loads(bytes(parse(text.encode(), "f", format=format).json))


def drop_nulls(value: Any) -> Any:
    """Return a value without the nulls that TOML does not have."""
    if isinstance(value, dict):
        return {key: drop_nulls(each) for key, each in value.items() if each is not None}
    return [drop_nulls(each) for each in value if each is not None] if isinstance(value, list) else value


@given(OBJECTS)
def test_json_stays_as_it_is(value: Any) -> None:
    """A JSON text is the content, byte for byte."""
    text = json.dumps(value, indent="\t").encode()
    assert text == bytes(parse(text, "f").json)


@given(OBJECTS, st.booleans())
def test_yaml_holds_any_json(value: Any, in_one_line: bool) -> None:
    """Whatever PyYAML writes is read as it was, in either style."""
    text = yaml.safe_dump(value, default_flow_style=in_one_line)
    assert value == read(text)


@given(OBJECTS)
def test_toml_holds_any_json_without_nulls(value: Any) -> None:
    """A TOML text is read as it was written."""
    value = drop_nulls(value)
    text = "\n".join(f"{config.format_toml({key: each})[2:-2]}" for key, each in value.items())
    assert value == read(text, "TOML")


@given(
    st.dictionaries(st.text('abä "\n', min_size=1), st.lists(st.integers()), min_size=1),
    st.sampled_from(["YAML", "JSON"]),
)
def test_every_value_has_a_position(value: Any, format: str) -> None:
    """The position of a key is the place in the text where it begins."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    if format == "YAML":
        text = "\n".join(f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(each)}" for key, each in value.items())
    source = parse(text.encode(), "f", format=format)
    for key in value:
        _, line, column = source.locate(key).split(":")
        assert text.split("\n")[int(line) - 1][int(column) - 1 :].startswith(json.dumps(key, ensure_ascii=False))


SCALARS = {
    "no": "no",
    "on": "on",
    "y": "y",
    "1:30": "1:30",
    "2024-01-01": "2024-01-01",
    "1_000": "1_000",
    "=": "=",
    "1.2.3": "1.2.3",
    "True": True,
    "false": False,
    "~": None,
    "": None,
    "NULL": None,
    "12": 12,
    "-0": 0,
    "+7": 7,
    "1.5": 1.5,
    ".5": 0.5,
    "-.5e1": -5.0,
    "5.": 5,
    "0x1F": 31,
    "0o17": 15,
    '"5"': "5",
    "'null'": "null",
}


@pytest.mark.parametrize("text", SCALARS)
def test_yaml_has_no_traps(text: str) -> None:
    """Plain values follow YAML 1.2: words such as `no`, times and dates are strings."""
    value = read(f"a: {text}")["a"]
    assert (SCALARS[text], type(SCALARS[text])) == (value, type(value))


def test_numbers_stay_as_they_are_written() -> None:
    """A number that JSON can write is not rounded, whatever its length."""
    text = "[1.10, 123456789012345678901234567890, 1e400]"
    assert text.replace(" ", "").encode() == bytes(parse(text.encode(), "f", format="YAML").json)


def test_an_alias_repeats_a_value() -> None:
    """An alias stands for a copy of the value, whose position is that of the original."""
    source = parse(b"a: &x\n  b: 1\nc: *x\n", "f")
    assert {"a": {"b": 1}, "c": {"b": 1}} == json.loads(bytes(source.json))
    assert ("f:3:1", "f:2:3") == (source.locate("c"), source.locate("c.b"))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{key}: &{key} [{','.join([f'*{before}'] * 10)}]\n" for before, key in zip("abcdefgh", "bcdefghi", strict=True)
)

WRONG = {
    "nothing": ("YAML", "# nothing\n", "f: empty"),
    "no JSON": ("JSON", "", "f: empty"),
    "a duplicate key": ("YAML", "a: 1\nb: {}\na: 2", "f:3:1: duplicate key 'a'"),
    "a duplicate key in JSON": ("JSON", '{"a":\n [{"b": 1, "b": 2}]}', "f:2:12: duplicate key 'b'"),
    "leading zeros": ("YAML", "mode: 0644", "f:1:7: a number with leading zeros is ambiguous: put it in quotes"),
    "no number": ("YAML", "a: .inf", 'f:1:4: JSON has no number .inf: expected a string, as in ".inf"'),
    "a tag": ("YAML", "a: !!binary eA==", "f:1:4: expected a value without a tag, got tag:yaml.org,2002:binary"),
    "a merge key": ("YAML", "a: &a {}\nb:\n  <<: *a", "f:3:3: expected no merge key <<"),
    "a list as a key": ("YAML", "? [a]\n: 1", "f:1:3: expected a string as a key"),
    "a loop": ("YAML", "a: &a [*a]", "f:1:4: expected an alias of something complete"),
    "a bomb": ("YAML", BOMB, "expected at most 1,000,000 values, with aliases expanded"),
    "two documents": ("YAML", "a: 1\n---\nb: 2\n", "f:2:1: not YAML: expected a single document"),
    "a missing bracket": ("YAML", "a: [", "f:1:5: not YAML: while parsing a flow node, did not find expected node"),
    "a control character": ("YAML", "ä: \x01", "f:1:4: not YAML: control characters are not allowed"),
    "half of a pair": ("YAML", 'a: "\\ud800"', "f:1:7: not YAML: while parsing a quoted scalar, found invalid Unicode"),
    "too deep": ("YAML", "[" * 100_000, "f: nested more than 128 levels deep"),
    "too deep in a line": ("YAML", "- " * 100_000, "f: nested more than 128 levels deep"),
    "a bit too deep": ("YAML", "[" * 129 + "]" * 129, "f:1:129: nested more than 128 levels deep"),
    "too deep in JSON": ("JSON", "[" * 129 + "]" * 129, "f: nested more than 128 levels deep"),
    "a trailing comma": ("JSON", '{"ä": 1,\n}', "f:2:1: not JSON: trailing comma in object"),
    "a missing end": ("JSON", '{"a":\n', "f:1:6: not JSON: it ends too early"),
    "a wrong line": ("TOML", "a = 1\n b = nope", "f:2:6: not TOML: Invalid value"),
    "a wrong end": ("TOML", "a = ", "f: not TOML: Invalid value (at end of document)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_of_syntax_have_a_place(case: str) -> None:
    """An error in a text is one line with the line and the column, if the parser tells."""
    format, text, message = WRONG[case]
    with pytest.raises(CannotStart) as caught:
        parse(text.encode(), "f", format=format)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_must_be_utf_8() -> None:
    """Bytes that are not UTF-8 are an error; a byte order mark is none."""
    with pytest.raises(CannotStart, match="f: not UTF-8"):
        parse(b"\xff", "f")
    assert b'{"a":1}' == bytes(parse(b"\xef\xbb\xbfa: 1", "f").json)


TOML = '''a.b = 1

[x.y]
text = """
[not.a.table]
"""
list = [
  1,
  { deep = 2 },
]
[[groups]]
ID = "a"
[groups.Properties]
Size = 1
[[groups]]
  ID = "b"
[groups.Properties.Flavor]
Plugin = "vanilla"
[[groups.Properties.Health]]
TCP = "x"
'''

PLACES = {
    "a.b": "f:1:1",
    "x": "f:3:1",
    "x.y.text": "f:4:1",
    "x.y.list[1].deep": "f:7:1",
    "groups[0].ID": "f:12:1",
    "groups[0].Properties.Size": "f:14:1",
    "groups[1]": "f:15:1",
    "groups[1].ID": "f:16:3",
    "groups[1].Properties.Flavor.Plugin": "f:18:1",
    "groups[1].Properties.Health[0].TCP": "f:20:1",
    "groups[1].Properties.Health[0].missing": "f:19:1",
    "nowhere": "f",
}


@pytest.mark.parametrize("path", PLACES)
def test_statements_of_toml_have_a_position(path: str) -> None:
    """The position of a value in TOML is that of the statement that sets it."""
    assert PLACES[path] == parse(TOML.encode(), "f", format="TOML").locate(path)


def test_an_error_of_shape_names_the_innermost_place() -> None:
    """An error of shape has the place of its value, of an unknown key, or of the object that lacks one."""
    source = parse(b"a:\n  b.c:\n  - x: 1\n", "f")
    assert "f:3:5: a.b.c[0].x: expected y" == str(source.explain(WrongShape("a.b.c[0].x", "expected y")))
    assert "f:3:5: a.b.c[0].x: missing" == str(source.explain(WrongShape("a.b.c[0].x", "missing")))
    assert "f:3:5: a.b.c[0].z: missing" == str(source.explain(WrongShape("a.b.c[0].z", "missing")))
    assert "f:2:3: a: has an unknown field b.c; known: d" == str(
        source.explain(WrongShape("a", "has an unknown field b.c; known: d"))
    )
