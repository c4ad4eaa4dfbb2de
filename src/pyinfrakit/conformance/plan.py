"""What is going to be made, said before it is."""

import secrets
from collections.abc import Mapping

from msgspec import Raw, Struct

from pyinfrakit.record import CONFIG_TAGS, GROUP_TAG

RACK = "conformance.rack"
TIER = "conformance.tier"


class Spec(Struct, frozen=True):
    """One instance to be asked for."""

    name: str
    tags: Mapping[str, str]
    logical_id: str | None = None


class Plan(Struct, frozen=True):
    """A group that is this run's alone, and what will be in it: three, one after the other, and *count* at once."""

    group: str
    count: int
    properties: Raw

    @property
    def mark(self) -> Mapping[str, str]:
        """The tag by which everything that is made can be found."""
        return {GROUP_TAG: self.group}

    @property
    def first(self) -> Spec:
        return Spec("the first", self._tags("r1"))

    @property
    def second(self) -> Spec:
        return Spec("the second", self._tags("r2"))

    @property
    def logical(self) -> Spec:
        return Spec("the one with a logical ID", self._tags("r1"), f"{self.group}-node")

    @property
    def equal(self) -> Spec:
        """What is asked for *count* times at once, as InfraKit's group controller does."""
        return Spec("the equal ones", self._tags("r3"))

    def _tags(self, rack: str) -> Mapping[str, str]:
        return {**self.mark, CONFIG_TAGS[0]: "udO4s1janmGySYj4EImcMKB_D1s=", TIER: "web", RACK: rack}

    def __str__(self) -> str:
        tags = ", ".join(f"{key}={value}" for key, value in self.first.tags.items() if key != RACK)
        return (
            f"makes {3 + self.count} instances, and destroys them again: 3 one after the other, {self.count} at once; "
            f"with the tags {tags}, {RACK}=r1, r2 or r3; one of them with the logical ID {self.logical.logical_id}"
        )


def plan(count: int, properties: Raw) -> Plan:
    """Make a plan whose group nobody has."""
    return Plan(f"conformance-{secrets.token_hex(4)}", count, properties)
