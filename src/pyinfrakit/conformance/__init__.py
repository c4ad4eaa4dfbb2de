"""Hold any InfraKit instance plugin, in any language, to what InfraKit relies on: by its socket alone."""

from pyinfrakit.conformance.report import Fact, Left, Report, Result, Verdict
from pyinfrakit.conformance.running import check

__all__ = ["Fact", "Left", "Report", "Result", "Verdict", "check"]
