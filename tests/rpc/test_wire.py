"""The wire, on a real socket: what InfraKit's clients were recorded to send, and what any client may."""

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from conftest import FAST
from support.harness import PROGRAMS, ROOT, Daemon, read_reply

# --- Recordings

RECORDINGS = sorted((ROOT / "tests" / "wire").glob("*.jsonl"))
TYPED = (sys.executable, str(PROGRAMS / "typed.py"), "file")
RECORDED_ID = re.compile(r"py-(\d+)")

IMPLEMENTED = {
    "infrakit-0.2.0": "0.1.0",
    "infrakit-0.3.1": "0.3.0",
    "infrakit-0.5": "0.5.0",
    "infrakit-0.5-group": "0.5.0",
    "infrakit-0.5-typed": "0.5.0",
}
"""The version that the client of a recording looks for in what `Implements` lists."""


class Replay:
    """A recording that is played, on one connection. IDs that were recorded stand for those minted now.

    Recordings hold no request twice, so some of their IDs come from a Provision that is not there: it was one of several
    that are equal but for their IDs. The nearest Provision before it is then made again.
    """

    def __init__(self, connection: socket.socket, path: Path) -> None:
        self.name = path.stem
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
        self._connection = connection
        self._ids: dict[str, str] = {}
        provisions = [line for line in self.lines if '"Instance.Provision"' in line["body"]]
        self._provisions = {_number(line["accepted_reply"]): line for line in provisions}

    def play(self, line: Mapping[str, Any]) -> bytes:
        """Send a recorded request; give the body of the reply, which must be one of HTTP's good ones."""
        own = _recorded_ids(line["accepted_reply"] or "") if line in self._provisions.values() else set()
        for number in sorted(_recorded_ids(line["body"] + (line["accepted_reply"] or "")) - own):
            self._make_sure_of(number)
        reply = self._send(line)
        if own:
            self._ids[f"py-{_number(line['accepted_reply'])}"] = json.loads(reply)["result"]["ID"]
        return reply

    def _make_sure_of(self, number: int) -> None:
        if f"py-{number}" not in self._ids:
            sibling = self._provisions[max(each for each in self._provisions if each <= number)]
            self._ids[f"py-{number}"] = json.loads(self._send(sibling))["result"]["ID"]

    def _send(self, line: Mapping[str, Any]) -> bytes:
        body = self.translated(line["body"])
        head = re.sub(r"(?<=Content-Length: )\d+", str(len(body.encode())), line["head"])
        assert line["body"] != body or line["head"] == head
        self._connection.sendall((head + body).encode())
        status, headers, reply = read_reply(self._connection)
        assert (200, "application/json") == (status, headers["content-type"].split(";")[0]), reply
        return reply

    def translated(self, text: str) -> str:
        """Put the IDs that were minted now in the place of the recorded ones."""
        return RECORDED_ID.sub(lambda match: self._ids[match[0]], text)

    def expected(self, line: Mapping[str, Any]) -> Any:
        """Give the result that the client took, but properties only where they were asked for."""
        result = json.loads(self.translated(line["accepted_reply"]))["result"]
        if not json.loads(line["body"])["params"].get("Properties"):
            for each in result.get("Descriptions", ()):
                del each["Properties"]
        return result


def _recorded_ids(text: str) -> set[int]:
    return {int(match[1]) for match in RECORDED_ID.finditer(text)}


def _number(reply: str) -> int:
    (number,) = _recorded_ids(reply)
    return number


def member(json_object: bytes, name: str) -> bytes:
    """Give a member of a JSON object, byte for byte."""
    return bytes(msgspec.json.decode(json_object, type=dict[str, Raw])[name])


@contextmanager
def connected(daemon: Daemon) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(daemon.socket))
        yield connection


@pytest.fixture
def connection(daemon: Daemon) -> Iterator[socket.socket]:
    with connected(daemon) as connection:
        yield connection


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for tests that leave nothing behind."""
    with Daemon(tmp_path_factory.mktemp("shared") / "ik", "--sync-interval", "0.1") as daemon:
        yield daemon


def test_there_are_recordings_of_every_generation() -> None:
    """The recordings that are replayed are of 0.2, 0.3, 0.5 and 2018, and each has a handshake of its generation."""
    handshakes = {
        path.stem: set(re.findall(r'"method\\":\\"([A-Z]\w+\.(?:Implements|Types|Hello))', path.read_text()))
        for path in RECORDINGS
    }
    assert handshakes == {
        "infrakit-0.2.0": {"Plugin.Implements"},
        "infrakit-0.3.1": {"Handshake.Implements"},
        "infrakit-0.5": {"Handshake.Implements", "Handshake.Types"},
        "infrakit-0.5-group": {"Handshake.Implements", "Handshake.Types"},
        "infrakit-0.5-typed": {"Handshake.Implements", "Handshake.Types"},
        "infrakit-2018-11": {"Handshake.Hello"},
        "infrakit-2018-11-group": {"Handshake.Hello"},
        "infrakit-2018-11-typed": {"Handshake.Hello"},
    }


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recorded_client_is_content(run: Callable[..., Daemon], path: Path) -> None:
    """Every request that a real client sent gets a reply that it takes, with its ID and the result that it once took."""
    daemon = run(program=(*TYPED, "compute")) if _types(path.stem) == ["compute"] else run(*FAST)
    with connected(daemon) as connection:
        _replay(Replay(connection, path))


def _types(recording: str) -> list[str]:
    """Give the sub-types of the plugin that a recorded client spoke to."""
    return ["compute"] if recording.endswith("-typed") else ["."]


def _replay(replay: Replay) -> None:
    for line in replay.lines:
        reply = replay.play(line)
        if not line["body"]:
            assert {"Vendor", "Implements", "Interfaces"} == json.loads(reply).keys()
            continue
        method = json.loads(line["body"])["method"]
        assert member(line["body"].encode(), "id") == member(reply, "id"), method
        answer = json.loads(reply)
        assert answer.get("error") is None, method
        assert answer["result"] is not None, method
        if method.startswith("Instance."):
            assert _sorted(replay.expected(line)) == _sorted(answer["result"]), method
        else:
            _check_handshake(method, answer["result"], replay.name)


def _sorted(result: Any) -> Any:
    """Put descriptions in order: no client depends on theirs."""
    described = result.get("Descriptions")
    return (
        result if described is None else {**result, "Descriptions": sorted(described, key=lambda each: str(each["ID"]))}
    )


def _check_handshake(method: str, result: Any, recording: str) -> None:
    match method:
        case "Plugin.Implements" | "Handshake.Implements":
            assert {"APIs"} == result.keys()
            assert {"Name": "Instance", "Version": IMPLEMENTED[recording]} in result["APIs"]
            assert {("Name", "Version")} == {tuple(each) for each in result["APIs"]}
        case "Handshake.Types":
            assert {"Types"} == result.keys()
            assert _types(recording) == result["Types"]["Instance/0.5.0"]
        case "Handshake.Hello":
            assert {"Objects"} == result.keys()
            assert [{"Name": type, "ProxyFor": ""} for type in _types(recording)] == result["Objects"]["Instance/0.6.1"]
        case _:
            pytest.fail(f"{method} is no handshake")


# --- Calls as text


def call(method: str, params: str | None = "{}", id: str | None = "7", version: str = '"2.0"') -> str:
    """Write a call; *params* and *id* are JSON, and left out where they are None."""
    parts = {"jsonrpc": version, "method": json.dumps(method), "params": params, "id": id}
    return "{" + ",".join(f'"{name}":{value}' for name, value in parts.items() if value is not None) + "}"


def result(daemon: Daemon, method: str, params: str | None) -> Any:
    """Call with params as text; give the result."""
    status, _, reply = daemon.post(call(method, params))
    answer = json.loads(reply)
    assert (200, None) == (status, answer.get("error"))
    return answer["result"]


def error(daemon: Daemon, body: str | bytes) -> tuple[int, str, bytes]:
    """Post what is wrong; give the error's code and message, and the ID of the reply."""
    status, _, reply = daemon.post(body)
    assert status == 200, reply
    assert member(reply, "error") != b"null"
    told = json.loads(reply)["error"]
    assert {"code", "message", "data"} == told.keys()
    return told["code"], told["message"], member(reply, "id")


def provision(daemon: Daemon, spec: str) -> str:
    """Provision with a spec as text; give the ID."""
    return str(result(daemon, "Instance.Provision", f'{{"Spec":{spec}}}')["ID"])


def properties(daemon: Daemon) -> dict[str, bytes]:
    """Give all instances' properties byte for byte, by ID."""
    _, _, reply = daemon.post(call("Instance.DescribeInstances", '{"Properties":true}'))
    descriptions = msgspec.json.decode(member(member(reply, "result"), "Descriptions"), type=list[Raw])
    return {json.loads(member(bytes(each), "ID")): member(bytes(each), "Properties") for each in descriptions}


def entry(daemon: Daemon, id: str) -> Any:
    """Give an instance's entry in the state file."""
    return next(each for each in daemon.saved()["Instances"] if each["ID"] == id)


# --- Documents


@pytest.mark.parametrize(
    ("fixture", "example"), [("daemon", {"note": "anything at all"}), ("simulated", {"delay": 2, "breaks_after": 3600})]
)
def test_the_api_document_is_as_infrakit_reads_it(request: pytest.FixtureRequest, fixture: str, example: Any) -> None:
    """`/info/api.json` has InfraKit's shape, methods in alphabetical order, and the provider's example properties."""
    daemon: Daemon = request.getfixturevalue(fixture)
    status, headers, body = daemon.exchange(b"GET /info/api.json HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (200, "application/json") == (status, headers["content-type"])
    api = json.loads(body)
    assert {"Vendor", "Implements", "Interfaces"} == api.keys()
    assert {"Name", "Version", "Sub", "URL"} == api["Vendor"].keys()
    assert [{"Name": "Instance", "Version": "0.6.1", "Sub": ""}] == api["Implements"]
    (interface,) = api["Interfaces"]
    assert {"Name", "Version", "Sub", "Methods"} == interface.keys()
    requests = {each["Request"]["method"]: each["Request"] for each in interface["Methods"]}
    names = ["DescribeInstances", "Destroy", "Label", "Provision", "Validate"]
    assert [f"Instance.{name}" for name in names] == list(requests)
    assert example == requests["Instance.Validate"]["params"]["Properties"]
    assert example == requests["Instance.Provision"]["params"]["Spec"]["Properties"]


def test_the_api_document_is_true(daemon: Daemon) -> None:
    """Each request in `/info/api.json`, sent as it stands there but for the ID, gets a reply of the keys that it says."""
    _, _, body = daemon.exchange(b"GET /info/api.json HTTP/1.1\r\nHost: h\r\n\r\n")
    methods = {each["Request"]["method"]: each for each in json.loads(body)["Interfaces"][0]["Methods"]}
    id = ""
    for name in ("Validate", "Provision", "DescribeInstances", "Label", "Destroy"):
        method = methods[f"Instance.{name}"]
        asked, documented = method["Request"], method["Response"]
        assert {"jsonrpc", "method", "params", "id"} == asked.keys()
        assert {"result", "id"} == documented.keys() - {"jsonrpc"}
        if "Instance" in asked["params"]:
            asked["params"]["Instance"] = id
        answer = json.loads(daemon.post(json.dumps(asked))[2])
        assert documented["id"] == answer["id"]
        assert documented["result"].keys() == answer["result"].keys(), name
        for each in answer["result"].get("Descriptions", ()):
            assert documented["result"]["Descriptions"][0].keys() == each.keys()
        id = answer["result"].get("ID", id)


def test_there_are_no_template_functions(shared: Daemon) -> None:
    """`/info/functions.json` is an empty object."""
    status, headers, body = shared.exchange(b"GET /info/functions.json HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (200, "application/json", b"{}") == (status, headers["content-type"], body)


# --- The error table

ROW_WRONG_TYPE = [
    ("Instance.Validate", '{"Type":3}', ["Type", "expected a string", "got 3"]),
    ("Instance.Provision", '{"Spec":"x"}', ["Spec", "expected an object", 'got "x"']),
    ("Instance.Provision", '{"Spec":{"Tags":[]}}', ["Spec.Tags", "expected an object", "got an array"]),
    ("Instance.Provision", '{"Spec":{"Tags":{"a":"b","tier":3}}}', ["Spec.Tags.tier", "expected a string", "got 3"]),
    ("Instance.Provision", '{"Spec":{"Init":{}}}', ["Spec.Init", "expected a string", "got an object"]),
    ("Instance.Provision", '{"Spec":{"LogicalID":7}}', ["Spec.LogicalID", "expected a string", "got 7"]),
    ("Instance.Provision", '{"Spec":{"Attachments":{}}}', ["Spec.Attachments", "expected an array", "got an object"]),
    (
        "Instance.Provision",
        '{"Spec":{"Attachments":[{"ID":"a"},{"ID":true}]}}',
        ["Spec.Attachments[1].ID", "a string", "got true"],
    ),
    ("Instance.Provision", '{"spec":{"tags":{"tier":3}}}', ["Spec.Tags.tier", "expected a string", "got 3"]),
    ("Instance.Label", '{"Instance":7}', ["Instance", "expected a string", "got 7"]),
    ("Instance.Label", '{"Instance":"i","Labels":{"k":1.50}}', ["Labels.k", "expected a string", "got 1.5"]),
    ("Instance.Label", '{"Labels":{}}', ["Instance", "expected an instance's ID"]),
    ("Instance.Destroy", '{"Instance":["i"]}', ["Instance", "expected a string", "got an array"]),
    ("Instance.Destroy", '{"Instance":"i","Context":"x"}', ["Context", "expected an object", 'got "x"']),
    ("Instance.Destroy", '{"Instance":"i","Context":{"Reason":1}}', ["Context.Reason", "expected a string", "got 1"]),
    ("Instance.Destroy", '{"Instance":""}', ["Instance", "expected an instance's ID"]),
    ("Instance.Destroy", "{}", ["Instance", "expected an instance's ID"]),
    ("Instance.DescribeInstances", '{"Tags":"a=b"}', ["Tags", "expected an object", 'got "a=b"']),
    ("Instance.DescribeInstances", '{"Tags":{"a":false}}', ["Tags.a", "expected a string", "got false"]),
    ("Instance.DescribeInstances", '{"Properties":"yes"}', ["Properties", "expected true or false", 'got "yes"']),
    ("Instance.Validate", "3", ["params", "expected an object"]),
    ("Instance.Validate", '"x"', ["params", "expected an object"]),
    ("Instance.Validate", "[{},{}]", ["params", "array of one object"]),
    ("Instance.Validate", "[1]", ["params", "array of one object"]),
    ("Instance.Validate", '{"Type":' + "1" * 5000 + "}", ["Type"]),
]


@pytest.mark.parametrize("method", ["Instance.Nope", "instance.validate", "Instance.validate", "Validate", ""])
def test_an_unknown_method_is_named(shared: Daemon, method: str) -> None:
    """A method that there is not, also in other case, is -32601; the message names it."""
    code, message, id = error(shared, call(method, id="1.50"))
    assert (-32601, b"1.50") == (code, id)
    assert f"'{method}'" in message or f'"{method}"' in message


@pytest.mark.parametrize(
    "body",
    [
        '{"method":"Instance.Validate","id":1.50}',
        *(call("Instance.Validate", id="1.50", version=v) for v in ('"1.0"', "2.0", "null")),
    ],
)
def test_another_json_rpc_is_refused(shared: Daemon, body: str) -> None:
    """A request whose `jsonrpc` is missing or another is -32600, with its ID; the message says what it should be."""
    assert (-32600, 'jsonrpc: expected "2.0"', b"1.50") == error(shared, body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"jsonrpc":"2.0","id":7}', "method"),
        ('{"jsonrpc":"2.0","method":3,"id":7}', "method: expected a string, got 3"),
    ],
)
def test_a_request_without_a_method_is_refused(shared: Daemon, body: str, words: str) -> None:
    """A request whose `method` is missing or no string is -32600, with its ID; the message names it."""
    code, message, id = error(shared, body)
    assert (-32600, b"7") == (code, id)
    assert words in message


@pytest.mark.parametrize(("method", "params", "words"), ROW_WRONG_TYPE)
def test_a_parameter_of_the_wrong_type_is_named(shared: Daemon, method: str, params: str, words: list[str]) -> None:
    """A parameter of the wrong type is -32602; the message has its path first, and says what was expected and found."""
    code, message, id = error(shared, call(method, params))
    assert (-32602, b"7") == (code, id)
    assert f"{words[0]}:" == message[: len(words[0]) + 1]
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    "body",
    [
        "",
        " \r\n",
        "{",
        "nope",
        '{"id":1}x',
        call("Instance.Validate")[:-1],
        '{"jsonrpc":"1.0","id":1',
        "[",
        f"[{call('Instance.Validate')},",
    ],
)
def test_what_is_not_json_is_a_parse_error(shared: Daemon, body: str) -> None:
    """A body that is empty, or not JSON, is -32700 with a null ID."""
    code, message, id = error(shared, body)
    assert (-32700, b"null") == (code, id)
    assert message.startswith("request: ")


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_verb_is_not_allowed(shared: Daemon, verb: str) -> None:
    """A verb other than POST on `/` is 405, and `Allow` says which one is allowed."""
    status, headers, body = shared.exchange(f"{verb} / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".encode())
    assert (405, "POST") == (status, headers["allow"])
    assert verb in body.decode()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", None])
def test_another_content_type_is_refused(shared: Daemon, content_type: str | None) -> None:
    """A POST whose content is not JSON, or does not say so, is 415; the text says what is expected, and nothing is executed."""
    head = f"Content-Type: {content_type}\r\n" if content_type else ""
    body = call("Instance.Provision")
    request = f"POST / HTTP/1.1\r\nHost: h\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
    before = shared.described()
    status, _, text = shared.exchange(request.encode())
    assert status == 415
    assert "expected application/json" in text.decode()
    assert before == shared.described()


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_named_in_other_ways(shared: Daemon, content_type: str) -> None:
    """A content type of JSON is taken in any case, and with parameters."""
    body = call("Instance.Validate")
    request = f"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    assert shared.exchange(request.encode())[0] == 200


@pytest.mark.parametrize("path", ["/x", "/info", "/info/api.json/", "//"])
@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_another_path_is_not_found(shared: Daemon, verb: str, path: str) -> None:
    """A path that there is not is 404; the text names it."""
    head = f"{verb} {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    status, _, body = shared.exchange(head.encode() + b"{}")
    assert status == 404
    assert path in body.decode()


def test_a_body_over_the_limit_is_too_large(shared: Daemon) -> None:
    """A body of 4 MiB is taken, and one byte more is 413; the text says the limit."""
    body = call("Instance.Validate").encode()
    assert shared.post(body.ljust(4 * 1024 * 1024))[0] == 200
    status, _, text = shared.post(body.ljust(4 * 1024 * 1024 + 1))
    assert status == 413
    assert "4194304" in text.decode()


def test_an_unknown_instance_is_named(shared: Daemon) -> None:
    """What a plugin has to say is HTTP 200 and -32000, in InfraKit's shape, and names the instance."""
    for method in ("Instance.Destroy", "Instance.Label"):
        code, message, id = error(shared, call(method, '{"Instance":"nobody","Labels":{}}'))
        assert (-32000, b"7") == (code, id)
        assert "nobody" in message


# --- IDs and notifications

IDS = [
    "0", str(2**63 - 1), str(2**64), "-1", '""', '"a"', '"\\u00e9\\n\\ud83d\\ude00"', '"😀"', "1.50", "-0", "1E400", "null",
    "true", '{"a" : [ 1,\t2 ]}', "[]",
]  # fmt: skip


@pytest.mark.parametrize("id", IDS)
def test_any_id_is_echoed_byte_for_byte(shared: Daemon, id: str) -> None:
    """An ID is any JSON value, and comes back byte for byte: with results, and with every kind of error."""
    assert id.encode() == member(shared.post(call("Instance.Validate", id=id))[2], "id")
    wrong = [
        call("Instance.Nope", id=id),
        call("Instance.Validate", '{"Type":3}', id),
        call("Instance.Validate", "3", id),
        call("Instance.Destroy", '{"Instance":"nobody"}', id),
        call("Instance.Validate", id=id, version='"1.0"'),
    ]
    assert [id.encode()] * len(wrong) == [error(shared, body)[2] for body in wrong]


def test_a_notification_is_executed_and_not_answered(daemon: Daemon, connection: socket.socket) -> None:
    """A call without ID is done and answered by 204 without a body; the connection goes on."""
    for method in ("Instance.Provision", "Instance.Nope", "Instance.Validate"):
        body = call(method, '{"Spec":{"Tags":{"a":"b"}}}', None)
        head = f"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        status, headers, reply = read_reply(connection)
        assert (204, b"", "0") == (status, reply, headers.get("content-length", "0"))
    assert len(daemon.described(a="b")) == 1


# --- Batches


def test_a_batch_is_answered_call_by_call(daemon: Daemon) -> None:
    """A batch may mix calls, notifications and what is no call: each but the notifications gets its own answer."""
    members = [
        call("Instance.Validate", id="1.50"),
        call("Instance.Provision", '{"Spec":{"Tags":{"a":"b"}}}', None),
        "1",
        "[]",
        call("Instance.Validate", id='"old"', version='"1.0"'),
        call("Instance.Nope", id="3"),
        call("Instance.Nope", id=None),
        call("Instance.DescribeInstances", '{"Tags":3}', "null"),
    ]
    status, _, reply = daemon.post(f" [ {', '.join(members)} ]")
    answers = [bytes(each) for each in msgspec.json.decode(reply, type=list[Raw])]
    told = [(bytes(member(each, "id")), json.loads(each).get("error", {}).get("code")) for each in answers]
    assert status == 200
    assert sorted(
        [(b"1.50", None), (b"null", -32600), (b"null", -32600), (b'"old"', -32600), (b"3", -32601), (b"null", -32602)],
        key=str,
    ) == sorted(told, key=str)
    assert len(daemon.described(a="b")) == 1


def test_a_batch_of_one_is_answered_by_an_array(shared: Daemon) -> None:
    """The reply to a batch of one call is an array."""
    assert [{"Type": "", "OK": True}] == [
        each["result"] for each in json.loads(shared.post(f"[{call('Instance.Validate')}]")[2])
    ]


def test_an_empty_batch_is_refused(shared: Daemon) -> None:
    """An empty batch is a single -32600 with a null ID."""
    code, message, id = error(shared, "[]")
    assert (-32600, b"null") == (code, id)
    assert "at least one" in message


def test_a_batch_of_notifications_is_not_answered(daemon: Daemon) -> None:
    """A batch of notifications alone is 204 without a body, and is executed."""
    status, _, reply = daemon.post("[" + ",".join([call("Instance.Provision", "{}", None)] * 3) + "]")
    assert (204, b"") == (status, reply)
    assert len(daemon.described()) == 3


def test_a_batch_has_a_limit(shared: Daemon) -> None:
    """A batch of 100 calls is answered; one of 101 is a single -32600 that says the limit, and nothing of it is executed."""
    calls = [call("Instance.Validate", id=str(number)) for number in range(100)]
    answers = json.loads(shared.post(f"[{','.join(calls)}]")[2])
    assert list(range(100)) == sorted(each["id"] for each in answers)
    before = shared.described()
    code, message, id = error(shared, f"[{','.join([call('Instance.Provision')] * 101)}]")
    assert (-32600, b"null") == (code, id)
    assert "100" in message
    assert "101" in message
    assert before == shared.described()


# --- Params


@pytest.mark.parametrize(
    "params", [None, "null", "{}", "[{}]", ' [ {"Type" : ""} ] ', '{"Type":null,"Tags":null,"Properties":null}']
)
def test_params_may_come_in_several_forms(daemon: Daemon, params: str | None) -> None:
    """Params are an object, or an array of one, or absent or null, which is an empty one; null members are as absent ones."""
    id = daemon.provision(tier="web")
    described = {"ID": id, "LogicalID": None, "Tags": {"tier": "web"}}
    assert {"Type": "", "Descriptions": [described]} == result(daemon, "Instance.DescribeInstances", params)


def test_the_one_element_of_an_array_is_the_params(daemon: Daemon) -> None:
    """Params in an array of one are those of the call."""
    daemon.provision(tier="web")
    id = result(daemon, "Instance.Provision", '[{"Spec":{"Tags":{"tier":"db"}}}]')["ID"]
    found = result(daemon, "Instance.DescribeInstances", '[{"Tags":{"tier":"db"}}]')
    assert [id] == [each["ID"] for each in found["Descriptions"]]


def test_parameter_names_match_in_any_case(daemon: Daemon) -> None:
    """Names of the interface are taken in any case, also nested; keys of properties and tags stay as they are."""
    spec = (
        '{"properties":{"Tags":1,"spec":{"INIT":2}},"tAgS":{"tags":"x","TAGS":"y","Init":"z"},"INIT":"boot","logicalid":"node-1",'
        '"attachments":[{"id":"vol1","TYPE":"ebs"}]}'
    )
    id = result(daemon, "Instance.Provision", f'{{"TYPE":"","sPEC":{spec}}}')["ID"]
    kept = entry(daemon, id)
    expected = {
        "Properties": {"Tags": 1, "spec": {"INIT": 2}},
        "Tags": {"tags": "x", "TAGS": "y", "Init": "z"},
        "Init": "boot",
        "LogicalID": "node-1",
        "Attachments": [{"ID": "vol1", "Type": "ebs"}],
    }
    assert expected == {key: kept[key] for key in expected}
    result(daemon, "Instance.Label", f'{{"instance":"{id}","LABELS":{{"Instance":"1","labels":"2","tags":"3"}}}}')
    asked = '{"tags":{"Instance":"1","labels":"2","tags":"3","TAGS":"y"},"PROPERTIES":true}'
    (described,) = result(daemon, "Instance.DescribeInstances", asked)["Descriptions"]
    assert {"Tags": 1, "spec": {"INIT": 2}} == described["Properties"]
    assert [] == result(daemon, "Instance.DescribeInstances", '{"tags":{"INSTANCE":"1"}}')["Descriptions"]
    assert error(daemon, call("Instance.Destroy", f'{{"instance":"{id}","context":{{"reason":1}}}}'))[0] == -32602
    assert {"Type": "", "OK": True} == result(
        daemon, "Instance.Destroy", f'{{"INSTANCE":"{id}","context":{{"reason":"terminate"}}}}'
    )


def test_unknown_parameters_are_ignored(daemon: Daemon) -> None:
    """Parameters that the interface does not have are ignored, at every level."""
    spec = '{"Tags":{"a":"b"},"Later":[1],"Attachments":[{"ID":"v","Type":"ebs","Size":3}]}'
    id = result(daemon, "Instance.Provision", f'{{"Spec":{spec},"Extra":{{"Spec":null}}}}')["ID"]
    assert [{"ID": "v", "Type": "ebs"}] == entry(daemon, id)["Attachments"]
    assert [id] == daemon.described(a="b")
    params = f'{{"Instance":"{id}","Context":{{"Reason":"terminate","By":"x"}},"Force":true}}'
    assert {"Type": "", "OK": True} == result(daemon, "Instance.Destroy", params)


METHODS = ["Validate", "Provision", "Label", "Destroy", "DescribeInstances"]


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_type_is_refused_in_infrakits_words(shared: Daemon, name: str) -> None:
    """A sub-type that there is not is -32000 `no-plugin:` and its name, whatever the method, and nothing is done."""
    id = shared.provision()
    before = shared.described()
    params = f'{{"Type":"compute","Instance":"{id}","Labels":{{"no":"b"}},"Spec":{{"Tags":{{"no":"b"}}}}}}'
    assert (-32000, "no-plugin:compute", b"7") == error(shared, call(f"Instance.{name}", params))
    assert (before, []) == (shared.described(), shared.described(no="b"))


@pytest.mark.parametrize("type", ['"."', '""', "null"])
@pytest.mark.parametrize("name", METHODS)
def test_the_default_object_has_several_names(shared: Daemon, name: str, type: str) -> None:
    """The type of a plugin without sub-types is a dot, empty or null."""
    params = f'{{"Type":{type},"Instance":"{shared.provision()}"}}'
    assert result(shared, f"Instance.{name}", params)["Type"] in ("", ".")


def test_meta_is_empty(shared: Daemon) -> None:
    """`Instance.Meta`, which one early client asks for, is an empty object."""
    assert {} == result(shared, "Instance.Meta", "{}")


# --- Descriptions


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("null", "abc"),
        ("{}", "abc"),
        ('{"tier":"web"}', "ab"),
        ('{"tier":"web","zone":"1"}', "a"),
        ('{"tier":"web","zone":"2"}', "b"),
        ('{"tier":"db","zone":"1"}', ""),
        ('{"zone":"1","rack":"9"}', ""),
        ('{"rack":""}', ""),
        ('{"empty":""}', "c"),
        ('{"Tier":"web"}', ""),
        ('{"tier":"WEB"}', ""),
    ],
)
def test_tags_are_an_and_filter(daemon: Daemon, tags: str, expected: str) -> None:
    """A description needs all of the tags that are asked for; an instance that lacks one never matches; none means all."""
    ids = {
        daemon.provision(tier="web", zone="1"): "a",
        daemon.provision(tier="web", zone="2"): "b",
        daemon.provision(tier="db", zone="3", empty=""): "c",
    }
    found = result(daemon, "Instance.DescribeInstances", f'{{"Tags":{tags}}}')["Descriptions"]
    assert expected == "".join(sorted(ids[each["ID"]] for each in found))


@pytest.mark.parametrize(
    ("asked", "keys"), [("", set[str]()), (',"Properties":false', set[str]()), (',"Properties":true', {"Properties"})]
)
def test_properties_are_described_where_asked_for(daemon: Daemon, asked: str, keys: set[str]) -> None:
    """A description always has an ID, a logical ID and tags, and properties only where they are asked for."""
    daemon.provision({"cpu": 2})
    provision(daemon, "null")
    found = result(daemon, "Instance.DescribeInstances", f'{{"Tags":null{asked}}}')["Descriptions"]
    assert [{"ID", "LogicalID", "Tags"} | keys] * 2 == [each.keys() for each in found]
    assert [{}, {}] == [each["Tags"] for each in found]


def test_labels_are_added_or_replaced(daemon: Daemon) -> None:
    """`Label` replaces the tags that it names, adds those that are new, and keeps the others; null changes nothing."""
    id = daemon.provision(tier="web", zone="1")
    result(daemon, "Instance.Label", f'{{"Instance":"{id}","Labels":{{"tier":"db","rack":"9"}}}}')
    result(daemon, "Instance.Label", f'{{"Instance":"{id}","Labels":null}}')
    assert {"tier": "db", "zone": "1", "rack": "9"} == entry(daemon, id)["Tags"]


# --- What is kept, byte for byte

ODD = (
    '{ "é" : "\\u00e9",\t"astral":"😀\\ud83d\\ude00", "n":1.50, "big":123456789012345678901234567890,"e" :1E400,\r\n'
    ' "slash":"\\/", "nul":"\\u0000\x7f\u2028\ufeff", "x":[ ],"x":{ },"-0":-0 ,"":[ null ,true]\n}'
)
LONG_NUMBER = '{"n":' + "1" * 5000 + "}"
LARGE = '{"blob":"' + "é😀\\u00e9\\n" * 80_000 + '"}'


def restart(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    daemon.start()


@pytest.mark.parametrize(
    "text",
    [ODD, LONG_NUMBER, LARGE, '"just a string"', "[1 , 2]", "{}"],
    ids=["odd", "long number", "large", "string", "array", "empty"],
)
def test_properties_come_back_byte_for_byte(daemon: Daemon, text: str) -> None:
    """Properties are described, and kept in the state file, byte for byte as they came, also after a restart."""
    id = provision(daemon, f'{{"Properties": {text} ,"Tags":{{"a":"b"}}}}')
    others = provision(daemon, '{"properties":' + text + ',"LOGICALID":"x"}')
    for _ in range(2):
        assert {id: text.encode(), others: text.encode()} == properties(daemon)
        assert daemon.exported().count(text.encode()) >= 2
        json.loads(daemon.exported(), parse_int=float)
        restart(daemon)


@pytest.mark.parametrize("text", [ODD, LONG_NUMBER], ids=["odd", "long number"])
def test_a_logical_id_is_an_identity_whatever_the_properties(daemon: Daemon, text: str) -> None:
    """A repeat of a provision with a logical ID gives the same instance, also where properties are odd JSON, spaced otherwise."""
    forms = (text, f" {text}\n", text.replace(":", " : "))
    assert len({provision(daemon, f'{{"Properties":{form},"LogicalID":"node-1"}}') for form in forms}) == 1


@pytest.mark.parametrize("other", ["true", "2", "null", '"1"', "[1]"])
def test_a_logical_id_has_one_spec(daemon: Daemon, other: str) -> None:
    """A provision with a logical ID that is held with other properties is an error that names the holder."""
    id = provision(daemon, '{"Properties":{"on":1},"LogicalID":"node-1"}')
    spec = f'{{"Properties":{{"on":{other}}},"LogicalID":"node-1"}}'
    code, message, _ = error(daemon, call("Instance.Provision", f'{{"Spec":{spec}}}'))
    assert code == -32000
    assert id in message


def test_all_text_is_unicode(daemon: Daemon) -> None:
    """Tags, logical IDs and Init may hold any characters, escaped or not, and can be asked for in either form."""
    odd = 'é😀\u2028\x7f\t"\\/{}[]'
    for escaped in (True, False):
        spec = json.dumps({"Tags": {odd: odd}, "LogicalID": odd, "Init": odd}, ensure_ascii=escaped)
        id = provision(daemon, spec)
    restart(daemon)
    kept = entry(daemon, id)
    assert ({odd: odd}, odd, odd) == (kept["Tags"], kept["LogicalID"], kept["Init"])
    for escaped in (True, False):
        asked = json.dumps({"Tags": {odd: odd}}, ensure_ascii=escaped)
        assert [id] == [each["ID"] for each in result(daemon, "Instance.DescribeInstances", asked)["Descriptions"]]


@pytest.mark.parametrize(
    "params",
    [
        "{}",
        '{"Type":null,"Spec":null}',
        '{"Spec":{}}',
        '{"Spec":{"Properties":null,"Tags":null,"Init":null,"LogicalID":null,"Attachments":null}}',
        '{"Spec":{"Properties":{},"Tags":{},"Init":"","LogicalID":"","Attachments":[]}}',
        '{"Spec":{"Attachments":[{"ID":null,"Type":null}]}}',
    ],
)
def test_every_field_of_a_spec_may_be_null(daemon: Daemon, params: str) -> None:
    """A spec's fields may be null, empty or absent, and so may the spec; the instance is described all the same."""
    id = result(daemon, "Instance.Provision", params)["ID"]
    asked = '{"Properties":true}'
    for _ in range(2):
        expected = {"ID": id, "LogicalID": None, "Tags": {}, "Properties": {}}
        assert [expected] == result(daemon, "Instance.DescribeInstances", asked)["Descriptions"]
        restart(daemon)


def test_the_whole_spec_is_kept(daemon: Daemon) -> None:
    """A spec's Init, logical ID and attachments are in the state file, also after a restart."""
    kept = {
        "Init": "#!/bin/sh\necho hi",
        "LogicalID": "node-1",
        "Tags": {"a": "b"},
        "Attachments": [{"ID": "vol1", "Type": "ebs"}, {"ID": "vol2", "Type": ""}],
    }
    id = provision(daemon, json.dumps(kept))
    for _ in range(2):
        assert kept == {key: entry(daemon, id)[key] for key in kept}
        restart(daemon)


# --- What no decoder should be fed


def nested(levels: int, inside: str = "") -> str:
    return "[" * levels + inside + "]" * levels


def spec_of_depth(depth: int) -> str:
    """Write a Provision that nests *depth* deep, counting the call, its params and the spec."""
    return call("Instance.Provision", f'{{"Spec":{{"Properties":{nested(depth - 3)}}}}}')


def spec_with(properties: str) -> str:
    return call("Instance.Provision", f'{{"Spec":{{"Properties":{properties}}}}}')


def raw(text: str, odd: bytes) -> bytes:
    """Put bytes that no text has in the place of ``?``."""
    return text.encode().replace(b"?", odd)


DEEP = "more than 128 levels"
ESCAPE = "surrogate|escape"
POISON: dict[str, tuple[bytes, str]] = {
    "lone high surrogate": (spec_with('{"a":"\\ud800"}').encode(), ESCAPE),
    "lone low surrogate": (spec_with('{"a":"\\udc00 and more"}').encode(), ESCAPE),
    "lone surrogate at the end": (
        b'{"jsonrpc":"2.0","method":"Instance.Validate","params":{"Properties":"\\ud800"}}',
        ESCAPE,
    ),
    "lone surrogate in a tag": (
        call("Instance.Provision", '{"Spec":{"Tags":{"a":"\\ud800 and more"}}}').encode(),
        ESCAPE,
    ),
    "lone surrogate as a key": (call("Instance.Validate", '{"\\ud800":1}').encode(), ESCAPE),
    "lone surrogate in a method": (b'{"jsonrpc":"2.0","method":"\\ud800","id":1}', ESCAPE),
    "lone surrogate in a batch": (("[" + spec_with('"\\ud800 and more"') + "]").encode(), ESCAPE),
    "not UTF-8": (raw(spec_with('{"a":"?"}'), b"\xc3\x28"), "UTF-8 at byte 84"),
    "not UTF-8, Latin-1": (spec_with('"é"').encode("latin-1"), "UTF-8"),
    "UTF-16": (spec_with("{}").encode("utf-16"), "UTF-8"),
    "a surrogate as UTF-8": (raw(spec_with('"?"'), b"\xed\xa0\x80"), "UTF-8"),
    "NaN": (spec_with('{"a":NaN}').encode(), "not JSON: .*byte 83"),
    "Infinity": (spec_with('{"a":-Infinity}').encode(), "not JSON"),
    "NaN as ID": (call("Instance.Provision", id="NaN").encode(), "not JSON"),
    "a comma too many": (spec_with("[1,]").encode(), "not JSON"),
    "a raw line break": (spec_with('"\n"').encode(), "not JSON"),
    "129 levels": (spec_of_depth(129).encode(), DEEP),
    "129 levels of objects": (b'{"a":' * 129 + b"1" + b"}" * 129, DEEP),
    "129 levels in an ID": (call("Instance.Provision", id=nested(128)).encode(), DEEP),
    "129 levels in a batch": (f"[{spec_of_depth(128)}]".encode(), DEEP),
    "1,000,000 levels": (nested(1_000_000).encode(), DEEP),
    "1,000,000 levels in properties": (spec_of_depth(1_000_000).encode(), DEEP),
    "1,000,000 levels that never end": (b"[" * 1_000_000, "not JSON|levels|too deeply"),
    "800,000 objects that never end": (b'{"a":' * 800_000, "not JSON|levels|too deeply"),
}


@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_and_the_daemon_lives_on(shared: Daemon, name: str) -> None:
    """What is not JSON in UTF-8, or nests too deeply, is -32700 that says so; nothing is done, and the next call is answered."""
    before = shared.described()
    body, words = POISON[name]
    code, message, id = error(shared, body)
    assert (-32700, b"null") == (code, id)
    assert re.search(words, message), message
    assert before == shared.described()


def test_properties_may_nest_as_deep_as_a_request(daemon: Daemon) -> None:
    """A request of 128 levels is taken; its properties come back, also after a restart."""
    status, _, reply = daemon.post(spec_of_depth(128))
    assert status == 200
    id = json.loads(reply)["result"]["ID"]
    for _ in range(2):
        assert {id: nested(125).encode()} == properties(daemon)
        restart(daemon)


def test_brackets_in_strings_do_not_nest(daemon: Daemon) -> None:
    """Brackets within strings, also after escaped quotes, do not count as levels."""
    text = '{"a":"' + '\\"[{\\\\' * 100_000 + '"}'
    id = provision(daemon, f'{{"Properties":{text}}}')
    assert {id: text.encode()} == properties(daemon)
