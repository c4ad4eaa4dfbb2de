"""What operators want of a group: its record, and all that follows from it. Frozen; no I/O."""

from collections.abc import Mapping

from pyinfrakit.group.hash import ConfigHash, hash_configuration, is_to_adopt
from pyinfrakit.group.record import GroupRecord
from pyinfrakit.group.roster import Track
from pyinfrakit.group.situation import Config
from pyinfrakit.group.spec import GroupSpec, parse


class Wishes:
    """A group's record, and all that follows from it: its specs, and the hashes of their configurations."""

    def __init__(self, id: str, record: GroupRecord) -> None:
        """Raise `InvalidSpec` if a stored spec makes no sense."""
        self.record = record
        self.spec = parse(id, record.properties)
        self.previous = None if record.previous is None else parse(id, record.previous)
        self._hashes = _hash_pools(self.spec)
        earlier = [parse(id, commit.properties) for commit in record.history]
        specs = [self.spec, *([self.previous] if self.previous else []), *earlier]
        self.plugins = tuple(dict.fromkeys(pool.plugin for spec in specs for pool in spec.pools))
        """All plugins that the group may have members at, those of the committed spec first."""

    def compare(self, track: Track) -> Config:
        """Return how a member's configuration compares with the committed one."""
        tags = track.description.tags
        if is_to_adopt(tags):
            return Config.TO_ADOPT
        hash = self._hashes.get(track.pool)
        return Config.CURRENT if hash is not None and hash.matches(tags) else Config.OUTDATED


def _hash_pools(spec: GroupSpec) -> Mapping[str, ConfigHash]:
    return {pool.plugin: hash_configuration(pool, spec.properties.flavor) for pool in spec.pools}
