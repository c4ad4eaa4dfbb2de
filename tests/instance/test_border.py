"""What comes from a provider is of exact types, whatever its objects do; what goes to it is its own."""

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from pyinfrakit.errors import GiveUp, InvalidSpec, NoCapacity, PyInfrakitError, StoreFailed, TryAgain
from pyinfrakit.events import EventLog
from pyinfrakit.foreign import LONGEST_TEXT, copy_text, describe_error, quote, read_text
from pyinfrakit.instance.border import RecordCopies, copy_error
from pyinfrakit.instance.calls import Calls
from pyinfrakit.instance.plugin import Plugin
from pyinfrakit.instance.slots import CallLimits
from pyinfrakit.provider import LONGEST_REASON, Machine, PoolMachine, Provider
from pyinfrakit.record import Record, Spec, State
from pyinfrakit.store.file import FileStore
from pyinfrakit.store.records import Records
from support.harness import until

RAISED = (
    ValueError,
    StopIteration,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
    RecursionError,
)
"""What the methods of hostile objects raise."""

METHODS = (
    "__bool__", "__str__", "__repr__", "__eq__", "__ne__", "__hash__", "__len__", "__iter__", "__getitem__",
    "__contains__", "__float__", "__int__", "__index__", "__lt__", "__add__", "__format__", "__await__", "__next__",
)  # fmt: skip
ATTRIBUTES = ("__class__", "__traceback__", "__cause__", "kind", "field", "problem", "after", "args", "id", "tags")

KINDS = (
    object, str, float, int, dict, list, Exception, BaseException, TryAgain, GiveUp, InvalidSpec, NoCapacity,
    asyncio.CancelledError, StopIteration, SystemExit, OSError,
)  # fmt: skip


def make_hostile(kind: Any, methods: list[str], attributes: list[str], raised: type[BaseException]) -> Any:
    """Return an object of a subclass of *kind*, some of whose methods and attributes raise."""

    def fail(*arguments: object, **settings: object) -> Any:
        raise raised

    members = dict.fromkeys(methods, fail) | dict.fromkeys(attributes, property(fail))
    hostile: Any = type("Hostile", (kind,), members)
    return kind.__new__(hostile)


hostile_objects = st.builds(
    make_hostile,
    st.sampled_from(KINDS),
    st.lists(st.sampled_from(METHODS), unique=True),
    st.lists(st.sampled_from(ATTRIBUTES), unique=True),
    st.sampled_from(RAISED),
)
plain_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=5), st.binary(max_size=3)
)
values = st.recursive(
    plain_values | hostile_objects,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
fields = st.fixed_dictionaries(
    {"id": st.just("one") | values},
    optional=dict.fromkeys(("handle", "functional", "reason", "properties", "tags", "logical_id", "unknown"), values),
)


class Scripted(Provider):
    """A provider that returns what *act* returns, from each method."""

    act: Callable[[], Any]

    def __init__(self) -> None:
        super().__init__("scripted", Path())

    def provision(self, id: str, spec: Spec) -> Any:
        return self.act()

    def destroy(self, instances: Any, reason: str) -> Any:
        return self.act()

    def observe(self) -> Any:
        return self.act()

    def pool(self) -> Any:
        return self.act()


class AsyncScripted(Scripted):
    async def provision(self, id: str, spec: Spec) -> Any:
        return self.act()

    async def destroy(self, instances: Any, reason: str) -> Any:
        return self.act()

    async def observe(self) -> Any:
        return self.act()


def check_machine(machine: Machine) -> None:
    """Fail unless all of the machine is of exact types, and can be stored."""
    assert type(machine) is Machine
    assert {str} == {type(machine.id), type(machine.reason)}
    assert {bool} == {type(machine.functional), type(machine.unknown)}
    for text in (machine.handle, machine.logical_id):
        assert type(text) in (str, type(None))
    assert type(machine.tags) is dict
    assert {str} >= {*map(type, machine.tags), *map(type, machine.tags.values())}
    assert type(machine.live) in (Raw, type(None))
    for text in (machine.id, machine.reason, machine.handle or "", machine.logical_id or "", *machine.tags.values()):
        text.encode()


def check_error(error: PyInfrakitError) -> None:
    """Fail unless the error is exactly one of ours, and its text is a line that JSON can hold."""
    assert type(error).__module__ == "pyinfrakit.errors"
    assert (str,) == tuple(map(type, error.args))
    assert type(str(error)) is str
    assert {str} == {type(error.kind)}
    str(error).encode()
    if isinstance(error, TryAgain):
        assert type(error.after) in (float, type(None))


async def call_all(provider: Provider) -> None:
    """Call all methods. Each result must be exact, and each error ours."""
    calls = Calls(provider, CallLimits(), Records())
    record = Record(id="one", state=State.DESTROYING, spec=Spec())
    try:
        for call in (
            lambda: calls.provision("one", Spec),
            calls.observe,
            lambda: calls.destroy(record, "terminate"),
            calls.list_pool,
        ):
            try:
                result: Any = await call()
            except PyInfrakitError as error:
                check_error(error)
            else:
                machines = result.values() if isinstance(result, dict) else [result] if result else []
                for machine in machines:
                    if not isinstance(machine, list):
                        check_machine(machine)
    finally:
        calls.abandon()


@given(values, st.booleans())
def test_any_result_is_exact_or_an_error_of_ours(value: Any, is_async: bool) -> None:
    """Whatever object a method returns, its caller gets exact types, or a `PyInfrakitError`."""
    provider = (AsyncScripted if is_async else Scripted)()
    provider.act = lambda: value
    asyncio.run(call_all(provider))


@given(fields, st.booleans(), st.booleans())
def test_any_machine_is_exact_or_an_error_of_ours(settings: dict[str, Any], is_async: bool, many: bool) -> None:
    """Whatever a provider puts into a machine, what comes of it can be stored and shown, or is a `PyInfrakitError`."""
    provider = (AsyncScripted if is_async else Scripted)()
    provider.act = lambda: [Machine(**settings)] if many else Machine(**settings)
    asyncio.run(call_all(provider))


@given(hostile_objects.filter(lambda each: issubclass(type(each), BaseException)), st.booleans())
def test_any_exception_comes_as_one_of_ours(error: BaseException, is_async: bool) -> None:
    """Whatever the class of an exception does, its caller gets an exact error of ours, and the loop goes on."""

    def act() -> Any:
        raise error

    provider = (AsyncScripted if is_async else Scripted)()
    provider.act = act
    asyncio.run(call_all(provider))


# --- Errors


class Quota(NoCapacity):
    kind = "quota"


@pytest.mark.parametrize(
    ("error", "kind", "facts"),
    [
        (Quota("full"), NoCapacity, {"kind": "quota"}),
        (InvalidSpec("Properties.size", "expected two"), InvalidSpec, {"field": "Properties.size"}),
        (TryAgain("busy", after=5), TryAgain, {"after": 5.0}),
        (StoreFailed("its disk", "full"), TryAgain, {"after": None}),
        (PyInfrakitError("of no kind"), PyInfrakitError, {"kind": ""}),
        (ExceptionGroup("of a task group", [Quota("full")]), NoCapacity, {"kind": "quota"}),
    ],
)
def test_an_error_keeps_its_facts(error: Exception, kind: type, facts: Mapping[str, Any]) -> None:
    """An error of a subclass, alone or in a group, comes as the class of ours that it is, with its text and facts."""
    copy = copy_error(error, "observe")
    alone = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    assert (kind, str(alone)) == (type(copy), str(copy))
    assert facts == {name: getattr(copy, name) for name in facts}


class Endless(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        return (self,)


def test_a_group_that_contains_itself_is_a_bug() -> None:
    """A group of exceptions whose only member is itself comes as an error like any other."""
    error = copy_error(Endless("endless", [ValueError()]), "observe")
    assert "the provider has a bug: test_border.Endless: endless (1 sub-exception)" == str(error)


def test_an_exit_is_explained() -> None:
    """An exception that is not meant for errors comes with the advice to raise another one."""
    expected = "the provider has a bug: SystemExit: no credentials (expected an Exception, such as TryAgain or GiveUp)"
    assert expected == str(copy_error(SystemExit("no credentials"), "observe"))


def test_the_text_of_an_exception_has_a_limit() -> None:
    """A text of megabytes is cut, and half of a character is escaped."""
    assert LONGEST_TEXT + 1 == len(read_text(ValueError("x" * 10_000_000)))
    assert r"\ud800" == read_text(ValueError("\ud800"))
    assert "ValueError: one two" == describe_error(ValueError("one\ntwo"))


def test_a_wrong_value_is_not_shown() -> None:
    """An error about a wrong value names its type: only a number can't be a secret."""
    assert "a value of type dict" == quote({"password": "swordfish"})
    assert "a value of type int" == quote(10**5000)
    assert "5" == quote(5)
    with pytest.raises(TypeError, match="expected a string as a handle, got a value of type bytes"):
        copy_text(b"swordfish", "a handle")


# --- Machines


class Text(str):
    """As lxml's, NumPy's and Beautiful Soup's strings are."""


class Number(float):
    """As NumPy's numbers are."""


def test_subclasses_of_plain_types_are_converted() -> None:
    """Strings, numbers and mappings of other libraries become those of Python, also within properties."""
    machine = Machine(
        Text("one"),
        Text("handle"),
        functional=1,  # type: ignore[arg-type]
        tags=MappingProxyType({Text("rack"): Text("7")}),
        properties=MappingProxyType({Text("power"): Text("on"), "load": Number(0.5), "more": MappingProxyType({})}),
    )
    check_machine(machine)
    assert {"rack": "7"} == machine.tags
    assert Raw(b'{"power":"on","load":0.5,"more":{}}') == machine.properties


WRONG: Mapping[str, Mapping[str, Any]] = {
    "a word as functional": {"functional": "no"},
    "nothing as functional": {"functional": None},
    "half a character": {"reason": "\ud800"},
    "half a character in a tag": {"tags": {"\ud800": ""}},
    "a number as a tag": {"tags": {"rack": 7}},
    "a list as tags": {"tags": ["rack"]},
    "a number that is too long": {"properties": Raw(b'{"size": ' + b"1" * 5000 + b"}")},
    "properties that nest too deeply": {"properties": {"a": [[]]}},
}
WRONG["properties that nest too deeply"]["properties"]["a"][0].append(WRONG["properties that nest too deeply"])


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_machine_is_refused_at_the_provider_s_line(mistake: str) -> None:
    """A machine with a value that can't be stored raises as soon as the provider makes it."""
    with pytest.raises((TypeError, ValueError, RecursionError)):
        Machine("one", **WRONG[mistake])


def test_a_long_reason_is_cut() -> None:
    """A machine's reason of megabytes does not fill the state file."""
    assert LONGEST_REASON + 1 == len(Machine("one", reason="x" * 1_000_000).reason)


def test_a_pool_s_machine_is_exact() -> None:
    """A machine of the pool holds exact types, or can't be made."""
    machine = PoolMachine(Text("bay-1"), is_free=1)  # type: ignore[arg-type]
    assert (str, bool) == (type(machine.name), type(machine.is_free))
    with pytest.raises(TypeError, match="expected a string as a machine's at, got 443"):
        PoolMachine("bay-1", at=443)  # type: ignore[arg-type]


def generate_forever() -> Iterator[Machine]:
    machine = Machine("one")
    while True:
        yield machine


@pytest.mark.parametrize("answer", [generate_forever, lambda: itertools.repeat(Machine("one"))])
def test_an_observation_without_an_end_is_refused(answer: Callable[[], Any]) -> None:
    """A generator without an end is an error before it fills the memory."""
    provider = Scripted()
    provider.act = answer
    with pytest.raises(TryAgain, match="returned more than 2000000 machines"):
        asyncio.run(Calls(provider, CallLimits(), Records()).observe())


def test_a_machine_that_the_provider_keeps_changing_is_a_copy() -> None:
    """Tags that a provider changes after it returned a machine stay as they were returned."""
    provider = Scripted()
    machine, bare = Machine("one", tags={"rack": "7"}), Machine("two")
    provider.act = lambda: [machine, bare]
    observed = asyncio.run(Calls(provider, CallLimits(), Records()).observe())
    for each in (machine, bare):
        each.tags["rack"] = "8"  # type: ignore[index]
    assert {"one": {"rack": "7"}, "two": {}} == {id: each.tags for id, each in observed.items()}


@pytest.mark.parametrize("reason", ["", "its fan stands still"])
def test_tags_that_are_spoiled_after_their_check_are_a_bug(reason: str) -> None:
    """Tags that a provider changes to wrong ones, after it made the machine, are an error of the observation."""
    provider = Scripted()
    machine = Machine("one", reason=reason)
    machine.tags["rack"] = 7  # type: ignore[index]
    provider.act = lambda: [machine]
    with pytest.raises(TryAgain, match="expected a string as a tag, got 7"):
        asyncio.run(Calls(provider, CallLimits(), Records()).observe())


def test_known_records_are_copies() -> None:
    """The records at a start are a sequence of copies, each of which is the provider's own."""
    record = Record(id="one", state=State.READY, spec=Spec(tags={"rack": "7"}))
    known = RecordCopies([record, record])
    assert ([record, record], [record], record, 2) == (list(known), known[1:], known[-1], len(known))
    known[0].spec.tags.clear()  # type: ignore[attr-defined]
    assert {"rack": "7"} == record.spec.tags


# --- The loop


def test_the_reconcile_loop_starts_again_after_a_bug(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bug that ends the reconcile loop is logged and reported as trouble, and the loop starts again."""

    async def test() -> None:
        with FileStore(tmp_path / "state.json", "a test") as store:
            provider = Scripted()
            plugin = Plugin(store, provider, "rack1", EventLog(), interval=0.02, wait=5)
            provider.act = lambda: None
            await plugin.start()
            id = await plugin.provision(Spec())
            armed = threading.Event()

            def fail_once(old: Record | None, new: Record | None) -> None:
                if armed.is_set():
                    armed.clear()
                    raise ZeroDivisionError("a bug of ours")

            store.records.subscribe(fail_once)
            armed.set()
            provider.act = lambda: [Machine(id, properties={"power": "on"})]
            await until(lambda: "a bug of ours" in plugin.trouble)
            await until(lambda: plugin.trouble == "")
            await plugin.stop(1)
            await store.flush()

    asyncio.run(test())
    assert "a bug ended the reconcile loop" in caplog.text
