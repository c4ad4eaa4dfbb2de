"""The exceptions, named by what whoever gets one does next.

PyInfrakitError
├── WrongCall              mend the call
│   ├── InvalidSpec          … its spec
│   ├── UnknownInstance      … its ID
│   └── Refused              … or first change what it conflicts with
├── TryAgain               make the same call again, later
│   └── StoreFailed          … once the disk works
├── GiveUp                 the provider can't do it: ask for something else
├── Unreachable            the plugin did not answer: is it running?
└── CannotStart            mend the setting, path or file that it names
    ├── InUse                … or stop its holder
    └── Damaged              … which is never overwritten
"""

import math
from pathlib import Path


class PyInfrakitError(Exception):
    """Something that a user can act on; its text is one line and complete."""


class WrongCall(PyInfrakitError):
    """The call can't be done as it was made."""


class InvalidSpec(WrongCall):
    """A field of a spec is wrong; *field* is its path, such as ``Properties.count``."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class UnknownInstance(WrongCall):
    """There is no instance of this ID, or no longer."""

    def __init__(self, id: str) -> None:
        super().__init__(f"no instance {id!r}: it never existed here, or is gone")
        self.id = id


class Refused(WrongCall):
    """The call conflicts with the state of instance *id*."""

    def __init__(self, id: str, problem: str) -> None:
        super().__init__(f"{id}: {problem}")
        self.id = id


class TryAgain(PyInfrakitError):
    """Nothing is wrong with the call, but it can't be done now; *after* so many seconds it may, None where that is not known."""

    def __init__(self, problem: str, after: float | None = None) -> None:
        super().__init__(problem)
        if after is not None and (not isinstance(after, int | float) or math.isnan(after)):
            raise TypeError(f"expected a number of seconds, or None, as after, got {after!r}")
        self.after = after


class StoreFailed(TryAgain):
    """A change could not be made durable, and was taken back."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"state file {path} can't be written: {problem}; nothing was changed")
        self.path = path


class GiveUp(PyInfrakitError):
    """The provider can't do this, and won't be able to later."""


class Unreachable(PyInfrakitError):
    """There is no plugin on the socket, or it broke off."""


class CannotStart(PyInfrakitError):
    """The daemon can't start with these settings."""


class InUse(CannotStart):
    """A name or a file belongs to another process that runs."""


class Damaged(CannotStart):
    """A state file, or a journal beside it, can't be understood at *where*."""

    def __init__(self, path: Path, where: str, problem: str) -> None:
        advice = f"the file was left untouched, and `infrakit-instance fsck {path}` says what can be saved"
        super().__init__(f"state file {path}: {where}: {problem}; {advice}")
        self.path = path
        self.where = where
        self.problem = problem
