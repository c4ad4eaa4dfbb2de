"""What a check is."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from pyinfrakit.conformance.report import Broken, NotApplicable, Result, Unknown, Verdict
from pyinfrakit.conformance.session import Gone
from pyinfrakit.conformance.trial import Trial
from pyinfrakit.errors import Unreachable
from pyinfrakit.rpc.client import RemoteError


class Check(Struct, frozen=True):
    """A behaviour that InfraKit relies on. *look* gives what happened where it holds; *since* is the version that has it.

    What it calls itself must be answered; what it needs to know besides, it asks of the trial, which raises `Unknown`.
    """

    name: str
    expected: str
    look: Callable[[Trial], str]
    since: tuple[int, ...] = ()

    def result(self, trial: Trial) -> Result:
        """Look."""
        verdict, happened = self._verdict(trial)
        return Result(self.name, verdict, self.expected, happened)

    def unknown(self, why: str) -> Result:
        """Don't look, as that would tell nothing."""
        return Result(self.name, Verdict.UNKNOWN, self.expected, why)

    def _verdict(self, trial: Trial) -> tuple[Verdict, str]:
        if trial.version < self.since:
            return (
                Verdict.NOT_APPLICABLE,
                f"since Instance {'.'.join(map(str, self.since))}, which the plugin does not have",
            )
        try:
            return Verdict.HOLDS, self.look(trial)
        except NotApplicable as reason:
            return Verdict.NOT_APPLICABLE, str(reason)
        except Unknown as reason:
            return Verdict.UNKNOWN, f"because {reason}"
        except Gone as gone:
            return self._end(trial), str(gone)
        except (Broken, RemoteError, Unreachable) as fault:
            return Verdict.FAILS, str(fault)

    def _end(self, trial: Trial) -> Verdict:
        """Blame the check that finds the plugin gone, unless another saw it break off, or go, before."""
        seen, trial.session.broke = trial.session.broke, True
        return Verdict.UNKNOWN if seen else Verdict.FAILS


def refused(trial: Trial, method: str, params: dict[str, object]) -> str:
    """Make sure that a call is an error: one that got no answer says nothing."""
    try:
        error = trial.session.refuses(method, params)
    except Unreachable as silent:
        raise Unknown(str(silent)) from None
    if error is None:
        raise Broken("was answered as if all was well")
    return f"refused: {error}"


def listed(ids: Sequence[str]) -> str:
    """Give IDs for people."""
    return ", ".join(sorted(ids)) or "none"
