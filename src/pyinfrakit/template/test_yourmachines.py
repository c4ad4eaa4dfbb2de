"""YourMachines behaves as InfraKit and the plugin expect."""

from pathlib import Path

from pyinfrakit.testing import ProviderContract

from yourmachines import YourMachines


class TestYourMachines(ProviderContract):
    """The contract of all providers. It skips tests of features that a provider lacks. Add your own tests below."""

    def provider(self, folder: Path) -> YourMachines:
        return YourMachines("test", folder)
