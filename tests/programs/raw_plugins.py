"""Instance plugins that are not ours: a few correct ones, which work in memory, and others with one fault each."""

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


class NoReply(Exception):
    """The plugin closes the connection without a reply."""


class Plugin:
    """A correct plugin as others write one. Its public methods are those of the wire; *provisioned* has every spec."""

    versions: ClassVar[Mapping[str, Any]] = {
        "Plugin.Implements": {"APIs": [{"Name": "Instance", "Version": "0.1.0"}]},
        "Handshake.Implements": {"APIs": [{"Name": "Instance", "Version": each} for each in ("0.3.0", "0.5.0")]},
        "Handshake.Types": {"Types": {"Instance/0.5.0": ["."]}},
        "Handshake.Hello": {"Objects": {"Instance/0.6.1": [{"Name": ".", "ProxyFor": ""}]}},
    }
    types: ClassVar[tuple[str, ...]] = ("",)
    patience: ClassVar[float] = 5.0
    """Seconds to wait for each call and each change. Plugins that make the checks wait have fewer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.instances: dict[str, dict[str, Any]] = {}
        self.provisioned: list[dict[str, Any]] = []
        self.counter = 0
        self.crash: Callable[[], None]
        self.over = threading.Event()
        """Plugins that hang do so until this is set."""

    def answer(self, body: bytes) -> bytes:
        """Return the reply to any request."""
        try:
            request = json.loads(body)
        except ValueError:
            return self.reject()
        try:
            with self.lock:
                reply = {"result": self.call(request["method"], request.get("params") or {})}
        except Refusal as error:
            reply = {"error": {"code": -32000, "message": str(error), "data": None}}
        return json.dumps({"jsonrpc": "2.0", **reply, "id": self.echo(request.get("id"))}).encode()

    def reject(self) -> bytes:
        """Return an empty body with status 200, as InfraKit's own server does."""
        return b""

    def echo(self, id: Any) -> Any:
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
            "Tags": self.keep(spec["Tags"]),
            "Properties": spec["Properties"],
        }
        return {"ID": id}

    def mint(self, spec: Any) -> str:
        self.counter += 1
        return f"i-{self.counter:06}"

    def logical(self, id: str | None) -> str | None:
        return id

    def keep(self, tags: dict[str, str]) -> dict[str, str]:
        return dict(tags)

    def Label(self, params: Any) -> Any:  # noqa: N802
        self.label(self.find(params)["Tags"], params["Labels"])
        return {"OK": True}

    def label(self, tags: dict[str, str], labels: dict[str, str]) -> None:
        tags.update(labels)

    def find(self, params: Any) -> dict[str, Any]:
        if params["Instance"] not in self.instances:
            raise Refusal(f"no instance {params['Instance']}")
        return self.instances[params["Instance"]]

    def Destroy(self, params: Any) -> Any:  # noqa: N802
        self.remove(self.find(params)["ID"])
        return {"OK": True}

    def remove(self, id: str) -> None:
        del self.instances[id]

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        wanted = params.get("Tags") or {}
        if not isinstance(wanted, dict):
            raise Refusal("Tags: wrong")
        instances = [dict(each) for each in self.instances.values() if self.matches(each["Tags"], wanted)]
        for each in instances:
            if not params.get("Properties"):
                del each["Properties"]
        return {"Descriptions": instances or None}

    def matches(self, tags: dict[str, str], wanted: dict[str, str]) -> bool:
        return wanted.items() <= tags.items()


class Old(Plugin):
    """A plugin with version 0.1 only, so without Type, Label, Properties and LogicalID."""

    versions: ClassVar[Mapping[str, Any]] = {"Plugin.Implements": Plugin.versions["Plugin.Implements"]}
    Label = None  # type: ignore[assignment]

    def check_type(self, type: str) -> None:
        pass

    def call(self, method: str, params: Any) -> Any:
        result = super().call(method, params)
        result.pop("Type", None)
        return result

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        result = super().DescribeInstances({"Tags": params.get("Tags")})
        for each in result["Descriptions"] or ():
            del each["LogicalID"]
        return result


class SubTyped(Plugin):
    """A plugin whose only sub-type is `compute`."""

    types: ClassVar[tuple[str, ...]] = ("compute",)
    versions: ClassVar[Mapping[str, Any]] = {
        "Handshake.Hello": {"Objects": {"Instance/0.6.1": [{"Name": "compute", "ProxyFor": ""}]}}
    }


class LowerCaseNames(Plugin):
    """A plugin that writes names in lower case and adds others, both of which Go's clients accept."""

    def call(self, method: str, params: Any) -> Any:
        result = super().call(method, params)
        if "Descriptions" not in result:
            return {
                **{key.lower() if method.startswith("Instance.") else key: value for key, value in result.items()},
                "more": 1,
            }
        descriptions = [
            {key.lower(): value for key, value in each.items()} | {"More": {}} for each in result["Descriptions"] or ()
        ]
        return {"type": result["Type"], "descriptions": descriptions, "more": 1}


class AnnouncesClose(Plugin):
    """A plugin that closes each connection after the first reply, with ``Connection: close``."""


# --- Plugins with a fault


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
    def echo(self, id: Any) -> Any:
        return float(id) if isinstance(id, int) else id


class DiesOfBadRequests(Plugin):
    """Closes the connection on a body that is not JSON, unless it is empty."""

    def answer(self, body: bytes) -> bytes:
        if body.startswith(b"this"):
            raise NoReply
        return super().answer(body)


class SilentOnEmptyBodies(Plugin):
    patience: ClassVar[float] = 3.0

    def answer(self, body: bytes) -> bytes:
        if not body:
            self.over.wait(60)
            raise NoReply
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
    def keep(self, tags: dict[str, str]) -> dict[str, str]:
        return {key: value.lower() for key, value in tags.items()}


class AddsTags(Plugin):
    def keep(self, tags: dict[str, str]) -> dict[str, str]:
        return {**tags, "Name": f"vm-{self.counter}"}


class DropsTags(Plugin):
    def keep(self, tags: dict[str, str]) -> dict[str, str]:
        return {}


class DescribesLater(Plugin):
    """Describes an instance only from the third query on."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: Counter[str] = Counter(mine=9)

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        instances = super().DescribeInstances(params)["Descriptions"] or []
        visible = [each for each in instances if self.looks[each["ID"]] > 2]
        self.looks.update(self.instances.keys())
        return {"Descriptions": visible}


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
    """Does not describe the last of the instances that are provisioned at once."""

    patience: ClassVar[float] = 3.0

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        instances = super().DescribeInstances(params)["Descriptions"] or []
        return {"Descriptions": [each for each in instances if each["ID"] != "i-000008"]}


class NeverDestroys(Plugin):
    patience: ClassVar[float] = 3.0

    def Destroy(self, params: Any) -> Any:  # noqa: N802
        raise Refusal("not today")


class HangsOnLabel(Plugin):
    patience: ClassVar[float] = 3.0

    def answer(self, body: bytes) -> bytes:
        if b"Instance.Label" in body:
            self.over.wait(60)
            raise NoReply
        return super().answer(body)


class GarbageOnDescribe(Plugin):
    def answer(self, body: bytes) -> bytes:
        return b"<html>" if b"Describe" in body else super().answer(body)


class HangsOnTags(Plugin):
    """Hangs on queries with tags."""

    patience: ClassVar[float] = 3.0

    def answer(self, body: bytes) -> bytes:
        if b"Describe" in body and b'"Tags":{"' in body:
            self.over.wait(60)
            raise NoReply
        return super().answer(body)


class HangsOnProvision(Plugin):
    patience: ClassVar[float] = 3.0

    def answer(self, body: bytes) -> bytes:
        if b"Instance.Provision" in body:
            self.over.wait(60)
            raise NoReply
        return super().answer(body)


class CrashesOnLabel(Plugin):
    def answer(self, body: bytes) -> bytes:
        if b"Instance.Label" in body:
            self.crash()
            raise NoReply
        return super().answer(body)


class HangsOnLabelAndDestroy(Plugin):
    """Hangs on both calls. *asked* is set at the first Destroy."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def answer(self, body: bytes) -> bytes:
        if b"Instance.Destroy" in body:
            self.asked.set()
        if b"Instance.Destroy" in body or b"Instance.Label" in body:
            self.over.wait(60)
            raise NoReply
        return super().answer(body)


class BreaksOnWrongTypes(Plugin):
    def answer(self, body: bytes) -> bytes:
        if b'"Tags":5' in body:
            raise NoReply
        return super().answer(body)


class CrashesWithoutParams(Plugin):
    """Replies, and stops listening."""

    def answer(self, body: bytes) -> bytes:
        if b"params" not in body and body.startswith(b"{"):
            self.crash()
        return super().answer(body)


class ForgetsTheFirst(Plugin):
    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        instances = super().DescribeInstances(params)["Descriptions"] or []
        return {
            "Descriptions": [each for each in instances if each["ID"] != "i-000001" or "i-000008" not in self.instances]
        }


class ClosesWithoutSaying(Plugin):
    """Closes each connection after the first reply, without ``Connection: close``."""


class OneAtATime(Plugin):
    """Serves one connection at a time, until the client closes it."""

    patience: ClassVar[float] = 3.0


class RepeatsWords(Plugin):
    """Replies to every request with the same *words*."""

    words = b""

    def answer(self, body: bytes) -> bytes:
        return self.words


class NoInstancePlugin(Plugin):
    """A plugin of another interface."""

    versions: ClassVar[Mapping[str, Any]] = {"Handshake.Implements": {"APIs": [{"Name": "Flavor", "Version": "0.1.0"}]}}


# --- Serving


class _Server(ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    daemon_threads = True
    plugin: Plugin
    gate: AbstractContextManager[Any] = nullcontext()
    """Entered for as long as a connection is served."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection early."""

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
        except NoReply:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if isinstance(self.server.plugin, AnnouncesClose):
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or isinstance(self.server.plugin, ClosesWithoutSaying)


@contextmanager
def serve(plugin: Plugin, path: Path) -> Iterator[Path]:
    """Serve a plugin on a socket, for as long as the context lasts."""
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
