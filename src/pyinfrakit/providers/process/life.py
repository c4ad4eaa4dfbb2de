"""An instance's life as its file ``life`` tells it: lines that the process's own parent writes, with or without a daemon.

    boot ID SECONDS     written by the daemon before it starts anything
    parent STAT         a shell that outlives the daemon, with its line of /proc/PID/stat
    failed WHY          the command did not begin
    main STAT           the command begins
    exit STATUS         it has ended

The first of a kind counts: the first ones are written before anything runs that the instance's owner has chosen.
"""

import signal
from datetime import UTC, datetime

from msgspec import Struct

from pyinfrakit.providers.process import proc
from pyinfrakit.providers.process.proc import Process

UNKNOWN = "ended, with no exit status known"


class Life(Struct, frozen=True):
    """What is known of an instance's process. *booted* is when the machine was, in seconds since 1970."""

    boot: str = ""
    booted: int = 0
    parent: Process | None = None
    failure: str = ""
    main: Process | None = None
    status: int | None = None

    @property
    def is_settled(self) -> bool:
        """Did the command begin, or is it known why not?"""
        return self.main is not None or bool(self.failure)

    @property
    def started(self) -> str:
        """Say when the command began, in UTC."""
        assert self.main is not None
        moment = datetime.fromtimestamp(self.booted + self.main.start // proc.TICKS, UTC)
        return moment.isoformat().replace("+00:00", "Z")

    def trouble(self, boot: str) -> str:
        """Say why there is no process that works, in this run of the machine; nothing where there is one."""
        if self.main is None:
            kind, _, status = self.failure.partition(" ")
            if status:
                return f"Init {ending(int(status))}"
            return "its command can't be run" if kind else "its start broke off"
        if self.status is not None:
            return ending(self.status)
        if self.boot != boot:
            return f"{UNKNOWN}: the machine was restarted"
        return "" if proc.is_alive(self.main) else UNKNOWN

    def left(self, boot: str) -> list[Process]:
        """Give the processes that may still be there."""
        return [each for each in (self.parent, self.main) if each is not None] if self.boot == boot else []


def ending(status: int) -> str:
    """Say how a process ended that a shell gives this status for."""
    if status > 128:
        try:
            return f"killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"exited with status {status}"


def parsed(text: str) -> Life:
    """Read a file ``life``; lines that make no sense, as a crash may leave, are left out."""
    lines: dict[str, str] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        lines.setdefault(kind, rest)
    boot, _, booted = lines.get("boot", "").partition(" ")
    status = lines.get("exit", "")
    return Life(
        boot=boot,
        booted=int(booted) if booted.isdigit() else 0,
        parent=_process(lines.get("parent")),
        failure=lines.get("failed", ""),
        main=_process(lines.get("main")),
        status=int(status) if status.isdigit() else None,
    )


def _process(stat: str | None) -> Process | None:
    try:
        return None if stat is None else proc.parsed(stat).process
    except ValueError:
        return None
