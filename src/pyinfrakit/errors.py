"""All exceptions, each named after its reader's next step.

PyInfrakitError
├── WrongCall              fix the call:
│   ├── InvalidSpec          its spec
│   ├── UnknownInstance      its ID
│   ├── UnknownGroup         its group
│   └── Refused              or first resolve the conflict that it names
├── TryAgain               make the same call again, later
│   └── StoreFailed          once the store works
├── GiveUp                 the provider can't do it: ask for something else
│   └── NoCapacity           or for the same elsewhere, or later
├── Rescued                move the file that it names to its place
├── Unreachable            the plugin did not answer: check that it runs
└── CannotStart            fix the setting, path or file that it names
    ├── InUse                or stop its holder
    └── Damaged              which is never overwritten

They are raised at the point of failure and caught in one place each: the RPC boundary (`rpc.jsonrpc`) for
callers, the reconcile loop and the jobs for the provider, and ``cli.main`` for people.
"""

import math


class PyInfrakitError(Exception):
    """An error that its reader can act on. The text is one line and complete."""

    kind = ""
    """One word for programs on the other side of a socket, by which they choose their next step; it may be empty."""


class WrongCall(PyInfrakitError):
    """The call can't be done the way it was made."""


class InvalidSpec(WrongCall):
    """A field of a spec is wrong; *field* is its path, such as ``Properties.count``."""

    kind = "wrong-spec"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class UnknownInstance(WrongCall):
    """No instance has this ID, or no longer."""

    kind = "unknown-instance"

    def __init__(self, id: str, noun: str = "instance") -> None:
        super().__init__(f"no {noun} {id!r}: it never existed here, or is gone")
        self.id = id


class UnknownGroup(WrongCall):
    """No group has this ID. The text is InfraKit's: its clients look for it."""

    kind = "unknown-group"

    def __init__(self, id: str) -> None:
        super().__init__(f"Group '{id}' is not being watched")
        self.id = id


class Refused(WrongCall):
    """The call conflicts with the state of instance *id*."""

    kind = "refused"

    def __init__(self, id: str, problem: str) -> None:
        super().__init__(f"{id}: {problem}")
        self.id = id


class TryAgain(PyInfrakitError):
    """The call is fine but can't be done now. *after* is how many seconds to wait, or None if unknown."""

    kind = "try-again"

    def __init__(self, problem: str, after: float | None = None) -> None:
        super().__init__(problem)
        if after is not None and (not isinstance(after, int | float) or math.isnan(after)):
            raise TypeError(f"expected a number of seconds, or None, as after, got {after!r}")
        self.after = after


class StoreFailed(TryAgain):
    """A change could not be made durable, and was undone."""

    def __init__(self, location: str, problem: str) -> None:
        super().__init__(f"{location} can't be written: {problem}; nothing was changed")


class GiveUp(PyInfrakitError):
    """The provider can't do this."""

    kind = "give-up"


class NoCapacity(GiveUp):
    """There is no room for another machine now."""

    kind = "no-capacity"


class Rescued(PyInfrakitError):
    """A stop could not write the state to its place, and wrote it to *path* instead; an empty *path*: not even there."""

    def __init__(self, location: str, problem: str, path: str) -> None:
        rescue = f"its content is in {path}: compare the two, and move the right one there" if path else "nor elsewhere"
        super().__init__(f"{location} was not written at the stop: {problem}; {rescue}")
        self.path = path


class Unreachable(PyInfrakitError):
    """Nothing answers on the socket, or the connection broke."""


class CannotStart(PyInfrakitError):
    """The daemon can't start with these settings."""


class InUse(CannotStart):
    """A name or a file belongs to another running process."""


class Damaged(CannotStart):
    """The state at *location* makes no sense at *where*. It is left untouched; *advice* says how to go on."""

    def __init__(self, location: str, where: str, problem: str, advice: str) -> None:
        super().__init__(f"{location}: {where}: {problem}; {advice}")
        self.where = where
        self.problem = problem
