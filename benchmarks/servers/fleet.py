"""Fleets: state files of any size, with the entries that InfraKit's group controller would cause."""

import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from pyinfrakit import ids

GROUP_SIZE = 10
"""Members of a group."""

GROUP_TAG = "infrakit.group"
HASH_TAG = "infrakit.config.hash"

_AGE = 30 * 86400
"""Seconds since the fleet was provisioned. IDs from now on sort before the fleet's IDs, as they would in use."""


class Fleet(Struct, frozen=True):
    """The instances in a state file. Each daemon gets a copy of the file.

    *json_bytes* is the length of all specs with their IDs, encoded as JSON.
    """

    path: Path
    ids: list[str]
    json_bytes: int

    @property
    def groups(self) -> list[str]:
        """Return the names of the groups. A fleet without instances has one group, which is empty."""
        return [name_group(number) for number in range(0, max(len(self.ids), 1), GROUP_SIZE)]


def write_fleet(path: Path, size: int) -> Fleet:
    """Write a state file of *size* instances, in the form that the C demo and the daemon share."""
    entries = write_entries(path, map(build_spec, range(size)))
    return Fleet(path, [entry["ID"] for entry in entries], sum(len(msgspec.json.encode(entry)) for entry in entries))


def write_entries(path: Path, specs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Write a state file with an instance for each spec; return the specs with their IDs."""
    entries: list[dict[str, Any]] = []
    id = ids.NEVER
    for spec in specs:
        id = ids.mint(id, time.time() - _AGE)
        entries.append({"ID": id, **spec})
    records = [msgspec.json.encode(entry | {"State": "ready", "Since": 1795399651.402}) for entry in entries]
    with path.open("wb") as file:
        file.write(b'{"Provider":{},\n"Instances":[\n' + b",\n".join(records) + b"],\n" + b'"NonFunctional":[]}\n')
    return entries


def build_spec(number: int) -> Mapping[str, Any]:
    """Return the spec of instance *number*, as a group controller sends it."""
    # Fields have fixed widths, so that an instance costs the same bytes in a small fleet as in a large one.
    address = f"10.{number >> 16 & 255:03}.{number >> 8 & 255:03}.{number & 255:03}"
    return {
        "Properties": {
            "image": "debian-12-generic-amd64",
            "machine": "m4.large",
            "rack": f"r{number // 40:05}",
            "slot": number % 40 + 10,
            "network": {"vlan": 1017, "address": address},
        },
        "Tags": {GROUP_TAG: name_group(number), HASH_TAG: generate_hash(), "infrakit-link": secrets.token_hex(8)},
        "Init": f"/opt/join --token {secrets.token_hex(8)} 10.0.0.1:2377",
        # Real fleets mix instances with and without a logical ID.
        "LogicalID": address if number % GROUP_SIZE < 2 else None,
    }


def name_group(number: int) -> str:
    """Return the name of the group that instance *number* belongs to."""
    return f"workers-{number // GROUP_SIZE:06}"


def generate_hash() -> str:
    """Return a random value of a configuration hash's length."""
    return secrets.token_hex(16)
