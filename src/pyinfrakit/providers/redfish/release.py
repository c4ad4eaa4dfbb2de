"""Power a machine on and off, and return it to the pool: power off, clean, and take the claim away."""

import contextlib
import logging
import os
import tempfile
import threading
import time
from pathlib import Path

from pyinfrakit import paths
from pyinfrakit.child import Child
from pyinfrakit.errors import CannotStart, TryAgain
from pyinfrakit.locks import acquire
from pyinfrakit.providers.redfish.bmc import BmcRefusal, TagConflict
from pyinfrakit.providers.redfish.claims import CLEANING, Claim, Claims, Owner
from pyinfrakit.providers.redfish.media import DiscFolder
from pyinfrakit.providers.redfish.options import Options
from pyinfrakit.providers.redfish.pool import RackMachine

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
"""Seconds between reads of a status in which the power should change."""

QUOTE = 300
"""Characters of the cleaning command's output in an error: the last ones, which usually hold the problem."""


class PowerFailure(TryAgain):
    """A machine did not power on or off in time."""


class Power:
    """Changes machines' power and verifies it: some BMCs accept a request and then ignore it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._is_stopping = threading.Event()

    def stop(self) -> None:
        """End all waits. The next start repeats their calls."""
        self._is_stopping.set()

    def turn_on(self, machine: RackMachine) -> None:
        """Power a machine on. Raise `PowerFailure` if it stays off."""
        if not machine.read_status().is_on:
            machine.bmc.reset(machine.entry, "On")
            self._verify(machine, True, "still off {} s after On: check its power supply, or press its button")

    def turn_off(self, machine: RackMachine) -> None:
        """Let a machine shut down, or else force it off. Raise `PowerFailure` if it stays on."""
        if not machine.read_status().is_on:
            return
        try:
            machine.bmc.reset(machine.entry, "GracefulShutdown")
        except BmcRefusal as error:
            # Some BMCs can't, and others refuse while no operating system runs.
            log.info("%s; forcing it off", error)
        else:
            if self._wait(machine, False, self._options.graceful_timeout):
                return
        machine.bmc.reset(machine.entry, "ForceOff")
        self._verify(machine, False, "still on {} s after ForceOff: switch it off by hand, or at its PDU")

    def _verify(self, machine: RackMachine, is_on: bool, problem: str) -> None:
        seconds = self._options.power_timeout
        if not self._wait(machine, is_on, seconds):
            raise PowerFailure(f"{machine.title}: {problem.format(f'{seconds:g}')}")

    def _wait(self, machine: RackMachine, is_on: bool, seconds: float) -> bool:
        """Return whether the power changed in time. Raise `TryAgain` if the plugin stops."""
        deadline, wait = time.monotonic() + seconds, FIRST_WAIT
        while machine.read_status().is_on is not is_on:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._is_stopping.wait(min(wait, left)):
                raise TryAgain(f"{machine.title}: the plugin is stopping; its next start continues")
            wait = min(LONGEST_WAIT, wait * 1.5)
        return True


class Cleaning:
    """The operator's command that has to succeed before a machine is free again."""

    def __init__(self, options: Options, folder: Path) -> None:
        """Check the command; raise `CannotStart`. *folder* is for locks."""
        self._command = options.cleaning or []
        path = Path(self._command[0]) if self._command else Path()
        if not path.is_absolute() or not os.access(path, os.X_OK):
            raise CannotStart(f"cleaning: expected the full path of an executable, got {str(path)!r}")
        paths.check_trusted(path)
        self._timeout = options.cleaning_timeout
        self._folder = folder

    def run(self, machine: RackMachine, id: str) -> None:
        """Run the command for an instance's machine. Raise `TryAgain` if it fails."""
        if problem := self._run(machine, id):
            subject = f"{machine.title}: cleaning by {self._command[0]}"
            raise TryAgain(f"{subject} {problem}; the machine is not free until its cleaning succeeds")

    def _run(self, machine: RackMachine, id: str) -> str:
        """Return the problem, or an empty string."""
        # Nothing else, because the plugin's own environment holds credentials.
        environment = {"PATH": os.defpath, "MACHINE": machine.name, "INSTANCE": id}
        environment |= {"BMC": machine.bmc.address, "SYSTEM": machine.entry.system or ""}
        # The command goes on if the plugin is killed. Therefore it inherits its lock, which tells the next start that
        # it still runs, and it writes to a file: a pipe would break.
        with tempfile.TemporaryFile() as output, (self._folder / f"{machine.name}.cleaning").open("ab") as lock:
            if not acquire(lock.fileno()):
                return "is still running, from before the last restart of the plugin"
            try:
                child = Child(self._command, environment, output=output.fileno(), pass_fds=[lock.fileno()])
                # The whole group is killed: a disk must not be wiped after its machine has a new instance.
                status = child.finish(self._timeout, kill_group=True)
            except TryAgain as error:
                return str(error)
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - 4 * QUOTE))  # a character takes up to 4 bytes
            text = " ".join(output.read().decode(errors="replace").split())[-QUOTE:]
            return f"failed with status {status}: {text or 'no output'}" if status else ""


class Release:
    """Returns machines to the pool. Each step may be repeated after a crash. The mark goes last, so none gets lost."""

    def __init__(self, claims: Claims, power: Power, discs: DiscFolder | None, cleaning: Cleaning | None) -> None:
        self._claims = claims
        self._power = power
        self._discs = discs
        self._cleaning = cleaning

    def release(self, id: str, machine: RackMachine | None, claim: Claim) -> None:
        """Release an instance's machine, unless it has none or another instance claims it by now."""
        with contextlib.nullcontext() if machine is None else machine.work_lock:
            if machine is not None:
                machine.read_status()
                if machine.is_owned_by(claim.mark, id):
                    self._restore(machine, claim)
                    if self._cleaning is not None:
                        _write_tag(id, machine, claim, Owner(claim.mark, id, CLEANING).tag)
                        self._cleaning.run(machine, id)
                        # The command may have booted the machine, from media of its own.
                        self._restore(machine, claim)
                    _write_tag(id, machine, claim, claim.tag)
            if claim.image and self._discs is not None:
                self._discs.remove(claim.image)
            self._claims.remove(id)

    def _restore(self, machine: RackMachine, claim: Claim) -> None:
        """Power a machine off, and restore its settings from before the claim, if they are known."""
        self._power.turn_off(machine)
        machine.bmc.eject(machine.entry)
        if claim.boot_enabled or claim.boot:
            machine.bmc.set_boot(machine.entry, claim.boot, claim.boot_enabled)


def _write_tag(id: str, machine: RackMachine, claim: Claim, tag: str) -> None:
    """Write an asset tag, unless another instance claims the machine by now."""
    for _ in range(3):  # another program may change the machine at the same time
        status = machine.read_status()
        if not machine.is_owned_by(claim.mark, id):
            return
        try:
            machine.bmc.write_tag(machine.entry, tag, status.etag)
        except TagConflict:
            continue
        machine.read_status()
        return
    raise TryAgain(f"{machine.title}: it changes before its asset tag can be written: stop the other program")
