"""The wire protocol on a real socket: recorded requests of InfraKit's clients, and requests of any client."""

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from conftest import FAST
from support.harness import PROGRAMS, ROOT, Daemon, read_reply

# --- Recordings

RECORDINGS = sorted((ROOT / "tests" / "wire").glob("infrakit-*.jsonl"))
SUB_TYPES_PROGRAM = (sys.executable, str(PROGRAMS / "sub_types.py"), "file")
RECORDED_ID = re.compile(r"py-(\d+)")

IMPLEMENTED = {
    "infrakit-0.2.0": "0.1.0",
    "infrakit-0.3.1": "0.3.0",
    "infrakit-0.5": "0.5.0",
    "infrakit-0.5-group": "0.5.0",
    "infrakit-0.5-typed": "0.5.0",
}
"""The version that each recorded client expects in the reply to `Implements`."""


class Replay:
    """A recording that is replayed on one connection, with newly minted IDs in place of the recorded ones.

    Recordings contain no request twice, so some of their IDs come from a Provision that is missing. It
    was one of several that differ only in their IDs, so the replay repeats the nearest earlier
    Provision.
    """

    def __init__(self, connection: socket.socket, path: Path) -> None:
        self.name = path.stem
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
        self._connection = connection
        self._ids: dict[str, str] = {}
        provisions = [line for line in self.lines if '"Instance.Provision"' in line["body"]]
        self._provisions = {_find_number(line["accepted_reply"]): line for line in provisions}

    def play(self, line: Mapping[str, Any]) -> bytes:
        """Send a recorded request and return the body of its successful reply."""
        own = _find_recorded_ids(line["accepted_reply"] or "") if line in self._provisions.values() else set()
        for number in sorted(_find_recorded_ids(line["body"] + (line["accepted_reply"] or "")) - own):
            self._provision_missing(number)
        reply = self._send(line)
        if own:
            self._ids[f"py-{_find_number(line['accepted_reply'])}"] = json.loads(reply)["result"]["ID"]
        return reply

    def _provision_missing(self, number: int) -> None:
        if f"py-{number}" not in self._ids:
            sibling = self._provisions[max(each for each in self._provisions if each <= number)]
            self._ids[f"py-{number}"] = json.loads(self._send(sibling))["result"]["ID"]

    def _send(self, line: Mapping[str, Any]) -> bytes:
        body = self.translate(line["body"])
        head = re.sub(r"(?<=Content-Length: )\d+", str(len(body.encode())), line["head"])
        assert line["body"] != body or line["head"] == head
        self._connection.sendall((head + body).encode())
        status, headers, reply = read_reply(self._connection)
        assert (200, "application/json") == (status, headers["content-type"].split(";")[0]), reply
        return reply

    def translate(self, text: str) -> str:
        """Return *text* with newly minted IDs in place of the recorded ones."""
        return RECORDED_ID.sub(lambda match: self._ids[match[0]], text)

    def read_expected(self, line: Mapping[str, Any]) -> Any:
        """Return the recorded result, without properties if the request did not ask for them."""
        result = json.loads(self.translate(line["accepted_reply"]))["result"]
        if not json.loads(line["body"])["params"].get("Properties"):
            for each in result.get("Descriptions", ()):
                del each["Properties"]
        return result


def _find_recorded_ids(text: str) -> set[int]:
    return {int(match[1]) for match in RECORDED_ID.finditer(text)}


def _find_number(reply: str) -> int:
    (number,) = _find_recorded_ids(reply)
    return number


def read_member(json_object: bytes, name: str) -> bytes:
    """Return a member of a JSON object, byte for byte."""
    return bytes(msgspec.json.decode(json_object, type=dict[str, Raw])[name])


@pytest.fixture
def connection(daemon: Daemon) -> Iterator[socket.socket]:
    with daemon.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Start one daemon for the tests that leave nothing behind."""
    with Daemon(tmp_path_factory.mktemp("shared") / "ik", "--sync-interval", "0.1") as daemon:
        yield daemon


def test_there_are_recordings_of_every_generation() -> None:
    """The recordings cover 0.2, 0.3, 0.5 and 2018, each with its generation's handshake."""
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
def test_recorded_clients_get_their_replies(run: Callable[..., Daemon], path: Path) -> None:
    """Every recorded request of a real client gets a reply with its ID and the recorded result."""
    daemon = run(program=(*SUB_TYPES_PROGRAM, "compute")) if _find_sub_types(path.stem) == ["compute"] else run(*FAST)
    with daemon.connect() as connection:
        _replay(Replay(connection, path))


def _find_sub_types(recording: str) -> list[str]:
    """Return the sub-types of the plugin that a recorded client called."""
    return ["compute"] if recording.endswith("-typed") else ["."]


def _replay(replay: Replay) -> None:
    for line in replay.lines:
        reply = replay.play(line)
        if not line["body"]:
            assert {"Vendor", "Implements", "Interfaces"} == json.loads(reply).keys()
            continue
        method = json.loads(line["body"])["method"]
        assert read_member(line["body"].encode(), "id") == read_member(reply, "id"), method
        answer = json.loads(reply)
        assert answer.get("error") is None, method
        assert answer["result"] is not None, method
        if method.startswith("Instance."):
            assert _sort(replay.read_expected(line)) == _sort(answer["result"]), method
        else:
            _check_handshake(method, answer["result"], replay.name)


def _sort(result: Any) -> Any:
    """Sort descriptions, because no client depends on their order."""
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
            assert _find_sub_types(recording) == result["Types"]["Instance/0.5.0"]
        case "Handshake.Hello":
            assert {"Objects"} == result.keys()
            assert [{"Name": name, "ProxyFor": ""} for name in _find_sub_types(recording)] == result["Objects"][
                "Instance/0.6.1"
            ]
        case _:
            pytest.fail(f"{method} is no handshake")


# --- Calls as text


def format_call(method: str, params: str | None = "{}", id: str | None = "7", version: str = '"2.0"') -> str:
    """Format a call. *params* and *id* are JSON, and None omits them."""
    parts = {"jsonrpc": version, "method": json.dumps(method), "params": params, "id": id}
    return "{" + ",".join(f'"{name}":{value}' for name, value in parts.items() if value is not None) + "}"


def read_result(daemon: Daemon, method: str, params: str | None) -> Any:
    """Call a method with params as text, and return the result."""
    status, _, reply = daemon.post(format_call(method, params))
    answer = json.loads(reply)
    assert (200, None) == (status, answer.get("error"))
    return answer["result"]


def read_error(daemon: Daemon, body: str | bytes) -> tuple[int, str, bytes]:
    """Post an invalid body, and return the error's code and message and the reply's ID."""
    status, _, reply = daemon.post(body)
    assert status == 200, reply
    assert read_member(reply, "error") != b"null"
    error = json.loads(reply)["error"]
    assert {"code", "message", "data"} == error.keys()
    return error["code"], error["message"], read_member(reply, "id")


def provision(daemon: Daemon, spec: str) -> str:
    """Provision an instance with a spec as text, and return its ID."""
    return str(read_result(daemon, "Instance.Provision", f'{{"Spec":{spec}}}')["ID"])


def read_properties(daemon: Daemon) -> dict[str, bytes]:
    """Return all instances' properties by ID, byte for byte."""
    _, _, reply = daemon.post(format_call("Instance.DescribeInstances", '{"Properties":true}'))
    descriptions = msgspec.json.decode(read_member(read_member(reply, "result"), "Descriptions"), type=list[Raw])
    return {json.loads(read_member(bytes(each), "ID")): read_member(bytes(each), "Properties") for each in descriptions}


def read_entry(daemon: Daemon, id: str) -> Any:
    """Return an instance's entry in the state file."""
    return next(each for each in daemon.saved()["Instances"] if each["ID"] == id)


# --- Documents


@pytest.mark.parametrize(
    ("fixture", "example"), [("daemon", {"note": "anything at all"}), ("simulated", {"delay": 2, "breaks_after": 3600})]
)
def test_the_api_document_has_infrakit_s_shape(request: pytest.FixtureRequest, fixture: str, example: Any) -> None:
    """`/info/api.json` has InfraKit's shape, sorted methods, and the provider's example properties."""
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


def test_the_api_document_matches_the_api(daemon: Daemon) -> None:
    """Each request in `/info/api.json`, with only its ID replaced, gets a reply with the documented keys."""
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


# --- Errors

ROW_WRONG_TYPE = [
    ("Instance.Validate", '{"Type":3}', ["Type", "expected a string", "got 3"]),
    ("Instance.Provision", '{"Spec":"x"}', ["Spec", "expected an object", "got a string"]),
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
    """An unknown method, or one in another case, is -32601, and the message names it."""
    code, message, id = read_error(shared, format_call(method, id="1.50"))
    assert (-32601, b"1.50") == (code, id)
    assert f"'{method}'" in message or f'"{method}"' in message


@pytest.mark.parametrize(
    "body",
    [
        '{"method":"Instance.Validate","id":1.50}',
        *(format_call("Instance.Validate", id="1.50", version=v) for v in ('"1.0"', "2.0", "null")),
    ],
)
def test_another_version_of_json_rpc_is_refused(shared: Daemon, body: str) -> None:
    """A request with a missing or different `jsonrpc` is -32600 with its ID, and the message states the expected value."""
    assert (-32600, 'jsonrpc: expected "2.0"', b"1.50") == read_error(shared, body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"jsonrpc":"2.0","id":7}', "method"),
        ('{"jsonrpc":"2.0","method":3,"id":7}', "method: expected a string, got 3"),
    ],
)
def test_a_request_without_a_method_is_refused(shared: Daemon, body: str, words: str) -> None:
    """A request whose `method` is missing or not a string is -32600 with its ID, and the message names the member."""
    code, message, id = read_error(shared, body)
    assert (-32600, b"7") == (code, id)
    assert words in message


@pytest.mark.parametrize(("method", "params", "words"), ROW_WRONG_TYPE)
def test_a_parameter_of_the_wrong_type_is_named(shared: Daemon, method: str, params: str, words: list[str]) -> None:
    """A parameter of the wrong type is -32602, and the message states its path, the expected type and the value."""
    code, message, id = read_error(shared, format_call(method, params))
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
        format_call("Instance.Validate")[:-1],
        '{"jsonrpc":"1.0","id":1',
        "[",
        f"[{format_call('Instance.Validate')},",
    ],
)
def test_invalid_json_is_a_parse_error(shared: Daemon, body: str) -> None:
    """A body that is empty or not JSON is -32700 with a null ID."""
    code, message, id = read_error(shared, body)
    assert (-32700, b"null") == (code, id)
    assert message.startswith("request: ")


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_verb_is_not_allowed(shared: Daemon, verb: str) -> None:
    """A verb other than POST on `/` is 405, and `Allow` names POST."""
    status, headers, body = shared.exchange(f"{verb} / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".encode())
    assert (405, "POST") == (status, headers["allow"])
    assert verb in body.decode()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", None])
def test_another_content_type_is_refused(shared: Daemon, content_type: str | None) -> None:
    """A POST without a JSON content type is 415 with an explanation, and executes nothing."""
    head = f"Content-Type: {content_type}\r\n" if content_type else ""
    body = format_call("Instance.Provision")
    request = f"POST / HTTP/1.1\r\nHost: h\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
    before = shared.described()
    status, _, text = shared.exchange(request.encode())
    assert status == 415
    assert "expected application/json" in text.decode()
    assert before == shared.described()


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_a_json_content_type_may_vary(shared: Daemon, content_type: str) -> None:
    """A content type of JSON may have any case and parameters."""
    body = format_call("Instance.Validate")
    request = f"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    assert shared.exchange(request.encode())[0] == 200


@pytest.mark.parametrize("path", ["/x", "/info", "/info/api.json/", "//"])
@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_another_path_is_not_found(shared: Daemon, verb: str, path: str) -> None:
    """An unknown path is 404, and the text names it."""
    head = f"{verb} {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    status, _, body = shared.exchange(head.encode() + b"{}")
    assert status == 404
    assert path in body.decode()


def test_a_body_over_the_limit_is_too_large(shared: Daemon) -> None:
    """A body of 4 MiB is accepted, and a larger one is 413 with the limit in its text."""
    body = format_call("Instance.Validate").encode()
    assert shared.post(body.ljust(4 * 1024 * 1024))[0] == 200
    status, _, text = shared.post(body.ljust(4 * 1024 * 1024 + 1))
    assert status == 413
    assert "4194304" in text.decode()


def test_an_unknown_instance_is_named(shared: Daemon) -> None:
    """A plugin's error is HTTP 200 and -32000 in InfraKit's shape, and names the instance."""
    for method in ("Instance.Destroy", "Instance.Label"):
        code, message, id = read_error(shared, format_call(method, '{"Instance":"nobody","Labels":{}}'))
        assert (-32000, b"7") == (code, id)
        assert "nobody" in message


def test_an_error_s_data_has_its_kind(simulated: Daemon) -> None:
    """The data of a plugin's error has its kind, for programs; the data of any other error is null."""
    with simulated.world.change() as scene:
        scene.capacity = 1
    id = provision(simulated, '{"LogicalID":"a"}')
    calls = [
        ("Instance.Provision", '{"Spec":{}}', {"Kind": "no-capacity"}),
        ("Instance.Provision", '{"Spec":{"Properties":{"delay":"long"}}}', {"Kind": "wrong-spec"}),
        ("Instance.Provision", '{"Spec":{"LogicalID":"a","Init":"another"}}', {"Kind": "refused"}),
        ("Instance.Destroy", '{"Instance":"nobody"}', {"Kind": "unknown-instance"}),
        ("Operator.Restore", f'{{"Instance":"{id}"}}', {"Kind": "refused"}),
        ("Operator.Machines", "{}", {"Kind": "give-up"}),
        ("Instance.Destroy", '{"Instance":1}', None),
        ("Instance.Rename", "{}", None),
    ]
    for method, params, data in calls:
        _, _, reply = simulated.post(format_call(method, params))
        assert data == json.loads(reply)["error"]["data"], method


# --- IDs and notifications

IDS = [
    "0", str(2**63 - 1), str(2**64), "-1", '""', '"a"', '"\\u00e9\\n\\ud83d\\ude00"', '"😀"', "1.50", "-0", "1E400", "null",
    "true", '{"a" : [ 1,\t2 ]}', "[]",
]  # fmt: skip


@pytest.mark.parametrize("id", IDS)
def test_any_id_is_echoed_byte_for_byte(shared: Daemon, id: str) -> None:
    """Results and all errors repeat an ID, any JSON value, byte for byte."""
    assert id.encode() == read_member(shared.post(format_call("Instance.Validate", id=id))[2], "id")
    wrong = [
        format_call("Instance.Nope", id=id),
        format_call("Instance.Validate", '{"Type":3}', id),
        format_call("Instance.Validate", "3", id),
        format_call("Instance.Destroy", '{"Instance":"nobody"}', id),
        format_call("Instance.Validate", id=id, version='"1.0"'),
    ]
    assert [id.encode()] * len(wrong) == [read_error(shared, body)[2] for body in wrong]


def test_a_notification_is_executed_and_not_answered(daemon: Daemon, connection: socket.socket) -> None:
    """A call without an ID is executed and answered by 204 without a body, and the connection stays open."""
    for method in ("Instance.Provision", "Instance.Nope", "Instance.Validate"):
        body = format_call(method, '{"Spec":{"Tags":{"a":"b"}}}', None)
        head = f"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        status, headers, reply = read_reply(connection)
        assert (204, b"", "0") == (status, reply, headers.get("content-length", "0"))
    assert len(daemon.described(a="b")) == 1


# --- Batches


def test_a_batch_is_answered_call_by_call(daemon: Daemon) -> None:
    """A batch may mix calls, notifications and invalid requests, and all but notifications get a reply."""
    members = [
        format_call("Instance.Validate", id="1.50"),
        format_call("Instance.Provision", '{"Spec":{"Tags":{"a":"b"}}}', None),
        "1",
        "[]",
        format_call("Instance.Validate", id='"old"', version='"1.0"'),
        format_call("Instance.Nope", id="3"),
        format_call("Instance.Nope", id=None),
        format_call("Instance.DescribeInstances", '{"Tags":3}', "null"),
    ]
    status, _, reply = daemon.post(f" [ {', '.join(members)} ]")
    answers = [bytes(each) for each in msgspec.json.decode(reply, type=list[Raw])]
    outcomes = [(bytes(read_member(each, "id")), json.loads(each).get("error", {}).get("code")) for each in answers]
    assert status == 200
    assert sorted(
        [(b"1.50", None), (b"null", -32600), (b"null", -32600), (b'"old"', -32600), (b"3", -32601), (b"null", -32602)],
        key=str,
    ) == sorted(outcomes, key=str)
    assert len(daemon.described(a="b")) == 1


def test_a_batch_of_one_is_answered_by_an_array(shared: Daemon) -> None:
    """The reply to a batch of one call is an array."""
    assert [{"Type": "", "OK": True}] == [
        each["result"] for each in json.loads(shared.post(f"[{format_call('Instance.Validate')}]")[2])
    ]


def test_an_empty_batch_is_refused(shared: Daemon) -> None:
    """An empty batch is a single -32600 with a null ID."""
    code, message, id = read_error(shared, "[]")
    assert (-32600, b"null") == (code, id)
    assert "at least one" in message


def test_a_batch_of_notifications_is_not_answered(daemon: Daemon) -> None:
    """A batch of notifications is executed and answered by 204 without a body."""
    status, _, reply = daemon.post("[" + ",".join([format_call("Instance.Provision", "{}", None)] * 3) + "]")
    assert (204, b"") == (status, reply)
    assert len(daemon.described()) == 3


def test_a_batch_has_a_limit(shared: Daemon) -> None:
    """A batch of 101 calls is a single -32600 that states the limit of 100, and executes nothing."""
    calls = [format_call("Instance.Validate", id=str(number)) for number in range(100)]
    answers = json.loads(shared.post(f"[{','.join(calls)}]")[2])
    assert list(range(100)) == sorted(each["id"] for each in answers)
    before = shared.described()
    code, message, id = read_error(shared, f"[{','.join([format_call('Instance.Provision')] * 101)}]")
    assert (-32600, b"null") == (code, id)
    assert "100" in message
    assert "101" in message
    assert before == shared.described()


# --- Params


@pytest.mark.parametrize(
    "params", [None, "null", "{}", "[{}]", ' [ {"Type" : ""} ] ', '{"Type":null,"Tags":null,"Properties":null}']
)
def test_params_have_several_forms(daemon: Daemon, params: str | None) -> None:
    """Params may be an object, an array of one object, absent or null, and null members count as absent."""
    id = daemon.provision(tier="web")
    described = {"ID": id, "LogicalID": None, "Tags": {"tier": "web"}}
    assert {"Type": "", "Descriptions": [described]} == read_result(daemon, "Instance.DescribeInstances", params)


def test_the_one_element_of_an_array_is_the_params(daemon: Daemon) -> None:
    """Params in an array of one object are the call's params."""
    daemon.provision(tier="web")
    id = read_result(daemon, "Instance.Provision", '[{"Spec":{"Tags":{"tier":"db"}}}]')["ID"]
    found = read_result(daemon, "Instance.DescribeInstances", '[{"Tags":{"tier":"db"}}]')
    assert [id] == [each["ID"] for each in found["Descriptions"]]


def test_parameter_names_match_in_any_case(daemon: Daemon) -> None:
    """Parameter names match in any case at every level, but the keys of properties and tags stay as they are."""
    spec = (
        '{"properties":{"Tags":1,"spec":{"INIT":2}},"tAgS":{"tags":"x","TAGS":"y","Init":"z"},"INIT":"boot","logicalid":"node-1",'
        '"attachments":[{"id":"vol1","TYPE":"ebs"}]}'
    )
    id = read_result(daemon, "Instance.Provision", f'{{"TYPE":"","sPEC":{spec}}}')["ID"]
    kept = read_entry(daemon, id)
    expected = {
        "Properties": {"Tags": 1, "spec": {"INIT": 2}},
        "Tags": {"tags": "x", "TAGS": "y", "Init": "z"},
        "Init": "boot",
        "LogicalID": "node-1",
        "Attachments": [{"ID": "vol1", "Type": "ebs"}],
    }
    assert expected == {key: kept[key] for key in expected}
    read_result(daemon, "Instance.Label", f'{{"instance":"{id}","LABELS":{{"Instance":"1","labels":"2","tags":"3"}}}}')
    asked = '{"tags":{"Instance":"1","labels":"2","tags":"3","TAGS":"y"},"PROPERTIES":true}'
    (described,) = read_result(daemon, "Instance.DescribeInstances", asked)["Descriptions"]
    assert {"Tags": 1, "spec": {"INIT": 2}} == described["Properties"]
    assert [] == read_result(daemon, "Instance.DescribeInstances", '{"tags":{"INSTANCE":"1"}}')["Descriptions"]
    assert (
        read_error(daemon, format_call("Instance.Destroy", f'{{"instance":"{id}","context":{{"reason":1}}}}'))[0]
        == -32602
    )
    assert {"Type": "", "OK": True} == read_result(
        daemon, "Instance.Destroy", f'{{"INSTANCE":"{id}","context":{{"reason":"terminate"}}}}'
    )


def test_unknown_parameters_are_ignored(daemon: Daemon) -> None:
    """Unknown parameters are ignored at every level."""
    spec = '{"Tags":{"a":"b"},"Later":[1],"Attachments":[{"ID":"v","Type":"ebs","Size":3}]}'
    id = read_result(daemon, "Instance.Provision", f'{{"Spec":{spec},"Extra":{{"Spec":null}}}}')["ID"]
    assert [{"ID": "v", "Type": "ebs"}] == read_entry(daemon, id)["Attachments"]
    assert [id] == daemon.described(a="b")
    params = f'{{"Instance":"{id}","Context":{{"Reason":"terminate","By":"x"}},"Force":true}}'
    assert {"Type": "", "OK": True} == read_result(daemon, "Instance.Destroy", params)


METHODS = ["Validate", "Provision", "Label", "Destroy", "DescribeInstances"]


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_sub_type_is_refused_in_infrakit_s_words(shared: Daemon, name: str) -> None:
    """An unknown sub-type is -32000 `no-plugin:` and its name for every method, and nothing is executed."""
    id = shared.provision()
    before = shared.described()
    params = f'{{"Type":"compute","Instance":"{id}","Labels":{{"no":"b"}},"Spec":{{"Tags":{{"no":"b"}}}}}}'
    assert (-32000, "no-plugin:compute", b"7") == read_error(shared, format_call(f"Instance.{name}", params))
    assert (before, []) == (shared.described(), shared.described(no="b"))


@pytest.mark.parametrize("sub_type", ['"."', '""', "null"])
@pytest.mark.parametrize("name", METHODS)
def test_the_default_object_has_several_names(shared: Daemon, name: str, sub_type: str) -> None:
    """The sub-type of a plugin without sub-types may be a dot, empty or null."""
    params = f'{{"Type":{sub_type},"Instance":"{shared.provision()}"}}'
    assert read_result(shared, f"Instance.{name}", params)["Type"] in ("", ".")


def test_meta_is_empty(shared: Daemon) -> None:
    """`Instance.Meta`, which one early client calls, is an empty object."""
    assert {} == read_result(shared, "Instance.Meta", "{}")


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
def test_an_instance_must_match_all_tags(daemon: Daemon, tags: str, expected: str) -> None:
    """An instance is described only if it has all requested tags; a request without tags matches every instance."""
    ids = {
        daemon.provision(tier="web", zone="1"): "a",
        daemon.provision(tier="web", zone="2"): "b",
        daemon.provision(tier="db", zone="3", empty=""): "c",
    }
    found = read_result(daemon, "Instance.DescribeInstances", f'{{"Tags":{tags}}}')["Descriptions"]
    assert expected == "".join(sorted(ids[each["ID"]] for each in found))


@pytest.mark.parametrize(
    ("asked", "keys"), [("", set[str]()), (',"Properties":false', set[str]()), (',"Properties":true', {"Properties"})]
)
def test_properties_are_described_on_request(daemon: Daemon, asked: str, keys: set[str]) -> None:
    """A description has an ID, a logical ID and tags, and properties only on request."""
    daemon.provision({"cpu": 2})
    provision(daemon, "null")
    found = read_result(daemon, "Instance.DescribeInstances", f'{{"Tags":null{asked}}}')["Descriptions"]
    assert [{"ID", "LogicalID", "Tags"} | keys] * 2 == [each.keys() for each in found]
    assert [{}, {}] == [each["Tags"] for each in found]


def test_labels_are_added_or_replaced(daemon: Daemon) -> None:
    """`Label` replaces the named tags, adds new ones and keeps the others; null changes nothing."""
    id = daemon.provision(tier="web", zone="1")
    read_result(daemon, "Instance.Label", f'{{"Instance":"{id}","Labels":{{"tier":"db","rack":"9"}}}}')
    read_result(daemon, "Instance.Label", f'{{"Instance":"{id}","Labels":null}}')
    assert {"tier": "db", "zone": "1", "rack": "9"} == read_entry(daemon, id)["Tags"]


# --- Stored specs

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
    """Properties are described and stored byte for byte, even after a restart."""
    id = provision(daemon, f'{{"Properties": {text} ,"Tags":{{"a":"b"}}}}')
    others = provision(daemon, '{"properties":' + text + ',"LOGICALID":"x"}')
    for _ in range(2):
        assert {id: text.encode(), others: text.encode()} == read_properties(daemon)
        assert daemon.exported().count(text.encode()) >= 2
        json.loads(daemon.exported(), parse_int=float)
        restart(daemon)


@pytest.mark.parametrize("text", [ODD, LONG_NUMBER], ids=["odd", "long number"])
def test_a_logical_id_is_an_identity_whatever_the_properties(daemon: Daemon, text: str) -> None:
    """A repeated provision with a logical ID returns the same instance, even if its properties are odd JSON."""
    forms = (text, f" {text}\n", text.replace(":", " : "))
    assert len({provision(daemon, f'{{"Properties":{form},"LogicalID":"node-1"}}') for form in forms}) == 1


@pytest.mark.parametrize("other", ["true", "2", "null", '"1"', "[1]"])
def test_a_logical_id_has_one_spec(daemon: Daemon, other: str) -> None:
    """A provision whose logical ID belongs to an instance with other properties is an error that names that instance."""
    id = provision(daemon, '{"Properties":{"on":1},"LogicalID":"node-1"}')
    spec = f'{{"Properties":{{"on":{other}}},"LogicalID":"node-1"}}'
    code, message, _ = read_error(daemon, format_call("Instance.Provision", f'{{"Spec":{spec}}}'))
    assert code == -32000
    assert id in message


def test_all_text_is_unicode(daemon: Daemon) -> None:
    """Tags, logical IDs and Init may contain any characters, escaped or not, and queries may use either form."""
    odd = 'é😀\u2028\x7f\t"\\/{}[]'
    for escaped in (True, False):
        spec = json.dumps({"Tags": {odd: odd}, "LogicalID": odd, "Init": odd}, ensure_ascii=escaped)
        id = provision(daemon, spec)
    restart(daemon)
    kept = read_entry(daemon, id)
    assert ({odd: odd}, odd, odd) == (kept["Tags"], kept["LogicalID"], kept["Init"])
    for escaped in (True, False):
        asked = json.dumps({"Tags": {odd: odd}}, ensure_ascii=escaped)
        assert [id] == [each["ID"] for each in read_result(daemon, "Instance.DescribeInstances", asked)["Descriptions"]]


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
    """A spec and each of its fields may be null, empty or absent."""
    id = read_result(daemon, "Instance.Provision", params)["ID"]
    asked = '{"Properties":true}'
    for _ in range(2):
        expected = {"ID": id, "LogicalID": None, "Tags": {}, "Properties": {}}
        assert [expected] == read_result(daemon, "Instance.DescribeInstances", asked)["Descriptions"]
        restart(daemon)


def test_the_whole_spec_is_kept(daemon: Daemon) -> None:
    """A spec's Init, logical ID and attachments are in the state file, even after a restart."""
    kept = {
        "Init": "#!/bin/sh\necho hi",
        "LogicalID": "node-1",
        "Tags": {"a": "b"},
        "Attachments": [{"ID": "vol1", "Type": "ebs"}, {"ID": "vol2", "Type": ""}],
    }
    id = provision(daemon, json.dumps(kept))
    for _ in range(2):
        assert kept == {key: read_entry(daemon, id)[key] for key in kept}
        restart(daemon)


# --- Hostile input


def nest(levels: int, inside: str = "") -> str:
    return "[" * levels + inside + "]" * levels


def format_deep_spec(depth: int) -> str:
    """Format a Provision that nests *depth* levels, including the call, its params and the spec."""
    return format_call("Instance.Provision", f'{{"Spec":{{"Properties":{nest(depth - 3)}}}}}')


def format_spec(properties: str) -> str:
    return format_call("Instance.Provision", f'{{"Spec":{{"Properties":{properties}}}}}')


def insert_bytes(text: str, odd: bytes) -> bytes:
    """Replace ``?`` with bytes that are not valid text."""
    return text.encode().replace(b"?", odd)


DEEP = "more than 128 levels"
ESCAPE = "surrogate|escape"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "lone high surrogate": (format_spec('{"a":"\\ud800"}').encode(), ESCAPE),
    "lone low surrogate": (format_spec('{"a":"\\udc00 and more"}').encode(), ESCAPE),
    "lone surrogate at the end": (
        b'{"jsonrpc":"2.0","method":"Instance.Validate","params":{"Properties":"\\ud800"}}',
        ESCAPE,
    ),
    "lone surrogate in a tag": (
        format_call("Instance.Provision", '{"Spec":{"Tags":{"a":"\\ud800 and more"}}}').encode(),
        ESCAPE,
    ),
    "lone surrogate as a key": (format_call("Instance.Validate", '{"\\ud800":1}').encode(), ESCAPE),
    "lone surrogate in a method": (b'{"jsonrpc":"2.0","method":"\\ud800","id":1}', ESCAPE),
    "lone surrogate in a batch": (("[" + format_spec('"\\ud800 and more"') + "]").encode(), ESCAPE),
    "not UTF-8": (insert_bytes(format_spec('{"a":"?"}'), b"\xc3\x28"), "UTF-8 at byte 84"),
    "not UTF-8, Latin-1": (format_spec('"é"').encode("latin-1"), "UTF-8"),
    "UTF-16": (format_spec("{}").encode("utf-16"), "UTF-8"),
    "a surrogate as UTF-8": (insert_bytes(format_spec('"?"'), b"\xed\xa0\x80"), "UTF-8"),
    "NaN": (format_spec('{"a":NaN}').encode(), "not JSON: .*byte 83"),
    "Infinity": (format_spec('{"a":-Infinity}').encode(), "not JSON"),
    "NaN as ID": (format_call("Instance.Provision", id="NaN").encode(), "not JSON"),
    "a comma too many": (format_spec("[1,]").encode(), "not JSON"),
    "a raw line break": (format_spec('"\n"').encode(), "not JSON"),
    "129 levels": (format_deep_spec(129).encode(), DEEP),
    "129 levels of objects": (b'{"a":' * 129 + b"1" + b"}" * 129, DEEP),
    "129 levels in an ID": (format_call("Instance.Provision", id=nest(128)).encode(), DEEP),
    "129 levels in a batch": (f"[{format_deep_spec(128)}]".encode(), DEEP),
    "1,000,000 levels": (nest(1_000_000).encode(), DEEP),
    "1,000,000 levels in properties": (format_deep_spec(1_000_000).encode(), DEEP),
    "1,000,000 levels that never end": (b"[" * 1_000_000, "not JSON|levels|too deeply"),
    "800,000 objects that never end": (b'{"a":' * 800_000, "not JSON|levels|too deeply"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused(shared: Daemon, name: str) -> None:
    """A body that is not JSON in UTF-8, or nests too deeply, is -32700 with the reason, and the daemon still works."""
    before = shared.described()
    body, words = HOSTILE[name]
    code, message, id = read_error(shared, body)
    assert (-32700, b"null") == (code, id)
    assert re.search(words, message), message
    assert before == shared.described()


def test_properties_may_nest_as_deep_as_a_request(daemon: Daemon) -> None:
    """Properties in a request of 128 levels are accepted and returned, even after a restart."""
    status, _, reply = daemon.post(format_deep_spec(128))
    assert status == 200
    id = json.loads(reply)["result"]["ID"]
    for _ in range(2):
        assert {id: nest(125).encode()} == read_properties(daemon)
        restart(daemon)


def test_brackets_in_strings_do_not_nest(daemon: Daemon) -> None:
    """Brackets within strings, even after escaped quotes, do not count as levels."""
    text = '{"a":"' + '\\"[{\\\\' * 100_000 + '"}'
    id = provision(daemon, f'{{"Properties":{text}}}')
    assert {id: text.encode()} == read_properties(daemon)
