"""The health of an instance's machine: it works, it does not and why, or its health is unknown now."""

import time
from collections.abc import Container
from typing import Any

from msgspec.structs import replace

from pyinfrakit.errors import TryAgain
from pyinfrakit.provider import Machine
from pyinfrakit.providers.redfish.claims import CLEANING, Claim, Claims
from pyinfrakit.providers.redfish.options import Options
from pyinfrakit.providers.redfish.pool import CRITICAL, RackMachine

SAME_FAILURE = 600.0
"""Seconds after a power cycle. A failure within this time counts as the same one, and causes no second power cycle."""


class Health:
    """Judges machines by their last status, and power-cycles them once if the operator has chosen that."""

    def __init__(self, options: Options, claims: Claims, mark: str) -> None:
        self._options = options
        self._claims = claims
        self._mark = mark
        self._start = time.monotonic()

    def judge(self, id: str, claim: Claim, machine: RackMachine | None, ready: Container[str]) -> Machine | None:
        """Return an instance's machine; None if it belongs to no instance now. Only *ready* ones are power-cycled."""
        if machine is None:
            reason = f"machine {claim.machine} is not in the inventory: restore it there, or destroy this instance"
            return Machine(id, claim.machine, functional=False, reason=reason)
        if machine.trouble or machine.status is None:
            return self._judge_unreachable(id, machine)
        if (owner := machine.owner) is None:
            return None
        if (owner.mark, owner.id) != (self._mark, id):
            problem = f"claimed twice: its asset tag names {owner.id} of the plugin with mark {owner.mark}"
            return _report_failure(id, machine, f"{problem}; destroy this instance, which does not touch the machine")
        if reason := "being cleaned" if owner.phase == CLEANING else machine.entry.aside:
            return _report_failure(id, machine, reason)
        if machine.status.health == CRITICAL:
            return self._judge_failure(id, claim, machine, "its health is Critical: see its BMC's log", ready)
        if not machine.status.is_on:
            return self._judge_failure(id, claim, machine, "it is off, but should be on", ready)
        return Machine(id, machine.name, properties=describe(machine))

    def _judge_unreachable(self, id: str, machine: RackMachine) -> Machine:
        limit = self._options.unreachable_after
        # The time before this start does not count: nobody has tried to reach the machine.
        if time.monotonic() - max(machine.read_at, self._start) < limit:
            return Machine(id, machine.name, unknown=True)
        trouble = machine.trouble or "no poll has reached it"
        return _report_failure(id, machine, f"no status for more than {limit:g} s: {trouble}")

    def _judge_failure(
        self, id: str, claim: Claim, machine: RackMachine, problem: str, ready: Container[str]
    ) -> Machine:
        if not self._options.power_cycle or id not in ready:
            return _report_failure(id, machine, problem)
        # On the wall clock, because it has to survive a restart of the plugin.
        age = time.time() - claim.cycled
        if age < self._options.power_timeout:
            return Machine(id, machine.name, unknown=True)
        if age < max(SAME_FAILURE, 2 * self._options.power_timeout):
            return _report_failure(id, machine, f"{problem}, also after a power cycle")
        # Unless it is being set up or released: that may explain the failure.
        if machine.work_lock.acquire(blocking=False):
            try:
                return self._cycle(id, machine, problem, ready)
            finally:
                machine.work_lock.release()
        return Machine(id, machine.name, unknown=True)

    def _cycle(self, id: str, machine: RackMachine, problem: str, ready: Container[str]) -> Machine:
        # It may have been released or set aside since.
        if (claim := self._claims.find(id)) is not None and id in ready:
            # Recorded first, because a crash in between must not lead to a second power cycle.
            self._claims.save(id, replace(claim, cycled=time.time()))
            try:
                machine.bmc.reset(machine.entry, "ForceRestart" if machine.status and machine.status.is_on else "On")
            except TryAgain as error:
                return _report_failure(id, machine, f"{problem}, and the power cycle failed: {error}")
        return Machine(id, machine.name, unknown=True)


def describe(machine: RackMachine) -> dict[str, Any]:
    """Return the live properties of a machine."""
    fields = ("power", "health", "model", "serial", "boot")
    report = {field: getattr(machine.status, field) for field in fields if machine.status is not None}
    return {"machine": machine.name, "bmc": machine.bmc.address, **report, "tags": machine.entry.tags}


def _report_failure(id: str, machine: RackMachine, reason: str) -> Machine:
    return Machine(id, machine.name, functional=False, reason=reason, properties=describe(machine))
