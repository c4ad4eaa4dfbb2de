"""Emulate BMCs to try the provider with: sushy-tools' emulator, behind a layer that adds asset tags, ETags and faults.

    python bmcs.py --bmcs 2 --systems 3

serves Redfish on the loopback interface, with one port per BMC, and prints the addresses as a JSON array in one line.
The user is `admin`, the password `calvin`. The program exits when its standard input closes, so that no BMC outlives its
terminal or test.

Tests control a BMC through the same port, below `/-/`. Every reply is the BMC's state.

    POST /-/fault        replace the list of faults, which make requests fail
    POST /-/system/ID    change what a system reports of itself
    POST /-/power/ID     change a system's power without a Redfish request
    POST /-/etags        send ETags (true), or not (false)
    POST /-/reset        return to the initial state
    GET  /-/state        change nothing
"""

import argparse
import base64
import contextlib
import io
import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from sushy_tools.emulator import main as emulator
from sushy_tools.emulator.resources.systems import fakedriver
from werkzeug.serving import make_server

USER, PASSWORD = "admin", "calvin"
AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
HANG = 60.0
"""Seconds before a request with the fault `hang` continues."""

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]


class QuickSystems(fakedriver.FakeDriver):  # type: ignore[misc]
    """The emulator's fake systems, kept in memory, and without its delay of 1 to 11 seconds before a power change shows."""

    delay = 0.05
    """Seconds until a power change shows."""

    def __init__(self) -> None:
        super(fakedriver.FakeDriver, self).__init__()  # skips the driver's own, which keeps the systems in a file
        self._systems: dict[str, Any] = {
            each["uuid"]: dict(each) for each in self._config["SUSHY_EMULATOR_FAKE_SYSTEMS"]
        }
        self._by_name: dict[str, str] = {}

    def set_power_state(self, identity: str, state: str) -> None:
        super().set_power_state(identity, state)
        if pending := self._systems[identity].get("pending_power"):
            pending["apply_time"] = time.time() + self.delay

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]


class Fault:
    """A fault that strikes requests.

    *kind* is an HTTP status, or one of the words in `Layer._strike`. *path* and *method* are patterns: the path must
    contain a match, and the method must start with one. *times* is the number of requests to strike, or None for all.
    """

    def __init__(self, kind: str, path: str = "", method: str = "", times: int | None = None) -> None:
        self.kind = kind
        self._path = re.compile(path)
        self._method = re.compile(method)
        self._left = times

    def strikes(self, method: str, path: str) -> bool:
        if not self._path.search(path) or not self._method.match(method) or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True


class Layer:
    """WSGI layer between a BMC's clients and the emulator: it adds asset tags, ETags, health, credentials and faults."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._open = threading.Semaphore(1)
        self._reset()

    def _reset(self) -> None:
        self.faults: list[Fault] = []
        self.etags = True
        self.said: dict[str, dict[str, Any]] = {}
        """By system, the values that override the emulator's."""
        self._versions: dict[str, int] = {}
        self.requests: list[str] = []
        self.boots: list[Any] = []
        """Every boot override that a client sent. The emulator itself keeps only the source."""

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith("/-/"):
            return self._control(path, environ, start)
        with self._lock:
            self.requests.append(f"{method} {path}")
            fault = next((each.kind for each in self.faults if each.strikes(method, path)), None)
        if fault is not None and (reply := self._strike(fault, environ, start)) is not None:
            return reply
        if path.rstrip("/") != "/redfish/v1" and environ.get("HTTP_AUTHORIZATION") != AUTHORIZATION:
            return _json(start, "401 Unauthorized", _error("wrong credentials"))
        system = re.fullmatch(r"/redfish/v1/Systems/([^/]+)", path)
        if system and method == "PATCH":
            body = _body(environ)
            if "AssetTag" in body:
                return self._set_tag(system[1], body["AssetTag"], environ, start)
            self.boots.append(boot := dict(body.get("Boot") or {}))
            if "HttpBootUri" in boot:
                _replace(environ, {"Boot": {key: value for key, value in boot.items() if key != "HttpBootUri"}})
        if system and method == "GET":
            return self._describe(system[1], self._emulate(environ, _ignore_head), start)
        return self._emulate(environ, start)

    def _emulate(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Return the emulator's reply. It handles one request at a time, because it is not thread-safe."""
        with self._open:
            return [b"".join(self._app(environ, start))]

    def _describe(self, name: str, reply: Iterable[bytes], start: Start) -> Iterable[bytes]:
        """Return the emulator's description of a system with the layer's own values in it."""
        system = json.loads(b"".join(reply))
        if "error" in system:
            return _json(start, "404 Not Found", system)
        system |= {"Model": "Joo Janta 200", "SerialNumber": f"SN-{name}", "AssetTag": ""}
        system["Status"] = {"State": "Enabled", "Health": "OK", "HealthRollup": "OK"}
        with self._lock:
            system |= self.said.get(name, {})
            etag = [("ETag", f'"{self._versions.get(name, 0)}"')] if self.etags else []
        return _json(start, "200 OK", system, etag)

    def _set_tag(self, system: str, tag: str, environ: Environ, start: Start) -> Iterable[bytes]:
        with self._lock:
            version = self._versions.get(system, 0)
            if self.etags and environ.get("HTTP_IF_MATCH") not in (None, f'"{version}"'):
                return _json(start, "412 Precondition Failed", _error("it was changed meanwhile"))
            self.said.setdefault(system, {})["AssetTag"] = tag
            self._versions[system] = version + 1
        return _json(start, "204 No Content", None)

    def _strike(self, fault: str, environ: Environ, start: Start) -> Iterable[bytes] | None:
        """Return the reply of a request that a fault strikes, or None if the request only has to wait."""
        if fault.isdigit():
            return _json(start, f"{fault} Injected", _error("as the test wishes"))
        if fault == "stuck":
            return _json(start, "204 No Content", None)
        if fault == "slow":
            time.sleep(0.3)
            return None
        if fault == "hang":
            time.sleep(HANG)
        if fault == "garbage":
            start("200 OK", [("Content-Type", "text/html")])
            return [b"<html>\xff\x00 welcome"]
        if fault == "list":
            return _json(start, "200 OK", [1, 2])
        if fault == "late":  # the request takes effect, but its client gets no reply
            b"".join(self(environ, _ignore_head))
        if fault == "claimed":  # another plugin claims the system, just after this reply describes it
            reply = self(environ, start)
            self._set_tag(environ["PATH_INFO"].rpartition("/")[2], "infrakit:other:1", {}, _ignore_head)
            return reply
        connection = environ["werkzeug.socket"]
        if fault == "half":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b'{"Id": "half')
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        start("200 OK", [])
        return [b""]

    def _control(self, path: str, environ: Environ, start: Start) -> Iterable[bytes]:
        with self._lock:
            if path == "/-/reset":
                self._reset()
                emulator.app.systems.reset()
                emulator.app.vmedia._devices.clear()
            elif path == "/-/fault":
                self.faults = [Fault(**each) for each in _body(environ)]
            elif path == "/-/etags":
                self.etags = _body(environ)
            elif path.startswith("/-/power/"):
                emulator.app.systems._systems[path.rpartition("/")[2]]["power_state"] = _body(environ)
            elif path.startswith("/-/system/"):
                system = path.rpartition("/")[2]
                self.said.setdefault(system, {}).update(_body(environ))
                self._versions[system] = self._versions.get(system, 0) + 1
            systems = emulator.app.systems._systems
            media = {"/".join(key): each.get("Image", "") for key, each in list(emulator.app.vmedia._devices.items())}
            state = {
                "systems": systems,
                "said": self.said,
                "media": media,
                "requests": self.requests,
                "boots": self.boots,
            }
        return _json(start, "200 OK", state)


def _ignore_head(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
    """Accept the head of a reply that the layer does not send."""


def _body(environ: Environ) -> Any:
    """Return a request's body, decoded. The body stays readable for the emulator."""
    data = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(data)
    return json.loads(data or b"null")


def _replace(environ: Environ, body: Any) -> None:
    """Replace a request's body: the emulator refuses a URL to boot from, because its fake systems know none."""
    data = json.dumps(body).encode()
    environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(data), str(len(data))


def _error(message: str) -> dict[str, Any]:
    return {"error": {"code": "Base.1.0.GeneralError", "message": message}}


def _json(start: Start, status: str, content: Any, headers: Iterable[tuple[str, str]] = ()) -> Iterable[bytes]:
    data = b"" if content is None else json.dumps(content).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers])
    return [data]


def _systems(count: int) -> list[dict[str, Any]]:
    return [{"uuid": f"node-{n}", "name": f"n{n}", "power_state": "Off", "nics": []} for n in range(1, count + 1)]


def _end_with(parent: int) -> None:
    """End this process once its parent has ended, even if the parent was killed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


def _serve(listening: socket.socket, count: int, delay: float, tls: tuple[str, str] | None, parent: int) -> None:
    """Serve one BMC until the process ends."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    emulator.app.logger.setLevel(logging.CRITICAL)
    QuickSystems.delay = delay
    fakedriver.FakeDriver = QuickSystems
    with tempfile.TemporaryDirectory() as folder:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        emulator.app.configure(
            extra_config={
                "SUSHY_EMULATOR_FAKE_DRIVER": True,
                "SUSHY_EMULATOR_FAKE_SYSTEMS": _systems(count),
                "SUSHY_EMULATOR_STATE_DIR": folder,
            }
        )
        emulator.app.vmedia._devices = {}
        host, port = listening.getsockname()
        make_server(
            host, port, Layer(emulator.app), threaded=True, ssl_context=tls, fd=listening.fileno()
        ).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="Emulate BMCs on the loopback interface.")
    parser.add_argument("--bmcs", type=int, default=2, help="number of BMCs")
    parser.add_argument("--systems", type=int, default=3, help="number of systems per BMC")
    parser.add_argument("--port", type=int, default=0, help="port of the first BMC; any free port by default")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds until a power change shows")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="PEM files; plain HTTP by default")
    options = parser.parse_args()
    sockets = [socket.create_server(("127.0.0.1", options.port and options.port + n)) for n in range(options.bmcs)]
    children = []
    for each in sockets:
        parent = os.getpid()
        if (child := os.fork()) == 0:
            _serve(each, options.systems, options.delay, options.tls and tuple(options.tls), parent)
        children.append(child)
    scheme = "https" if options.tls else "http"
    print(json.dumps([f"{scheme}://127.0.0.1:{each.getsockname()[1]}" for each in sockets]), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
