"""JSON-RPC and JSON decode without I/O: any bytes, any JSON value as an ID, and any depth."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Meta, Raw, Struct

from pyinfrakit.rpc import jsonrpc
from pyinfrakit.rpc.instance import types
from pyinfrakit.rpc.instance.types import Params
from pyinfrakit.schema.decode import MAX_DEPTH, NotJSON, WrongShape, check, decode

often = settings(max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

NUMBER = r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?"
NUMBERS = st.from_regex(NUMBER, fullmatch=True, alphabet="-+.eE0123456789")
SPACE = st.text(alphabet=" \t\r\n", max_size=3)
WORDS = st.text(max_size=12) | st.text(alphabet='[]{}"\\,:', max_size=12)
"""Strings, including ones that look like JSON's own characters."""


@st.composite
def strings(draw: st.DrawFn) -> str:
    return json.dumps(draw(WORDS), ensure_ascii=draw(st.booleans()))


@st.composite
def arrays(draw: st.DrawFn, elements: st.SearchStrategy[str]) -> str:
    return "[" + ",".join(draw(SPACE) + element + draw(SPACE) for element in draw(st.lists(elements, max_size=4))) + "]"


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(strings(), values), max_size=4))
    return "{" + ",".join(f"{draw(SPACE)}{key}{draw(SPACE)}:{draw(SPACE)}{value}" for key, value in pairs) + "}"


SCALARS = st.sampled_from(["null", "true", "false"]) | NUMBERS | strings()
VALUES = st.recursive(SCALARS, lambda inner: arrays(inner) | objects(inner), max_leaves=8)
"""Any JSON value as text, with all kinds of whitespace and escapes."""
OBJECTS = objects(VALUES)


def format_request(id: str | None = "7", method: str = '"m"', params: str | None = None, version: str = '"2.0"') -> str:
    """Format a request from JSON texts. None omits a member."""
    parts = {"jsonrpc": version, "method": method, "params": params, "id": id}
    return "{" + ", ".join(f'"{key}" : {value}' for key, value in parts.items() if value is not None) + "}"


def parse_call(body: str) -> jsonrpc.Call:
    (call,) = jsonrpc.parse(body.encode()).calls
    assert isinstance(call, jsonrpc.Call), call
    return call


def parse_fault(body: bytes) -> jsonrpc.Fault:
    with pytest.raises(jsonrpc.Fault) as caught:
        jsonrpc.parse(body)
    return caught.value


def find_problem(data: str, shape: type[Any], root: str = "") -> str:
    with pytest.raises(WrongShape) as caught:
        decode(data.encode(), shape, root)
    return str(caught.value)


def join(reply: jsonrpc.Reply | None) -> bytes:
    async def read(pieces: AsyncIterator[bytes]) -> bytes:
        return b"".join([piece async for piece in pieces])

    assert reply is not None
    return asyncio.run(read(reply)) if isinstance(reply, AsyncIterator) else b"".join(reply)


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    """Yield pieces as a result that is encoded while it is sent."""
    for piece in pieces:
        yield piece


# --- Requests


@often
@given(st.binary(max_size=200))
@example(b"")
@example(b"\x00")
@example(b"\xef\xbb\xbf{}")
@example(b"[[[[")
def test_any_bytes_are_calls_or_a_fault(body: bytes) -> None:
    """Any bytes parse into calls or raise a Fault, and nothing else."""
    _parse_and_reply(body)


DAMAGE = [b"", b"}", b"]", b"{", b"[", b'"', b"\\", b"\\ud800", b",", b"x", b"\xff", b"1" * 5000]


@st.composite
def damaged_requests(draw: st.DrawFn) -> bytes:
    """Draw a request or batch in which a few bytes are replaced, removed or added."""
    one = format_request(draw(VALUES), draw(strings() | VALUES), draw(VALUES), draw(st.just('"2.0"') | VALUES))
    body = bytearray((one if draw(st.booleans()) else f"[{one},{one}]").encode())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        body[start : start + draw(st.integers(0, 3))] = draw(st.sampled_from(DAMAGE) | st.binary(max_size=2))
    return bytes(body)


@often
@given(damaged_requests())
@example(b'{"id":1}x')
@example(b'{"jsonrpc":"1.0","id":1')
@example(b'{"jsonrpc":3,"id":1,"params":\xc3\x28}')
@example(b'{"jsonrpc":"2.0","id":1,"method":' + b"1" * 5000 + b"}")
@example(b'{"jsonrpc":"2.0","id":1,"method":3,"params":{"n":' + b"1" * 5000 + b"}}")
@example(b'[{"jsonrpc":"2.0","id":1,"method":' + b"1" * 5000 + b"}]")
@example(b'{"jsonrpc":"2.0","id":1,"method":1e999}')
@example(b'{"jsonrpc":"2.0","id":' + b"1" * 5000 + b',"method":"m"}')
def test_damaged_requests_are_calls_or_a_fault(body: bytes) -> None:
    """A damaged request parses into calls or raises a Fault, and no other exception."""
    _parse_and_reply(body)


def _parse_and_reply(body: bytes) -> None:
    """Parse *body* and encode a reply to each call."""
    try:
        calls = jsonrpc.parse(body).calls
    except jsonrpc.Fault as error:
        replies = [join(jsonrpc.encode_rejection(error))]
    else:
        replies = [reply for reply in map(_reply, calls) if reply is not None]
    assert all(isinstance(json.loads(reply, parse_int=float), dict) for reply in replies)


def _reply(call: jsonrpc.Call | jsonrpc.Rejected) -> bytes | None:
    """Reply to a call as a server does: with an error to a rejected call, and not at all to a notification."""
    if call.id is None:
        return None
    return join(
        jsonrpc.encode_error(call.id, call.fault)
        if isinstance(call, jsonrpc.Rejected)
        else jsonrpc.encode_result(call.id, [b"1"])
    )


@often
@given(VALUES)
@example("0")
@example("9223372036854775807")
@example("1.50")
@example("null")
@example('"\\u00e9"')
@example('{ "a" : [ 1 , 2 ] }')
@example("1E400")
@example("1" * 5000)
def test_any_id_is_echoed_byte_for_byte(id: str) -> None:
    """A result, an application's error and a rejection repeat an ID, any JSON value, byte for byte."""
    good = parse_call(format_request(id))
    assert good.id is not None
    (bad,) = jsonrpc.parse(format_request(id, version='"1.0"').encode()).calls
    assert isinstance(bad, jsonrpc.Rejected)
    assert bad.id is not None
    some = jsonrpc.Fault(jsonrpc.APPLICATION_ERROR, "no")
    for reply in (
        jsonrpc.encode_result(good.id, [b"{", b"}"]),
        jsonrpc.encode_error(good.id, some),
        jsonrpc.encode_error(bad.id, bad.fault),
    ):
        assert msgspec.json.decode(join(reply), type=dict[str, Raw])["id"] == Raw(id.encode())


@often
@given(OBJECTS, WORDS, st.sampled_from(["%s", "[%s]", " [ %s ] ", "\n%s\t"]))
def test_params_reach_the_call(params: str, method: str, form: str) -> None:
    """A call has the request's method and its params, an object or an array of one object, byte for byte."""
    call = parse_call(format_request(method=json.dumps(method), params=form.replace("%s", params)))
    assert method == call.method
    assert params.encode() == bytes(call.params)


@pytest.mark.parametrize("params", [None, "null"])
def test_params_may_be_missing(params: str | None) -> None:
    """Params that are absent or null count as an empty object."""
    assert b"{}" == bytes(parse_call(format_request(params=params)).params)


@pytest.mark.parametrize("params", ["1", '"x"', "true", "[1]", "[{},{}]", '["a"]', "[[]]"])
def test_other_params_are_refused(params: str) -> None:
    """Params that are neither an object nor an array of one are invalid, and the error has the call's ID."""
    (call,) = jsonrpc.parse(format_request("1.50", params=params).encode()).calls
    assert isinstance(call, jsonrpc.Rejected)
    assert call.id is not None
    assert (jsonrpc.INVALID_PARAMS, b"1.50") == (call.fault.code, bytes(call.id))
    assert "params: expected an object" in call.fault.message


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('{"method":"m","id":7}', 'jsonrpc: expected "2.0"'),
        (format_request(version='"1.0"'), 'jsonrpc: expected "2.0"'),
        (format_request(version="2.0"), 'jsonrpc: expected "2.0"'),
        (format_request(version="null"), 'jsonrpc: expected "2.0"'),
        ('{"jsonrpc":"2.0","id":7}', "method"),
        (format_request(method="7"), "method: expected a string, got 7"),
        (format_request(method="null"), "method: expected a string, got null"),
    ],
)
def test_an_invalid_request_is_refused_by_name(body: str, names: str) -> None:
    """A request without the right `jsonrpc` or a `method` is invalid, and the error names the member and has the ID."""
    (call,) = jsonrpc.parse(body.encode()).calls
    assert isinstance(call, jsonrpc.Rejected)
    assert call.id is not None
    assert (jsonrpc.INVALID_REQUEST, b"7") == (call.fault.code, bytes(call.id))
    assert names in call.fault.message


@pytest.mark.parametrize(
    "body", [b"", b" \r\n", b"{", b"[", b"nope", b'{"id":1}x', b"[1,]", b"NaN", b"\xff", b"\xef\xbb\xbf{}"]
)
def test_invalid_json_is_a_parse_error(body: bytes) -> None:
    """Bytes that are not JSON are a parse error, whose reply has a null ID."""
    error = parse_fault(body)
    assert jsonrpc.PARSE_ERROR == error.code
    assert json.loads(join(jsonrpc.encode_rejection(error)))["id"] is None


# --- Batches


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Draw the members of a batch, each with its role."""
    call = st.tuples(st.just("call"), VALUES.map(format_request))
    notification = st.tuples(st.just("notification"), st.just(format_request(None)))
    rejected = st.tuples(st.just("rejected"), SCALARS | st.sampled_from(["[]", "{}", format_request(version="1")]))
    return draw(st.lists(call | notification | rejected, min_size=1, max_size=8))


@often
@given(batches(), SPACE)
def test_a_batch_is_its_members_in_order(members: list[tuple[str, str]], space: str) -> None:
    """A batch parses into calls, notifications and rejections in order, and only notifications get no reply."""
    message = jsonrpc.parse((space + "[" + f"{space},{space}".join(text for _, text in members) + "]").encode())
    roles = [
        "rejected" if isinstance(c, jsonrpc.Rejected) else "notification" if c.id is None else "call"
        for c in message.calls
    ]
    assert [role for role, _ in members] == roles
    reply = message.join([[reply] for reply in map(_reply, message.calls) if reply is not None])
    replied = [role for role in roles if role != "notification"]
    assert len(replied) == (0 if reply is None else len(json.loads(join(reply))))


def test_a_batch_is_answered_by_an_array() -> None:
    """The reply to a batch of one is an array, and the reply to a single call is not."""
    assert b"[12]" == join(jsonrpc.parse(f"[{format_request()}]".encode()).join([[b"1", b"2"]]))
    assert b"12" == join(jsonrpc.parse(format_request().encode()).join([[b"1", b"2"]]))


def test_a_result_may_come_in_a_stream() -> None:
    """A result that comes piece by piece has the same place in a reply, also in a batch beside others."""
    streamed = jsonrpc.encode_result(Raw(b"1"), stream(b"[", b"2]"))
    assert b'{"jsonrpc":"2.0","result":[2],"id":1}' == join(streamed)
    batch = jsonrpc.parse(f"[{format_request()},{format_request()},{format_request()}]".encode())
    assert b"[1,23,4]" == join(batch.join([[b"1"], stream(b"2", b"3"), [b"4"]]))


@pytest.mark.parametrize("body", [b"[]", b" [ ] "])
def test_an_empty_batch_is_invalid(body: bytes) -> None:
    """An empty array is a single invalid request."""
    assert jsonrpc.INVALID_REQUEST == parse_fault(body).code


def test_a_batch_has_a_limit() -> None:
    """A batch above the limit is refused entirely, and the error states the limit."""
    assert jsonrpc.MAX_CALLS == len(
        jsonrpc.parse(f"[{','.join([format_request()] * jsonrpc.MAX_CALLS)}]".encode()).calls
    )
    error = parse_fault(f"[{','.join([format_request()] * (jsonrpc.MAX_CALLS + 1))}]".encode())
    assert jsonrpc.INVALID_REQUEST == error.code
    assert str(jsonrpc.MAX_CALLS) in error.message


# --- Depth


def measure_depth(text: str) -> int:
    """Return how deep JSON nests, by reading one character at a time."""
    deepest = level = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


def find_refusal(data: bytes) -> str | None:
    """Return why `check` refuses *data*, or None if it does not."""
    try:
        check(data)
    except NotJSON as error:
        return str(error)
    return None


@st.composite
def deep_values(draw: st.DrawFn) -> str:
    """Draw JSON that nests about as deep as the limit, with brackets in strings at every level."""
    levels = draw(st.integers(MAX_DEPTH - 6, MAX_DEPTH + 3))
    keys, beside = draw(st.lists(strings(), min_size=1, max_size=5)), draw(st.lists(VALUES, min_size=1, max_size=5))
    text = draw(VALUES)
    for level in range(levels):
        other = beside[level % len(beside)]
        text = f"[{other},{text}]" if level % 3 else f"{{{keys[level % len(keys)]}:{text}}}"
    return text


@often
@given(deep_values() | VALUES)
@example("[" * 128 + "]" * 128)
@example("[" * 129 + "]" * 129)
@example('["' + "[" * 200 + '"]')
@example('["\\"' + "[" * 200 + '"]')
@example('["\\\\",' + "[" * 127 + "]" * 127 + "]")
@example('["\\\\",' + "[" * 128 + "]" * 128 + "]")
@example("[" + ",".join(["[]"] * 500) + "]")
def test_depth_is_counted_outside_strings(text: str) -> None:
    """`check` refuses exactly the JSON that nests deeper than the limit, whatever brackets its strings hold."""
    expected = f"nested more than {MAX_DEPTH} levels deep" if measure_depth(text) > MAX_DEPTH else None
    assert expected == find_refusal(text.encode())


@often
@given(st.binary(max_size=60))
def test_check_refuses_all_but_utf_8(data: bytes) -> None:
    """`check` accepts bytes that are UTF-8 and not blank, and raises NotJSON for all others."""
    try:
        is_text = bool(data.decode().encode().strip())
    except UnicodeDecodeError:
        is_text = False
    assert is_text == (find_refusal(data) is None)


@pytest.mark.timeout(100)
@pytest.mark.parametrize(
    "unit", ['\\"', '"', "\\", '"\\', "[", "{", "]", "[]", '["', '"[', "[{", '{"a":', " ", ",", "\\u005b"]
)
@pytest.mark.parametrize("prefix", ["", '"', "["])
def test_no_body_causes_a_hang(prefix: str, unit: str) -> None:
    """A body of the largest size that repeats any one character is answered."""
    size = 4 * 1024 * 1024
    _parse_and_reply((prefix + unit * (size // len(unit))).encode()[:size])


# --- Errors that name the path


class Disk(Struct):
    size: Annotated[int, Meta(ge=1)]


class Machine(Struct, forbid_unknown_fields=True):
    count: Annotated[int, Meta(ge=1)] = 1
    share: float | None = None
    disks: list[Disk] = []
    named: dict[str, Disk] = {}


@pytest.mark.parametrize(
    ("data", "shape", "expected"),
    [
        ('{"Spec":{"Tags":{"tier":3}}}', types.ProvisionParams, "Spec.Tags.tier: expected a string, got 3"),
        (
            '{"Spec":{"Tags":{"a":"b","tier":null}}}',
            types.ProvisionParams,
            "Spec.Tags.tier: expected a string, got null",
        ),
        (
            '{"Spec":{"Attachments":[{},{"ID":3}]}}',
            types.ProvisionParams,
            "Spec.Attachments[1].ID: expected a string or null, got 3",
        ),
        ('{"Spec":[]}', types.ProvisionParams, "Spec: expected an object or null, got an array"),
        ('{"Tags":"x"}', types.DescribeParams, 'Tags: expected an object or null, got "x"'),
        ('{"Properties":1}', types.DescribeParams, "Properties: expected true or false or null, got 1"),
        ("[]", types.DescribeParams, "expected an object, got an array"),
        ('{"count":"two"}', Machine, 'count: expected an integer, got "two"'),
        ('{"count":0}', Machine, "count: expected an integer >= 1, got 0"),
        ('{"share":"half"}', Machine, 'share: expected a number or null, got "half"'),
        ('{"disks":[{"size":1},{"size":-3}]}', Machine, "disks[1].size: expected an integer >= 1, got -3"),
        (
            '{"named":{"a.b":{"size":1},"c[0]":{"size":{}}}}',
            Machine,
            "named.c[0].size: expected an integer, got an object",
        ),
    ],
)
def test_an_error_names_the_path(data: str, shape: type[Any], expected: str) -> None:
    """An error about a value states its path, the expected type and the value."""
    assert expected == find_problem(data, shape)


def test_an_error_starts_at_the_caller_s_root() -> None:
    """The path in an error starts with the root that the caller names."""
    assert 'Properties.count: expected an integer, got "two"' == find_problem('{"count":"two"}', Machine, "Properties")
    assert "Properties: expected an object, got 3" == find_problem("3", Machine, "Properties")


def test_an_unknown_or_missing_member_is_named() -> None:
    """An error about an unknown or missing member states its name and path."""
    assert re.fullmatch(r"P: .*unknown field.*color.*", find_problem('{"color":1}', Machine, "P"))
    assert re.fullmatch(r"P\.disks\[0\]: .*missing.*size.*", find_problem('{"disks":[{}]}', Machine, "P"))


@often
@given(
    st.dictionaries(WORDS, st.text(max_size=5), max_size=3), WORDS, VALUES.filter(lambda text: not text.startswith('"'))
)
@example({}, "n", "1" * 5000)
@example({"a": "b"}, "n", "1e999")
def test_an_error_about_a_tag_names_its_path(good: dict[str, str], key: str, value: str) -> None:
    """An error about a tag that is not a string states the tag's path and the problem, whatever the value."""
    good.pop(key, None)
    pairs = [*(f"{json.dumps(name)}:{json.dumps(text)}" for name, text in good.items()), f"{json.dumps(key)}:{value}"]
    with pytest.raises(WrongShape) as caught:
        decode(f'{{"Spec":{{"Tags":{{{",".join(pairs)}}}}}}}'.encode(), types.ProvisionParams)
    assert f"Spec.Tags.{key}" == caught.value.where
    assert caught.value.problem.lower().startswith(
        ("expected a string, got ", "got a number that 64 bits can't hold, ")
    )
    assert len(caught.value.problem) < 100


@often
@given(VALUES)
def test_any_json_is_decoded_as_raw(value: str) -> None:
    """Any JSON value decodes as Raw, byte for byte."""
    assert value.encode() == bytes(decode(value.encode(), Raw))


@often
@given(damaged_requests())
@example(b'{"Type":1}x')
@example(b'{"Type":1,"a":')
@example(b'{"Type":' + b"1" * 5000 + b"}")
def test_decode_raises_only_its_own_errors(data: bytes) -> None:
    """Decoding any bytes returns a value or raises NotJSON or WrongShape."""
    with contextlib.suppress(NotJSON, WrongShape):
        assert isinstance(decode(data, Params), Params)
