"""The conformance checks on our own plugin, on correct plugins of others, and on plugins with one fault each."""

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
from pyinfrakit.conformance import CHECKS, Report, Verdict, check
from pyinfrakit.conformance.session import Session
from pyinfrakit.conformance.trial import Intent, Trial
from pyinfrakit.errors import Unreachable, WrongCall
from support.executables import Examples
from support.harness import COMMAND, PROGRAMS, ROOT, Daemon, command, environment, eventually

PROPERTIES = msgspec.Raw(b'{"size": [1, 2.50]}')


def run_checks(plugin: raw.Plugin, folder: Path, timeout: float | None = None) -> Report:
    """Return the report on a plugin that is served for this run."""
    with raw.serve(plugin, folder / "plugin") as path:
        return check(path, properties=PROPERTIES, timeout=timeout or plugin.patience)


def list_checks(report: Report, verdict: Verdict) -> list[str]:
    return [each.name for each in report.checks if each.verdict is verdict]


def find_fact(report: Report, name: str) -> str:
    return next(each.value for each in report.facts if each.name == name)


# correct plugins


def assert_all_holds(daemon: Daemon, properties: Raw = Raw(b"{}")) -> None:
    """Assert that every check holds, every release can use the plugin, and only the existing instance remains."""
    before = daemon.provision(json.loads(bytes(properties)))
    report = check(daemon.socket, properties=properties)
    assert [each.name for each in report.checks] == list_checks(report, Verdict.HOLDS)
    assert "0.1-0.2, 0.3-0.4, 0.5, 2018" == find_fact(report, "usable by InfraKit")
    assert "the newest: later IDs are smaller" == find_fact(report, "shrink removes first")
    assert "accepted" == find_fact(report, "params in an array")
    assert report.holds
    assert [before] == daemon.described()


@pytest.mark.parametrize("provider", ["file", "simulator"])
def test_our_own_plugin_holds(run: Callable[..., Daemon], provider: str) -> None:
    """Every check holds for our daemon with an in-process provider."""
    assert_all_holds(run("--provider", provider, "--sync-interval", "0.1"))


def test_our_own_plugin_holds_with_processes(start: Callable[..., Daemon]) -> None:
    """Every check holds for our daemon with instances that are processes."""
    properties = Raw(b'{"command":"sleep","arguments":["600"]}')
    daemon = start()
    assert_all_holds(daemon, properties)
    for id in daemon.described():
        daemon.call("Instance.Destroy", Instance=id)


def test_our_own_plugin_holds_with_executables(
    run: Callable[..., Daemon], examples: Examples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every check holds for our daemon with executables as its provider."""
    monkeypatch.setenv("MACHINES", str(tmp_path / "machines"))
    options = (f"command={examples.get('sh')}", "environment=MACHINES")
    assert_all_holds(run("--provider", "exec", *(word for each in options for word in ("--option", each)), *FAST))


@pytest.mark.parametrize("correct", [raw.Plugin, raw.LowerCaseNames, raw.AnnouncesClose])
def test_a_plugin_that_is_not_ours_holds(tmp_path: Path, correct: type[raw.Plugin]) -> None:
    """Every check holds for another correct plugin, even if it writes names in lower case or closes connections."""
    plugin = correct()
    report = run_checks(plugin, tmp_path)
    assert [each.name for each in report.checks] == list_checks(report, Verdict.HOLDS)
    assert "the oldest: later IDs are larger" == find_fact(report, "shrink removes first")
    assert {} == plugin.instances


def test_an_old_plugin_is_checked_for_its_version(tmp_path: Path) -> None:
    """For a plugin that has only version 0.1, the checks of later versions are not applicable and all others hold."""
    plugin = raw.Old()
    report = run_checks(plugin, tmp_path)
    later = ["unknown-type", "logical-id", "properties", "label", "label-keeps", "label-unknown", "type"]
    assert later == list_checks(report, Verdict.NOT_APPLICABLE)
    assert [] == list_checks(report, Verdict.FAILS) + list_checks(report, Verdict.UNKNOWN)
    assert "0.1-0.2" == find_fact(report, "usable by InfraKit")
    assert report.holds
    assert {} == plugin.instances


def test_a_sub_type_is_checked_by_its_name(tmp_path: Path) -> None:
    """The run checks the sub-type that the caller names. A missing or wrong one is an error that lists the right ones."""
    with raw.serve(raw.SubTyped(), tmp_path / "plugin") as path:
        assert check(path, sub_type="compute").holds
        with pytest.raises(WrongCall, match="has sub-types: use NAME/compute"):
            check(path)
        with pytest.raises(WrongCall, match="no sub-type 'storage': use NAME/compute"):
            check(path, sub_type="storage")


def test_our_own_sub_types_hold(home: Path, run: Callable[..., Daemon]) -> None:
    """Every check holds for each sub-type of our own daemon, and NAME/TYPE selects it."""
    run(program=(sys.executable, str(PROGRAMS / "sub_types.py"), "simulator", "compute,storage"))
    for name in ("rack1/compute", "rack1/storage"):
        done = command(home, "conformance", name, "--count", "2")
        assert (0, f"holds: {len(CHECKS) + 1}") == (done.returncode, done.stdout.splitlines()[-1].split(",")[0])
    done = command(home, "conformance", "rack1")
    assert (1, "") == (done.returncode, done.stdout)
    assert ["infrakit-instance: the plugin has sub-types: use NAME/compute or NAME/storage"] == done.stderr.splitlines()


# plugins with a fault

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


@pytest.mark.parametrize(("faulty", "name"), FAULTS, ids=[faulty.__name__ for faulty, _ in FAULTS])
def test_a_fault_fails_exactly_one_check(tmp_path: Path, faulty: type[raw.Plugin], name: str) -> None:
    """A plugin with one fault fails exactly the check for it, and checks that can't tell say why.

    Afterwards the run's instances are gone or reported by ID, and the instance from before is untouched.
    """
    plugin = faulty()
    plugin.instances["mine"] = {"ID": "mine", "LogicalID": None, "Tags": {"infrakit.group": "g"}, "Properties": {}}
    report = run_checks(plugin, tmp_path)
    assert [name] == [each.name for each in report.failed]
    assert all(each.happened for each in report.checks if each.verdict is Verdict.UNKNOWN)
    assert not report.holds
    assert {"infrakit.group": "g"} == plugin.instances.pop("mine")["Tags"]
    assert sorted(plugin.instances) == sorted(each.id for each in report.left if each.id)


def test_every_check_is_failed_by_some_plugin() -> None:
    """Some plugin above fails each check, except `in-time`, which would take too long."""
    assert {each.name for each in CHECKS} - {"in-time"} == {name for _, name in FAULTS} - {"handshake"}


def test_every_check_is_documented() -> None:
    """docs/conformance.md explains every check in order, and its example shows every check."""
    page = (ROOT / "docs" / "conformance.md").read_text()
    every = ["handshake", *(each.name for each in CHECKS)]
    assert every == re.findall(r"^\| `([a-z][a-z-]+)` \| \S", page, re.MULTILINE)
    assert every == re.findall(r"^([a-z-]+) +(?:holds|does not hold) ", page, re.MULTILINE)


def test_a_slow_plugin_fails() -> None:
    """A reply that comes after the timeout of InfraKit's clients fails the check `in-time`."""
    session = Session(Path("none"), "", 60)
    session.slowest = (15.5, "Instance.Provision")
    (in_time,) = [each for each in CHECKS if each.name == "in-time"]
    result = in_time.run(Trial(session, Intent(2, PROPERTIES), "Handshake.Hello", (0, 6, 1)))
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
    """If all replies are garbage, the handshake fails, the run creates no instance, and all other checks can't tell."""
    plugin = raw.RepeatsWords()
    plugin.words = words
    report = run_checks(plugin, tmp_path)
    assert ["handshake"] == list_checks(report, Verdict.FAILS)
    assert len(CHECKS) == len(list_checks(report, Verdict.UNKNOWN))


# creation and clean-up


def test_the_run_keeps_to_its_plan(tmp_path: Path) -> None:
    """The run provisions exactly the count, tags and logical ID that it announces first."""
    plugin = raw.Plugin()
    lines: list[str] = []
    seen: list[int] = []

    def tell(line: str) -> None:
        lines.append(line)
        seen.append(len(plugin.provisioned))

    with raw.serve(plugin, tmp_path / "plugin") as path:
        report = check(path, count=3, tell=tell)
    assert [f"{path}: {report.plan}"] == lines
    assert [0] == seen
    assert f"creates {len(plugin.provisioned)} instances" in report.plan
    assert 6 == len(plugin.provisioned)
    pairs = {f"{key}={value}" for spec in plugin.provisioned for key, value in spec["Tags"].items()}
    assert pairs == set(re.findall(r"[\w.]+=[\w=-]+", report.plan)) | {"conformance.rack=r2", "conformance.rack=r3"}
    (logical,) = {spec["LogicalID"] for spec in plugin.provisioned} - {None}
    assert report.plan.endswith(logical)


@contextmanager
def start_command(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in the background, and kill it when the context ends."""
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
    """The command destroys its instances before it exits on ^C or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        plugin = raw.HangsOnLabel()
        with raw.serve(plugin, tmp_path / number.name) as path, start_command(path, "--timeout", "60") as process:
            eventually(partial(has_instances, plugin, 3), "the instances exist")
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)
        assert (130, "") == (process.returncode, out)
        assert {} == plugin.instances


def test_an_interrupt_of_the_clean_up_is_reported(tmp_path: Path) -> None:
    """The command exits on a second ^C during the clean-up, and prints the IDs of the remaining instances."""
    plugin = raw.HangsOnLabelAndDestroy()
    with raw.serve(plugin, tmp_path / "plugin") as path, start_command(path, "--timeout", "60") as process:
        eventually(partial(has_instances, plugin, 3), "the instances exist")
        process.send_signal(signal.SIGINT)
        assert plugin.asked.wait(60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert 130 == process.returncode
    assert sorted(plugin.instances) == re.findall(r"^left behind: (i-\d+): .*interrupted", errors, re.MULTILINE)


def has_instances(plugin: raw.Plugin, count: int) -> bool:
    return len(plugin.instances) == count


def test_a_late_reply_is_cleaned_up(tmp_path: Path) -> None:
    """The clean-up finds an instance by its tag if its provision timed out, and warns that there may be more."""

    class Slow(raw.Plugin):
        def answer(self, body: bytes) -> bytes:
            reply = super().answer(body)
            if b"Instance.Provision" in body:
                self.over.wait(60)
            return reply

    plugin = Slow()
    report = run_checks(plugin, tmp_path, timeout=3)
    assert ["provision"] == [each.name for each in report.failed]
    assert 1 == len(plugin.provisioned)
    assert {} == plugin.instances
    (left,) = report.left
    assert "infrakit.group=conformance-" in left.reason


def test_an_existing_instance_is_never_destroyed(tmp_path: Path) -> None:
    """A plugin that returns an existing instance's ID for a new one fails, and that instance stays."""

    class ReturnsExisting(raw.Plugin):
        def Provision(self, params: object) -> object:  # noqa: N802
            return {"ID": "mine"}

    plugin = ReturnsExisting()
    plugin.instances["mine"] = {"ID": "mine", "LogicalID": None, "Tags": {}, "Properties": {}}
    report = run_checks(plugin, tmp_path)
    assert ["provision"] == [each.name for each in report.failed]
    assert ["mine"] == list(plugin.instances)
    assert [] == report.left


# plugins that hang


def _hang(listener: socket.socket, drip: bytes) -> None:
    """Send *drip* repeatedly on one connection after the other, until the client closes it."""
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
    """A plugin that never replies, or sends one byte at a time forever, fails at the timeout, and the run creates nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "plugin"))
        listener.listen()
        thread = threading.Thread(target=_hang, args=(listener, drip))
        thread.start()
        report = check(tmp_path / "plugin", timeout=0.3)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert ["handshake"] == list_checks(report, Verdict.FAILS)
    assert all(
        "timed out after 0.3 s" in find_fact(report, method) for method in ("Plugin.Implements", "Handshake.Hello")
    )


# the command


def test_the_command_prints_tables(daemon: Daemon) -> None:
    """The command prints each check with its verdict, prints its plan to standard error, and exits with 0."""
    done = command(daemon.home, "conformance", "rack1", "--count", "2")
    assert 0 == done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert any(re.match(r"describe-all +holds +DescribeInstances", line) for line in lines)
    assert f"holds: {len(CHECKS) + 1}, does not hold: 0, not applicable: 0, could not tell: 0" == lines[-1]
    (line,) = done.stderr.splitlines()
    assert "creates 5 instances" in line
    assert [] == daemon.described()


@pytest.mark.parametrize("flag", ["-r", "--raw", "--json"])
def test_the_command_prints_json(daemon: Daemon, flag: str) -> None:
    """The JSON report contains everything that the tables contain."""
    report = json.loads(command(daemon.home, "conformance", str(daemon.socket), flag, "--count", "2").stdout)
    assert {"holds", "socket", "plan", "facts", "checks", "left"} == report.keys()
    assert report["holds"] is True
    assert {"name", "verdict", "expected", "happened"} == report["checks"][0].keys()
    assert ["handshake", *(each.name for each in CHECKS)] == [each["name"] for each in report["checks"]]


def test_the_command_reports_failures(tmp_path: Path) -> None:
    """If a check fails, the command exits with 1, and its last line names the check and the remaining instances."""
    with raw.serve(raw.NeverDestroys(), tmp_path / "plugin") as path:
        done = command(tmp_path, "conformance", str(path), "--timeout", "3", "--count", "2")
    assert 1 == done.returncode
    assert re.search(r"^destroy +does not hold .* not today$", done.stdout, re.MULTILINE)
    last = done.stderr.splitlines()[-1]
    ids = ", ".join(f"i-00000{number}" for number in range(1, 6))
    assert f"infrakit-instance: does not hold: destroy; left behind: {ids}" == last
    assert 5 == len(re.findall(r"^left behind: i-\d+: not today$", done.stderr, re.MULTILINE))


def test_properties_come_from_a_file(simulated: Daemon, tmp_path: Path) -> None:
    """`--properties` sets the instances' properties as JSON or YAML, and the report repeats the provider's complaint."""
    (tmp_path / "p.json").write_text('{"delay": 0.01}')
    (tmp_path / "p.yaml").write_text("delay: 0.01\n")
    for arguments in (["--properties", str(tmp_path / "p.json")], ["--properties", str(tmp_path / "p.yaml"), "-y"]):
        assert 0 == command(simulated.home, "conformance", "rack1", *arguments).returncode
    (tmp_path / "p.json").write_text('{"delay": "long"}')
    done = command(simulated.home, "conformance", "rack1", "--properties", str(tmp_path / "p.json"))
    assert "infrakit-instance: does not hold: validate, provision" == done.stderr.splitlines()[-1]
    assert "Properties.delay: expected a number" in done.stdout


def test_nothing_listens(home: Path, tmp_path: Path) -> None:
    """A missing plugin is one line and exit status 1 for the command, and an exception for the library."""
    done = command(home, "conformance", "rack1")
    assert (1, "") == (done.returncode, done.stdout)
    assert [
        f"infrakit-instance: no plugin at {home / 'plugins' / 'rack1'}: there is no such socket; is the plugin running?"
    ] == done.stderr.splitlines()
    with pytest.raises(Unreachable):
        check(tmp_path / "none")
    assert not os.path.exists(tmp_path / "none")


@pytest.mark.parametrize(
    "arguments", [[], ["rack1", "--count", "1"], ["rack1", "--timeout", "0"], ["a\nb"], ["rack1", "--no"]]
)
def test_wrong_use_is_an_error(home: Path, arguments: list[str]) -> None:
    """Wrong arguments are one line and exit status 2."""
    done = command(home, "conformance", *arguments)
    assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))
