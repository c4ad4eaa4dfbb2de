"""The contract of all providers, for physical machines behind emulated BMCs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyinfrakit.provider import Provider
from pyinfrakit.providers.redfish import Redfish
from pyinfrakit.testing import ProviderContract
from support.rack import Rack, rack


@pytest.fixture(scope="class")
def bmcs(request: pytest.FixtureRequest) -> Iterator[None]:
    """One rack for all tests of a class."""
    with rack(3, 8) as request.cls.rack:
        yield


@pytest.mark.usefixtures("bmcs")
class TestRedfish(ProviderContract):
    """The contract with machines behind BMCs, which are in their initial state for each test."""

    rack: Rack
    folder: Path | None = None

    def provider(self, folder: Path) -> Redfish:
        if folder != self.folder:
            self.folder = folder
            self.rack.reset()
        return Redfish("contract", folder, self.rack.settings())

    def properties(self, provider: Provider) -> Mapping[str, Any]:
        return {"boot": "pxe"}

    def wrong_properties(self) -> Sequence[Mapping[str, Any]]:
        return [
            {"boot": "floppy"},
            {"boot": "iso"},
            {"url": "http://host/image"},
            {"boot": "http", "url": "image"},
            {"tags": ["a"]},
        ]

    def stuck(self, provider: Provider, id: str) -> AbstractContextManager[None]:
        machine = next(name for name, tag in self.rack.tags().items() if tag.endswith(id))
        return self._stuck(machine)

    @contextmanager
    def _stuck(self, machine: str) -> Iterator[None]:
        bmc, node = int(machine[1]), machine.partition("n")[2]
        self.rack.fault("500", bmc, path=f"/node-{node}/Actions")
        yield
        self.rack.mend(bmc)

    def stranger(self, provider: Provider) -> str:
        self.rack.power("b2n8", "On")
        return "b2n8"
