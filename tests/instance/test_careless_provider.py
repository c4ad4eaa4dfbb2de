"""A provider's mistakes are reported as its bugs, and harm only the call at fault."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from pyinfrakit import ids
from pyinfrakit.errors import GiveUp, InvalidSpec, NoCapacity, PyInfrakitError, StoreFailed, TryAgain
from pyinfrakit.events import EventLog
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine
from pyinfrakit.providers.file import File
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import FileStore, document
from support import harness

until = partial(harness.until, patience=10)


class Careless(File):
    """A provider that follows the test's instructions, and otherwise behaves."""

    certain = False

    def __init__(self, folder: Path) -> None:
        super().__init__("careless", folder)
        self.on_provision: Callable[[str], Any] | None = None
        self.on_observe: Callable[[], Any] | None = None
        self.observed = 0
        self.destroyed: list[str] = []

    async def provision(self, id: str, spec: Spec) -> Machine:
        if self.on_provision is not None:
            result: Machine = await await_if_needed(self.on_provision(id))
            return result
        return await super().provision(id, spec)

    async def destroy(self, instances: Sequence[Record], reason: str) -> None:
        self.destroyed.extend(record.id for record in instances)
        await super().destroy(instances, reason)

    async def observe(self) -> Iterable[Machine]:
        self.observed += 1
        if self.on_observe is not None:
            result: Iterable[Machine] = await await_if_needed(self.on_observe())
            return result
        return await super().observe()


async def await_if_needed(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


def with_plugin(
    folder: Path, test: Callable[[Plugin, Careless], Awaitable[None]], wait: float = 5, observe_timeout: float = 60
) -> None:
    """Run *test* on a plugin with a careless provider, and then stop the plugin."""

    async def run() -> None:
        with FileStore(folder / "state.json", "a test") as store:
            provider = Careless(folder)
            plugin = Plugin(
                store, provider, "rack1", EventLog(), interval=0.02, wait=wait, observe_timeout=observe_timeout
            )
            await plugin.start()
            try:
                await test(plugin, provider)
            finally:
                await plugin.stop(1)
                await store.flush()

    asyncio.run(run())


def return_machine(**settings: Any) -> Callable[[str], Machine]:
    return lambda id: Machine(id, **settings)


async def cancel() -> Machine:
    raise asyncio.CancelledError


def raise_error(error: BaseException) -> Callable[[str], Any]:
    def fail(id: str) -> Any:
        raise error

    return fail


WRONG = {
    "a number": (lambda id: 5, "returned 5, expected the Machine"),
    "another machine": (lambda id: Machine("other"), "returned the Machine other"),
    "a number as handle": (return_machine(handle=1234), "expected a string as a machine's handle, got 1234"),
    "bytes as handle": (return_machine(handle="\udcff"), "UnicodeEncodeError"),
    "a number as reason": (return_machine(reason=1), "expected a string as a machine's reason, got 1"),
    "no ID": (lambda id: Machine(""), "expected the instance's ID as a machine's id, got an empty string"),
    "bytes as a tag": (return_machine(tags={"rack": "\udcff"}), "UnicodeEncodeError"),
    "properties that are not an object": (
        return_machine(properties=Raw(b"[]")),
        "properties: expected an object, got an array",
    ),
    "properties that are not JSON": (return_machine(properties=Raw(b"{")), "it ends too early"),
    "an error": (raise_error(KeyError("fan")), "KeyError: 'fan'"),
    "a GiveUp": (raise_error(GiveUp("no room")), "no room"),
    "an error that is not Unicode": (raise_error(GiveUp("no file b\udcff")), r"no file b\udcff"),
    "a cancellation": (lambda id: cancel(), "was cancelled from within"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_an_invalid_result_fails_only_its_provision(tmp_path: Path, mistake: str) -> None:
    """An invalid result fails its provision with an explanation, leaves nothing behind, and the next provision succeeds."""
    answer, problem = WRONG[mistake]

    async def test(plugin: Plugin, provider: Careless) -> None:
        provider.on_provision = answer
        with pytest.raises(GiveUp) as caught:
            await plugin.provision(Spec())
        assert problem in str(caught.value)
        await until(lambda: len(plugin.records) == 0)
        provider.on_provision = None
        id = await plugin.provision(Spec())
        assert [id] == [record.id for record in plugin.records]

    with_plugin(tmp_path, test)
    FileStore(tmp_path / "state.json", "the next").__exit__()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidSpec("Properties.size", "expected a number"), "wrong-spec"),
        (NoCapacity("the rack is full"), "no-capacity"),
        (GiveUp("no such image"), "give-up"),
        (TryAgain("API 503"), "try-again"),
        (KeyError("fan"), "try-again"),
        (PyInfrakitError("of no kind"), "give-up"),
    ],
)
def test_a_failed_provision_keeps_the_kind_of_the_provider_s_error(tmp_path: Path, error: Exception, kind: str) -> None:
    """The error of a failed provision has the kind of the provider's own error, so that its caller knows what to do."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        provider.on_provision = raise_error(error)
        with pytest.raises(GiveUp) as caught:
            await plugin.provision(Spec())
        assert kind == caught.value.kind

    with_plugin(tmp_path, test)


def test_the_provider_is_called_only_for_recorded_work(tmp_path: Path) -> None:
    """While the disk fails, no provision or destroy reaches the provider, and both callers get an error."""
    (tmp_path / "disk").mkdir()

    async def test(plugin: Plugin, provider: Careless) -> None:
        asked: list[str] = []

        def ask(id: str) -> Machine:
            asked.append(id)
            return Machine(id)

        provider.on_provision = ask
        provider.on_observe = lambda: [Machine(id) for id in asked]
        id = await plugin.provision(Spec())
        await plugin.set_aside(id, "so that all is written")
        (tmp_path / "disk").rename(tmp_path / "gone")
        with pytest.raises(StoreFailed):
            await plugin.provision(Spec())
        with pytest.raises(StoreFailed):
            await plugin.destroy(id, "terminate")
        await asyncio.sleep(0.1)
        assert ([id], []) == (asked, provider.destroyed)
        assert State.NON_FUNCTIONAL is plugin.records[id].state
        (tmp_path / "gone").rename(tmp_path / "disk")
        await plugin.destroy(id, "terminate")
        await until(lambda: provider.destroyed == [id])

    with_plugin(tmp_path / "disk", test)


def test_a_failure_is_reported_only_after_it_is_recorded(tmp_path: Path) -> None:
    """A failed provision is reported only after it is recorded: otherwise a restart could still create the machine."""
    (tmp_path / "disk").mkdir()

    async def test(plugin: Plugin, provider: Careless) -> None:
        def fail(id: str) -> Machine:
            (tmp_path / "disk").rename(tmp_path / "gone")
            provider.on_provision = None
            raise GiveUp("no room")

        provider.on_provision = fail
        id = await plugin.provision(Spec())
        # In memory the provision fails first, and returns to provisioning once the write fails.
        await until(lambda: plugin.records[id].state is State.PROVISIONING)
        (tmp_path / "gone").rename(tmp_path / "disk")
        await until(lambda: plugin.records[id].state is State.READY)

    with_plugin(tmp_path / "disk", test, wait=0.1)


def test_an_acknowledged_provision_is_retried(tmp_path: Path) -> None:
    """A provision whose caller has the ID is retried after a temporary error, and nothing is destroyed."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        asked: list[str] = []

        async def fail_slowly(id: str) -> Machine:
            asked.append(id)
            if len(asked) == 1:
                await asyncio.sleep(0.3)
            if len(asked) < 3:
                raise TryAgain("API 503")
            return Machine(id)

        provider.on_provision = fail_slowly
        id = await plugin.provision(Spec())
        await until(lambda: plugin.records[id].state is State.READY)
        assert [id] * 3 == asked

    with_plugin(tmp_path, test, wait=0.1)


def test_a_resumed_provision_is_retried(tmp_path: Path) -> None:
    """A machine that may exist since before a restart is not destroyed for a temporary error."""
    resumed = Record(id=ids.mint(ids.NEVER, 1), state=State.PROVISIONING, spec=Spec(), made=False)
    (tmp_path / "state.json").write_bytes(b"".join(document.dump(document.Content([resumed]))))

    async def test(plugin: Plugin, provider: Careless) -> None:
        provider.on_provision = raise_error(TryAgain("API 503"))
        await until(lambda: plugin.records[resumed.id].state is State.PROVISIONING and provider.observed > 3)
        provider.on_provision = None
        await until(lambda: plugin.records[resumed.id].state is State.READY)

    with_plugin(tmp_path, test)


def test_a_hanging_observation_is_cancelled(tmp_path: Path) -> None:
    """A hanging observation is cancelled and reported as trouble until a later one succeeds."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        provider.on_observe = lambda: asyncio.sleep(1000)
        await until(lambda: "no answer for" in plugin.trouble)
        provider.on_observe = None
        await until(lambda: plugin.trouble == "")

    with_plugin(tmp_path, test, observe_timeout=0.2)


WRONG_OBSERVATIONS = {
    "nothing": lambda: None,
    "a string": lambda: ["InfraKit-1"],
    "an error": lambda: 1 / 0,
    "a cancellation": cancel,
}


@pytest.mark.parametrize("mistake", WRONG_OBSERVATIONS)
def test_an_invalid_observation_changes_nothing(tmp_path: Path, mistake: str) -> None:
    """An invalid observation is reported as trouble, changes nothing, and is repeated until it is valid."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        id = await plugin.provision(Spec())
        provider.on_observe = WRONG_OBSERVATIONS[mistake]
        await until(lambda: "the provider has a bug" in plugin.trouble)
        seen = provider.observed
        await until(lambda: provider.observed > seen + 5)
        assert [id] == [record.id for record in plugin.records]
        provider.on_observe = None
        await until(lambda: plugin.trouble == "")

    with_plugin(tmp_path, test)


def test_live_properties_replace_those_of_the_spec(tmp_path: Path) -> None:
    """A machine's live properties are described in place of the spec's for as long as the provider reports them."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        provider.on_provision = return_machine(properties=Raw(b'{"power":"starting"}'))
        id = await plugin.provision(Spec(properties=Raw(b'{"cpu":2}')))
        record = plugin.records[id]
        assert Raw(b'{"power":"starting"}') == plugin.redact(record)
        provider.on_observe = lambda: [Machine(id, properties=Raw(b'{"power":"on"}'))]
        await until(lambda: plugin.redact(record) == Raw(b'{"power":"on"}'))
        provider.on_observe = lambda: [Machine(id)]
        await until(lambda: plugin.redact(record) == Raw(b'{"cpu":2}'))

    with_plugin(tmp_path, test)
