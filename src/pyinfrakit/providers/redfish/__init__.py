"""Physical machines, managed through the Redfish services of their BMCs."""

try:
    import pycdlib  # noqa: F401 - imported here, so that a missing package is reported in one line
    import sushy  # noqa: F401
except ImportError as error:
    raise ImportError(f"provider redfish needs {error.name}: pip install 'pyinfrakit[redfish]'") from None

from pyinfrakit.providers.redfish.provider import Redfish

__all__ = ["Redfish"]
