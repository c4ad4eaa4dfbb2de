"""Local processes as instances."""

from pyinfrakit.providers.process.provider import Process

__all__ = ["Process"]
