"""Groups on plugins that are not ours: the controller polls them, doubts them, and never trusts a wrong answer."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import raw_plugins as raw
from pyinfrakit.group.status import GroupStatus, Phase
from pyinfrakit.rpc.group.client import GroupClient
from support.harness import INFRAKIT, Daemon, command, eventually

SIZE = 5
CONTROLLER = (str(Path(INFRAKIT[0]).with_name("infrakit-group")),)


class Faulty(raw.Plugin):
    """A plugin that works, until its *describe* is replaced."""

    describe: Callable[["Faulty", Any], Any] | None = None

    def DescribeInstances(self, params: Any) -> Any:  # noqa: N802
        return super().DescribeInstances(params) if self.describe is None else self.describe(self, params)


class FaultyAt(raw.Plugin):
    """A plugin that works but for one method, as long as it has a *fault*: it does nothing then, and replies with that."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.fault: Callable[[FaultyAt], bytes] | None = None

    def answer(self, body: bytes) -> bytes:
        fault = self.fault if json.loads(body)["method"] == f"Instance.{self.method}" else None
        return super().answer(body) if fault is None else fault(self)


class AnswersTooLate(raw.Plugin):
    """Makes each of the first *late* instances, lists it, and answers after the client has given up."""

    late = 2

    def answer(self, body: bytes) -> bytes:
        reply = super().answer(body)
        if json.loads(body)["method"] == "Instance.Provision" and self.late:
            self.late -= 1
            self.over.wait()
        return reply


class RefusesTheSecond(raw.Plugin):
    """Refuses the second provision, while the first one is under way; it answers once *go* is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.numbers = itertools.count(1)

    def answer(self, body: bytes) -> bytes:
        if json.loads(body)["method"] == "Instance.Provision":
            number = next(self.numbers)
            if number == 1:
                self.go.wait()
            elif number == 2:
                return b'{"jsonrpc": "2.0", "error": {"code": -32000, "message": "no luck"}, "id": 1}'
        return super().answer(body)


class Controller:
    """The controller's daemon, and what it says of its groups."""

    def __init__(self, run: Callable[..., Daemon], home: Path, stack: ExitStack) -> None:
        self.home = home
        self._run = run
        self._stack = stack
        (home / "plugins").mkdir(parents=True)

    def serve(self, name: str, plugin: raw.Plugin) -> None:
        self._stack.enter_context(raw.serve(plugin, self.home / "plugins" / name))

    def start(self) -> Daemon:
        self.daemon = self._run("--poll-interval", "0.3", name="group", program=CONTROLLER)
        return self.daemon

    def commit(self, plugin: str, version: int = 1, size: int = SIZE) -> None:
        """Commit the group that has a plugin's name."""
        instance = {"Plugin": plugin, "Properties": {"version": version}}
        spec = {"ID": plugin, "Properties": {"Allocation": {"Size": size}, "Instance": instance}}
        self.daemon.call("Group.CommitGroup", Spec=spec, Pretend=False)

    def status(self, id: str) -> GroupStatus:
        with self.daemon.client() as client:
            return GroupClient(client).status(id)

    def why(self, id: str) -> str:
        return self.ask("group", "why", id)

    def ask(self, *arguments: str) -> str:
        """Run a command that must succeed, and return its output."""
        done = command(self.home, *arguments, program=INFRAKIT)
        assert ("", 0) == (done.stderr, done.returncode)
        return done.stdout

    def is_whole(self, id: str, size: int = SIZE) -> bool:
        status = self.status(id)
        return (
            status.is_converged and status.phase is Phase.IDLE and (size, 0) == (len(status.members), status.outdated)
        )


@pytest.fixture
def controller(run: Callable[..., Daemon], home: Path) -> Iterator[Controller]:
    """Return a controller to be started. Its log must not have a traceback at the end."""
    with ExitStack() as stack:
        controller = Controller(run, home, stack)
        yield controller
        assert "Traceback" not in controller.daemon.log


@pytest.fixture
def plugin(controller: Controller) -> Faulty:
    """Serve the plugin `other`, and start a controller with a whole group on it."""
    plugin = Faulty()
    controller.serve("other", plugin)
    controller.start()
    controller.commit("other")
    eventually(lambda: len(plugin.instances) == SIZE and controller.is_whole("other"), "the group is whole")
    return plugin


def test_a_group_lives_on_a_plugin_without_events(controller: Controller, plugin: Faulty) -> None:
    """Polls alone are enough to create, heal and update a group."""
    with plugin.lock:
        del plugin.instances["i-000002"]
    eventually(lambda: len(plugin.instances) == SIZE, "the lost member is replaced")
    eventually(lambda: controller.is_whole("other"), "the group is whole")

    controller.commit("other", version=2)

    def is_updated() -> bool:
        with plugin.lock:
            versions = [each["Properties"]["version"] for each in plugin.instances.values()]
        return versions == [2] * SIZE and controller.is_whole("other")

    eventually(is_updated, "every member is replaced")
    assert 2 * SIZE + 1 == len(plugin.provisioned)


def test_a_mass_loss_is_held_until_it_is_confirmed(controller: Controller, plugin: Faulty) -> None:
    """If a plugin describes nothing all at once, nothing is created, also after a kill, until an operator confirms."""
    with plugin.lock:
        plugin.instances.clear()
    eventually(lambda: "no longer describes it" in controller.why("other"), "the losses are held")
    assert [] == [step.verb for step in controller.status("other").steps if step.verb == "create"]

    controller.daemon.kill()
    controller.daemon.start()
    eventually(lambda: "no longer describes it" in controller.why("other"), "the losses are still held")
    assert SIZE == len(plugin.provisioned)

    controller.ask("group", "confirm", "other")
    eventually(lambda: len(plugin.instances) == SIZE and controller.is_whole("other"), "the lost members are replaced")
    assert 2 * SIZE == len(plugin.provisioned)


def test_held_members_come_back(controller: Controller, plugin: Faulty) -> None:
    """Members whose loss is held are members again once their plugin describes them."""
    plugin.describe = lambda self, params: {"Descriptions": []}
    eventually(lambda: "no longer describes it" in controller.why("other"), "the losses are held")
    plugin.describe = None
    eventually(lambda: controller.is_whole("other"), "the group is whole")
    assert SIZE == len(plugin.provisioned)


def hang(plugin: Faulty, params: Any) -> Any:
    plugin.over.wait()


def fail(plugin: Faulty, params: Any) -> Any:
    raise raw.Refusal("the cloud is down\nTry later")


def repeat_an_id(plugin: Faulty, params: Any) -> Any:
    first, *others = raw.Plugin.DescribeInstances(plugin, params)["Descriptions"]
    return {"Descriptions": [first, first, *others]}


def close(plugin: Faulty, params: Any) -> Any:
    """Break off: the connection closes without a reply."""
    raise KeyError


FAULTS: dict[str, tuple[Callable[[Faulty, Any], Any], str]] = {
    "hangs": (hang, "15"),
    "errors": (fail, "the cloud is down"),
    "closes": (close, "other"),
    "a text": (lambda plugin, params: {"Descriptions": "none"}, "expected an array or null, got"),
    "no list": (lambda plugin, params: {}, "Descriptions"),
    "a null in it": (lambda plugin, params: {"Descriptions": [None]}, "Descriptions[0]"),
    "numbers": (lambda plugin, params: {"Descriptions": [{"ID": 7}]}, "Descriptions[0]"),
    "an ID twice": (repeat_an_id, "it has the ID 'i-000001' twice"),
    "no tags": (lambda plugin, params: {"Descriptions": [{"ID": "x"}]}, "x does not have the tag infrakit.group=other"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_group_waits_for_a_faulty_plugin(controller: Controller, plugin: Faulty, fault: str) -> None:
    """While a plugin's descriptions are wrong, its group waits and says why. Groups on other plugins go on."""
    sound = raw.Plugin()
    controller.serve("sound", sound)
    controller.commit("sound", size=1)
    plugin.describe, reason = FAULTS[fault]
    eventually(lambda: reason in controller.why("other"), "the group says why it waits")
    assert SIZE == len(plugin.provisioned)

    controller.commit("sound", size=3)
    eventually(lambda: controller.is_whole("sound", 3) and len(sound.instances) == 3, "the other group grows")
    plugin.over.set()
    plugin.describe = None
    eventually(lambda: controller.is_whole("other"), "the group goes on")
    assert SIZE == len(plugin.provisioned)


def reply_never(plugin: FaultyAt) -> bytes:
    plugin.over.wait()
    raise raw.NoReply


def break_off(plugin: FaultyAt) -> bytes:
    raise raw.NoReply


def reply(result: Any) -> Callable[[FaultyAt], bytes]:
    return lambda plugin: json.dumps({"jsonrpc": "2.0", "result": result, "id": 1}).encode()


REPLIES: dict[str, tuple[Callable[[FaultyAt], bytes], str]] = {
    "hangs": (reply_never, "15"),
    "closes": (break_off, "other"),
    "errors": (
        lambda plugin: b'{"jsonrpc": "2.0", "error": {"code": -32000, "message": "no\\nluck"}, "id": 1}',
        "no",
    ),
    "an odd error": (lambda plugin: b'{"jsonrpc": "2.0", "error": [7], "id": 1}', "other"),
    "no JSON": (lambda plugin: b"<html>busy</html>", "other"),
    "nothing": (lambda plugin: b"", "other"),
    "no result": (lambda plugin: b'{"jsonrpc": "2.0", "id": 1}', "other"),
    "deep": (lambda plugin: b'{"jsonrpc": "2.0", "id": 1, "result": ' + b"[" * 100_000, "other"),
    "no text": (lambda plugin: b'{"jsonrpc": "2.0", "id": 1, "result": "\xff\xfe"}', "other"),
    "a text": (reply("gone"), "other"),
    "a list": (reply([{"OK": True}]), "other"),
    "a number": (reply(7), "other"),
    "null": (reply(None), "other"),
}


@pytest.mark.parametrize("fault", REPLIES)
def test_a_group_waits_for_a_destroy_that_fails(controller: Controller, fault: str) -> None:
    """While a plugin's replies to `Destroy` are wrong, the group repeats it and says why. Other groups go on."""
    plugin, sound = FaultyAt("Destroy"), raw.Plugin()
    controller.serve("other", plugin)
    controller.serve("sound", sound)
    controller.start()
    controller.commit("other", size=3)
    controller.commit("sound", size=3)
    eventually(lambda: controller.is_whole("other", 3) and controller.is_whole("sound", 3), "the groups are whole")

    plugin.fault, reason = REPLIES[fault]
    controller.commit("other", size=2)
    controller.commit("sound", size=2)
    eventually(lambda: controller.is_whole("sound", 2), "the other group shrinks")
    eventually(lambda: is_said(controller.why("other"), "destroy failed", reason), "the group says why it waits")
    assert (3, 3) == (len(plugin.instances), len(plugin.provisioned))

    plugin.over.set()
    plugin.fault = None
    eventually(lambda: controller.is_whole("other", 2), "the group goes on")
    assert (2, 3) == (len(plugin.instances), len(plugin.provisioned))


@pytest.mark.parametrize("fault", REPLIES)
def test_a_group_waits_for_a_label_that_fails(controller: Controller, fault: str) -> None:
    """While a plugin's replies to `Label` are wrong, an adoption is repeated and says why. Other groups go on."""
    plugin = FaultyAt("Label")
    tags = {"infrakit.group": "other", "infrakit.config_sha": "bootstrap"}
    with plugin.lock:
        plugin.Provision({"Spec": {"LogicalID": None, "Tags": tags, "Properties": {"version": 1}}})
    plugin.fault, reason = REPLIES[fault]
    controller.serve("other", plugin)
    controller.serve("sound", raw.Plugin())
    controller.start()
    controller.commit("other", size=2)
    controller.commit("sound", size=2)
    eventually(lambda: controller.is_whole("sound", 2), "the other group is whole")
    eventually(lambda: is_said(controller.why("other"), "not labeled", reason), "the group says why it waits")

    plugin.over.set()
    plugin.fault = None
    eventually(lambda: controller.is_whole("other", 2), "the member is adopted")
    assert 2 == len(plugin.provisioned)


def is_said(text: str, *words: str) -> bool:
    """Return whether one line of a text has all words."""
    return any(all(word in line for word in words) for line in text.splitlines())


def test_null_descriptions_are_an_empty_list(controller: Controller, plugin: Faulty) -> None:
    """A reply with null descriptions, which Go writes for none, is a mass loss like any other."""
    plugin.describe = lambda self, params: {"Descriptions": None}
    eventually(lambda: "no longer describes it" in controller.why("other"), "the losses are held")
    assert SIZE == len(plugin.provisioned)


def test_a_refusal_counts_for_its_own_request(controller: Controller) -> None:
    """If one of several equal provisions is refused, the others still count until they are described, and no longer."""
    plugin = RefusesTheSecond()
    controller.serve("moody", plugin)
    controller.start()
    controller.commit("moody", size=2)
    eventually(lambda: "no luck" in controller.ask("events", "group/moody"), "a provision is refused")
    plugin.go.set()
    eventually(lambda: controller.is_whole("moody", 2), "the group is whole")
    assert 2 == len(plugin.instances)


@pytest.mark.long
def test_a_provision_that_times_out_is_not_doubled(controller: Controller) -> None:
    """An instance that its plugin lists, but whose provision got no answer in time, is a member like any other."""
    plugin = AnswersTooLate()
    controller.serve("late", plugin)
    controller.start()
    controller.commit("late", size=3)
    eventually(lambda: "create failed" in controller.ask("events", "group/late"), "a provision times out")
    eventually(lambda: controller.is_whole("late", 3), "the group is whole")
    assert (3, 3) == (len(plugin.instances), len(plugin.provisioned))
