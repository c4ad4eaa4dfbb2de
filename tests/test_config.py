"""Configuration: by a file or by flags, with secrets that are shown nowhere, and one line for whatever is wrong."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import FAST
from pyinfrakit import config
from pyinfrakit.daemon.build import build
from pyinfrakit.providers.simulator import Simulator
from support.harness import Daemon, command, eventually
from test_loading import fails, root_only

RACK = """
from typing import Annotated
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
    "no TOML": ("provider = ", "not TOML: Invalid value (at end of document)"),
    "no string": ("provider = 5", "provider: expected a string, got 5"),
    "an unknown key": ('provder = "simulator"', "has an unknown field provder; known: provider, options, types"),
    "an unknown provider": ('provider = "nope"', "provider: provider 'nope' is not installed; installed: "),
    "a file that is not there": ('provider = "no.py:Rack"', "/no.py: No such file or directory"),
    "both forms": ('provider = "file"\n[types.a]\nprovider = "file"', "expected either provider and options, or types"),
    "no types": ("[types]", "types: expected one table [types.NAME] or several"),
    "a type that is no table": ("[types]\na = 5", "types.a: expected an object, got 5"),
    "a type without a provider": ("[types.a]", "types.a: missing required field provider"),
    "an unknown key in a type": (
        '[types.a]\nprovider = "file"\n[types.b]\nprovider = "file"\noptons = {}',
        "types.b: has an unknown field optons; known: provider, options",
    ),
    "a type with a dot": ('[types."a.b"]\nprovider = "file"', "types: name 'a.b': expected one without a dot"),
    "a type with a slash": ('[types."a/b"]\nprovider = "file"', "types: name 'a/b': expected a file name"),
    "a type without a name": ('[types.""]\nprovider = "file"', "types: name '': expected a file name"),
    "a type's wrong provider": ('[types.a]\nprovider = "nope"', "types.a.provider: provider 'nope' is not installed"),
    "options that are no table": ('provider = "simulator"\noptions = 5', "options: expected an object, got 5"),
    "options that are not known": (
        'provider = "simulator"\noptions = { wrld = "x" }',
        "provider Simulator: options: has an unknown field wrld; known: world; "
        'for example: options = { world = "/srv/rack1.world" }',
    ),
    "a missing option": (
        'provider = "rack.py:Rack"',
        f"provider Rack: options: missing required field address; {EXAMPLE}",
    ),
    "a wrong option": (
        f'provider = "rack.py:Rack"\n[options]\n{RIGHT}port = "80"',
        f'provider Rack: options.port: expected an integer, got "80"; {EXAMPLE}',
    ),
    "a type's wrong option": (
        f'[types.a]\nprovider = "rack.py:Rack"\n[types.a.options]\n{RIGHT}networks = [{{ vlan = 5000 }}]',
        f"types.a.options.networks[0].vlan: expected an integer <= 4094, got 5000; {EXAMPLE}",
    ),
    "a secret itself": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = "hunter2" }',
        f"options.{LITERAL}",
    ),
    "a number as secret": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = 471100815 }',
        f"options.{LITERAL}",
    ),
    "two sources of a secret": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { env = "RACK_TOKEN", file = "rack.py" } }',
        f"options.{LITERAL}",
    ),
    "a nested secret itself": (
        f'provider = "rack.py:Rack"\n[options]\n{RIGHT}networks = [{{ vlan = 1, key = "hunter2" }}]',
        "options.networks[0].key: expected a secret's source",
    ),
    "a variable that is not set": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { env = "NOT_SET" } }',
        "options.token: variable 'NOT_SET' of the environment is not set",
    ),
    "a variable that is empty": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { env = "EMPTY" } }',
        "options.token: variable 'EMPTY' of the environment is empty",
    ),
    "a secret file that is not there": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "none" } }',
        "/none': No such file or directory",
    ),
    "a secret file that is a folder": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "." } }',
        "Is a directory",
    ),
    "a secret file that is empty": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "empty" } }',
        "/empty': empty",
    ),
    "a secret file that is too long": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "/dev/zero" } }',
        "/dev/zero': too long for a secret",
    ),
    "a secret file that is no text": (
        'provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "binary" } }',
        "/binary': not UTF-8",
    ),
}
"""Configuration files that are wrong, and what is said."""

OPTIONS = {
    "none": ([], f"options of provider Rack: missing required field address; {FLAGS}"),
    "an unknown one": (
        ["addres=a"],
        f"has an unknown field addres; known: address, token, port, tls, networks; {FLAGS}",
    ),
    "a missing one": (["address=a"], f"missing required field token; {FLAGS}"),
    "a wrong one": (["address=a", "token=env:RACK_TOKEN", "port=x"], f'port: expected an integer, got "x"; {FLAGS}'),
    "a secret itself": (
        ["address=a", "token=hunter2"],
        "token: expected a secret's source, as env:NAME or file:PATH",
    ),
    "a secret with a colon": (["address=a", "token=hunter2:x"], "token: expected a secret's source"),
    "a variable that is not set": (
        ["address=a", "token=env:NOT_SET"],
        "token: variable 'NOT_SET' of the environment is not set",
    ),
    "a file that is not there": (
        ["address=a", "token=file:/none"],
        "token: secret file '/none': No such file or directory",
    ),
}
"""Options on the command line that are wrong, and what is said."""


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str], Path]:
    """Write a configuration file beside a provider's file; give its path."""
    (tmp_path / "rack.py").write_text(RACK)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")

    def write(content: str) -> Path:
        path = tmp_path / "rack1.toml"
        path.write_text(content)
        return path

    return write


@pytest.mark.parametrize("wrong", FILES)
def test_what_is_wrong_in_a_file_is_told(home: Path, configured: Callable[[str], Path], wrong: str) -> None:
    """Whatever is wrong in a configuration file is one line that names the file and the place, and shows no secret."""
    content, says = FILES[wrong]
    path = configured(content)
    line = fails(home, "--config", str(path), RACK_TOKEN="t", EMPTY="")
    assert line.startswith(f"config file {path}: ")
    assert says in line
    assert "hunter2" not in line
    assert "471100815" not in line


@pytest.mark.parametrize("wrong", OPTIONS)
def test_what_is_wrong_in_a_flag_is_told(home: Path, configured: Callable[[str], Path], wrong: str) -> None:
    """Whatever is wrong in `--option` is one line that names the option and the provider, and shows no secret."""
    given, says = OPTIONS[wrong]
    provider = configured("").with_name("rack.py")
    flags = [flag for option in given for flag in ("--option", option)]
    line = fails(home, "--provider", f"{provider}:Rack", *flags, RACK_TOKEN="t")
    assert line.startswith("options of provider Rack: ")
    assert says in line
    assert "hunter2" not in line


def test_a_file_that_can_not_be_read_is_told(home: Path, tmp_path: Path) -> None:
    """A configuration file that is not there, is a folder, or is no text is one line that names it."""
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, says in (("none", "No such file or directory"), (".", "Is a directory"), ("binary", "not UTF-8")):
        assert f"config file {tmp_path / name}: {says}" == fails(home, "--config", str(tmp_path / name))


@pytest.mark.parametrize("flags", [("--provider", "file"), ("--option", "a=b")])
def test_a_file_is_instead_of_the_flags(home: Path, configured: Callable[[str], Path], flags: tuple[str, str]) -> None:
    """A provider or options beside `--config` are refused, also where one of them comes from the environment."""
    path = str(configured('provider = "simulator"'))
    expected = f"--config has the provider and its options: leave out {flags[0]}, or put it there"
    assert expected in fails(home, "--config", path, *flags)
    assert expected in fails(home, *flags, INFRAKIT_INSTANCE_CONFIG=path)


@root_only
def test_root_takes_no_configuration_of_others(home: Path, configured: Callable[[str], Path]) -> None:
    """A configuration file that others may write, or own, is refused by root."""
    path = configured('provider = "simulator"')
    path.chmod(0o666)
    assert f"config file {path}: {path}: {path} may be written by others (mode 0666)" in fails(
        home, "--config", str(path)
    )
    path.chmod(0o600)
    os.chown(path, 65534, 0)
    assert f"{path} belongs to user 65534" in fails(home, "--config", str(path))


def test_a_daemon_serves_the_types_of_a_file(run: Callable[..., Daemon], configured: Callable[[str], Path]) -> None:
    """Each type of a configuration file is served with its own provider, as ``plugin/type``."""
    path = configured('[types.a]\nprovider = "file"\n[types.b]\nprovider = "simulator"')
    daemon = run("--config", str(path), *FAST)
    id = command(daemon.home, "provision", "rack1/b", "-", input='{"Properties": {"delay": 0}}').stdout.strip()
    assert [id] == list(json.loads((daemon.state.parent / "rack1.b.world").read_bytes())["machines"])
    assert f"{id}\n" == command(daemon.home, "describe", "rack1/b", "-q").stdout
    assert "" == command(daemon.home, "describe", "rack1/a", "-q").stdout


def test_types_are_read_and_made(configured: Callable[[str], Path], tmp_path: Path) -> None:
    """A file with several types gives a provider for each, with its own options, called by the plugin's name and the type's."""
    content = '[types.a]\nprovider = "file"\n[types.b]\nprovider = "simulator"\n[types.b.options]\nworld = "/w"'
    choices = config.choose_from_file(configured(content))
    makers = {sub_type: choice.make for sub_type, choice in choices.items()}
    with build("rack1", makers, str(tmp_path / "state.json")) as parts:
        providers = {sub_type: plugin.provider for sub_type, plugin in parts.plugins.items()}
    assert {"a": "rack1.a", "b": "rack1.b"} == {sub_type: provider.name for sub_type, provider in providers.items()}
    assert "/w" == providers["b"].options.world


def test_secrets_are_shown_nowhere(run: Callable[..., Daemon], configured: Callable[[str], Path]) -> None:
    """A property's secret is in the state file alone, as the provider may need it again; an option's is in no file of ours."""
    path = configured('provider = "rack.py:Rack"\noptions = { address = "a", token = { file = "token" } }')
    path.with_name("token").write_text("opt-hunter2\n")
    path.with_name("token").chmod(0o640)
    daemon = run("--config", str(path), "--log", "5", *FAST)
    assert "rack1 2retnuh-tpo Settings(" in (daemon.state.parent / "seen").read_text()
    daemon.provision({"cpus": 1, "password": "prop-hunter2"})
    shown = [
        command(daemon.home, "describe", "rack1", "-p", *flags).stdout for flags in ([], ["-r"], ["-y"], ["--all"])
    ]
    wrong = command(
        daemon.home, "validate", "rack1", "-", input='{"Properties": {"cpus": 1, "password": ["prop-hunter2"]}}'
    )
    assert "Properties.password: expected a string, which is a secret" in wrong.stderr
    exported = daemon.exported()
    daemon.stop()
    eventually(lambda: "stopped" in daemon.log)
    for text in (*shown, wrong.stderr, daemon.log, (daemon.state.parent / "seen").read_text()):
        assert "hunter2" not in text
    assert all('"password":"***"' in text.replace(" ", "") for text in (shown[0], shown[1], shown[3]))
    assert b"prop-hunter2" in exported
    assert b"opt-hunter2" not in exported
    assert b"opt-hunter2" not in daemon.state.read_bytes()


def test_a_secret_file_that_others_may_read_is_warned_of(
    run: Callable[..., Daemon], configured: Callable[[str], Path]
) -> None:
    """A secret file that others may read is taken, and the log says so; so are secrets in containers."""
    token = configured("").with_name("token")
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


def test_an_option_that_only_a_file_can_hold_has_its_example_there() -> None:
    """The example of options is in flags, or in TOML where one of them is a list or a table."""
    assert "--option world=/srv/rack1.world" == config.format_flags(Simulator)
    assert 'options = { world = "/srv/rack1.world" }' == config.format_table(Simulator)
    assert '{ "a b" = [1, true], c = { d = "\\"" } }' == config.format_toml(
        {"a b": [1, True], "none": None, "c": {"d": '"'}}
    )
