"""Calls as HTTP requests, byte for byte with the headers that InfraKit's own client sends."""

import random
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import count, islice
from typing import Any

import msgspec

from benchmarks.servers.fleet import GROUP_TAG, HASH_TAG, Fleet, build_spec, generate_hash

_REQUEST_ID = 5953373185445940452
"""Go's client picks a random number of about this length."""

_UNKNOWN_ID = "0vp5l8q2k1ca-7m0t3e"
"""An instance ID of the usual length, for servers that ignore it."""

_MAX_GROUPS = 1_000
"""Groups of a fleet that are described in turn."""

_NUMBERS = count(5_000_000)
"""Numbers for new instances, beyond the numbers of all fleets."""


class Operation(StrEnum):
    """The operations whose rates are compared."""

    DESCRIBE_ALL = "describe all"
    DESCRIBE_GROUP = "describe a group of 10"
    PROVISION = "provision"
    LABEL = "label"
    DESTROY = "destroy"


def describe(tags: Mapping[str, str] | None = None, properties: bool = True) -> bytes:
    """Return a request for all instances that have the tags. InfraKit's last release always asks for properties."""
    return _build_request("Instance.DescribeInstances", Type="", Tags=tags, Properties=properties)


def provision(spec: Mapping[str, Any]) -> bytes:
    """Return a request for a new instance."""
    return _build_request("Instance.Provision", Type="", Spec=spec)


def label(id: str) -> bytes:
    """Return a request that sets an instance's configuration hash to a new one."""
    return _build_request("Instance.Label", Type="", Instance=id, Labels={HASH_TAG: generate_hash()})


def destroy(id: str) -> bytes:
    """Return a request to destroy an instance."""
    return _build_request("Instance.Destroy", Type="", Instance=id, Context={"Reason": "terminate"})


def commit(id: str, properties: Mapping[str, Any]) -> bytes:
    """Return a request that commits a group."""
    return _build_request("Group.CommitGroup", Spec={"ID": id, "Properties": properties}, Pretend=False)


def ask_size(id: str) -> bytes:
    """Return a request for a group's size: the controller's cheapest reply."""
    return _build_request("Group.Size", ID=id)


def build_describes(fleet: Fleet) -> Mapping[Operation, list[bytes]]:
    """Return the requests that describe a whole fleet, and those that describe its groups."""
    groups = random.sample(fleet.groups, min(_MAX_GROUPS, len(fleet.groups)))
    return {
        Operation.DESCRIBE_ALL: [describe()],
        Operation.DESCRIBE_GROUP: [describe({GROUP_TAG: group}) for group in groups],
    }


def build_provisions(number: int) -> Iterator[bytes]:
    """Return requests for *number* new instances in groups."""
    # Without a logical ID, a repeated request asks for one more instance. With one, it would return the same instance.
    return (provision({**build_spec(instance), "LogicalID": None}) for instance in islice(_NUMBERS, number))


def build_changes(number: int) -> Mapping[Operation, list[bytes]]:
    """Return *number* requests of each operation that changes instances, for a server that ignores their content."""
    return {
        Operation.PROVISION: list(build_provisions(number)),
        Operation.LABEL: [label(_UNKNOWN_ID) for _ in range(number)],
        Operation.DESTROY: [destroy(_UNKNOWN_ID)] * number,
    }


def set_path(path: str, requests: Iterable[bytes]) -> list[bytes]:
    """Return the requests with *path* instead of ``/``."""
    return [request.replace(b"POST / ", f"POST {path} ".encode(), 1) for request in requests]


def set_reply_length(length: int, requests: Iterable[bytes]) -> list[bytes]:
    """Return the requests for a server of constant replies, which answers each with *length* bytes."""
    return set_path(f"/{length}", requests)


def _build_request(method: str, **params: Any) -> bytes:
    call = {"jsonrpc": "2.0", "method": method, "params": params, "id": _REQUEST_ID}
    body = msgspec.json.encode(call)
    head = (
        f"POST / HTTP/1.1\r\nHost: h\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    return head.encode() + body
