"""What a provider gets wrong is told as its bug, and harms nothing but that one call."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from pyinfrakit import ids
from pyinfrakit.errors import GiveUp, StoreFailed, TryAgain
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.provider import Machine
from pyinfrakit.providers.file import File
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import FileStore, document


class Careless(File):
    """Does what a test tells it to, and behaves when it has been told nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__("careless", folder)
        self.on_provision: Callable[[str], Any] | None = None
        self.on_observe: Callable[[], Any] | None = None
        self.observed = 0
        self.destroyed: list[str] = []

    async def provision(self, id: str, spec: Spec) -> Machine:
        if self.on_provision is not None:
            result: Machine = await _done(self.on_provision(id))
            return result
        return await super().provision(id, spec)

    async def destroy(self, instances: Sequence[Record], reason: str) -> None:
        self.destroyed.extend(record.id for record in instances)
        await super().destroy(instances, reason)

    async def observe(self) -> Iterable[Machine]:
        self.observed += 1
        if self.on_observe is not None:
            result: Iterable[Machine] = await _done(self.on_observe())
            return result
        return await super().observe()


async def _done(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


def with_plugin(
    folder: Path, test: Callable[[Plugin, Careless], Awaitable[None]], wait: float = 5, observe_timeout: float = 60
) -> None:
    """Run *test* on a plugin with a careless provider, and stop it in the usual way."""

    async def run() -> None:
        with FileStore(folder / "state.json", "a test") as store:
            provider = Careless(folder)
            plugin = Plugin(store, provider, interval=0.02, wait=wait, observe_timeout=observe_timeout)
            await plugin.start()
            try:
                await test(plugin, provider)
            finally:
                await plugin.stop(1)
                await store.flush()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def machine_with(**settings: Any) -> Callable[[str], Machine]:
    return lambda id: Machine(id, **settings)


async def cancelled() -> Machine:
    raise asyncio.CancelledError


def failing(error: BaseException) -> Callable[[str], Any]:
    def fail(id: str) -> Any:
        raise error

    return fail


WRONG = {
    "a number": (lambda id: 5, "returned 5, expected the Machine"),
    "another machine": (lambda id: Machine("other"), "returned Machine"),
    "a number as handle": (machine_with(handle=1234), "expected a string or None as a machine's handle, got 1234"),
    "bytes as handle": (machine_with(handle="\udcff"), "UnicodeEncodeError"),
    "a number as reason": (machine_with(reason=1), "expected strings as a machine's id and reason"),
    "no ID": (lambda id: Machine(""), "expected the instance's ID as a machine's id, got an empty string"),
    "bytes as a tag": (machine_with(tags={"rack": "\udcff"}), "UnicodeEncodeError"),
    "properties that are no object": (
        machine_with(properties=Raw(b"[]")),
        "properties: expected an object, got an array",
    ),
    "properties that are no JSON": (machine_with(properties=Raw(b"{")), "it ends too early"),
    "an error": (failing(KeyError("fan")), "KeyError: 'fan'"),
    "an error of its own": (failing(GiveUp("no room")), "no room"),
    "an error that is no Unicode": (failing(GiveUp("no file b\udcff")), r"no file b\udcff"),
    "a cancellation": (lambda id: cancelled(), "was cancelled from within"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_fails_its_provision_alone(tmp_path: Path, wrong: str) -> None:
    """The caller is told what was wrong, nothing is left of it, and the next provision is as good as ever."""
    answer, problem = WRONG[wrong]

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


def test_the_provider_is_asked_for_nothing_that_is_not_recorded(tmp_path: Path) -> None:
    """While the disk refuses, neither a provision nor a destroy reaches it, and both callers are told."""
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


def test_a_failure_is_told_once_it_is_recorded(tmp_path: Path) -> None:
    """Were the caller told before, a restart would make a machine of which it was told that there is none."""
    (tmp_path / "disk").mkdir()

    async def test(plugin: Plugin, provider: Careless) -> None:
        def fail(id: str) -> Machine:
            (tmp_path / "disk").rename(tmp_path / "gone")
            provider.on_provision = None
            raise GiveUp("no room")

        provider.on_provision = fail
        id = await plugin.provision(Spec())
        await until(
            lambda: plugin.records[id].state is State.PROVISIONING
        )  # in memory it fails until that can't be written
        (tmp_path / "gone").rename(tmp_path / "disk")
        await until(lambda: plugin.records[id].state is State.READY)

    with_plugin(tmp_path / "disk", test, wait=0.1)


def test_an_acknowledged_provision_is_not_given_up_for_a_passing_error(tmp_path: Path) -> None:
    """Once the caller has the ID, an error that may pass makes the provider be asked again, and nothing be destroyed."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        asked: list[str] = []

        async def slow_then_failing(id: str) -> Machine:
            asked.append(id)
            if len(asked) == 1:
                await asyncio.sleep(0.3)
            if len(asked) < 3:
                raise TryAgain("API 503")
            return Machine(id)

        provider.on_provision = slow_then_failing
        id = await plugin.provision(Spec())
        await until(lambda: plugin.records[id].state is State.READY)
        assert [id] * 3 == asked

    with_plugin(tmp_path, test, wait=0.1)


def test_a_resumed_provision_is_not_given_up_for_a_passing_error(tmp_path: Path) -> None:
    """A machine that may have been made before the restart is not destroyed because the provider hiccups."""
    left = Record(id=ids.mint(ids.NEVER, 1), state=State.PROVISIONING, spec=Spec(), made=False)
    (tmp_path / "state.json").write_bytes(b"".join(document.dump(document.Content([left]))))

    async def test(plugin: Plugin, provider: Careless) -> None:
        provider.on_provision = failing(TryAgain("API 503"))
        await until(lambda: plugin.records[left.id].state is State.PROVISIONING and provider.observed > 3)
        provider.on_provision = None
        await until(lambda: plugin.records[left.id].state is State.READY)

    with_plugin(tmp_path, test)


def test_an_observation_that_hangs_is_cancelled(tmp_path: Path) -> None:
    """It is told as trouble, and the next one is made."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        provider.on_observe = lambda: asyncio.sleep(1000)
        await until(lambda: "no answer for" in plugin.trouble)
        provider.on_observe = None
        await until(lambda: plugin.trouble == "")

    with_plugin(tmp_path, test, observe_timeout=0.2)


UNSEEN = {
    "nothing": lambda: None,
    "what is no machine": lambda: ["InfraKit-1"],
    "an error": lambda: 1 / 0,
    "a cancellation": cancelled,
}


@pytest.mark.parametrize("wrong", UNSEEN)
def test_a_wrong_observation_changes_nothing(tmp_path: Path, wrong: str) -> None:
    """It is told as trouble, and looked at again until it is right."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        id = await plugin.provision(Spec())
        provider.on_observe = UNSEEN[wrong]
        await until(lambda: "the provider has a bug" in plugin.trouble)
        seen = provider.observed
        await until(lambda: provider.observed > seen + 5)
        assert [id] == [record.id for record in plugin.records]
        provider.on_observe = None
        await until(lambda: plugin.trouble == "")

    with_plugin(tmp_path, test)


def test_live_properties_are_described_and_kept_up_to_date(tmp_path: Path) -> None:
    """What the provider says of a machine is shown instead of its spec's properties, for as long as it says so."""

    async def test(plugin: Plugin, provider: Careless) -> None:
        provider.on_provision = machine_with(properties=Raw(b'{"power":"starting"}'))
        id = await plugin.provision(Spec(properties=Raw(b'{"cpu":2}')))
        record = plugin.records[id]
        assert Raw(b'{"power":"starting"}') == plugin.redact(record)
        provider.on_observe = lambda: [Machine(id, properties=Raw(b'{"power":"on"}'))]
        await until(lambda: plugin.redact(record) == Raw(b'{"power":"on"}'))
        provider.on_observe = lambda: [Machine(id)]
        await until(lambda: plugin.redact(record) == Raw(b'{"cpu":2}'))

    with_plugin(tmp_path, test)
