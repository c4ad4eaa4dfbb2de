"""A fleet of groups in one process, as `infrakit up` runs it. All members exist from the start."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks.servers.fleet import GROUP_TAG, HASH_TAG, Fleet, build_spec, write_entries
from benchmarks.servers.process import Server
from pyinfrakit.group.hash import hash_configuration
from pyinfrakit.group.spec import parse
from pyinfrakit.rpc.client import Client
from pyinfrakit.rpc.group.client import GroupClient

PLUGIN = "rack"

CONTROLLER = "group"

SETTLE_TIMEOUT = 300.0
"""Seconds before groups count as unable to settle."""


class GroupFleet(Struct, frozen=True):
    """*count* groups of *size* members each, on one plugin."""

    count: int
    size: int

    @property
    def ids(self) -> list[str]:
        """Return the IDs of the groups."""
        return [f"workers-{number:06}" for number in range(self.count)]

    @property
    def members(self) -> int:
        """Return the number of members of all groups."""
        return self.count * self.size

    def build_properties(self, size: int) -> Mapping[str, Any]:
        """Return the properties of a group of *size* members."""
        return {
            "Allocation": {"Size": size},
            "Instance": {"Plugin": PLUGIN, "Properties": build_spec(0)["Properties"]},
            "Flavor": {"Plugin": "vanilla", "Properties": {}},
        }

    def write_state(self, path: Path) -> Fleet:
        """Write the state file of the plugin, with all members; return them."""
        spec = parse("workers", msgspec.Raw(msgspec.json.encode(self.build_properties(self.size))))
        tag = hash_configuration(spec.pools[0], spec.properties.flavor).base32
        entries = (
            {**build_spec(number), "LogicalID": None, "Tags": {GROUP_TAG: id, HASH_TAG: tag}}
            for number, id in enumerate(id for id in self.ids for _ in range(self.size))
        )
        written = write_entries(path, entries)
        return Fleet(path, [entry["ID"] for entry in written], sum(len(msgspec.json.encode(each)) for each in written))

    def write_file(self, path: Path) -> None:
        """Write the fleet file."""
        properties = self.build_properties(self.size)
        groups = [{"ID": id, "Properties": properties} for id in self.ids]
        path.write_bytes(msgspec.json.encode({"plugins": {PLUGIN: {"provider": "file"}}, "groups": groups}))


class Controller(Server):
    """`infrakit up` with default settings, on *fleet*. Its files are in the folder *home*, its sockets in *sockets*."""

    def __init__(self, home: Path, sockets: Path, fleet: GroupFleet) -> None:
        state, file = home / "state", home / "fleet.json"
        state.mkdir(parents=True)
        state.chmod(0o700)
        fleet.write_state(state / f"{PLUGIN}.json")
        fleet.write_file(file)
        super().__init__(
            sockets / CONTROLLER,
            ("pyinfrakit", "up", str(file), "--dir", str(sockets)),
            home / "up.log",
            INFRAKIT_HOME=str(home),
        )
        self.fleet = fleet

    def settle(self, size: int) -> None:
        """Wait until all groups have *size* members, all healthy. Raise `TimeoutError`."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        with Client(self.socket, timeout=SETTLE_TIMEOUT) as client:
            groups = GroupClient(client)
            while not self._is_settled(groups, size):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not all groups have {size} healthy members after {SETTLE_TIMEOUT:g} s")
                time.sleep(0.5)

    def _is_settled(self, groups: GroupClient, size: int) -> bool:
        found = groups.list()
        return len(found) == self.fleet.count and all((each.Size, each.Healthy) == (size, size) for each in found)
