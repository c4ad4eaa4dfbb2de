"""BMCs to try things with: sushy-tools' emulator, behind a layer that keeps asset tags with ETags, and breaks on demand.

    python bmcs.py --bmcs 2 --systems 3

serves real Redfish on the loopback, each BMC on a port of its own, and writes the addresses as JSON in one line. It ends with its
standard input, so that none is left behind. The user is `admin`, the password `calvin`.

What tests do to a BMC goes to the same port, below `/-/`: `POST /-/fault` has the next requests fail, `POST /-/system/ID` changes
what a system says of itself, `POST /-/reset` forgets all, `GET /-/state` tells.
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

Environ = dict[str, Any]
Start = Callable[[str, list[tuple[str, str]]], Any]


class QuickSystems(fakedriver.FakeDriver):  # type: ignore[misc]
    """The emulator's fake systems, without its 1 to 11 seconds until a power change shows, and kept in memory."""

    delay = 0.05

    def __init__(self) -> None:
        super(fakedriver.FakeDriver, self).__init__()
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
    """What happens to requests: *path* and *method* say which, by patterns; *times*: to how many."""

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
    """Between a BMC's clients and the emulator: asset tags, ETags, health, credentials, and faults."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._open = threading.Semaphore(1)
        self._reset()

    def _reset(self) -> None:
        self.faults: list[Fault] = []
        self.etags = True
        self.said: dict[str, dict[str, Any]] = {}
        self._versions: dict[str, int] = {}
        self.requests: list[str] = []
        self.boots: list[Any] = []
        """What systems were told to boot from, of which the emulator keeps but the source."""

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
        reply = self._pass_on(environ, start if system is None or method != "GET" else _Withheld(start))
        return self._described(system[1], reply, start) if system and method == "GET" else reply

    def _pass_on(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Let the emulator answer; it is not made for several requests at once."""
        with self._open:
            return [b"".join(self._app(environ, start))]

    def _described(self, system: str, reply: Iterable[bytes], start: Start) -> Iterable[bytes]:
        found = json.loads(b"".join(reply))
        if "error" in found:
            return _json(start, "404 Not Found", found)
        found |= {"Model": "Joo Janta 200", "SerialNumber": f"SN-{system}", "AssetTag": ""}
        found["Status"] = {"State": "Enabled", "Health": "OK", "HealthRollup": "OK"}
        with self._lock:
            found |= self.said.get(system, {})
            etag = [("ETag", f'"{self._versions.get(system, 0)}"')] if self.etags else []
        return _json(start, "200 OK", found, etag)

    def _set_tag(self, system: str, tag: str, environ: Environ, start: Start) -> Iterable[bytes]:
        with self._lock:
            version = self._versions.get(system, 0)
            if self.etags and environ.get("HTTP_IF_MATCH") not in (None, f'"{version}"'):
                return _json(start, "412 Precondition Failed", _error("it was changed meanwhile"))
            self.said.setdefault(system, {})["AssetTag"] = tag
            self._versions[system] = version + 1
        return _json(start, "204 No Content", None)

    def _strike(self, fault: str, environ: Environ, start: Start) -> Iterable[bytes] | None:
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
        if fault == "late":  # it is done, and nobody hears of it
            b"".join(self(environ, lambda status, headers: None))
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


class _Withheld:
    """A reply's head that is not sent on."""

    def __init__(self, start: Start) -> None:
        self._start = start

    def __call__(self, status: str, headers: list[tuple[str, str]], error: Any = None) -> Any:
        return None


def _body(environ: Environ) -> Any:
    """Give a request's body, and leave it to be read again."""
    data = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(data)
    return json.loads(data or b"null")


def _replace(environ: Environ, body: Any) -> None:
    """Put another body into a request: simulated systems know no URL to boot from, and would refuse it."""
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
    """End this process when its parent did, however that was."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


def _serve(listening: socket.socket, count: int, delay: float, tls: tuple[str, str] | None, parent: int) -> None:
    """Be one BMC, for good."""
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
    parser = argparse.ArgumentParser(description="Emulated BMCs on the loopback.")
    parser.add_argument("--bmcs", type=int, default=2)
    parser.add_argument("--systems", type=int, default=3, help="of each BMC")
    parser.add_argument("--port", type=int, default=0, help="of the first BMC; else any that is free")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds until a power change shows")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="files; else it is plain HTTP")
    given = parser.parse_args()
    sockets = [socket.create_server(("127.0.0.1", given.port and given.port + n)) for n in range(given.bmcs)]
    children = []
    for each in sockets:
        parent = os.getpid()
        if (child := os.fork()) == 0:
            _serve(each, given.systems, given.delay, given.tls and tuple(given.tls), parent)
        children.append(child)
    scheme = "https" if given.tls else "http"
    print(json.dumps([f"{scheme}://127.0.0.1:{each.getsockname()[1]}" for each in sockets]), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
