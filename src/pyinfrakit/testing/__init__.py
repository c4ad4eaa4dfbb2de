"""Tests for providers: the contract that every provider keeps, and `check` for a plugin's socket. Needs pytest."""

try:
    import pytest  # noqa: F401 - imported first, so that its absence is one line that says how to install it
except ImportError:
    raise ImportError("pyinfrakit.testing needs pytest: pip install 'pytest>=9'") from None

from pyinfrakit.conformance import Report, check
from pyinfrakit.testing.contract import ProviderContract
from pyinfrakit.testing.wrapped import Stalled, Unsteady, Wrapped

__all__ = ["ProviderContract", "Report", "Stalled", "Unsteady", "Wrapped", "check"]
