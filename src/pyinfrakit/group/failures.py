"""The errors that plugins answer with, as this project's exceptions, by which the controller chooses its next step."""

import re

from pyinfrakit.errors import GiveUp, InvalidSpec, NoCapacity, PyInfrakitError, Refused, TryAgain, UnknownInstance

_SHORTAGE = re.compile(
    r"capacity|quota|limit ?exceeded|exceed(s|ed|ing)? .{0,40}limit|out of (machines|stock|resources|space|addresses)"
    r"|insufficient(?! (permission|privilege|right|access|scope|auth))|no (free|available|more) |none (is|are) (free|available)"
    r"|not enough|no room|exhausted",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"not found|no such|does(n't| not) exist|unknown instance|no instance|never existed", re.IGNORECASE
)


def restore(kind: str, text: str, id: str = "") -> PyInfrakitError | None:
    """Return the error of a *kind* and with a *text* from another process; None for a kind that is not known here.

    *id* is the instance that the call was about.
    """
    subject, _, problem = text.partition(": ")
    match kind:
        case "wrong-spec":
            return InvalidSpec(subject, problem) if problem else InvalidSpec("Properties", text)
        case "unknown-instance":
            return UnknownInstance(id)
        case "refused":
            return Refused(subject, problem) if problem else Refused(id, text)
        case "try-again":
            return TryAgain(text)
        case "give-up":
            return GiveUp(text)
        case "no-capacity":
            return NoCapacity(text)
    return None


def tells_shortage(text: str) -> bool:
    """Return whether the text of an error, in the words of any provider, means that there is no room for a machine."""
    return _SHORTAGE.search(text) is not None


def tells_unknown(text: str) -> bool:
    """Return whether the text of an error about an instance means that there is no such instance."""
    return _UNKNOWN.search(text) is not None
