"""Calls to providers: async and plain methods, limits, timeouts, batches, and invalid results."""

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
from pyinfrakit.events import EventLog
from pyinfrakit.instance.calls import CallLimits, Calls
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine, Provider
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import FileStore
from pyinfrakit.store.records import Records
from support.harness import PATIENCE, until


class Plain(Provider):
    """A provider with plain methods and machines in a dict. A test may replace any method through `instead`."""

    def __init__(self, folder: Path) -> None:
        super().__init__("plain", folder)
        self.machines: dict[str, Machine] = {}
        self.calls: list[tuple[str, ...]] = []
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()
        self.instead: dict[str, Callable[..., Any]] = {}

    def _do(self, method: str, ids: Sequence[str], default: Callable[[], Any], *arguments: Any) -> Any:
        with self._lock:
            self.calls.append((method, *ids))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            return self.instead[method](*arguments) if method in self.instead else default()
        finally:
            with self._lock:
                self.running -= 1

    def provision(self, id: str, spec: Spec) -> Any:
        return self._do("provision", [id], lambda: self.machines.setdefault(id, Machine(id, f"plain-{id}")), id)

    def destroy(self, instances: Sequence[Record], reason: str) -> Any:
        return self._do("destroy", [i.id for i in instances], lambda: self._remove(instances), instances)

    def _remove(self, instances: Sequence[Record]) -> None:
        for instance in instances:
            self.machines.pop(instance.id, None)

    def observe(self) -> Any:
        return self._do("observe", [], lambda: list(self.machines.values()))

    def find_ids(self, method: str) -> list[str]:
        return [id for name, *ids in self.calls if name == method for id in ids]


class Batching(Plain):
    batch = 10


Test = Callable[[Plugin, Any], Awaitable[None]]


def with_plugin(folder: Path, provider: Provider, test: Test, **settings: Any) -> None:
    """Run *test* on a plugin with *provider*, and check that the plugin stops in time."""

    async def run() -> None:
        with FileStore(folder / "state.json", "a test") as store:
            plugin = Plugin(store, provider, "rack1", EventLog(), **{"interval": 0.05, "wait": 5, **settings})
            await plugin.start()
            try:
                await test(plugin, provider)
            finally:
                async with asyncio.timeout(PATIENCE):
                    await plugin.stop(0.2)

    asyncio.run(run())


def make_record(id: str) -> Record:
    return Record(id=id, state=State.DESTROYING, spec=Spec())


def make_calls(provider: Provider, limits: CallLimits = CallLimits()) -> Calls:
    return Calls(provider, limits, Records())


# --- Plain methods


def test_a_plain_provider_is_as_good_as_an_async_one(tmp_path: Path) -> None:
    """A provider with plain methods provisions, is observed and destroys like an async one."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())
        await until(lambda: plugin.records[id].handle == f"plain-{id}")
        await until(lambda: plugin.observed is not None)
        await plugin.destroy(id, "terminate")
        await until(lambda: not plugin.records and not provider.machines)

    with_plugin(tmp_path, Plain(tmp_path), test)


def test_plain_methods_run_in_parallel(tmp_path: Path) -> None:
    """Ten blocking provisions wait in parallel, and the plugin still answers."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead["provision"] = lambda id: gate.wait(PATIENCE) and None
        tasks = [asyncio.create_task(plugin.provision(Spec())) for _ in range(10)]
        await until(lambda: provider.running >= 10)
        assert 10 == len(plugin.records)
        gate.set()
        assert 10 == len({await each for each in tasks})

    with_plugin(tmp_path, Plain(tmp_path), test)


RESULTS: Mapping[str, tuple[Callable[[str], Any], str | None]] = {
    "None": (lambda id: None, None),
    "a handle": (lambda id: "h-1", "h-1"),
    "a machine": (lambda id: Machine(id, "h-2", properties={"power": "on"}), "h-2"),
    "a coroutine": (lambda id: asyncio.sleep(0, "h-3"), "h-3"),
}


@pytest.mark.parametrize("result", RESULTS)
def test_a_provision_returns_a_machine_its_handle_or_nothing(tmp_path: Path, result: str) -> None:
    """A provision may return a machine, a handle or None; each makes the instance ready."""
    answer, handle = RESULTS[result]

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead = {"provision": answer, "observe": lambda: 1 / 0}
        id = await plugin.provision(Spec())
        await until(lambda: plugin.records[id].state is State.READY)
        assert handle == plugin.records[id].handle

    with_plugin(tmp_path, Plain(tmp_path), test)


def generate() -> Iterator[Machine]:
    assert threading.current_thread() is not threading.main_thread()
    yield Machine("a")


async def generate_async() -> Any:
    yield Machine("a")


@pytest.mark.parametrize("answer", [lambda: [Machine("a")], lambda: (Machine("a"),), generate, generate_async])
def test_an_observation_is_any_iterable_of_machines(tmp_path: Path, answer: Callable[[], Any]) -> None:
    """An observation may be any iterable of machines; a plain generator runs in its own thread."""
    provider = Plain(tmp_path)
    provider.instead["observe"] = answer
    assert ["a"] == list(asyncio.run(make_calls(provider).observe()))


def test_two_machines_with_one_id_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If a copied machine has its original's ID, the first one counts and the log reports the duplicate once."""
    provider = Plain(tmp_path)
    provider.instead["observe"] = lambda: [Machine("a", "one"), Machine("b", "two"), Machine("a", "copy")]

    async def test() -> None:
        calls = make_calls(provider)
        for _ in range(2):
            assert {"a": "one", "b": "two"} == {id: machine.handle for id, machine in (await calls.observe()).items()}

    asyncio.run(test())
    assert ["a: several machines of the provider have this ID: one, copy; only the first one is managed"] == [
        each.message for each in caplog.records
    ]


# --- Errors


class Wordless(Exception):
    def __str__(self) -> str:
        raise AttributeError("code")


class Apart(BaseException):
    """A `BaseException`, like the timeouts of some libraries."""


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
def test_any_exception_becomes_an_error_of_the_package(tmp_path: Path, raised: str, is_async: bool) -> None:
    """Any exception of a provider becomes a `PyInfrakitError`, even one that could end the process."""
    error, message = RAISED[raised]

    class Raising(Plain):
        def observe(self) -> Any:
            raise error

    class RaisingLater(Plain):
        async def observe(self) -> Any:
            raise error

    provider = (RaisingLater if is_async else Raising)(tmp_path)
    with pytest.raises(PyInfrakitError, match=message):
        asyncio.run(make_calls(provider).observe())


def test_try_again_says_when(tmp_path: Path) -> None:
    """The plugin retries after the seconds that `TryAgain` names rather than after its usual pause."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())

        def raise_busy(instances: Sequence[Record]) -> None:
            if provider.find_ids("destroy").count(id) < 20:
                raise TryAgain("busy", after=0)
            del provider.instead["destroy"], provider.machines[id]

        provider.instead["destroy"] = raise_busy
        await plugin.destroy(id, "terminate")
        await until(lambda: not plugin.records)
        assert 20 == provider.find_ids("destroy").count(id)

    with_plugin(tmp_path, Plain(tmp_path), test)


def test_retries_after_zero_seconds_still_pause(tmp_path: Path) -> None:
    """Retries pause even if a provider always asks for a retry in 0 seconds."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())

        def raise_busy(instances: Sequence[Record]) -> None:
            raise TryAgain("busy", after=0)

        provider.instead["destroy"] = raise_busy
        await plugin.destroy(id, "terminate")
        await until(lambda: plugin.last_failure(id) == "busy")

    with_plugin(tmp_path, Plain(tmp_path), test)


@pytest.mark.parametrize("after", ["5", float("nan")])
def test_an_invalid_retry_time_is_a_bug(tmp_path: Path, after: Any) -> None:
    """An invalid number of seconds is reported as the provider's bug, and the plugin retries the call."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())

        def raise_invalid(instances: Sequence[Record]) -> None:
            del provider.instead["destroy"]
            raise TryAgain("busy", after=after)

        provider.instead["destroy"] = raise_invalid
        await plugin.destroy(id, "terminate")
        await until(lambda: "expected a number of seconds, or None, as after" in plugin.last_failure(id))
        await until(lambda: not plugin.records)

    with_plugin(tmp_path, Plain(tmp_path), test)


# --- Limits


def test_calls_of_one_method_have_a_limit(tmp_path: Path) -> None:
    """At most four of thirty provisions run at once if the limit is four, and all complete."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead["provision"] = lambda id: time.sleep(0.01)
        provider.instead["observe"] = list
        await asyncio.gather(*(plugin.provision(Spec()) for _ in range(30)))
        assert 30 == len(set(provider.find_ids("provision")))
        assert provider.most_running <= 5  # An observation may run as well.

    with_plugin(tmp_path, Plain(tmp_path), test, call_limits=CallLimits(at_once=4), interval=60, wait=60)


def test_hanging_calls_do_not_starve_other_methods(tmp_path: Path) -> None:
    """A destroy and an observation complete while all provisions hang."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        id = await plugin.provision(Spec())
        provider.instead["provision"] = lambda id: gate.wait(PATIENCE) and None
        hanging = [asyncio.create_task(plugin.provision(Spec())) for _ in range(5)]
        await until(lambda: provider.running >= 2)
        await plugin.destroy(id, "terminate")
        await until(lambda: id not in provider.machines)
        seen = plugin.observed
        await until(lambda: plugin.observed != seen)
        gate.set()
        await asyncio.gather(*hanging)

    with_plugin(tmp_path, Plain(tmp_path), test, call_limits=CallLimits(at_once=2))


def test_late_calls_make_room_for_others(tmp_path: Path) -> None:
    """Late calls free their places for other calls of the same method, and the plugin lists them."""
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
    """No second provision or destroy starts before a hanging provision ends, and its result counts."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        provider.instead["provision"] = lambda id: gate.wait(PATIENCE) and provider.machines.setdefault(id, Machine(id))
        id = await plugin.provision(Spec())
        await until(lambda: bool(plugin.late_calls and provider.find_ids("provision")))
        await plugin.destroy(id, "terminate")
        await asyncio.sleep(0.3)
        assert [id] == provider.find_ids("provision")
        assert [] == provider.find_ids("destroy")
        gate.set()
        await until(lambda: not plugin.records)
        assert {} == provider.machines

    with_plugin(tmp_path, Plain(tmp_path), test, call_limits=CallLimits(timeout=0.1), wait=0)


class Async(Plain):
    """A provider whose first provision hangs, and takes time to be cancelled."""

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


def test_a_late_async_call_is_cancelled_and_repeated(tmp_path: Path) -> None:
    """A late async call is cancelled, and its repeat starts only after it has ended."""

    async def test(plugin: Plugin, provider: Async) -> None:
        id = await plugin.provision(Spec())
        await until(lambda: plugin.records[id].state is State.READY)
        assert [id, id] == provider.find_ids("provision")

    with_plugin(tmp_path, Async(tmp_path), test, call_limits=CallLimits(timeout=0.1), wait=0)


@pytest.mark.parametrize("method", ["provision", "destroy", "observe"])
def test_a_stop_does_not_wait_for_hanging_threads(tmp_path: Path, method: str) -> None:
    """A stop completes although a method hangs, and the next start finds every record in a valid file."""
    gate = threading.Event()

    async def test(plugin: Plugin, provider: Plain) -> None:
        kept = await plugin.provision(Spec())
        provider.instead[method] = lambda *_: gate.wait(PATIENCE) and None
        if method == "destroy":
            await plugin.destroy(kept, "terminate")
        if method == "provision":
            await plugin.provision(Spec())
        await until(lambda: provider.running > 0)

    provider = Plain(tmp_path)
    with_plugin(tmp_path, provider, test, wait=0.1)
    gate.set()
    with FileStore(tmp_path / "state.json", "the next") as store:
        assert set(provider.find_ids("provision")) == {record.id for record in store.records}


def test_the_stop_of_a_provider_has_a_time_limit(tmp_path: Path) -> None:
    """A plugin abandons a provider's `stop` that hangs."""
    gate = threading.Event()

    class NeverStops(Plain):
        def stop(self) -> None:
            gate.wait(PATIENCE)

    async def test(plugin: Plugin, provider: Plain) -> None:
        assert await plugin.provision(Spec())

    with_plugin(tmp_path, NeverStops(tmp_path), test)
    gate.set()


def test_an_observation_that_a_stop_cancels_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stop cancels the observation and ignores any exception from it."""

    class EndsBadly(Plain):
        async def observe(self) -> Any:
            self.calls.append(("observe",))
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                self.calls.append(("end",))
                raise TryAgain("ended")

    async def test(plugin: Plugin, provider: EndsBadly) -> None:
        await until(lambda: bool(provider.calls))

    provider = EndsBadly(tmp_path)
    with_plugin(tmp_path, provider, test)
    gc.collect()
    assert [("observe",), ("end",)] == provider.calls
    assert "ended" not in caplog.text


def test_a_provider_that_failed_to_start_is_not_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If `start` raises, `stop` is not called, so no second error hides the reason."""

    class NeverStarts(Plain):
        def start(self) -> None:
            raise CannotStart("no such rack")

        def stop(self) -> None:
            raise AttributeError("session")

    async def start() -> None:
        with FileStore(tmp_path / "state.json", "a test") as store:
            plugin = Plugin(store, NeverStarts(tmp_path), "rack1", EventLog())
            with pytest.raises(CannotStart, match="no such rack"):
                await plugin.start()
            await plugin.stop(0.2)

    asyncio.run(start())
    assert [] == caplog.messages


# --- Destroys in batches


def test_simultaneous_destroys_form_batches(tmp_path: Path) -> None:
    """Thirty simultaneous destroys form batches of at most ten, and failed ones are retried."""

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
        counted = [len(ids) for name, *ids in provider.calls if name == "destroy"]
        assert max(counted) == 10
        del provider.instead["destroy"]
        await until(lambda: not plugin.records)

    with_plugin(tmp_path, Batching(tmp_path), test)


def test_a_failed_batch_is_retried_entirely(tmp_path: Path) -> None:
    """If a batch fails, none of its instances counts as gone."""

    async def test() -> None:
        provider = Batching(tmp_path)
        provider.instead["destroy"] = lambda instances: 1 / 0
        calls = make_calls(provider)
        outcomes = await asyncio.gather(
            *(calls.destroy(make_record(id), "terminate") for id in "abc"), return_exceptions=True
        )
        assert [TryAgain] * 3 == [type(each) for each in outcomes]
        assert [("destroy", "a", "b", "c")] == provider.calls

    asyncio.run(test())


def test_a_batch_has_one_reason(tmp_path: Path) -> None:
    """Destroys with different reasons go into different batches."""

    async def test() -> None:
        provider = Batching(tmp_path)
        calls = make_calls(provider)
        await asyncio.gather(
            *(calls.destroy(make_record(id), reason) for id, reason in (("a", "x"), ("b", "y"), ("c", "x")))
        )
        assert {("destroy", "a", "c"), ("destroy", "b")} == set(provider.calls)

    asyncio.run(test())


@pytest.mark.parametrize("answer", [5, ["a"], {"a": "an error"}, {"handle of a": GiveUp("stuck")}])
def test_a_destroy_with_an_invalid_result_is_retried(tmp_path: Path, answer: Any) -> None:
    """An invalid result of `destroy` is reported as a bug, and the instance is not gone."""
    provider = Plain(tmp_path)
    provider.instead["destroy"] = lambda instances: answer
    with pytest.raises(TryAgain, match="expected None, or exceptions by ID"):
        asyncio.run(make_calls(provider).destroy(make_record("a"), "terminate"))


# --- False observations


def test_a_false_observation_loses_no_record(tmp_path: Path) -> None:
    """If a provider denies all its machines at once, the losses are held and no record is dropped."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        ids = {await plugin.provision(Spec()) for _ in range(10)}
        seen = plugin.observed
        # An observation that began earlier lacks some machines, and would count as their first loss.
        await until(lambda: plugin.observed != seen)
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
    ("provider_class", "properties", "message"),
    [
        (Checked, Raw(b'{"size": "two"}'), 'Properties.size: expected an integer, got "two"'),
        (Checked, Raw(b'{"size": 1, "sise": 2}'), "sise"),
        (Checked, None, "Properties: missing required field size"),
        (OwnCheck, None, "Properties: expected some"),
    ],
)
def test_invalid_properties_are_refused_before_anything_is_recorded(
    tmp_path: Path, provider_class: type[Plain], properties: Raw | None, message: str
) -> None:
    """Properties are checked against their type or by the provider's own `validate` before anything is recorded."""

    async def test(plugin: Plugin, provider: Plain) -> None:
        with pytest.raises(InvalidSpec, match=message):
            await plugin.provision(Spec(properties=properties))
        assert [] == list(plugin.records)
        assert [] == provider.find_ids("provision")

    with_plugin(tmp_path, provider_class(tmp_path), test)
