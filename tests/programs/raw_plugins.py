"""Instance plugins that are not ours: one that is right, in memory, and others with one fault each."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar


class Refusal(Exception):
    """An error reply."""


class Nothing(Exception):
    """No reply: the connection ends."""


class Plugin:
    """A plugin as others write one: its methods are those of the wire. *provisioned* has every spec that it was given."""

    versions: ClassVar[Mapping[str, Any]] = {
        "Plugin.Implements": {"APIs": [{"Name": "Instance", "Version": "0.1.0"}]},
        "Handshake.Implements": {"APIs": [{"Name": "Instance", "Version": each} for each in ("0.3.0", "0.5.0")]},
        "Handshake.Types": {"Types": {"Instance/0.5.0": ["."]}},
        "Handshake.Hello": {"Objects": {"Instance/0.6.1": [{"Name": ".", "ProxyFor": ""}]}},
    }
    types: ClassVar[tuple[str, ...]] = ("",)
    patience: ClassVar[float] = 5.0
    """Seconds for each call, and to wait for what should come: less where that is in vain."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.instances: dict[str, dict[str, Any]] = {}
        self.provisioned: list[dict[str, Any]] = []
        self.counter = 0
        self.crash: Callable[[], None]
        self.over = threading.Event()
        """Until then hangs what hangs."""

    def answer(self, body: bytes) -> bytes:
        """Give the reply to a request, be it what it may."""
        try:
            request = json.loads(body)
        except ValueError:
            return self.unreadable()
        try:
            with self.lock:
                reply = {"result": self.call(request["method"], request.get("params") or {})}
        except Refusal as error:
            reply = {"error": {"code": -32000, "message": str(error), "data": None}}
        return json.dumps({"jsonrpc": "2.0", **reply, "id": self.echoed(request.get("id"))}).encode()

    def unreadable(self) -> bytes:
        """As InfraKit's own server: 200, and nothing."""
        return b""

    def echoed(self, id: Any) -> Any:
        return id

    def call(self, method: str, params: Any) -> Any:
        if method in self.versions:
            return self.versions[method]
        function = getattr(self, method.removeprefix("Instance."), None) if method.startswith("Instance.") else None
        if function is None:
            raise Refusal(f"rpc: can't find method {method!r}")
        params = params[0] if isinstance(params, list) else params
        self.check_type(params.get("Type") or "")
        return {"Type": self.type(params.get("Type") or ""), **function(params)}

    def check_type(self, type: str) -> None:
        if type not in self.types:
            raise Refusal(f"no-plugin:{type}")

    def type(self, type: str) -> str:
        return type

    def Validate(self, params: Any) -> Any:  # noqa: N802
        return {"OK": True}

    def Provision(self, params: Any) -> Any:  # noqa: N802
        spec = params["Spec"]
        self.provisioned.append(spec)
        id = self.mint(spec)
        self.instances[id] = {
            "ID": id,
            "LogicalID": self.logical(spec["LogicalID"]),
            "Tags": self.kept(spec["Tags"]),
            "Properties": spec["Properties"],
        }
        return {"ID": id}

    def mint(self, spec: Any) -> str:
        self.counter += 1
        return f"i-{self.counter:06}"

    def logical(self, id: str | None) -> str | None:
        return id

    def kept(self, tags: dict[str, str]) -> dict[str, str]:
        return dict(tags)

    def Label(self, params: Any) -> Any:  # noqa: N802
        self.label(self.known(params)["Tags"], params["Labels"])
        return {"OK": True}

    def label(self, tags: dict[str, str], labels: dict[str, str]) -> None:
        tags.update(labels)

    def known(self, params: Any) -> dict[str, Any]:
        if params["Instance"] not in self.instances:
            raise Refusal(f"no instance {params['Instance']}")
        return self.instances[params["Instance"]]

    def Destroy(self, params: Any) -> Any:  # noqa: N802
        self.remove(self.known(params)["ID"])
        return {"OK": True}

    def remove(self, id: str) -> None:
        del self.instances[id]

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        wanted = params.get("Tags") or {}
        if not isinstance(wanted, dict):
            raise Refusal("Tags: wrong")
        found = [dict(each) for each in self.instances.values() if self.matches(each["Tags"], wanted)]
        for each in found:
            if not params.get("Properties"):
                del each["Properties"]
        return {"Descriptions": found or None}

    def matches(self, tags: dict[str, str], wanted: dict[str, str]) -> bool:
        return wanted.items() <= tags.items()


class Old(Plugin):
    """Speaks 0.1 only: there is no Type, no Label, no Properties and no LogicalID."""

    versions: ClassVar[Mapping[str, Any]] = {"Plugin.Implements": Plugin.versions["Plugin.Implements"]}
    Label = None  # type: ignore[assignment]

    def check_type(self, type: str) -> None:
        pass

    def call(self, method: str, params: Any) -> Any:
        result = super().call(method, params)
        result.pop("Type", None)
        return result

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        found = super().DescribeInstances({"Tags": params.get("Tags")})
        for each in found["Descriptions"] or ():
            del each["LogicalID"]
        return found


class SubTyped(Plugin):
    """Has the sub-type `compute` alone."""

    types: ClassVar[tuple[str, ...]] = ("compute",)
    versions: ClassVar[Mapping[str, Any]] = {
        "Handshake.Hello": {"Objects": {"Instance/0.6.1": [{"Name": "compute", "ProxyFor": ""}]}}
    }


class InOtherCase(Plugin):
    """Has other names' case, and more names, as Go's clients take them."""

    def call(self, method: str, params: Any) -> Any:
        result = super().call(method, params)
        if "Descriptions" not in result:
            return {
                **{key.lower() if method.startswith("Instance.") else key: value for key, value in result.items()},
                "more": 1,
            }
        found = [
            {key.lower(): value for key, value in each.items()} | {"More": {}} for each in result["Descriptions"] or ()
        ]
        return {"type": result["Type"], "descriptions": found, "more": 1}


class SaysThatItCloses(Plugin):
    """Closes each connection after the first answer, and says so."""


# --- With a fault


class IgnoresTags(Plugin):
    def matches(self, tags: dict[str, str], wanted: dict[str, str]) -> bool:
        return True


class MatchesAny(Plugin):
    def matches(self, tags: dict[str, str], wanted: dict[str, str]) -> bool:
        return not wanted or bool(wanted.items() & tags.items())


class FindsNoneByTag(Plugin):
    def matches(self, tags: dict[str, str], wanted: dict[str, str]) -> bool:
        return not wanted


class FindsNoneWithoutTags(Plugin):
    def matches(self, tags: dict[str, str], wanted: dict[str, str]) -> bool:
        return bool(wanted) and super().matches(tags, wanted)


class LabelDropsOthers(Plugin):
    def label(self, tags: dict[str, str], labels: dict[str, str]) -> None:
        tags.clear()
        tags.update(labels)


class LabelIsNotKept(Plugin):
    def label(self, tags: dict[str, str], labels: dict[str, str]) -> None:
        pass


class LabelOnlyAdds(Plugin):
    def label(self, tags: dict[str, str], labels: dict[str, str]) -> None:
        tags.update({key: value for key, value in labels.items() if key not in tags})


class LabelsUnknown(Plugin):
    def Label(self, params: Any) -> Any:  # noqa: N802
        return super().Label(params) if params["Instance"] in self.instances else {"OK": True}


class LosesLogicalIDs(Plugin):
    def logical(self, id: str | None) -> str | None:
        return None


class SameIDForEqualSpecs(Plugin):
    def mint(self, spec: Any) -> str:
        return next((id for id, each in self.instances.items() if each["Tags"] == spec["Tags"]), super().mint(spec))


class EmptyIDs(Plugin):
    def Provision(self, params: Any) -> Any:  # noqa: N802
        return {"ID": ""}


class IDsAreNumbers(Plugin):
    def Provision(self, params: Any) -> Any:  # noqa: N802
        return {"ID": 7}


class DestroysUnknown(Plugin):
    def Destroy(self, params: Any) -> Any:  # noqa: N802
        return super().Destroy(params) if params["Instance"] in self.instances else {"OK": True}


class IDsThroughFloat(Plugin):
    def echoed(self, id: Any) -> Any:
        return float(id) if isinstance(id, int) else id


class DiesOfBadRequests(Plugin):
    """Breaks the connection on what is not JSON, unless there is nothing at all."""

    def answer(self, body: bytes) -> bytes:
        if body.startswith(b"this"):
            raise Nothing
        return super().answer(body)


class SilentOnEmptyBodies(Plugin):
    patience: ClassVar[float] = 3.0

    def answer(self, body: bytes) -> bytes:
        if not body:
            self.over.wait(60)
            raise Nothing
        return super().answer(body)


class DescribesDestroyed(Plugin):
    patience: ClassVar[float] = 3.0

    def remove(self, id: str) -> None:
        pass


class AnswersForAnotherType(Plugin):
    def type(self, type: str) -> str:
        return "other"


class TakesAnyType(Plugin):
    def check_type(self, type: str) -> None:
        pass


class AltersTags(Plugin):
    def kept(self, tags: dict[str, str]) -> dict[str, str]:
        return {key: value.lower() for key, value in tags.items()}


class AddsTags(Plugin):
    def kept(self, tags: dict[str, str]) -> dict[str, str]:
        return {**tags, "Name": f"vm-{self.counter}"}


class DropsTags(Plugin):
    def kept(self, tags: dict[str, str]) -> dict[str, str]:
        return {}


class DescribesLater(Plugin):
    """Shows an instance only after it was looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: Counter[str] = Counter(mine=9)

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        found = super().DescribeInstances(params)["Descriptions"] or []
        shown = [each for each in found if self.looks[each["ID"]] > 2]
        self.looks.update(self.instances.keys())
        return {"Descriptions": shown}


class RefusesProperties(Plugin):
    def Validate(self, params: Any) -> Any:  # noqa: N802
        raise Refusal("Properties.size: missing")


class NeverProvisions(Plugin):
    def Provision(self, params: Any) -> Any:  # noqa: N802
        raise Refusal("out of machines")


class HasNoProperties(Plugin):
    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        return super().DescribeInstances({**params, "Properties": False})


class TakesAnyMethod(Plugin):
    def call(self, method: str, params: Any) -> Any:
        return {} if method == "Instance.ConformanceNone" else super().call(method, params)


class LosesSome(Plugin):
    """Does not describe the last one of those that were provisioned at once."""

    patience: ClassVar[float] = 3.0

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        found = super().DescribeInstances(params)["Descriptions"] or []
        return {"Descriptions": [each for each in found if each["ID"] != "i-000008"]}


class NeverDestroys(Plugin):
    patience: ClassVar[float] = 3.0

    def Destroy(self, params: Any) -> Any:  # noqa: N802
        raise Refusal("not today")


class HangsOnLabel(Plugin):
    patience: ClassVar[float] = 3.0

    def answer(self, body: bytes) -> bytes:
        if b"Instance.Label" in body:
            self.over.wait(60)
            raise Nothing
        return super().answer(body)


class GarbageOnDescribe(Plugin):
    def answer(self, body: bytes) -> bytes:
        return b"<html>" if b"Describe" in body else super().answer(body)


class HangsOnTags(Plugin):
    """Hangs where it is asked for instances with tags."""

    patience: ClassVar[float] = 3.0

    def answer(self, body: bytes) -> bytes:
        if b"Describe" in body and b'"Tags":{"' in body:
            self.over.wait(60)
            raise Nothing
        return super().answer(body)


class HangsOnProvision(Plugin):
    patience: ClassVar[float] = 3.0

    def answer(self, body: bytes) -> bytes:
        if b"Instance.Provision" in body:
            self.over.wait(60)
            raise Nothing
        return super().answer(body)


class CrashesOnLabel(Plugin):
    def answer(self, body: bytes) -> bytes:
        if b"Instance.Label" in body:
            self.crash()
            raise Nothing
        return super().answer(body)


class HangsOnLabelAndDestroy(Plugin):
    """Hangs, and is *asked* to destroy once that is so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def answer(self, body: bytes) -> bytes:
        if b"Instance.Destroy" in body:
            self.asked.set()
        if b"Instance.Destroy" in body or b"Instance.Label" in body:
            self.over.wait(60)
            raise Nothing
        return super().answer(body)


class BreaksOnWrongTypes(Plugin):
    def answer(self, body: bytes) -> bytes:
        if b'"Tags":5' in body:
            raise Nothing
        return super().answer(body)


class CrashesWithoutParams(Plugin):
    """Answers, and is gone."""

    def answer(self, body: bytes) -> bytes:
        if b"params" not in body and body.startswith(b"{"):
            self.crash()
        return super().answer(body)


class ForgetsTheFirst(Plugin):
    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        found = super().DescribeInstances(params)["Descriptions"] or []
        return {
            "Descriptions": [each for each in found if each["ID"] != "i-000001" or "i-000008" not in self.instances]
        }


class ClosesWithoutSaying(Plugin):
    """Closes each connection after the first answer."""


class OneAtATime(Plugin):
    """Serves one connection at a time, until that is closed."""

    patience: ClassVar[float] = 3.0


class SaysNothingElse(Plugin):
    """Answers everything with the same *words*."""

    words = b""

    def answer(self, body: bytes) -> bytes:
        return self.words


class NoInstancePlugin(Plugin):
    """A plugin of another kind."""

    versions: ClassVar[Mapping[str, Any]] = {"Handshake.Implements": {"APIs": [{"Name": "Flavor", "Version": "0.1.0"}]}}


# --- Served


class _Server(ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    daemon_threads = True
    plugin: Plugin
    gate: AbstractContextManager[Any] = nullcontext()
    """Is held while a connection is served."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are no trouble."""

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle(self) -> None:
        with self.server.gate:
            super().handle()

    def do_POST(self) -> None:
        try:
            body = self.server.plugin.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        except Nothing:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if isinstance(self.server.plugin, SaysThatItCloses):
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or isinstance(self.server.plugin, ClosesWithoutSaying)


@contextmanager
def served(plugin: Plugin, path: Path) -> Iterator[Path]:
    """Serve a plugin on a socket."""
    server = _Server(str(path), _Handler)  # type: ignore[arg-type]
    server.plugin = plugin
    plugin.crash = lambda: server.socket.shutdown(socket.SHUT_RDWR)
    if isinstance(plugin, OneAtATime):
        server.gate = threading.Lock()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield path
    finally:
        plugin.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
