"""Physical machines, by the Redfish service of their BMCs."""

try:
    import pycdlib  # noqa: F401 - asked for here, so that their absence is told in one line
    import sushy  # noqa: F401
except ImportError as error:
    raise ImportError(f"provider redfish needs {error.name}: pip install 'pyinfrakit[redfish]'") from None

from pyinfrakit.providers.redfish.provider import Redfish

__all__ = ["Redfish"]
