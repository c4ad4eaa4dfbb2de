"""What `conformance` says of plugins: ours, others', and others' with one fault each."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

import raw_plugins as raw
from conftest import FAST
from pyinfrakit.conformance import Report, Verdict, check
from pyinfrakit.conformance.plan import plan
from pyinfrakit.conformance.running import CHECKS
from pyinfrakit.conformance.session import Session
from pyinfrakit.conformance.trial import Trial
from pyinfrakit.errors import Unreachable, WrongCall
from support.executables import Examples
from support.harness import COMMAND, PROGRAMS, ROOT, Daemon, command, environment, eventually

PROPERTIES = msgspec.Raw(b'{"size": [1, 2.50]}')


def examined(plugin: raw.Plugin, folder: Path, timeout: float | None = None) -> Report:
    """Have a plugin checked."""
    with raw.served(plugin, folder / "plugin") as path:
        return check(path, properties=PROPERTIES, timeout=timeout or plugin.patience)


def names(report: Report, verdict: Verdict) -> list[str]:
    return [each.name for each in report.checks if each.verdict is verdict]


def fact(report: Report, name: str) -> str:
    return next(each.value for each in report.facts if each.name == name)


# right ones


def assert_all_holds(daemon: Daemon, properties: Raw = Raw(b"{}")) -> None:
    """Make sure that every check holds, the plugin is usable by every release, and nothing is left but what was there."""
    before = daemon.provision(json.loads(bytes(properties)))
    report = check(daemon.socket, properties=properties)
    assert [each.name for each in report.checks] == names(report, Verdict.HOLDS)
    assert "0.1-0.2, 0.3-0.4, 0.5, 2018" == fact(report, "usable by InfraKit")
    assert "the newest: later IDs are smaller" == fact(report, "first to go on a shrink")
    assert "taken" == fact(report, "params in an array of one")
    assert report.holds
    assert [before] == daemon.described()


@pytest.mark.parametrize("provider", ["file", "simulator"])
def test_our_own_plugin_holds(run: Callable[..., Daemon], provider: str) -> None:
    """Every check holds for our own daemon."""
    assert_all_holds(run("--provider", provider, "--sync-interval", "0.1"))


def test_our_own_plugin_holds_with_processes(start: Callable[..., Daemon]) -> None:
    """Every check holds where instances are processes."""
    properties = Raw(b'{"command":"sleep","arguments":["600"]}')
    daemon = start()
    assert_all_holds(daemon, properties)
    for id in daemon.described():
        daemon.call("Instance.Destroy", Instance=id)


def test_our_own_plugin_holds_with_executables(
    run: Callable[..., Daemon], examples: Examples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every check holds where executables do the work."""
    monkeypatch.setenv("MACHINES", str(tmp_path / "machines"))
    options = (f"command={examples.get('sh')}", "environment=MACHINES")
    assert_all_holds(run("--provider", "exec", *(word for each in options for word in ("--option", each)), *FAST))


@pytest.mark.parametrize("kind", [raw.Plugin, raw.InOtherCase, raw.SaysThatItCloses])
def test_a_plugin_that_is_not_ours_holds(tmp_path: Path, kind: type[raw.Plugin]) -> None:
    """Every check holds for a plugin with InfraKit's own error texts, also where its names are in other case."""
    plugin = kind()
    report = examined(plugin, tmp_path)
    assert [each.name for each in report.checks] == names(report, Verdict.HOLDS)
    assert "the oldest: later IDs are larger" == fact(report, "first to go on a shrink")
    assert {} == plugin.instances


def test_an_old_plugin_is_asked_for_what_it_has(tmp_path: Path) -> None:
    """For a plugin that speaks only 0.1 what came later is not applicable, and all else holds."""
    plugin = raw.Old()
    report = examined(plugin, tmp_path)
    later = ["unknown-type", "logical-id", "properties", "label", "label-keeps", "label-unknown", "type"]
    assert later == names(report, Verdict.NOT_APPLICABLE)
    assert [] == names(report, Verdict.FAILS) + names(report, Verdict.UNKNOWN)
    assert "0.1-0.2" == fact(report, "usable by InfraKit")
    assert report.holds
    assert {} == plugin.instances


def test_a_sub_type_is_checked_by_its_name(tmp_path: Path) -> None:
    """Where a plugin has sub-types, the one that is named is checked, and none is an error that says which there are."""
    with raw.served(raw.SubTyped(), tmp_path / "plugin") as path:
        assert check(path, kind="compute").holds
        with pytest.raises(WrongCall, match="has sub-types: say NAME/compute"):
            check(path)
        with pytest.raises(WrongCall, match="no sub-type 'storage': say NAME/compute"):
            check(path, kind="storage")


def test_our_own_sub_types_hold(home: Path, run: Callable[..., Daemon]) -> None:
    """Each sub-type of our own daemon is checked by NAME/TYPE, and all holds."""
    run(program=(sys.executable, str(PROGRAMS / "typed.py"), "simulator", "compute,storage"))
    for name in ("rack1/compute", "rack1/storage"):
        done = command(home, "conformance", name, "--count", "2")
        assert (0, f"holds: {len(CHECKS) + 1}") == (done.returncode, done.stdout.splitlines()[-1].split(",")[0])
    done = command(home, "conformance", "rack1")
    assert (1, "") == (done.returncode, done.stdout)
    assert ["infrakit-instance: the plugin has sub-types: say NAME/compute or NAME/storage"] == done.stderr.splitlines()


# wrong ones

FAULTS: list[tuple[type[raw.Plugin], str]] = [
    (raw.IgnoresTags, "describe-by-tag"),
    (raw.MatchesAny, "describe-by-all-tags"),
    (raw.FindsNoneByTag, "describe-by-tag"),
    (raw.FindsNoneWithoutTags, "describe-all"),
    (raw.LabelDropsOthers, "label-keeps"),
    (raw.LabelIsNotKept, "label"),
    (raw.LabelOnlyAdds, "label"),
    (raw.LabelsUnknown, "label-unknown"),
    (raw.LosesLogicalIDs, "logical-id"),
    (raw.SameIDForEqualSpecs, "distinct-ids"),
    (raw.EmptyIDs, "provision"),
    (raw.IDsAreNumbers, "provision"),
    (raw.NeverProvisions, "provision"),
    (raw.DestroysUnknown, "destroy-unknown"),
    (raw.IDsThroughFloat, "request-ids"),
    (raw.DiesOfBadRequests, "not-json"),
    (raw.SilentOnEmptyBodies, "empty-body"),
    (raw.DescribesDestroyed, "destroyed"),
    (raw.AnswersForAnotherType, "type"),
    (raw.TakesAnyType, "unknown-type"),
    (raw.AltersTags, "tags"),
    (raw.AddsTags, "tags"),
    (raw.DropsTags, "tags"),
    (raw.DescribesLater, "described-at-once"),
    (raw.RefusesProperties, "validate"),
    (raw.HasNoProperties, "properties"),
    (raw.TakesAnyMethod, "unknown-method"),
    (raw.LosesSome, "all-described"),
    (raw.NeverDestroys, "destroy"),
    (raw.HangsOnLabel, "label"),
    (raw.GarbageOnDescribe, "describe-all"),
    (raw.HangsOnTags, "describe-by-tag"),
    (raw.HangsOnProvision, "provision"),
    (raw.CrashesOnLabel, "label"),
    (raw.BreaksOnWrongTypes, "wrong-types"),
    (raw.CrashesWithoutParams, "no-params"),
    (raw.ForgetsTheFirst, "stable-ids"),
    (raw.ClosesWithoutSaying, "one-connection"),
    (raw.OneAtATime, "connections"),
    (raw.NoInstancePlugin, "handshake"),
]


@pytest.mark.parametrize(("kind", "name"), FAULTS, ids=[kind.__name__ for kind, _ in FAULTS])
def test_a_fault_is_named_and_no_other(tmp_path: Path, kind: type[raw.Plugin], name: str) -> None:
    """A plugin with one fault fails the one check of it, and what can't be told then says why.

    What was made is gone after that, or reported by its ID; what was there is left alone.
    """
    plugin = kind()
    plugin.instances["mine"] = {"ID": "mine", "LogicalID": None, "Tags": {"infrakit.group": "g"}, "Properties": {}}
    report = examined(plugin, tmp_path)
    assert [name] == [each.name for each in report.failed]
    assert all(each.happened for each in report.checks if each.verdict is Verdict.UNKNOWN)
    assert not report.holds
    assert {"infrakit.group": "g"} == plugin.instances.pop("mine")["Tags"]
    assert sorted(plugin.instances) == sorted(each.id for each in report.left if each.id)


def test_every_check_is_failed_by_some_plugin() -> None:
    """There is a plugin above for each check, but for that of time."""
    assert {each.name for each in CHECKS} - {"in-time"} == {name for _, name in FAULTS} - {"handshake"}


def test_every_check_is_documented() -> None:
    """docs/conformance.md says of each check what it means, in the order in which they go, and its sample has them all."""
    page = (ROOT / "docs" / "conformance.md").read_text()
    every = ["handshake", *(each.name for each in CHECKS)]
    assert every == re.findall(r"^\| `([a-z][a-z-]+)` \| \S", page, re.MULTILINE)
    assert every == re.findall(r"^([a-z-]+) +(?:holds|does not hold) ", page, re.MULTILINE)


def test_a_slow_plugin_is_told() -> None:
    """A call that was answered later than InfraKit's clients wait does not hold."""
    session = Session(Path("none"), "", 60)
    session.slowest = (15.5, "Instance.Provision")
    (in_time,) = [each for each in CHECKS if each.name == "in-time"]
    result = in_time.result(Trial(session, plan(2, PROPERTIES), "Handshake.Hello", (0, 6, 1)))
    assert (Verdict.FAILS, "Instance.Provision took 15.5 s") == (result.verdict, result.happened)


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b"<html>",
        b"\xff",
        b'{"result":7}',
        b'{"error":"no"}',
        b'{"result":{"APIs":"x"}}',
    ],
)
def test_garbage_is_a_verdict(tmp_path: Path, words: bytes) -> None:
    """Where all answers are garbage the handshake does not hold, nothing is made, and the rest could not be told."""
    plugin = raw.SaysNothingElse()
    plugin.words = words
    report = examined(plugin, tmp_path)
    assert ["handshake"] == names(report, Verdict.FAILS)
    assert len(CHECKS) == len(names(report, Verdict.UNKNOWN))


# what is made


def test_the_plan_is_what_is_made(tmp_path: Path) -> None:
    """What is announced before it starts, count, tags and logical ID, is what is asked for."""
    plugin = raw.Plugin()
    lines: list[str] = []
    seen: list[int] = []

    def tell(line: str) -> None:
        lines.append(line)
        seen.append(len(plugin.provisioned))

    with raw.served(plugin, tmp_path / "plugin") as path:
        report = check(path, count=3, tell=tell)
    assert [f"{path}: {report.plan}"] == lines
    assert [0] == seen
    assert f"makes {len(plugin.provisioned)} instances" in report.plan
    assert 6 == len(plugin.provisioned)
    pairs = {f"{key}={value}" for spec in plugin.provisioned for key, value in spec["Tags"].items()}
    assert pairs == set(re.findall(r"[\w.]+=[\w=-]+", report.plan)) | {"conformance.rack=r2", "conformance.rack=r3"}
    (logical,) = {spec["LogicalID"] for spec in plugin.provisioned} - {None}
    assert report.plan.endswith(logical)


@contextmanager
def examining(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command beside the test, and no longer than that."""
    with subprocess.Popen(
        [*COMMAND, "conformance", str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(path.parent),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_an_interrupt_cleans_up(tmp_path: Path) -> None:
    """On ^C, and on SIGTERM, what was made is destroyed before the command ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        plugin = raw.HangsOnLabel()
        with raw.served(plugin, tmp_path / number.name) as path, examining(path, "--timeout", "60") as process:
            eventually(partial(_has, plugin, 3), "instances are there")
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
        assert (130, "") == (process.returncode, out)
        assert {} == plugin.instances


def test_an_interrupt_of_the_clean_up_is_told(tmp_path: Path) -> None:
    """On a second ^C, while it cleans up, the command ends, and says by their IDs what it has not destroyed."""
    plugin = raw.HangsOnLabelAndDestroy()
    with raw.served(plugin, tmp_path / "plugin") as path, examining(path, "--timeout", "60") as process:
        eventually(partial(_has, plugin, 3), "instances are there")
        process.send_signal(signal.SIGINT)
        assert plugin.asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert 130 == process.returncode
    assert sorted(plugin.instances) == re.findall(r"^left behind: (i-\d+): .*interrupted", told, re.MULTILINE)


def _has(plugin: raw.Plugin, count: int) -> bool:
    return len(plugin.instances) == count


def test_an_answer_that_comes_too_late_is_cleaned_up(tmp_path: Path) -> None:
    """An instance whose provision was not answered in time is found by its tag, and destroyed; that there may be more is said."""

    class Slow(raw.Plugin):
        def answer(self, body: bytes) -> bytes:
            reply = super().answer(body)
            if b"Instance.Provision" in body:
                self.over.wait(60)
            return reply

    plugin = Slow()
    report = examined(plugin, tmp_path, timeout=3)
    assert ["provision"] == [each.name for each in report.failed]
    assert 1 == len(plugin.provisioned)
    assert {} == plugin.instances
    (left,) = report.left
    assert "infrakit.group=conformance-" in left.reason


def test_an_id_that_was_there_is_never_destroyed(tmp_path: Path) -> None:
    """A plugin that gives an instance that was there for a new one fails, and that instance stays."""

    class GivesOld(raw.Plugin):
        def Provision(self, params: object) -> object:  # noqa: N802
            return {"ID": "mine"}

    plugin = GivesOld()
    plugin.instances["mine"] = {"ID": "mine", "LogicalID": None, "Tags": {}, "Properties": {}}
    report = examined(plugin, tmp_path)
    assert ["provision"] == [each.name for each in report.failed]
    assert ["mine"] == list(plugin.instances)
    assert [] == report.left


# plugins that hang


def _hang(listener: socket.socket, drip: bytes) -> None:
    """Send *drip* again and again on each connection, one after the other, until it is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, suppress(OSError):
            while drip:
                connection.sendall(drip)
                time.sleep(0.05)
            while connection.recv(4096):
                pass


@pytest.mark.parametrize("drip", [b"", b"H"])
def test_a_plugin_that_hangs_is_a_verdict(tmp_path: Path, drip: bytes) -> None:
    """A plugin that never answers, or a byte at a time without end, is given up at the timeout; nothing is made."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "plugin"))
        listener.listen()
        thread = threading.Thread(target=_hang, args=(listener, drip))
        thread.start()
        report = check(tmp_path / "plugin", timeout=0.3)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert ["handshake"] == names(report, Verdict.FAILS)
    assert all("not answered in 0.3 s" in fact(report, method) for method in ("Plugin.Implements", "Handshake.Hello"))


# the command


def test_a_table_for_people(daemon: Daemon) -> None:
    """The command shows each check with its verdict, and says on standard error what it makes; its exit status is 0."""
    done = command(daemon.home, "conformance", "rack1", "--count", "2")
    assert 0 == done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert any(re.match(r"describe-all +holds +DescribeInstances", line) for line in lines)
    assert f"holds: {len(CHECKS) + 1}, does not hold: 0, not applicable: 0, could not tell: 0" == lines[-1]
    (told,) = done.stderr.splitlines()
    assert "makes 5 instances" in told
    assert [] == daemon.described()


@pytest.mark.parametrize("flag", ["-r", "--raw", "--json"])
def test_json_for_programs(daemon: Daemon, flag: str) -> None:
    """The report as JSON has all that the table has."""
    found = json.loads(command(daemon.home, "conformance", str(daemon.socket), flag, "--count", "2").stdout)
    assert {"holds", "socket", "plan", "facts", "checks", "left"} == found.keys()
    assert found["holds"] is True
    assert {"name", "verdict", "expected", "happened"} == found["checks"][0].keys()
    assert ["handshake", *(each.name for each in CHECKS)] == [each["name"] for each in found["checks"]]


def test_what_does_not_hold_is_told(tmp_path: Path) -> None:
    """Where something does not hold the exit status is 1, and one line names it, and what was left behind."""
    with raw.served(raw.NeverDestroys(), tmp_path / "plugin") as path:
        done = command(tmp_path, "conformance", str(path), "--timeout", "3", "--count", "2")
    assert 1 == done.returncode
    assert re.search(r"^destroy +does not hold .* not today$", done.stdout, re.MULTILINE)
    last = done.stderr.splitlines()[-1]
    ids = ", ".join(f"i-00000{number}" for number in range(1, 6))
    assert f"infrakit-instance: does not hold: destroy; left behind: {ids}" == last
    assert 5 == len(re.findall(r"^left behind: i-\d+: not today$", done.stderr, re.MULTILINE))


def test_properties_come_from_a_file(simulated: Daemon, tmp_path: Path) -> None:
    """`--properties` is what instances are made with, as JSON or YAML; what the provider refuses is told."""
    (tmp_path / "p.json").write_text('{"delay": 0.01}')
    (tmp_path / "p.yaml").write_text("delay: 0.01\n")
    for arguments in (["--properties", str(tmp_path / "p.json")], ["--properties", str(tmp_path / "p.yaml"), "-y"]):
        assert 0 == command(simulated.home, "conformance", "rack1", *arguments).returncode
    (tmp_path / "p.json").write_text('{"delay": "long"}')
    done = command(simulated.home, "conformance", "rack1", "--properties", str(tmp_path / "p.json"))
    assert "infrakit-instance: does not hold: validate, provision" == done.stderr.splitlines()[-1]
    assert "Properties.delay: expected a number" in done.stdout


def test_nothing_listens(home: Path, tmp_path: Path) -> None:
    """Where there is no plugin that is one line, and exit status 1; for the library an exception."""
    done = command(home, "conformance", "rack1")
    assert (1, "") == (done.returncode, done.stdout)
    assert [
        f"infrakit-instance: no plugin at {home / 'plugins' / 'rack1'}: there is no such socket"
    ] == done.stderr.splitlines()
    with pytest.raises(Unreachable):
        check(tmp_path / "none")
    assert not os.path.exists(tmp_path / "none")


@pytest.mark.parametrize(
    "arguments", [[], ["rack1", "--count", "1"], ["rack1", "--timeout", "0"], ["a\nb"], ["rack1", "--no"]]
)
def test_wrong_use_is_told(home: Path, arguments: list[str]) -> None:
    """Wrong use is one line, and exit status 2."""
    done = command(home, "conformance", *arguments)
    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))
