"""YourMachines does what InfraKit and its plugin rely on."""

from pathlib import Path

from pyinfrakit.testing import ProviderContract

from yourmachines import YourMachines


class TestYourMachines(ProviderContract):
    """The contract of all providers: it skips what a provider has not got. Add your own below."""

    def provider(self, folder: Path) -> YourMachines:
        return YourMachines("test", folder)
