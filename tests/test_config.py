"""Configuration comes from a file or flags, keeps secrets hidden, and reports each error in one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import FAST
from pyinfrakit import config
from pyinfrakit.daemon.build import build
from pyinfrakit.events import EventLog
from pyinfrakit.providers.simulator import Simulator
from support.harness import Daemon, command, eventually, read_usage_error, root_only

RACK = """
from typing import Annotated, Literal
from msgspec import Meta, Struct
from pyinfrakit.provider import Machine, Provider, Secret

class Network(Struct, forbid_unknown_fields=True):
    vlan: Annotated[int, Meta(ge=1, le=4094)]
    key: Secret | None = None

class Settings(Struct, forbid_unknown_fields=True):
    address: Annotated[str, Meta(examples=["10.0.0.1"])]
    token: Secret
    port: int = 80
    tls: bool = True
    mode: Literal["fast", "safe"] = "safe"
    networks: list[Network] = []

class Wanted(Struct, forbid_unknown_fields=True):
    cpus: int
    password: Secret | None = None

class Rack(Provider):
    Properties = Wanted
    Options = Settings

    def start(self):
        with (self.folder / "seen").open("w") as seen:
            seen.write(f"{self.name} {self.options.token.reveal()[::-1]} {self.options}")

        self.machines = {}

    def provision(self, id, spec):
        assert "hunter" in self.parse(spec.properties).password.reveal()
        return self.machines.setdefault(id, Machine(id))

    def destroy(self, instances, reason): ...

    def observe(self):
        return list(self.machines.values())
"""

EXAMPLE = 'for example: options = { address = "10.0.0.1", token = { env = "TOKEN" } }'
FLAGS = "for example: --option address=10.0.0.1 --option token=env:TOKEN"
RIGHT = 'address = "10.0.0.2"\ntoken = { env = "RACK_TOKEN" }\n'
LITERAL = 'token: expected a secret\'s source, as { env = "NAME" } or { file = "PATH" }'

FILES = {
    "nothing": ("", 'expected a provider, as in provider = "simulator"'),
    "half of a line": ("provider = ", "not TOML: Invalid value (at end of document)"),
    "no TOML": ("a = 1\nprovider = simulator", "/rack1.toml:2:12: not TOML: Invalid value"),
    "a number that JSON does not have": ("a = nan", "not TOML that can be read: JSON has no number nan"),
    "no string": ("provider = 5", "provider: expected a string, got 5"),
    "an unknown key": (
        '\nprovder = "simulator"',
        "/rack1.toml:2:1: has an unknown field provder; known: provider, options, types",
    ),
    "an unknown provider": ('provider = "nope"', "provider: provider 'nope': not installed; installed: "),
    "a missing provider file": ('provider = "no.py:Rack"', "/no.py: No such file or directory"),
    "both forms": ('provider = "file"\n[types.a]\nprovider = "file"', "expected either provider and options, or types"),
    "no sub-types": ("[types]", "types: expected one sub-type or several, each with a provider"),
    "a sub-type that is no table": ("[types]\na = 5", "types.a: expected an object, got 5"),
    "a sub-type without a provider": ("[types.a]", "types.a: missing required field provider"),
    "an unknown key in a sub-type": (
        '[types.a]\nprovider = "file"\n[types.b]\nprovider = "file"\noptons = {}',
        "types.b: has an unknown field optons; known: provider, options",
    ),
    "a sub-type with a dot": ('[types."a.b"]\nprovider = "file"', "types: name 'a.b': expected one without a dot"),
    "a sub-type with a slash": ('[types."a/b"]\nprovider = "file"', "types: name 'a/b': expected a file name"),
    "a sub-type without a name": ('[types.""]\nprovider = "file"', "types: name '': expected a file name"),
    "a sub-type's wrong provider": (
        '[types.a]\nprovider = "nope"',
        "types.a.provider: provider 'nope': not installed",
    ),
    "options that are no table": ('provider = "simulator"\noptions = 5', "options: expected an object, got 5"),
    "unknown options": (
        'provider = "simulator"\noptions = { wrld = "x" }',
        'options: has an unknown field wrld; known: world; for example: options = { world = "/srv/rack1.world" }',
    ),
    "a missing option": (
        'provider = "rack.py:Rack"',
        f"options: missing required field address; {EXAMPLE}",
    ),
    "a wrong option": (
        f'provider = "rack.py:Rack"\n[options]\n{RIGHT}port = "80"',
        f'/rack1.toml:5:1: options.port: expected an integer, got "80"; {EXAMPLE}',
    ),
    "an option that is no choice": (
        f'provider = "rack.py:Rack"\n[options]\n{RIGHT}mode = "slow"',
        f'/rack1.toml:5:1: options.mode: expected "fast" or "safe", got "slow"; {EXAMPLE}',
    ),
    "a sub-type's wrong option": (
        f'[types.a]\nprovider = "rack.py:Rack"\n[types.a.options]\n{RIGHT}networks = [{{ vlan = 5000 }}]',
        f"types.a.options.networks[0].vlan: expected an integer <= 4094, got 5000; {EXAMPLE}",
    ),
    "a literal secret": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = "hunter2" }',
        f"options.{LITERAL}",
    ),
    "a number as a secret": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = 471100815 }',
        f"options.{LITERAL}",
    ),
    "two sources of a secret": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { env = "RACK_TOKEN", file = "rack.py" } }',
        f"options.{LITERAL}",
    ),
    "a nested literal secret": (
        f'provider = "rack.py:Rack"\n[options]\n{RIGHT}networks = [{{ vlan = 1, key = "hunter2" }}]',
        "options.networks[0].key: expected a secret's source",
    ),
    "an unset variable": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { env = "NOT_SET" } }',
        "options.token: variable 'NOT_SET' of the environment is not set",
    ),
    "an empty variable": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { env = "EMPTY" } }',
        "options.token: variable 'EMPTY' of the environment is empty",
    ),
    "a missing secret file": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "none" } }',
        "/none': No such file or directory",
    ),
    "a folder as a secret file": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "." } }',
        "Is a directory",
    ),
    "an empty secret file": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "empty" } }',
        "/empty': empty",
    ),
    "an overlong secret file": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "/dev/zero" } }',
        "/dev/zero': too long for a secret",
    ),
    "a binary secret file": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "binary" } }',
        "/binary': not UTF-8",
    ),
}
"""Invalid configuration files, each with its error."""

OPTIONS = {
    "none": ([], f"options of provider Rack: missing required field address; {FLAGS}"),
    "an unknown option": (
        ["addres=a"],
        f"has an unknown field addres; known: address, token, port, tls, mode, networks; {FLAGS}",
    ),
    "a missing option": (["address=a"], f"missing required field token; {FLAGS}"),
    "no choice": (
        ["address=a", "token=env:RACK_TOKEN", "mode=slow"],
        f'mode: expected "fast" or "safe", got "slow"; {FLAGS}',
    ),
    "a wrong value": (["address=a", "token=env:RACK_TOKEN", "port=x"], f'port: expected an integer, got "x"; {FLAGS}'),
    "a literal secret": (
        ["address=a", "token=hunter2"],
        "token: expected a secret's source, as env:NAME or file:PATH",
    ),
    "a secret with a colon": (["address=a", "token=hunter2:x"], "token: expected a secret's source"),
    "an unset variable": (
        ["address=a", "token=env:NOT_SET"],
        "token: variable 'NOT_SET' of the environment is not set",
    ),
    "a missing file": (
        ["address=a", "token=file:/none"],
        "token: secret file '/none': No such file or directory",
    ),
}
"""Invalid options on the command line, each with its error."""


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a configuration file beside a provider's file and returns its path."""
    (tmp_path / "rack.py").write_text(RACK)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")

    def write(content: str) -> Path:
        path = tmp_path / "rack1.toml"
        path.write_text(content)
        return path

    return write


@pytest.mark.parametrize("failure", FILES)
def test_errors_in_a_config_file_are_explained(home: Path, write_config: Callable[[str], Path], failure: str) -> None:
    """An error in a configuration file is one line that names the file and the field and hides secrets."""
    content, message = FILES[failure]
    path = write_config(content)
    line = read_usage_error(home, "--config", str(path), RACK_TOKEN="t", EMPTY="")
    assert line.startswith(f"config file {path}:")
    assert message in line
    assert "hunter2" not in line
    assert "471100815" not in line


def test_a_config_file_may_be_yaml_or_json(home: Path, write_config: Callable[[str], Path]) -> None:
    """The ending of a configuration file's name tells its format, and examples in errors are in that format."""
    path = write_config("").with_name("rack1.yaml")
    path.write_text("provider: simulator\noptions: {world: /w}\n")
    assert "/w" == config.choose_from_file(path)[""].options.world
    path.write_text("provider: rack.py:Rack\noptions:\n  address: a\n")
    example = 'for example: options: {"address": "10.0.0.1", "token": {"env": "TOKEN"}}'
    assert f"config file {path}:2:1: options: missing required field token; {example}" == read_usage_error(
        home, "--config", str(path)
    )
    path = path.with_suffix(".json")
    path.write_text('{"provider": "rack.py:Rack",\n "options": {"address": "a", "token": "hunter2"}}')
    literal = 'token: expected a secret\'s source, as {"env": "NAME"} or {"file": "PATH"}, not the secret itself'
    line = read_usage_error(home, "--config", str(path))
    assert line.startswith(f"config file {path}:2:30: options.{literal}")


@pytest.mark.parametrize("failure", OPTIONS)
def test_errors_in_options_are_explained(home: Path, write_config: Callable[[str], Path], failure: str) -> None:
    """An error in `--option` is one line that names the option and the provider and hides secrets."""
    options, message = OPTIONS[failure]
    provider = write_config("").with_name("rack.py")
    flags = [flag for option in options for flag in ("--option", option)]
    line = read_usage_error(home, "--provider", f"{provider}:Rack", *flags, RACK_TOKEN="t")
    assert line.startswith("options of provider Rack: ")
    assert message in line
    assert "hunter2" not in line


def test_an_unreadable_config_file_is_named(home: Path, tmp_path: Path) -> None:
    """A configuration file that is missing, a folder, or not text causes a one-line error that names it."""
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, message in (("none", "No such file or directory"), (".", "Is a directory"), ("binary", "not UTF-8")):
        assert f"config file {tmp_path / name}: {message}" == read_usage_error(home, "--config", str(tmp_path / name))


@pytest.mark.parametrize("flags", [("--provider", "file"), ("--option", "a=b")])
def test_a_config_file_excludes_provider_flags(
    home: Path, write_config: Callable[[str], Path], flags: tuple[str, str]
) -> None:
    """`--config` excludes a provider and options, even if one of them comes from the environment."""
    path = str(write_config('provider = "simulator"'))
    expected = f"--config has the provider and its options: leave out {flags[0]}, or put it there"
    assert expected in read_usage_error(home, "--config", path, *flags)
    assert expected in read_usage_error(home, *flags, INFRAKIT_INSTANCE_CONFIG=path)


@root_only
def test_root_refuses_config_files_that_others_may_change(home: Path, write_config: Callable[[str], Path]) -> None:
    """Root refuses a configuration file that another user owns or may write."""
    path = write_config('provider = "simulator"')
    path.chmod(0o666)
    assert f"config file {path}: {path}: {path} may be written by others (mode 0666)" in read_usage_error(
        home, "--config", str(path)
    )
    path.chmod(0o600)
    os.chown(path, 65534, 0)
    assert f"{path} belongs to user 65534" in read_usage_error(home, "--config", str(path))


def test_a_daemon_serves_the_sub_types_of_a_file(
    run: Callable[..., Daemon], write_config: Callable[[str], Path]
) -> None:
    """A daemon serves each sub-type of a configuration file with its own provider, as ``plugin/sub-type``."""
    path = write_config('[types.a]\nprovider = "file"\n[types.b]\nprovider = "simulator"')
    daemon = run("--config", str(path), *FAST)
    id = command(daemon.home, "provision", "rack1/b", "-", input='{"Properties": {"delay": 0}}').stdout.strip()
    assert [id] == list(json.loads((daemon.state.parent / "rack1.b.world").read_bytes())["machines"])
    assert f"{id}\n" == command(daemon.home, "describe", "rack1/b", "-q").stdout
    assert "" == command(daemon.home, "describe", "rack1/a", "-q").stdout


def test_each_sub_type_of_a_file_has_its_own_provider(write_config: Callable[[str], Path], tmp_path: Path) -> None:
    """Each sub-type of a file gets its own provider and options, and a name made of the plugin's and its own."""
    content = '[types.a]\nprovider = "file"\n[types.b]\nprovider = "simulator"\n[types.b.options]\nworld = "/w"'
    choices = config.choose_from_file(write_config(content))
    makers = {sub_type: choice.make for sub_type, choice in choices.items()}
    with build("rack1", makers, EventLog(), str(tmp_path / "state.json")) as parts:
        providers = {sub_type: plugin.provider for sub_type, plugin in parts.plugins.items()}
    assert {"a": "rack1.a", "b": "rack1.b"} == {sub_type: provider.name for sub_type, provider in providers.items()}
    assert "/w" == providers["b"].options.world


def test_secrets_stay_hidden(run: Callable[..., Daemon], write_config: Callable[[str], Path]) -> None:
    """A property's secret is only in the state file, in case the provider needs it again; an option's is in no file."""
    path = write_config('provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "token" } }')
    path.with_name("token").write_text("opt-hunter2\n")
    path.with_name("token").chmod(0o640)
    daemon = run("--config", str(path), "--log", "5", *FAST)
    assert "rack1 2retnuh-tpo Settings(" in (daemon.state.parent / "seen").read_text()
    daemon.provision({"cpus": 1, "password": "prop-hunter2"})
    outputs = [
        command(daemon.home, "describe", "rack1", "-p", *flags).stdout for flags in ([], ["-r"], ["-y"], ["--all"])
    ]
    failure = command(
        daemon.home, "validate", "rack1", "-", input='{"Properties": {"cpus": 1, "password": ["prop-hunter2"]}}'
    )
    assert "Properties.password: expected a string, which is a secret" in failure.stderr
    exported = daemon.exported()
    daemon.stop()
    eventually(lambda: "stopped" in daemon.log)
    for text in (*outputs, failure.stderr, daemon.log, (daemon.state.parent / "seen").read_text()):
        assert "hunter2" not in text
    assert all('"password":"***"' in text.replace(" ", "") for text in (outputs[0], outputs[1], outputs[3]))
    assert b"prop-hunter2" in exported
    assert b"opt-hunter2" not in exported
    assert b"opt-hunter2" not in daemon.state.read_bytes()


def test_a_readable_secret_file_causes_a_warning(
    run: Callable[..., Daemon], write_config: Callable[[str], Path]
) -> None:
    """The daemon accepts a secret file that others may read, as containers have them, and logs a warning."""
    token = write_config("").with_name("token")
    token.write_text("t\r\n")
    token.chmod(0o644)
    provider = f"{token.with_name('rack.py')}:Rack"
    daemon = run(
        "--provider",
        provider,
        "--option",
        "address=a",
        "--option",
        f"token=file:{token}",
        "--option",
        "tls=false",
        *FAST,
    )
    assert (
        "rack1 t Settings(address='a', token=Secret(***), port=80, tls=False"
        in (daemon.state.parent / "seen").read_text()
    )
    assert f"WARNING  secret file {token} is readable by other users (mode 0644)" in daemon.log


def test_examples_of_options_are_flags_or_toml() -> None:
    """The example of options consists of flags, or of TOML if an option is a list or a table."""
    assert "--option world=/srv/rack1.world" == config.format_flags(Simulator)
    assert 'options = { world = "/srv/rack1.world" }' == config.format_table(Simulator)
    assert '{ "a b" = [1, true], c = { d = "\\"" } }' == config.format_toml(
        {"a b": [1, True], "none": None, "c": {"d": '"'}}
    )
