"""Stand in for a cloud's client library in the tutorial, with servers in memory that outlive their clients."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_REGIONS: dict[str, dict[str, "Server"]] = {}


class BusyError(Exception):
    """Too many requests."""

    retry_after = 0.1


class QuotaError(Exception):
    """No more servers for this account."""


@dataclass
class Server:
    """A server, whose *state* is ``running`` or another word."""

    name: str
    tags: dict[str, str]
    once: str
    state: str = "running"
    is_protected: bool = field(default=False)


class Client:
    """A client for one region."""

    def __init__(self, region: str, key: str) -> None:
        self.servers = _REGIONS.setdefault(region, {})

    async def create(self, size: str, *, user_data: str, tags: Mapping[str, str], once: str) -> Server:
        """Create a server, or return the one that an earlier call with the same *once* created."""
        await asyncio.sleep(0)
        if size == "huge":
            raise QuotaError("no quota for huge servers")
        if size == "rare":
            raise BusyError
        server = next((each for each in self.servers.values() if each.once == once), None)
        if server is None:
            server = Server(f"acme-{once}", dict(tags), once)
            self.servers[server.name] = server
        await asyncio.sleep(0)
        return server

    async def list(self, tag: str, value: str) -> Sequence[Server]:
        """Return the servers with a tag."""
        await asyncio.sleep(0)
        return [server for server in self.servers.values() if server.tags.get(tag) == value]

    async def delete(self, names: Sequence[str]) -> Mapping[str, str]:
        """Delete servers, and return the problem of each server that stays."""
        await asyncio.sleep(0)
        problems = {name: "is protected" for name in names if name in self.servers and self.servers[name].is_protected}
        for name in names:
            if name not in problems:
                self.servers.pop(name, None)
        return problems

    async def tag(self, name: str, tags: Mapping[str, str]) -> None:
        """Replace a server's tags."""
        await asyncio.sleep(0)
        self.servers[name].tags = dict(tags)
