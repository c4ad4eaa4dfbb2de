"""Requests as bytes, with the headers that InfraKit's own client sends."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_ID = 5953373185445940452
"""Go's client picks one at random, of about this length."""


def describe(tags: Mapping[str, str] | None = None, properties: bool = True) -> bytes:
    """Ask for all instances that have the tags; InfraKit's last release always asks for properties."""
    return _request("DescribeInstances", Tags=tags, Properties=properties)


def provision(spec: Mapping[str, Any]) -> bytes:
    """Ask for an instance."""
    return _request("Provision", Spec=spec)


def label(id: str, tags: Mapping[str, str]) -> bytes:
    """Add or replace tags."""
    return _request("Label", Instance=id, Labels=tags)


def destroy(id: str) -> bytes:
    """Destroy an instance."""
    return _request("Destroy", Instance=id, Context={"Reason": "terminate"})


def to(path: str, requests: Iterable[bytes]) -> list[bytes]:
    """Send requests to another path; ours are for ``/``."""
    return [request.replace(b"POST / ", f"POST {path} ".encode(), 1) for request in requests]


def to_constant(length: int, requests: Iterable[bytes]) -> list[bytes]:
    """Send requests to a server of constant replies, for ones of so many bytes."""
    return to(f"/{length}", requests)


def _request(method: str, **params: Any) -> bytes:
    call = {"jsonrpc": "2.0", "method": f"Instance.{method}", "params": {"Type": "", **params}, "id": _ID}
    body = msgspec.json.encode(call)
    head = (
        f"POST / HTTP/1.1\r\nHost: h\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + body
