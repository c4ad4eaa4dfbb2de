"""The command line: every command and flag. Any failure is one line on stderr and an exit code."""

import json
import os
import re
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import click
import pytest
import yaml

from conftest import FAST
from pyinfrakit import __version__
from pyinfrakit.cli.serve import instance
from support.harness import COMMAND, Daemon, command, environment, eventually

Run = Callable[..., Daemon]

FLAGS = {
    "name": "other",
    "log": "3",
    "state": "s.json",
    "dir": "sockets",
    "provider": "simulator",
    "option": "world=w.json",
    "config": "c.toml",
    "mark": "mine",
    "sync-interval": "1",
    "observe-timeout": "1",
    "provision-wait": "1",
    "provision-deadline": "1",
    "broken-after": "1",
    "healed-after": "1",
    "missing-after": "1",
    "non-functional-age": "1",
    "paced-updates": "false",
    "call-timeout": "1",
    "calls-at-once": "5",
}
"""The plugin's own flags, with a valid value for each."""

BAD = {
    "name": "../rack",
    "log": "6",
    "provider": "nope",
    "option": "world",
    "config": "nope.toml",
    "sync-interval": "0",
    "observe-timeout": "nan",
    "provision-wait": "15",
    "provision-deadline": "soon",
    "broken-after": "0",
    "healed-after": "x",
    "missing-after": "-1",
    "non-functional-age": "0",
    "call-timeout": "0",
    "calls-at-once": "0",
}
"""Invalid values of flags."""

VERBS = {
    "version": [],
    "describe": ["--dir", "--tags", "-q, --quiet", "-r, --raw", "-y, --yaml", "-p, --properties", "--all"],
    "provision": ["--dir", "-y, --yaml"],
    "validate": ["--dir", "-y, --yaml"],
    "destroy": ["--dir", "--wait / --no-wait", "--timeout"],
    "label": ["--dir"],
    "set-aside": ["--dir", "--reason"],
    "restore": ["--dir", "--force"],
    "confirm": ["--dir"],
    "orphans": ["--dir", "--destroy", "-r, --raw"],
    "adopt": ["--dir", "--orphans", "--group", "--tags", "--logical-id"],
    "machines": ["--dir", "-r, --raw"],
    "events": ["--dir", "-f, --follow", "--since", "-o, --output"],
    "info": ["--dir", "-r, --raw"],
    "provider": ["--schema"],
    "conformance": ["--dir", "--properties", "-y, --yaml", "--count", "--timeout", "-r, --raw, --json"],
    "export": ["-o, --output"],
    "fsck": ["--repair", "--without-journal"],
    "new": [],
}
"""Every command, with its flags in the form that help shows."""

SPEC = {
    "Properties": {"a": [1, None]},
    "Tags": {"tier": "web"},
    "Init": "#!",
    "LogicalID": "l",
    "Attachments": [{"ID": "v", "Type": "ebs"}],
}


def ok(home: Path, *arguments: str, input: str = "", **variables: str) -> str:
    """Run a command that must succeed without output on stderr, and return its output."""
    done = command(home, *arguments, input=input, **variables)
    assert ("", 0) == (done.stderr, done.returncode)
    return done.stdout


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line with the reason of a failure."""
    assert 0 != done.returncode
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("infrakit-instance: ")
    return line.removeprefix("infrakit-instance: ")


def fails(home: Path, *arguments: str, input: str = "", **variables: str) -> str:
    """Run a command that must fail, and return its one line on stderr."""
    return one_line(command(home, *arguments, input=input, **variables))


def variable(flag: str) -> str:
    return f"INFRAKIT_INSTANCE_{flag.upper().replace('-', '_')}"


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a file and returns its path."""

    def write(content: str) -> str:
        path = tmp_path / "spec"
        path.write_text(content)
        return str(path)

    return write


# help and flags


def test_version(home: Path) -> None:
    """`version` prints the program's name and version."""
    assert f"infrakit-instance {__version__}\n" == ok(home, "version")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_every_flag_and_command(home: Path, flag: str) -> None:
    """Help exits with 0, and shows every flag and command and the environment variables."""
    text = ok(home, flag)
    for each in FLAGS:
        assert re.search(rf"^  --{each}\b", text, re.MULTILINE)
    for verb in VERBS:
        assert re.search(rf"^  {verb}  +\S", text, re.MULTILINE)
    assert "environment" in text


def test_the_tests_know_every_flag_and_command() -> None:
    """This file lists every flag and command, so that it tests all of them."""
    declared = {name for each in instance.params for name in each.opts if name.startswith("--")}
    assert {f"--{flag}" for flag in FLAGS} == declared
    assert set(VERBS) == set(instance.list_commands(click.Context(instance)))


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_command_shows_its_flags(home: Path, verb: str) -> None:
    """The help of each command exits with 0, describes the command, and shows its flags."""
    text = ok(home, verb, "--help")
    assert f"infrakit-instance {verb}" in text
    for flag in VERBS[verb]:
        assert re.search(rf"^  {re.escape(flag)}\b.*\S", text, re.MULTILINE)


@pytest.mark.parametrize("flag", BAD)
def test_a_bad_value_is_an_error(home: Path, flag: str) -> None:
    """The error for an invalid value shows the value, and the name of its flag."""
    line = fails(home, f"--{flag}", BAD[flag])
    assert flag in line
    assert BAD[flag] in line


@pytest.mark.parametrize("flag", ["log", "option", "sync-interval", "paced-updates"])
def test_the_error_for_a_bad_value_from_the_environment_names_the_variable(home: Path, flag: str) -> None:
    """The error for an invalid value from the environment names the variable."""
    line = fails(home, **{variable(flag): BAD.get(flag, "perhaps")})
    assert variable(flag) in line
    assert BAD.get(flag, "perhaps") in line


@pytest.mark.parametrize("flag", ["sync-interval", "provision-deadline"])
def test_nan_is_not_a_time(home: Path, flag: str) -> None:
    """NaN is not a number of seconds: a daemon does not start with it."""
    process = subprocess.Popen([*COMMAND, f"--{flag}", "nan"], stderr=subprocess.PIPE, text=True, env=environment(home))
    try:
        _, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        pytest.fail(f"the daemon runs: {errors}")
    assert 1 == len(errors.splitlines())
    assert "nan" in errors
    assert 0 != process.returncode


def test_every_flag_can_come_from_the_environment(home: Path, run: Run) -> None:
    """A daemon takes its socket, state, provider, options and mark from the environment.

    test_config covers `--config`, which replaces two of the flags.
    """
    home.mkdir()
    variables = {variable(flag): value for flag, value in FLAGS.items() if flag != "config"}
    variables |= {variable(flag): str(home / FLAGS[flag]) for flag in ("state", "dir")}
    variables |= {variable("option"): f"world={home / 'w.json'}"}
    process = subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True, env=environment(home) | variables)
    try:
        eventually(
            lambda: (
                stat.S_ISSOCK((home / "sockets" / "other").stat().st_mode)
                if (home / "sockets" / "other").exists()
                else False
            )
        )
        id = ok(home, "provision", "other", "-", input="{}", INFRAKIT_INSTANCE_DIR=str(home / "sockets")).strip()
    finally:
        process.terminate()
        _, log = process.communicate(timeout=20)
    saved = json.loads((home / "s.json").read_bytes())
    assert ("mine", [id]) == (saved["Provider"]["Mark"], [each["ID"] for each in saved["Instances"]])
    assert [id] == list(json.loads((home / "w.json").read_bytes())["machines"])
    assert "provider Simulator" in log
    assert "INFO" not in log


def test_the_command_line_counts_more_than_the_environment(home: Path) -> None:
    """A flag on the command line overrides the environment."""
    assert "'here'" in fails(home, "--provider", "here", INFRAKIT_INSTANCE_PROVIDER="there")
    assert "'there'" in fails(home, INFRAKIT_INSTANCE_PROVIDER="there")


def test_the_level_selects_the_lines_of_the_log(home: Path, run: Run) -> None:
    """A healthy daemon logs nothing with `--log 1`; with 4 it logs each provision, even of many at once."""
    quiet = run("--log", "1", *FAST)
    quiet.provision()
    assert 0 == quiet.stop()
    assert "" == quiet.log
    chatty = run("--log", "4", *FAST)
    id = chatty.provision()
    eventually(lambda: f"{id}: provisioned" in chatty.log)
    with ThreadPoolExecutor(8) as clients:
        provisioned = set(clients.map(lambda _: chatty.provision(), range(16)))
    eventually(lambda: provisioned <= set(re.findall(r"\b0[0-9a-v]{11}-[0-9a-v]{6}\b", chatty.log)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bogus"], "--bogus"),
        (["--log"], "--log"),
        (["nope"], "nope"),
        (["describe"], "NAME"),
        (["describe", "rack1", "--tags", "a"], "expected key=value, got 'a'"),
        (["describe", "rack1", "--tags", "a=1,b"], "expected key=value, got 'b'"),
        (["describe", "rack1", "--tags", "a=1,a=2"], "duplicate tag a: '1' and '2'"),
        (["--option", "world=a", "--option", "world=b"], "duplicate --option world=…"),
        (["provision", "rack1"], "FILE"),
        (["validate", "rack1"], "FILE"),
        (["destroy", "rack1"], "ID"),
        (["destroy", "rack1", "x", "--timeout", "-1"], "--timeout"),
        (["label", "rack1", "x"], "k=v"),
        (["label", "rack1", "x", "k"], "expected key=value, got 'k'"),
        (["label", "rack1", "x", "=v"], "expected key=value, got '=v'"),
        (["set-aside", "rack1", "x"], "--reason"),
        (["restore", "rack1"], "ID"),
        (["confirm"], "NAME"),
        (["new"], "NAME"),
        (["info", "rack1", "more"], "more"),
    ],
)
def test_wrong_use_is_an_error(home: Path, arguments: list[str], says: str) -> None:
    """Wrong use of a command is one line with the problem and a pointer to the help, and exit code 2."""
    done = command(home, *arguments)
    line = one_line(done)
    assert says in line
    assert "--help" in line
    assert 2 == done.returncode


# the daemon's start


def test_the_start_is_logged(home: Path, run: Run) -> None:
    """The start message has the socket, the state file, and the number of instances by state."""
    daemon = run(*FAST)
    start = f"socket {daemon.socket}, state file {daemon.state}, provider File: 0 instances"
    eventually(lambda: start in daemon.log, "the start is logged")
    aside, _ = daemon.provision(), daemon.provision()
    with daemon.remote() as plugin:
        plugin.set_aside(aside, "x")
    daemon.stop()
    daemon.start()
    eventually(
        lambda: "2 instances (1 ready, 1 non-functional)" in daemon.log.partition("stopped")[2],
        "the next start is logged",
    )


def test_the_state_is_in_infrakits_home_by_default(home: Path, run: Run) -> None:
    """The default of `--state` is state/NAME.json in InfraKit's home, in a folder for its owner alone."""
    daemon = run(*FAST, name="rack7")
    daemon.provision()
    daemon.stop()
    path = home / "state" / "rack7.json"
    assert 1 == len(json.loads(path.read_bytes())["Instances"])
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)


def test_the_name_is_instance_py_by_default(home: Path) -> None:
    """The default of `--name` is instance-py, after the C demo's name."""
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "instance-py").mkdir()
    assert str(home / "plugins" / "instance-py") in fails(home)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.pid", "a\nb"])
def test_a_bad_name_is_refused(home: Path, name: str) -> None:
    """A name that is no file name, or that InfraKit would misread, is refused."""
    line = fails(home, "--name", name)
    assert f"name {name!r}: expected a file name" in line


def test_an_unusable_folder_of_sockets_is_an_error(home: Path, tmp_path: Path) -> None:
    """The error for a folder that is a file, or that has too long a path, names the path."""
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in fails(home, "--dir", str(tmp_path / "file"))
    assert "too long" in fails(home, "--dir", str(tmp_path / ("x" * 120)))


def test_a_file_in_place_of_the_socket_stays(home: Path) -> None:
    """A file in place of the socket stops the start, and stays."""
    path = home / "plugins" / "rack1"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert f"socket {path}: something else is there" in fails(home, "--name", "rack1")
    assert "mine" == path.read_text()


def test_two_daemons_can_not_have_one_name(daemon: Daemon) -> None:
    """A second daemon of the same name is refused with an error that names the first, which keeps running."""
    line = fails(daemon.home, "--name", daemon.name)
    assert "rack1" in line
    assert str(daemon.pid) in line
    assert [] == daemon.described()


def test_the_error_for_an_unknown_provider_lists_the_installed_ones(home: Path) -> None:
    """The error for an unknown provider lists the installed ones; the error for an unknown option lists the valid ones."""
    line = fails(home, "--provider", "nope")
    assert "'nope'" in line
    for installed in ("file", "simulator"):
        assert installed in line
    assert "world" in fails(home, "--provider", "simulator", "--option", "x=1")


# describe


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, list[str]]]:
    """Yield a daemon with three instances, which tests do not change, and their IDs, sorted."""
    with Daemon(tmp_path_factory.mktemp("three") / "ik", *FAST) as daemon:
        daemon.provision({"n": 1}, logical="l1", tier="web", infrakit_group="g")
        daemon.provision({"n": 2}, tier="web")
        daemon.provision({"n": 3}, tier="db")
        yield daemon, sorted(daemon.described())


def test_describe_shows_a_table_sorted_by_id(three: tuple[Daemon, list[str]]) -> None:
    """`describe` shows the ID, logical ID and tags of each instance in columns, sorted by ID."""
    daemon, ids = three
    lines = ok(daemon.home, "describe", "rack1").splitlines()
    assert ["ID", "LOGICAL", "TAGS"] == lines[0].split()
    assert [[ids[0], "-", "tier=db"], [ids[1], "-", "tier=web"]] == [line.split() for line in lines[1:3]]
    assert [ids[2], "l1", "infrakit.group=g,tier=web"] == lines[3].split()
    assert 1 == len({line.index(word) for line, word in zip(lines, ("TAGS", "tier", "tier", "infrakit"), strict=True)})


def test_describe_nothing(daemon: Daemon) -> None:
    """`describe` without instances prints only the heads; with -q it prints nothing, with -r or -y an empty list."""
    assert "ID  LOGICAL  TAGS\n" == ok(daemon.home, "describe", "rack1")
    assert "" == ok(daemon.home, "describe", "rack1", "-q")
    assert [] == json.loads(ok(daemon.home, "describe", "rack1", "-r"))
    assert [] == yaml.safe_load(ok(daemon.home, "describe", "rack1", "-y"))


def test_describe_quietly(three: tuple[Daemon, list[str]]) -> None:
    """`describe -q` prints sorted IDs, one in each line."""
    daemon, ids = three
    assert ids == ok(daemon.home, "describe", "rack1", "-q").splitlines()
    assert ids == ok(daemon.home, "describe", "rack1", "--quiet").splitlines()


@pytest.mark.parametrize(
    ("flag", "read"), [("-r", json.loads), ("--raw", json.loads), ("-y", yaml.safe_load), ("--yaml", yaml.safe_load)]
)
def test_describe_for_programs(three: tuple[Daemon, list[str]], flag: str, read: Callable[[str], Any]) -> None:
    """`describe -r` prints descriptions as JSON and `-y` as YAML; with -p they include properties."""
    daemon, ids = three
    found = read(ok(daemon.home, "describe", "rack1", flag))
    tags = {"infrakit.group": "g", "tier": "web"}
    assert {"ID": ids[2], "LogicalID": "l1", "Tags": tags} == found[2]
    assert ids == [each["ID"] for each in found]
    found = read(ok(daemon.home, "describe", "rack1", flag, "-p"))
    assert [{"n": 3}, {"n": 2}, {"n": 1}] == [each["Properties"] for each in found]


def test_describe_with_properties(three: tuple[Daemon, list[str]]) -> None:
    """`describe -p` has a column of properties."""
    daemon, ids = three
    lines = ok(daemon.home, "describe", "rack1", "-p").splitlines()
    assert ["ID", "LOGICAL", "TAGS", "PROPERTIES"] == lines[0].split()
    assert [ids[0], "-", "tier=db", '{"n":3}'] == lines[1].split()


def test_describe_by_tags(three: tuple[Daemon, list[str]]) -> None:
    """`describe --tags` shows instances that have all of the tags."""
    daemon, ids = three

    def found(tags: str) -> list[str]:
        return ok(daemon.home, "describe", "rack1", "-q", "--tags", tags).splitlines()

    assert ids[1:] == found("tier=web")
    assert ids[2:] == found("tier=web,infrakit.group=g")
    assert [] == found("tier=db,infrakit.group=g")
    assert ids == found("")


def test_describe_by_id(three: tuple[Daemon, list[str]]) -> None:
    """`describe NAME ID…` shows these instances, sorted. An unknown ID is an error that names it."""
    daemon, ids = three
    assert ids[::2] == ok(daemon.home, "describe", "rack1", ids[2], ids[0], "-q").splitlines()
    assert "'nope'" in fails(daemon.home, "describe", "rack1", ids[0], "nope")
    assert repr(ids[0]) in fails(daemon.home, "describe", "rack1", ids[0], "--tags", "tier=web")


def test_describe_all_shows_every_state(daemon: Daemon) -> None:
    """`describe --all` also shows instances that InfraKit does not see, with their state and reason."""
    ids = sorted([daemon.provision(tier="db"), daemon.provision(tier="web"), daemon.provision(tier="db")])
    ok(daemon.home, "set-aside", "rack1", ids[1], "--reason", "fan is loud")
    assert [ids[0], ids[2]] == ok(daemon.home, "describe", "rack1", "-q").splitlines()
    assert ids == ok(daemon.home, "describe", "rack1", "-q", "--all").splitlines()
    heads, *rows = ok(daemon.home, "describe", "rack1", "--all").splitlines()
    assert ["ID", "LOGICAL", "STATE", "SINCE", "REASON", "TAGS"] == heads.split()
    assert "ready" in rows[0]
    assert re.search(r"  non-functional +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  by hand: fan is loud  tier=web$", rows[1])
    (found,) = json.loads(ok(daemon.home, "describe", "rack1", "--all", "-r", ids[1], "--tags", "tier=web"))
    assert ("non-functional", "fan is loud", True) == (found["State"], found["Reason"], found["ByHand"])
    assert "Properties" not in found
    assert repr(ids[1]) in fails(daemon.home, "describe", "rack1", ids[1])


# provision and validate


def test_provision_from_a_file(daemon: Daemon, file: Callable[[str], str]) -> None:
    """`provision` creates an instance from all of the file's spec, and prints only its ID."""
    id = ok(daemon.home, "provision", "rack1", file(json.dumps(SPEC))).removesuffix("\n")
    (saved,) = daemon.saved()["Instances"]
    assert {**SPEC, "ID": id} == {key: saved[key] for key in ("ID", *SPEC)}


def test_provision_from_anywhere(daemon: Daemon, file: Callable[[str], str]) -> None:
    """`provision` reads a spec from a file, a file:// URL or standard input, as JSON, or as YAML with -y."""
    for source in ("-", "file://{}", "{}"):
        for flags in ([], ["-y"], ["--yaml"]):
            text = yaml.safe_dump(SPEC) if flags else json.dumps(SPEC)
            path = source.format(file(text))
            id = ok(daemon.home, "provision", "rack1", path, *flags, input=text if source == "-" else "").strip()
            (found,) = daemon.call("Instance.DescribeInstances", Properties=True)["Descriptions"]
            assert {"ID": id, "LogicalID": "l", "Tags": {"tier": "web"}, "Properties": {"a": [1, None]}} == found
            daemon.call("Instance.Destroy", Instance=id)


@contextmanager
def web(status: int, body: bytes) -> Iterator[str]:
    """Run a web server that answers all requests with *body*; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/spec.json"
        finally:
            server.shutdown()
            serving.join()


def test_provision_from_the_web(daemon: Daemon) -> None:
    """`provision` reads a spec from an http:// URL. If the server answers with an error, it creates nothing."""
    with web(200, b'{"Tags":{"from":"web"}}') as address:
        id = ok(daemon.home, "provision", "rack1", address).strip()
    assert [id] == daemon.described(**{"from": "web"})
    with web(404, b"{}") as address:
        line = fails(daemon.home, "provision", "rack1", address)
    assert address in line
    assert "404" in line or "Not Found" in line
    assert [id] == daemon.described()


@pytest.mark.parametrize(
    ("content", "flags", "says"),
    [
        ("", [], "empty"),
        ("{", [], "not JSON: it ends too early"),
        ("a: 1", [], "if it is YAML, use -y"),
        ('{"Tags":{"a":"\\q"}}', [], "not JSON"),
        ("[1,", [], "not JSON"),
        ("[]", [], "expected an object, got an array"),
        ("7", [], "expected an object, got an integer"),
        ('{"Propertys":{}}', [], "Propertys"),
        ('{"Tags":{"a":1}}', [], "Tags.a: expected a string, got 1"),
        ('{"Tags":{"a":{"b":[]}}}', [], "Tags.a: expected a string, got an object"),
        ('{"LogicalID":5}', [], "LogicalID: expected a string or null, got 5"),
        ('{"Attachments":[{"ID":"a"},{"ID":1}]}', [], "Attachments[1].ID: expected a string"),
        ("[" * 300 + "]" * 300, [], "deep"),
        ("", ["-y"], "expected an object, got null"),
        ("a: [", ["-y"], "YAML"),
        ("Tags: {a: 1}", ["-y"], "Tags.a: expected a string, got 1"),
        ("a: 1\n---\nb: 2", ["-y"], "YAML"),
        ("? [1]\n: 2", ["-y"], "YAML"),
        ("Init: !!python/name:os.system", ["-y"], "YAML"),
        ("\0", ["-y"], "YAML"),
        ("Properties: {a: &x [*x]}", ["-y"], "YAML"),
    ],
)
def test_a_bad_spec_is_an_error(
    home: Path, file: Callable[[str], str], content: str, flags: list[str], says: str
) -> None:
    """The error for an invalid spec names the file, the place in it, and the expected value."""
    path = file(content)
    line = fails(home, "provision", "rack1", path, *flags)
    assert line.startswith(f"{path}: ")
    assert says in line


def test_validate_reads_specs_as_provision_does(home: Path, file: Callable[[str], str]) -> None:
    """`validate` and `provision` report the same errors in a spec."""
    for content in ("{", '{"Propertys":{}}', '{"Tags":{"a":1}}'):
        path = file(content)
        assert fails(home, "provision", "rack1", path) == fails(home, "validate", "rack1", path)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nope.json", "No such file or directory"),
        (".", "Is a directory"),
        ("file:///nope.json", "No such file or directory"),
        ("http://127.0.0.1:9/x", "Connection refused"),
        ("http://127.0.0.1:port/x", "port"),
        ("http://a b/", "http://a b/"),
        ("http://", "host"),
        ("https://", "host"),
    ],
)
def test_an_unreadable_spec_is_an_error(home: Path, source: str, says: str) -> None:
    """The error for an unreadable file or URL names it, with the reason."""
    line = fails(home, "provision", "rack1", source)
    assert line.startswith(f"{source}: ")
    assert says in line


def test_closed_standard_input_is_an_error(home: Path) -> None:
    """A closed standard input is an error of one line."""
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "provision", "rack1", "-"],
        capture_output=True,
        text=True,
        env=environment(home),
        check=False,
    )
    assert "-: there is no standard input" in one_line(run)


def test_validate_says_ok(simulated: Daemon, file: Callable[[str], str]) -> None:
    """`validate` prints `validate:ok` for a spec that the provider accepts, and provisions nothing."""
    assert "validate:ok\n" == ok(
        simulated.home, "validate", "rack1", file('{"Properties":{"delay":1},"Tags":{"a":"1"}}')
    )
    assert "validate:ok\n" == ok(simulated.home, "validate", "rack1", "-", "-y", input="Properties: {delay: 1}")
    assert "validate:ok\n" == ok(simulated.home, "validate", "rack1", "-", input="{}")
    assert [] == simulated.described()


def test_properties_that_the_provider_refuses_are_an_error(simulated: Daemon, file: Callable[[str], str]) -> None:
    """`validate` and `provision` report the provider's objection to properties, and create nothing."""
    path = file('{"Properties":{"delay":"long"}}')
    for verb in ("validate", "provision"):
        assert 'Properties.delay: expected a number or null, got "long"' == fails(simulated.home, verb, "rack1", path)
    assert [] == simulated.described()


def test_a_failed_provision_is_an_error(simulated: Daemon) -> None:
    """`provision` reports the provider's reason for a failure."""
    with simulated.world.change() as scene:
        scene.capacity = 0
    assert "no room: the world's capacity is 0" in fails(simulated.home, "provision", "rack1", "-", input="{}")


# destroy, label, set-aside, restore, confirm


def test_destroy_waits_until_all_are_gone(simulated: Daemon) -> None:
    """`destroy` takes several IDs, returns when all instances are gone, and prints each ID."""
    made = [simulated.provision({"destroy_delay": 1}) for _ in range(2)]
    assert [f"destroyed {id}" for id in made] == ok(simulated.home, "destroy", "rack1", *made).splitlines()
    assert {} == simulated.world.look().machines
    assert [] == simulated.call("Operator.Records")["Records"]


def test_destroy_need_not_wait(simulated: Daemon) -> None:
    """`destroy --no-wait` returns once the request is durable."""
    id = simulated.provision({"destroy_delay": 600})
    assert f"destroyed {id}\n" == ok(simulated.home, "destroy", "rack1", id, "--no-wait")
    record = simulated.record(id)
    assert record is not None
    assert "destroying" == record.State


def test_destroy_waits_no_longer_than_it_may(simulated: Daemon) -> None:
    """`destroy --timeout` stops waiting after its time; the plugin keeps destroying."""
    id = simulated.provision({"destroy_delay": 600})
    assert id in fails(simulated.home, "destroy", "rack1", id, "--timeout", "0.5")
    assert [] == simulated.described()


def test_destroy_of_an_unknown_id_is_an_error(daemon: Daemon) -> None:
    """The error for a destroy of an unknown ID, or of one that is gone, names the ID."""
    id = daemon.provision()
    assert "no instance 'nope'" in fails(daemon.home, "destroy", "rack1", "nope")
    ok(daemon.home, "destroy", "rack1", id)
    assert f"no instance {id!r}" in fails(daemon.home, "destroy", "rack1", id)


def test_label_adds_and_replaces_tags(daemon: Daemon) -> None:
    """`label` adds or replaces tags, several at once too, and keeps the others."""
    id = daemon.provision(keep="0", tier="web")
    assert f"labeled {id}\n" == ok(daemon.home, "label", "rack1", id, "tier=db", "a=1,b=x=y", "empty=")
    (found,) = daemon.call("Instance.DescribeInstances")["Descriptions"]
    assert {"keep": "0", "tier": "db", "a": "1", "b": "x=y", "empty": ""} == found["Tags"]
    assert "'nope'" in fails(daemon.home, "label", "rack1", "nope", "a=1")


def test_set_aside_and_restore(daemon: Daemon) -> None:
    """`set-aside` hides an instance from InfraKit, with a reason; `restore` brings it back, at the front."""
    first, second = daemon.provision(), daemon.provision()
    assert f"set aside {second}\n" == ok(daemon.home, "set-aside", "rack1", second, "--reason", "new fan")
    assert [first] == daemon.described()
    assert ("non-functional", "new fan", True) == read_state(daemon, second)
    assert f"restored {second}\n" == ok(daemon.home, "restore", "rack1", second)
    assert [second, first] == daemon.described()
    assert ("ready", "", False) == read_state(daemon, second)
    for verb in (["set-aside", "--reason", "x"], ["restore"]):
        assert "'nope'" in fails(daemon.home, *verb, "rack1", "nope")


def read_state(daemon: Daemon, id: str) -> tuple[str, str, bool]:
    """Return an instance's state, its reason, and whether an operator set it aside."""
    record = daemon.record(id)
    assert record is not None
    return record.State, record.Reason, record.ByHand


def test_restore_of_a_ready_instance_is_an_error(daemon: Daemon) -> None:
    """An instance that is not set aside can't be restored, even with `--force`."""
    id = daemon.provision()
    for force in ([], ["--force"]):
        line = fails(daemon.home, "restore", "rack1", id, *force)
        assert id in line
        assert "is ready" in line


def test_restore_of_a_replaced_instance_needs_force(daemon: Daemon) -> None:
    """`restore` refuses an instance if another has its logical ID now, and names that; `--force` overrides this."""
    old = daemon.provision(logical="l")
    ok(daemon.home, "set-aside", "rack1", old, "--reason", "x")
    new = daemon.provision(logical="l")
    assert new in fails(daemon.home, "restore", "rack1", old)
    assert [new] == daemon.described()
    assert f"restored {old}\n" == ok(daemon.home, "restore", "rack1", old, "--force")
    assert [old, new] == daemon.described()


def test_confirm_lets_held_losses_happen(run: Run) -> None:
    """`info` and `describe --all` show held losses; after `confirm`, which prints them, they happen."""
    daemon = run("--provider", "simulator", *FAST)
    assert "nothing is held\n" == ok(daemon.home, "confirm", "rack1")
    made = sorted(daemon.provision() for _ in range(5))
    seen = daemon.call("Operator.Status")["Observed"]
    eventually(lambda: seen != daemon.call("Operator.Status")["Observed"], "all are observed as one")
    with daemon.world.change() as scene:
        scene.machines = {}
    eventually(lambda: made == daemon.call("Operator.Status")["Held"], "the losses are held")
    assert made == sorted(daemon.described())
    assert "5 instances seem lost at once" in ok(daemon.home, "info", "rack1")
    assert 5 == ok(daemon.home, "describe", "rack1", "--all").count("held: missing")
    assert [f"confirmed {id}" for id in made] == ok(daemon.home, "confirm", "rack1").splitlines()
    eventually(lambda: not daemon.described(), "the losses happen")


def test_a_provider_without_a_pool_has_no_machines_to_show(daemon: Daemon) -> None:
    """The error of `machines` for a provider without a pool says that it has none."""
    assert "provider File has no pool of machines: it creates them on demand" == fails(daemon.home, "machines", "rack1")


def test_info_shows_a_plugin_and_its_state(daemon: Daemon) -> None:
    """`info` shows the plugin, its interfaces, its provider and its instances; with -r it prints JSON."""
    ok(daemon.home, "set-aside", "rack1", daemon.provision(), "--reason", "x")
    daemon.provision()
    text = ok(daemon.home, "info", "rack1")
    for words in (f"pyinfrakit {__version__}", "Instance/0.6.1", "File", "1 ready, 1 non-functional", "observed"):
        assert words in text
    found = json.loads(ok(daemon.home, "info", "rack1", "-r"))
    assert {"provisioning": 0, "ready": 1, "non-functional": 1, "destroying": 0} == found["Status"]["States"]
    assert {"Name": "pyinfrakit", "Version": __version__} == found["API"]["Vendor"]
    assert found == json.loads(ok(daemon.home, "info", "rack1", "--raw")) | {"Status": found["Status"]}


def test_info_shows_trouble_and_orphans(simulated: Daemon) -> None:
    """`info` shows orphans, and the reason for which the provider can't be observed."""
    id = simulated.provision()
    with simulated.world.change() as scene:
        scene.machines["stray"] = scene.machines[id]
    eventually(lambda: simulated.call("Operator.Status")["Orphans"], "it is found")
    with simulated.world.change() as scene:
        scene.unreachable = True
    eventually(lambda: simulated.call("Operator.Status")["Trouble"], "it is noticed")
    text = ok(simulated.home, "info", "rack1")
    assert re.search(r"^orphan +stray$", text, re.MULTILINE)
    assert "the simulator's world is unreachable" in text


# finding a plugin


def test_a_socket_can_be_named_by_its_path(daemon: Daemon) -> None:
    """A command accepts a plugin's name in a folder, or the path of its socket."""
    id = daemon.provision()
    elsewhere = daemon.home / "nowhere"
    assert f"{id}\n" == ok(elsewhere, "describe", str(daemon.socket), "-q")
    assert f"{id}\n" == ok(elsewhere, "describe", "rack1", "-q", "--dir", str(daemon.home / "plugins"))
    assert f"{id}\n" == ok(elsewhere, "describe", "rack1", "-q", INFRAKIT_PLUGINS_DIR=str(daemon.home / "plugins"))
    relative = subprocess.run(
        [*COMMAND, "describe", "./rack1", "-q"],
        cwd=daemon.socket.parent,
        capture_output=True,
        text=True,
        env=environment(elsewhere),
        check=True,
    )
    assert f"{id}\n" == relative.stdout


def test_an_unknown_sub_type_is_an_error(daemon: Daemon) -> None:
    """`NAME/TYPE` selects a sub-type, and is an error if the plugin has none."""
    assert "no-plugin:compute" == fails(daemon.home, "describe", "rack1/compute")


EVERY_CALL = [
    ["describe"],
    ["describe", "--all"],
    ["provision", "-"],
    ["validate", "-"],
    ["destroy", "x"],
    ["label", "x", "a=1"],
    ["set-aside", "x", "--reason", "y"],
    ["restore", "x"],
    ["confirm"],
    ["machines"],
    ["info"],
]


def to_rack1(call: list[str]) -> list[str]:
    return [call[0], "rack1", *call[1:]]


@pytest.mark.parametrize("call", EVERY_CALL, ids=" ".join)
def test_a_missing_plugin_is_an_error(home: Path, call: list[str]) -> None:
    """The error for a missing plugin has the path of its socket."""
    assert f"no plugin at {home / 'plugins' / 'rack1'}: there is no such socket; is the plugin running?" == fails(
        home, *to_rack1(call), input="{}"
    )


def test_a_stale_socket_is_an_error(daemon: Daemon) -> None:
    """The error for a socket that remains after a crash says so; the next start replaces the socket."""
    daemon.kill()
    assert f"no plugin at {daemon.socket}: nothing listens there any more; start it again" == fails(
        daemon.home, "describe", "rack1"
    )
    daemon.start()
    assert "" == ok(daemon.home, "describe", "rack1", "-q")


@contextmanager
def fake_plugin(home: Path, answer: bytes) -> Iterator[None]:
    """Answer the first bytes of every connection to rack1's socket with *answer*, and close it."""
    path = home / "plugins" / "rack1"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(0.05)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    if answer:
                        connection.settimeout(5)
                        connection.recv(65536)
                        with suppress(BrokenPipeError):
                            connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield
        finally:
            ended.set()
            serving.join()


def http(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="closed at once"),
        pytest.param(bytes(range(256)), id="binary"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a" * 100_000, id="endless header"),
        pytest.param(http(b"", "404 Not Found"), id="404"),
        pytest.param(http(b"a\nb\n", "503 Busy"), id="503 in lines"),
        pytest.param(http(b'{"result":', length=500), id="cut off"),
        pytest.param(http(b""), id="empty"),
        pytest.param(http(b"<html>\n</html>"), id="HTML"),
        pytest.param(http(b"{}"), id="no result"),
        pytest.param(http(b'{"result":{"Descriptions":[{}]},"id":1}'), id="wrong descriptions"),
        pytest.param(http(b'{"error":{"code":1,"message":"a\\nb"},"id":1}'), id="error in lines"),
        pytest.param(http(b'{"result":"\xff","id":1}'), id="invalid UTF-8"),
        pytest.param(http(b'{"result":' + b"[" * 5000, length=5010), id="deep"),
        pytest.param(http(b'{"result":' + b"[" * 5000 + b"]" * 5000 + b"}"), id="whole and deep"),
    ],
)
def test_an_invalid_reply_is_an_error(home: Path, answer: bytes) -> None:
    """An invalid reply from any program on the socket is an error of one line."""
    with fake_plugin(home, answer):
        fails(home, "describe", "rack1")


@pytest.mark.parametrize("answer", [b"", http(b"", "404 Not Found"), http(b"<html>"), http(b"{}"), http(b"[" * 5000)])
def test_an_invalid_reply_to_info_is_an_error(home: Path, answer: bytes) -> None:
    """`info`, which reads a document, reports invalid replies too."""
    with fake_plugin(home, answer):
        fails(home, "info", "rack1")


# output that can't be written


def command_into(output: BinaryIO, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `infrakit-instance` with its output into a file, and return its errors."""
    return subprocess.run(
        [*COMMAND, *arguments],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env=environment(home),
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["version"], ["describe", "rack1"], ["describe", "rack1", "-r"], ["info", "rack1"]]
)
def test_a_reader_that_went_away_is_no_crash(three: tuple[Daemon, list[str]], arguments: list[str]) -> None:
    """A command ends silently if nobody reads its output, as with `| head`."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        done = command_into(pipe, three[0].home, *arguments)
    assert "" == done.stderr


def test_a_long_output_may_be_cut_off(daemon: Daemon) -> None:
    """A reader that leaves in the middle of a long output causes no crash."""
    daemon.provision({"text": "x" * 1_000_000})
    process = subprocess.Popen(
        [*COMMAND, "describe", "rack1", "-rp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(daemon.home),
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"[" == process.stdout.read(1)
        process.stdout.close()
        assert b"" == process.stderr.read()


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["describe", "rack1"]])
def test_a_full_disk_is_an_error(three: tuple[Daemon, list[str]], arguments: list[str]) -> None:
    """The error for output that can't be written has the system's reason."""
    with Path("/dev/full").open("wb") as full:
        done = command_into(full, three[0].home, *arguments)
    assert 0 != done.returncode
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line
