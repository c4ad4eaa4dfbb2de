"""What a provider's own tests need: the contract for all, as a class; and `check`, for a plugin's socket. Needs pytest."""

try:
    import pytest  # noqa: F401 - asked for here, so that its absence is told in one line
except ImportError:
    raise ImportError("pyinfrakit.testing needs pytest: pip install 'pyinfrakit[testing]'") from None

from pyinfrakit.conformance import Report, check
from pyinfrakit.testing.contract import ProviderContract
from pyinfrakit.testing.wrapped import Stalled, Unsteady, Wrapped

__all__ = ["ProviderContract", "Report", "Stalled", "Unsteady", "Wrapped", "check"]
