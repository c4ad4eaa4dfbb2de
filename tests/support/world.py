"""A small world for plans: machines, their plugins, and a controller that forgets. Pure, with a clock of ticks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Raw, Struct

from pyinfrakit.errors import InvalidSpec, Refused
from pyinfrakit.group.flavors import Health
from pyinfrakit.group.plan import plan
from pyinfrakit.group.rollout import Rollout
from pyinfrakit.group.situation import (
    Action,
    Adopt,
    Asked,
    Config,
    Create,
    Destroy,
    Member,
    MemberState,
    Plan,
    SetAside,
    Situation,
)
from pyinfrakit.group.spec import GroupSpec, parse
from pyinfrakit.group.status import Phase

MIN_READY = 2
DEADLINE = 12
CRASH_TIME = 4


class Latency(Struct, frozen=True):
    """How many ticks things take: until a machine is described, runs, and is healthy; and until one is gone."""

    describe: int = 0
    boot: int = 0
    warm: int = 0
    drain: int = 0
    leave: int = 0


class Machine(Struct):
    """A machine. *version* is the number of its configuration, or None if it is to be adopted."""

    id: str
    pool: str
    logical_id: str | None
    version: int | None
    born: int
    latency: Latency
    is_sick: bool = False
    is_aside: bool = False
    is_by_hand: bool = False
    leaves: int | None = None

    def describe(self, now: int) -> MemberState | None:
        """Return the state that its plugin shows, or None if it shows nothing."""
        if self.leaves is not None:
            return MemberState.LEAVING
        if now < self.born + self.latency.describe:
            return None
        if self.is_aside:
            return MemberState.FAILED
        return MemberState.CREATING if now < self.runs else MemberState.RUNNING

    @property
    def runs(self) -> int:
        return self.born + self.latency.describe + self.latency.boot


class Memory:
    """What the controller knows of members, and loses in a restart."""

    def __init__(self, now: int) -> None:
        self.started = now
        self.seen: dict[str, int] = {}
        self.versions: dict[str, int | None] = {}
        self.healthy: dict[str, int] = {}
        self.proven: set[str] = set()
        self.excused: set[str] = set()
        self.asked: set[str] = set()
        self.described: set[str] = set()
        self.draining: dict[str, int] = {}
        self.ended: set[str] = set()
        self.short_since: int | None = None
        self.failure = ""
        self.crashes = 0
        self.rest_until = 0


class World:
    """A group and its machines.

    *settings* are the group's properties but for its allocation. *bad* maps versions to what is wrong with
    them: members of that configuration are ``sick``, ``mute`` (never healthy), or ``dead`` soon.
    """

    def __init__(
        self, size: int, settings: Mapping[str, Any], latency: Latency, logical_ids: Sequence[str] = ()
    ) -> None:
        self.now = 0
        self.settings = dict(settings)
        self.allocation: dict[str, Any] = {"LogicalIDs": list(logical_ids)} if logical_ids else {"Size": size}
        self.version = 1
        self.bad: dict[int, str] = {}
        self.latency = latency
        self.machines: dict[str, Machine] = {}
        self.count = 0
        self.down: set[str] = set()
        self.full: set[str] = set()
        self.blind = False
        self.protected: set[str] = set()
        self.is_ending = False
        self.rollout = Rollout()
        self.memory = Memory(0)
        self.room: int | None = None
        self.spec = self.read(1)

    def read(self, version: int, allocation: Mapping[str, Any] | None = None) -> GroupSpec:
        properties = {**self.settings, "Allocation": allocation or self.allocation}
        return parse("g", Raw(json.dumps(properties).encode()))

    # --- The machines

    def advance(self) -> None:
        """Let one tick pass."""
        self.now += 1
        for machine in list(self.machines.values()):
            is_bad = self.bad.get(machine.version or 0)
            has_left = machine.leaves is not None and self.now >= machine.leaves
            if has_left or (is_bad == "dead" and self.now > machine.runs + 1 and machine.pool not in self.down):
                del self.machines[machine.id]
            elif is_bad == "sick" and self.now >= machine.runs:
                machine.is_sick = True

    def check(self, machine: Machine) -> Health:
        """Return what the health checks say of a running machine."""
        if self.blind or self.now < machine.runs + machine.latency.warm or self.now <= self.memory.started:
            return Health.UNKNOWN
        if self.bad.get(machine.version or 0) == "mute":
            return Health.UNKNOWN
        return Health.UNHEALTHY if machine.is_sick else Health.HEALTHY

    def find(self, place: int) -> Machine | None:
        """Return one of the machines that are here."""
        here = [m for m in self.machines.values() if m.leaves is None]
        return here[place % len(here)] if here else None

    # --- The operator

    def commit(self, bad: str = "") -> None:
        """Commit another configuration."""
        worked = (
            _write(self.version) if self.rollout.phase is Phase.IDLE and self.rollout.previous is not None else None
        )
        self.version += 1
        self.bad[self.version] = bad
        self._begin(worked)

    def undo(self) -> None:
        """Commit the configuration that last worked."""
        if self.rollout.previous is not None:
            self.version = int(bytes(self.rollout.previous))
            self._begin(None)

    def _begin(self, worked: Raw | None) -> None:
        if any(m.version not in (None, self.version) for m in self.machines.values()):
            self._turn(self.rollout.begin("g", worked, self.now))

    def allocate(self, allocation: Mapping[str, Any]) -> None:
        """Commit another size, or other logical IDs. One that the group can't have is refused."""
        try:
            self.spec = self.read(self.version, allocation)
        except InvalidSpec:
            return
        self.allocation = dict(allocation)

    def order(self, verb: str) -> None:
        """Pause, resume or abort the update; what makes no sense is refused."""
        try:
            match verb:
                case "pause":
                    self._turn(self.rollout.pause("g", "paused by hand", self.now))
                case "resume":
                    self._turn(self.rollout.resume("g", self.now))
                case _:
                    self._turn(self.rollout.abort("g", "aborted by hand", self.now))
        except Refused:
            return

    def _turn(self, rollout: Rollout) -> None:
        if rollout is self.rollout:
            return
        if rollout.phase is Phase.ROLLING:
            self.memory.excused |= set(self.memory.seen) - self.memory.proven
        self.rollout = rollout
        self.memory.short_since = None
        self.memory.failure = ""
        self.memory.crashes = 0
        self.memory.rest_until = 0

    # --- The controller

    def restart(self) -> None:
        """Lose all memory, as a controller that is killed does; its record stays."""
        self.memory = Memory(self.now)

    def observe(self) -> Situation:
        """Return the situation as the controller sees it, and remember what it must."""
        memory = self.memory
        self._find_losses()
        members = [member for machine in self.machines.values() if (member := self._judge(machine))]
        memory.described |= {pool.plugin for pool in self.spec.pools} - self.down
        memory.asked = {id for id in memory.asked if id in self.machines and id not in memory.seen}
        here = sum(m.state not in (MemberState.FAILED, MemberState.LEAVING) for m in members)
        if here >= self.spec.size:
            memory.short_since = None
        elif memory.short_since is None:
            memory.short_since = self.now
        closed = dict.fromkeys(sorted(self.full), "no capacity")
        closed |= dict.fromkeys(sorted(self.down), "plugin is down")
        if memory.started and self.now <= memory.started + self.latency.describe:
            closed = dict.fromkeys(
                [pool.plugin for pool in self.spec.pools], "calls of an earlier run may be under way"
            )
        return Situation(
            spec=self.spec,
            members=members,
            asked=[self._ask(self.machines[id]) for id in sorted(memory.asked)],
            phase=self.rollout.phase,
            phase_reason=self.rollout.reason,
            closed=closed,
            rest="crash loop" if self.now < memory.rest_until else "",
            room=self.room,
            min_ready=MIN_READY,
            short_for=0 if memory.short_since is None else self.now - memory.short_since,
            failure=memory.failure,
            has_previous=self.rollout.previous is not None,
            is_ending=self.is_ending,
        )

    def _find_losses(self) -> None:
        memory = self.memory
        for id in [id for id in memory.seen if id not in self.machines]:
            if id not in memory.proven and id not in memory.ended and id not in memory.draining:
                self._note_crash()
                if id not in memory.excused and memory.versions[id] == self.version:
                    memory.failure = f"{id} failed: it is gone"
            del memory.seen[id]

    def _note_crash(self) -> None:
        memory = self.memory
        memory.crashes += 1
        memory.rest_until = self.now + min(2 ** (memory.crashes - 1) - 1, 16)

    def _judge(self, machine: Machine) -> Member | None:
        memory, state = self.memory, machine.describe(self.now)
        is_down = machine.pool in self.down
        if state is None or (is_down and machine.id not in memory.seen):
            return None
        if machine.id not in memory.seen:
            memory.seen[machine.id] = self.now
            memory.versions[machine.id] = machine.version
            if self.now <= memory.started:
                memory.proven.add(machine.id)
        health, reason = Health.UNKNOWN, ""
        if is_down:
            state, reason = MemberState.LOST, "plugin is down"
        elif state is not MemberState.LEAVING and machine.id in memory.draining:
            state = MemberState.DRAINING
        elif state is MemberState.RUNNING:
            health = self.check(machine)
        healthy_for = self._prove(machine.id, state, health)
        return Member(
            id=machine.id,
            pool=machine.pool,
            logical_id=machine.logical_id,
            state=state,
            health=health,
            config=self._compare(machine),
            healthy_for=healthy_for,
            age=self.now - memory.seen[machine.id],
            is_proven=machine.id in memory.proven,
            is_excused=machine.id in memory.excused,
            is_protected=machine.id in self.protected,
            is_by_hand=machine.is_by_hand,
            reason=reason,
        )

    def _compare(self, machine: Machine) -> Config:
        if machine.version is None:
            return Config.TO_ADOPT
        return Config.CURRENT if machine.version == self.version else Config.OUTDATED

    def _prove(self, id: str, state: MemberState, health: Health) -> int:
        memory = self.memory
        if state is not MemberState.RUNNING or health is not Health.HEALTHY:
            if state is not MemberState.LOST:
                memory.healthy.pop(id, None)
            return 0
        healthy_for = self.now - memory.healthy.setdefault(id, self.now)
        if healthy_for >= MIN_READY:
            memory.proven.add(id)
        return healthy_for

    def decide(self) -> tuple[Situation, Plan] | None:
        """Return the situation and its plan, after the turns of the rollout that follow from it.

        Return None if a plugin was never described: the controller does not plan then.
        """
        situation = self.observe()
        if any(pool.plugin not in self.memory.described for pool in self.spec.pools):
            return None
        decided = plan(situation)
        if self._advance_rollout(decided):
            situation = self.observe()
            decided = plan(situation)
        return situation, decided

    def _advance_rollout(self, decided: Plan) -> bool:
        rollout = self.rollout
        if self.is_ending:
            return False
        if rollout.phase is Phase.IDLE and decided.is_outdated:
            self._turn(rollout.begin("g", None, self.now))
        elif decided.is_updated:
            self._turn(rollout.finish("g", _write(self.version), self.now))
        elif decided.stop and self._is_undone():
            self.undo()
        elif decided.stop:
            self._turn(rollout.stop("g", decided.stop, self.now))
        return self.rollout is not rollout

    def _is_undone(self) -> bool:
        previous = self.rollout.previous
        wants_undo = self.spec.properties.updating.on_failure == "undo"
        return wants_undo and previous is not None and previous != _write(self.version)

    def act(self, actions: Sequence[Action]) -> None:
        """Carry out actions. Drains begun earlier end, and their machines leave."""
        memory = self.memory
        for action in actions:
            match action:
                case Create():
                    self.create(action.pool, action.logical_id, self._find_version(action))
                case Destroy(id=id):
                    self._note_sick(id)
                    memory.draining[id] = self.now + self.machines[id].latency.drain
                case SetAside(id=id):
                    self._note_sick(id)
                    self.machines[id].is_aside = True
                case Adopt(id=id):
                    self.machines[id].version = self.version
        for id, until in list(memory.draining.items()):
            machine = self.machines.get(id)
            if machine is None:
                del memory.draining[id]
            elif self.now >= until and machine.pool not in self.down:
                del memory.draining[id]
                memory.ended.add(id)
                machine.leaves = self.now + 1 + machine.latency.leave

    def _find_version(self, action: Create) -> int:
        if action.is_previous and self.rollout.previous is not None:
            return int(bytes(self.rollout.previous))
        return self.version

    def _note_sick(self, id: str) -> None:
        machine = self.machines[id]
        if machine.is_sick and id not in self.memory.proven:
            self._note_crash()

    def create(self, pool: str, logical_id: str | None, version: int | None) -> Machine:
        """Add a machine; the controller has asked for it."""
        # As the plugin mints them: each ID sorts before all earlier ones.
        self.count += 1
        machine = Machine(f"{9999 - self.count}", pool, logical_id, version, self.now, self.latency)
        self.machines[machine.id] = machine
        self.memory.asked.add(machine.id)
        return machine

    def _ask(self, machine: Machine) -> Asked:
        return Asked(machine.pool, machine.logical_id, self._compare(machine))


def _write(version: int) -> Raw:
    return Raw(str(version).encode())
