"""The end of instances: of all their processes, for sure where there are control groups.

A destroy asks processes to end with SIGTERM. After the grace, it stops all of them first, until no more are found, so
that no dying parent leaves behind a child that nothing connects with the instance; then it kills them.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals

from pyinfrakit.errors import TryAgain
from pyinfrakit.providers.process import proc
from pyinfrakit.providers.process.folder import InstanceFolder
from pyinfrakit.providers.process.options import Account
from pyinfrakit.providers.process.proc import ProcessID, ProcessStatus, ProcessTable, pauses

KILL_TIME = 5.0
"""Seconds from the end of the grace until a process that is still there counts as an error."""

FREEZE_TIME = 2.0
"""Seconds from the end of the grace until processes are killed although not all of them are stopped."""

LOOKS = 2
"""Looks in a row that must find no process."""


class Remains:
    """What is left of one instance's processes."""

    def __init__(self, folder: InstanceFolder, account: Account, boot: str) -> None:
        self.folder = folder
        self.alive: set[ProcessID] = set()
        self.is_pressing = False
        """Whether the next look is to come at once."""
        self.looks = 0
        """Looks since the last one that found a process; those that may have missed one do not count."""
        self._account = account
        self._boot = boot
        self._group = folder.read_group()
        self._known: set[ProcessID] = set()
        self._session: int | None = None
        self._warned: set[ProcessID] = set()
        self._stopped: set[ProcessID] = set()

    def look(self, table: ProcessTable) -> None:
        """Find the processes that are alive."""
        life = self.folder.read_life()
        # No process of an earlier boot exists, even if its ID does.
        recorded = (life.shell, life.main) if life.boot == self._boot else (None, None)
        self._known |= {each for each in recorded if each is not None and table.is_of(each, self._account.uid)}
        pids = self._group.list_pids() if self._group is not None else set[int]()
        self.alive = table.find(self.folder.id, self._known, pids)
        self._check_session(table, recorded[0])
        if self._session is not None:
            self.alive = table.find(self.folder.id, self._known, pids | table.list_session(self._session))
        self._known |= self.alive
        if self.alive or (self._group is not None and not self._group.is_empty()):
            self.looks = 0
        elif table.is_complete or (self._group is not None and self._account.groups is not None):
            self.looks += 1  # as root, no process can leave its control group

    def _check_session(self, table: ProcessTable, shell: ProcessID | None) -> None:
        """Find out whether the shell's session is still the instance's.

        A session's number is its leader's PID, which the kernel reuses only once the session is empty. So a session
        with one of the instance's processes is the shell's, even if the shell is gone; and it remains so from look to
        look while it may have members.
        """
        if shell is None or table.is_reused(shell) or (table.is_complete and not table.list_session(shell.pid)):
            self._session = None
        elif any(each.pid in table.list_session(shell.pid) for each in self.alive):
            self._session = shell.pid

    def owns(self, status: ProcessStatus, ids: Collection[str]) -> bool:
        """Return whether a process that a look has just read is the instance's."""
        return self.folder.id in ids or status.session == self._session

    def press(self, late: float) -> None:
        """Make the processes end, *late* seconds after the grace."""
        new = self.alive - (self._warned if late < 0 else self._stopped)
        self.is_pressing = self.looks > 0 or (late >= 0 and bool(new))
        if late < 0:
            self._warned |= new
            _send(new, SIGTERM, SIGCONT)  # a stopped process handles SIGTERM only once it continues
            return
        if self._group is not None:
            self._group.kill()
        self._stopped |= new
        if new and late < FREEZE_TIME:
            _send(new, SIGSTOP)
        else:
            _send(self.alive, SIGKILL)

    def describe(self) -> str:
        """Return the reason why the instance is not gone."""
        if self.alive:
            return f"still there after SIGKILL: {', '.join(sorted(str(each.pid) for each in self.alive))}"
        if self.looks:
            return f"can't remove {self.folder.path}, or its control group"
        return "can't tell whether it is gone: processes start and end too fast"


class Termination:
    """Ends instances whose processes have *mark*, on this *boot*, with *grace* seconds from SIGTERM to SIGKILL."""

    def __init__(self, mark: str, account: Account, boot: str, grace: float) -> None:
        self._mark = mark
        self._account = account
        self._boot = boot
        self._grace = grace

    def end(self, folders: Iterable[InstanceFolder], finish: Callable[[InstanceFolder], bool]) -> dict[str, TryAgain]:
        """End all processes of instances. Return errors by ID.

        *finish* is called for an instance without processes. It returns False if there may still come some.
        """
        waiting = {folder.id: Remains(folder, self._account, self._boot) for folder in folders}
        start = time.monotonic()
        table = None
        for pause in pauses(self._grace + KILL_TIME, longest=0.1):
            if not waiting:
                break
            late = time.monotonic() - start - self._grace
            table = self._look(list(waiting.values()), table, late >= 0)
            for id, each in list(waiting.items()):
                if each.looks >= LOOKS and finish(each.folder):
                    del waiting[id]
                else:
                    each.press(late)
            if not any(each.is_pressing for each in waiting.values()):
                time.sleep(pause)
        return {id: TryAgain(each.describe()) for id, each in waiting.items()}

    def _look(self, all: Collection[Remains], earlier: ProcessTable | None, is_late: bool) -> ProcessTable:
        def seize(status: ProcessStatus, ids: Collection[str]) -> bool:
            return any(each.owns(status, ids) for each in all)

        table = ProcessTable(self._mark, self._account.uid, earlier, seize if is_late else None)
        for each in all:
            each.look(table)
        return table


def _send(processes: Iterable[ProcessID], *signals: Signals) -> None:
    for process in processes:
        # A process that refuses the signal is reported in the end, because it is still there.
        with contextlib.suppress(PermissionError):
            proc.send(process, *signals)
