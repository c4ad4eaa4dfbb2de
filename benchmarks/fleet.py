"""Fleets of instances: state files of any size, with entries as InfraKit's use makes them."""

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from pyinfrakit import ids

GROUP = 10
"""Members of a group."""

HASH_TAG = "infrakit.config.hash"
_AGE = 30 * 86400
"""Seconds since the fleet was provisioned: whatever is provisioned now has IDs that sort before its."""


class Fleet(Struct, frozen=True):
    """A state file, which is copied for each daemon. *own*: bytes of all instances' specs and IDs as JSON."""

    path: Path
    ids: list[str]
    own: int

    @property
    def groups(self) -> list[str]:
        """Give the groups; where there are no instances one that is empty."""
        return [group(number) for number in range(0, max(len(self.ids), 1), GROUP)]


def write(path: Path, size: int) -> Fleet:
    """Write a state file of *size* instances, in the form that is common to the C demo and the daemon."""
    entries = []
    id = ids.NEVER
    for number in range(size):
        id = ids.mint(id, time.time() - _AGE)
        entries.append({"ID": id, **spec(number)})
    stated = [msgspec.json.encode(entry | {"State": "ready", "Since": 1795399651.402}) for entry in entries]
    with path.open("wb") as file:
        file.write(b'{"Provider":{},\n"Instances":[\n' + b",\n".join(stated) + b"],\n" + b'"NonFunctional":[]}\n')
    return Fleet(path, [entry["ID"] for entry in entries], sum(len(msgspec.json.encode(entry)) for entry in entries))


def spec(number: int) -> Mapping[str, Any]:
    """Give a spec as a group controller sends it; each is as long as every other of its place in the group."""
    place = f"10.{number >> 16 & 255:03}.{number >> 8 & 255:03}.{number & 255:03}"
    return {
        "Properties": {
            "image": "debian-12-generic-amd64",
            "machine": "m4.large",
            "rack": f"r{number // 40:05}",
            "slot": number % 40 + 10,
            "network": {"vlan": 1017, "address": place},
        },
        "Tags": {"infrakit.group": group(number), HASH_TAG: new_hash(), "infrakit-link": secrets.token_hex(8)},
        "Init": f"/opt/join --token {secrets.token_hex(8)} 10.0.0.1:2377",
        "LogicalID": place if number % GROUP < 2 else None,
    }


def group(number: int) -> str:
    """Give the group of an instance."""
    return f"workers-{number // GROUP:06}"


def new_hash() -> str:
    """Make up a configuration's hash."""
    return secrets.token_hex(16)
