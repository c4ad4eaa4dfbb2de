"""Calls to providers: async and plain ones, limits, time-outs, batches, and what is wrong with what comes back."""

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw, Struct

from pyinfrakit.errors import CannotStart, GiveUp, InvalidSpec, PyInfrakitError, TryAgain
from pyinfrakit.instance.calls import CallLimits, Calls
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import FileStore

PATIENCE = 20.0


class Plain(Provider):
    """Plain methods, with machines in a dict; a test may put itself in the place of any."""

    def __init__(self, folder: Path) -> None:
        super().__init__("plain", folder)
        self.machines: dict[str, Machine] = {}
        self.asked: list[tuple[str, ...]] = []
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        self.instead: dict[str, Callable[..., Any]] = {}

    def _do(self, what: str, ids: Sequence[str], usual: Callable[[], Any], *given: Any) -> Any:
        with self._lock:
            self.asked.append((what, *ids))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self.instead[what](*given) if what in self.instead else usual()
        finally:
            with self._lock:
                self.at_once -= 1

    def provision(self, id: str, spec: Spec) -> Any:
        return self._do("provision", [id], lambda: self.machines.setdefault(id, Machine(id, f"plain-{id}")), id)

    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        return self._do("destroy", [i.id for i in instances], lambda: self._remove(instances), instances)

    def _remove(self, instances: Sequence[Record]) -> None:
        for instance in instances:
            self.machines.pop(instance.id, None)

    def observe(self) -> Any:
        return self._do("observe", [], lambda: list(self.machines.values()))

    def asked_for(self, what: str) -> list[str]:
        return [id for kind, *ids in self.asked if kind == what for id in ids]


class Batching(Plain):
    batch = 10


Test = Callable[[Plugin, Any], Awaitable[None]]


def with_plugin(folder: Path, provider: Provider, test: Test, **settings: Any) -> None:
    """Run *test* on a plugin with *provider*, and stop it in the usual way, which has a bound."""

    async def run() -> None:
        with FileStore(folder / "state.json", "a test") as store:
            plugin = Plugin(store, provider, **{"interval": 0.05, "wait": 5, **settings})
            await plugin.start()
            try:
                await test(plugin, provider)
            finally:
                async with asyncio.timeout(PATIENCE):
                    await plugin.stop(0.2)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def record(id: str) -> Record:
    return Record(id=id, state=State.DESTROYING, spec=Spec())


def calls(provider: Provider, limits: CallLimits = CallLimits()) -> Calls:
    return Calls(provider, limits)


# --- Plain methods


def test_a_plain_provider_is_as_good_as_an_async_one(tmp_path: Path) -> None:
    """It provisions, is observed, and destroys, with what it returned kept."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())
        await until(lambda: plugin.records[id].handle == f"plain-{id}")
        await until(lambda: plugin.observed is not None)
        await plugin.destroy(id, "terminate")
        await until(lambda: not plugin.records and not provider.machines)

    with_plugin(tmp_path, Plain(tmp_path), test)


def test_plain_methods_run_at_once_and_keep_nothing_waiting(tmp_path: Path) -> None:
    """Ten provisions that block wait side by side, while the plugin answers."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead["provision"] = lambda id: gate.wait(PATIENCE) and None
        made = [asyncio.create_task(plugin.provision(Spec())) for _ in range(10)]
        await until(lambda: provider.at_once >= 10)
        assert 10 == len(plugin.records)
        gate.set()
        assert 10 == len({await each for each in made})

    with_plugin(tmp_path, Plain(tmp_path), test)


GIVEN: Mapping[str, tuple[Callable[[str], Any], str | None]] = {
    "None": (lambda id: None, None),
    "a handle": (lambda id: "h-1", "h-1"),
    "a machine": (lambda id: Machine(id, "h-2", properties={"power": "on"}), "h-2"),
    "a coroutine": (lambda id: asyncio.sleep(0, "h-3"), "h-3"),
}


@pytest.mark.parametrize("given", GIVEN)
def test_a_provision_returns_a_machine_its_handle_or_nothing(tmp_path: Path, given: str) -> None:
    """Each makes an instance ready, with the handle if there is one."""
    answer, handle = GIVEN[given]

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead = {"provision": answer, "observe": lambda: 1 / 0}
        id = await plugin.provision(Spec())
        await until(lambda: plugin.records[id].state is State.READY)
        assert handle == plugin.records[id].handle

    with_plugin(tmp_path, Plain(tmp_path), test)


def generated() -> Iterator[Machine]:
    assert threading.current_thread() is not threading.main_thread()
    yield Machine("a")


async def generated_async() -> Any:
    yield Machine("a")


@pytest.mark.parametrize("answer", [lambda: [Machine("a")], lambda: (Machine("a"),), generated, generated_async])
def test_an_observation_is_anything_with_machines_in_it(tmp_path: Path, answer: Callable[[], Any]) -> None:
    """A generator is gone through in its thread."""
    provider = Plain(tmp_path)
    provider.instead["observe"] = answer
    assert ["a"] == list(asyncio.run(calls(provider).observe()))


def test_two_machines_with_one_id_are_told_and_not_confused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copied machine has its original's ID: the first that is given counts, and an operator is told once."""
    provider = Plain(tmp_path)
    provider.instead["observe"] = lambda: [Machine("a", "one"), Machine("b", "two"), Machine("a", "copy")]

    async def test() -> None:
        asking = calls(provider)
        for _ in range(2):
            assert {"a": "one", "b": "two"} == {id: machine.handle for id, machine in (await asking.observe()).items()}

    asyncio.run(test())
    assert ["a: several machines of the provider have this ID: one, copy; only the first one is managed"] == [
        each.message for each in caplog.records
    ]


# --- Errors


class Wordless(Exception):
    def __str__(self) -> str:
        raise AttributeError("code")


class Apart(BaseException):
    """As some libraries' time-outs are."""


RAISED: Mapping[str, tuple[BaseException, str]] = {
    "a bug": (KeyError("fan"), "the provider has a bug: KeyError: 'fan'"),
    "StopIteration": (StopIteration("end"), "the provider has a bug"),
    "an exit": (SystemExit(3), "the provider has a bug: SystemExit: 3"),
    "a cancellation": (asyncio.CancelledError(), "was cancelled from within"),
    "an interrupt": (KeyboardInterrupt(), "the provider has a bug: KeyboardInterrupt"),
    "no usual exception": (Apart("late"), "the provider has a bug: test_calls.Apart: late"),
    "one without a text": (Wordless(), r"the provider has a bug: test_calls.Wordless: <exception str\(\) failed>"),
    "its own": (GiveUp("no room"), "no room"),
}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("raised", RAISED)
def test_whatever_a_method_raises_comes_as_an_error_of_ours(tmp_path: Path, raised: str, is_async: bool) -> None:
    """Also what would end a thread, a generator, or the process."""
    error, says = RAISED[raised]

    class Raising(Plain):
        def observe(self) -> Any:
            raise error

    class RaisingLater(Plain):
        async def observe(self) -> Any:
            raise error

    provider = (RaisingLater if is_async else Raising)(tmp_path)
    with pytest.raises(PyInfrakitError, match=says):
        asyncio.run(calls(provider).observe())


def test_try_again_says_when(tmp_path: Path) -> None:
    """The provider is asked again after as many seconds as it said, and not after the usual pause."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())

        def busy(instances: Sequence[Record]) -> None:
            if provider.asked_for("destroy").count(id) < 20:
                raise TryAgain("busy", after=0)
            del provider.instead["destroy"], provider.machines[id]

        provider.instead["destroy"] = busy
        await plugin.destroy(id, "terminate")
        await until(lambda: not plugin.records)
        assert 20 == provider.asked_for("destroy").count(id)

    with_plugin(tmp_path, Plain(tmp_path), test)


def test_at_once_is_not_without_a_pause(tmp_path: Path) -> None:
    """A provider that always says "again in 0 seconds" is not asked again and again without end."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())

        def busy(instances: Sequence[Record]) -> None:
            raise TryAgain("busy", after=0)

        provider.instead["destroy"] = busy
        await plugin.destroy(id, "terminate")
        await until(lambda: plugin.last_failure(id) == "busy")

    with_plugin(tmp_path, Plain(tmp_path), test)


@pytest.mark.parametrize("after", ["5", float("nan")])
def test_a_time_that_is_none_is_a_bug(tmp_path: Path, after: Any) -> None:
    """What is no number of seconds is told where it is said, and the instance is asked for again."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())

        def wrong(instances: Sequence[Record]) -> None:
            del provider.instead["destroy"]
            raise TryAgain("busy", after=after)

        provider.instead["destroy"] = wrong
        await plugin.destroy(id, "terminate")
        await until(lambda: "expected a number of seconds, or None, as after" in plugin.last_failure(id))
        await until(lambda: not plugin.records)

    with_plugin(tmp_path, Plain(tmp_path), test)


# --- Limits


def test_no_more_calls_of_a_kind_run_than_may(tmp_path: Path) -> None:
    """Thirty provisions with room for four: never a fifth at once, and all are made."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead["provision"] = lambda id: time.sleep(0.01)
        provider.instead["observe"] = list
        await asyncio.gather(*(plugin.provision(Spec()) for _ in range(30)))
        assert 30 == len(set(provider.asked_for("provision")))
        assert provider.most_at_once <= 5  # an observation may be under way

    with_plugin(tmp_path, Plain(tmp_path), test, call_limits=CallLimits(at_once=4), interval=60, wait=60)


def test_calls_that_hang_starve_no_other_kind(tmp_path: Path) -> None:
    """With all provisions hanging, a destroy and an observation go through."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())
        provider.instead["provision"] = lambda id: gate.wait(PATIENCE) and None
        hanging = [asyncio.create_task(plugin.provision(Spec())) for _ in range(5)]
        await until(lambda: provider.at_once >= 2)
        await plugin.destroy(id, "terminate")
        await until(lambda: id not in provider.machines)
        seen = plugin.observed
        await until(lambda: plugin.observed != seen)
        gate.set()
        await asyncio.gather(*hanging)

    with_plugin(tmp_path, Plain(tmp_path), test, call_limits=CallLimits(at_once=2))


def test_calls_that_are_late_make_room_for_others_of_their_kind(tmp_path: Path) -> None:
    """Two that hang, with room for two: the third is made all the same, and which are late is told."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead["provision"] = lambda id: gate.wait(PATIENCE) and None
        hanging = [await plugin.provision(Spec()) for _ in range(2)]
        await until(lambda: {f"provision of {id}" for id in hanging} == plugin.late_calls)
        del provider.instead["provision"]
        third = await plugin.provision(Spec())
        await until(lambda: plugin.records[third].state is State.READY)
        gate.set()
        await until(lambda: all(record.state is State.READY for record in plugin.records))
        assert set() == plugin.late_calls

    with_plugin(tmp_path, Plain(tmp_path), test, call_limits=CallLimits(at_once=2, timeout=0.2), wait=0)


def test_a_late_call_keeps_its_instance_to_itself(tmp_path: Path) -> None:
    """A plain provision that hangs is never joined by a second one, nor by a destroy; what it gives at last counts."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead["provision"] = lambda id: gate.wait(PATIENCE) and provider.machines.setdefault(id, Machine(id))
        id = await plugin.provision(Spec())
        await until(lambda: bool(plugin.late_calls and provider.asked_for("provision")))
        await plugin.destroy(id, "terminate")
        await asyncio.sleep(0.3)
        assert [id] == provider.asked_for("provision")
        assert [] == provider.asked_for("destroy")
        gate.set()
        await until(lambda: not plugin.records)
        assert {} == provider.machines

    with_plugin(tmp_path, Plain(tmp_path), test, call_limits=CallLimits(timeout=0.1), wait=0)


class Async(Plain):
    """Its provision hangs the first time, and takes its time to be cancelled."""

    hung = 0

    async def provision(self, id: str, spec: Spec) -> Any:
        self._do("provision", [id], lambda: None)
        if not self.hung:
            self.hung = 1
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                await asyncio.sleep(0.2)
                self.hung = 2
        assert self.hung == 2
        return self.machines.setdefault(id, Machine(id))


def test_an_async_call_that_is_late_is_cancelled_and_made_again(tmp_path: Path) -> None:
    """The second one begins when the first has really ended."""

    async def test(plugin: Plugin, provider: Async) -> None:
        id = await plugin.provision(Spec())
        await until(lambda: plugin.records[id].state is State.READY)
        assert [id, id] == provider.asked_for("provision")

    with_plugin(tmp_path, Async(tmp_path), test, call_limits=CallLimits(timeout=0.1), wait=0)


@pytest.mark.parametrize("method", ["provision", "destroy", "observe"])
def test_a_stop_waits_for_no_thread_that_hangs(tmp_path: Path, method: str) -> None:
    """Whichever method hangs for ever, the stop ends, the file is whole, and the next start has every record."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        kept = await plugin.provision(Spec())
        provider.instead[method] = lambda *_: gate.wait(PATIENCE) and None
        if method == "destroy":
            await plugin.destroy(kept, "terminate")
        if method == "provision":
            await plugin.provision(Spec())
        await until(lambda: provider.at_once > 0)

    provider = Plain(tmp_path)
    with_plugin(tmp_path, provider, test, wait=0.1)
    gate.set()
    with FileStore(tmp_path / "state.json", "the next") as store:
        assert set(provider.asked_for("provision")) == {record.id for record in store.records}


def test_a_provider_s_own_stop_has_a_bound(tmp_path: Path) -> None:
    """One that hangs is told, and left behind."""
    gate = threading.Event()

    class NeverStops(Plain):
        def stop(self) -> None:
            gate.wait(PATIENCE)

    async def test(plugin: Plugin, provider: Plain) -> None:
        assert await plugin.provision(Spec())

    with_plugin(tmp_path, NeverStops(tmp_path), test)
    gate.set()


def test_an_observation_that_a_stop_ends_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may end by an exception then, to which nobody listens any more."""

    class EndsBadly(Plain):
        async def observe(self) -> Any:
            self.asked.append(("observe",))
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                self.asked.append(("end",))
                raise TryAgain("ended")

    async def test(plugin: Plugin, provider: EndsBadly) -> None:
        await until(lambda: bool(provider.asked))

    provider = EndsBadly(tmp_path)
    with_plugin(tmp_path, provider, test)
    gc.collect()
    assert [("observe",), ("end",)] == provider.asked
    assert "ended" not in caplog.text


def test_what_did_not_start_is_not_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where `start` raised there is nothing to let go of: the reason is told, and no second error hides it."""

    class NeverStarts(Plain):
        def start(self) -> None:
            raise CannotStart("no such rack")

        def stop(self) -> None:
            raise AttributeError("session")

    async def start() -> None:
        with FileStore(tmp_path / "state.json", "a test") as store:
            plugin = Plugin(store, NeverStarts(tmp_path))
            with pytest.raises(CannotStart, match="no such rack"):
                await plugin.start()
            await plugin.stop(0.2)

    asyncio.run(start())
    assert [] == caplog.messages


# --- Destroys in batches


def test_destroys_that_come_at_once_go_in_batches(tmp_path: Path) -> None:
    """Thirty at once are at most ten to a call, each of them in one, with those that are stuck asked for again."""

    async def test(plugin: Plugin, provider: Batching) -> None:
        ids = [await plugin.provision(Spec()) for _ in range(30)]
        stuck = set(ids[3:6])

        def remove(instances: Sequence[Record]) -> Any:
            assert len(instances) <= 10
            for instance in instances:
                if instance.id not in stuck:
                    del provider.machines[instance.id]
            return {id: ValueError("stuck") for id in stuck & {instance.id for instance in instances}}

        provider.instead["destroy"] = remove
        await asyncio.gather(*(plugin.destroy(id, "terminate") for id in ids))
        await until(lambda: stuck == {record.id for record in plugin.records})
        counted = [len(ids) for kind, *ids in provider.asked if kind == "destroy"]
        assert max(counted) == 10
        del provider.instead["destroy"]
        await until(lambda: not plugin.records)

    with_plugin(tmp_path, Batching(tmp_path), test)


def test_a_batch_that_fails_is_made_again_for_all(tmp_path: Path) -> None:
    """None of them is taken for gone."""

    async def test() -> None:
        provider = Batching(tmp_path)
        provider.instead["destroy"] = lambda instances: 1 / 0
        asking = calls(provider)
        outcomes = await asyncio.gather(
            *(asking.destroy(record(id), "terminate") for id in "abc"), return_exceptions=True
        )
        assert [TryAgain] * 3 == [type(each) for each in outcomes]
        assert [("destroy", "a", "b", "c")] == provider.asked

    asyncio.run(test())


def test_only_destroys_for_one_reason_go_together(tmp_path: Path) -> None:
    """The provider is told the reason of each."""

    async def test() -> None:
        provider = Batching(tmp_path)
        asking = calls(provider)
        await asyncio.gather(
            *(asking.destroy(record(id), reason) for id, reason in (("a", "x"), ("b", "y"), ("c", "x")))
        )
        assert {("destroy", "a", "c"), ("destroy", "b")} == set(provider.asked)

    asyncio.run(test())


@pytest.mark.parametrize("answer", [5, ["a"], {"a": "an error"}, {"handle of a": GiveUp("stuck")}])
def test_a_destroy_that_returns_nonsense_has_destroyed_nothing(tmp_path: Path, answer: Any) -> None:
    """It is told as a bug, and the instance is asked for again."""
    provider = Plain(tmp_path)
    provider.instead["destroy"] = lambda instances: answer
    with pytest.raises(TryAgain, match="expected None, or exceptions by ID"):
        asyncio.run(calls(provider).destroy(record("a"), "terminate"))


# --- Lies


def test_a_provider_that_lies_loses_no_record(tmp_path: Path) -> None:
    """One that forgets all its machines at once has all of them held; nothing is dropped."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        ids = {await plugin.provision(Spec()) for _ in range(10)}
        seen = plugin.observed
        await until(
            lambda: plugin.observed != seen
        )  # one that began before all were there would lose some of them sooner
        provider.instead["observe"] = list
        await until(lambda: ids == plugin.held.keys())
        assert ids == {record.id for record in plugin.records}

    with_plugin(tmp_path, Plain(tmp_path), test)


# --- Validation


class Sizes(Struct, forbid_unknown_fields=True):
    size: int


class Checked(Plain):
    Properties = Sizes


class OwnCheck(Plain):
    def validate(self, properties: Raw | None) -> None:
        if properties is None:
            raise InvalidSpec("Properties", "expected some")


@pytest.mark.parametrize(
    ("kind", "properties", "says"),
    [
        (Checked, Raw(b'{"size": "two"}'), 'Properties.size: expected an integer, got "two"'),
        (Checked, Raw(b'{"size": 1, "sise": 2}'), "sise"),
        (Checked, None, "Properties: missing required field size"),
        (OwnCheck, None, "Properties: expected some"),
    ],
)
def test_wrong_properties_are_refused_before_anything_is_recorded(
    tmp_path: Path, kind: type[Plain], properties: Raw | None, says: str
) -> None:
    """By the type of the properties, or by the provider's own check, which may be plain."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        with pytest.raises(InvalidSpec, match=says):
            await plugin.provision(Spec(properties=properties))
        assert [] == list(plugin.records)
        assert [] == provider.asked_for("provision")

    with_plugin(tmp_path, kind(tmp_path), test)
