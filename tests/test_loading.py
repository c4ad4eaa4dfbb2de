"""Providers that are found, and what is wrong with those that are not: one line, whatever it is."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import FAST
from pyinfrakit import paths
from pyinfrakit.errors import CannotStart
from support.harness import Daemon, command

RACK = '''
from typing import Annotated
from msgspec import Meta, Struct
from pyinfrakit.provider import Machine, Provider, Secret

class Settings(Struct, forbid_unknown_fields=True):
    address: Annotated[str, Meta(examples=["10.0.0.1"], description="of the rack")] = "10.0.0.1"

class Wanted(Struct, forbid_unknown_fields=True):
    cpus: Annotated[int, Meta(ge=1, description="how many")]
    token: Secret | None = None

class Rack(Provider):
    """Machines in a rack.

    More of it.
    """

    Properties = Wanted
    Options = Settings
    machines = {}

    def provision(self, id, spec):
        return self.machines.setdefault(id, Machine(id))

    def destroy(self, instances, reason):
        for each in instances:
            self.machines.pop(each.id, None)

    def observe(self):
        return list(self.machines.values())
'''

NEXT = RACK.count("\n") + 1
"""The line after it."""

WRONG = {
    "no class": ("", "Rakc", "/rack.py has no class 'Rakc'; it has Rack"),
    "no provider": ("", "Wanted", r"expected a subclass of pyinfrakit\.provider\.Provider, got <class '.*Wanted'>"),
    "no such module": (
        "import nothere",
        "Rack",
        rf"ModuleNotFoundError: No module named 'nothere' \(.*/rack\.py, line {NEXT}\)",
    ),
    "syntax": ("class X(:", "Rack", rf"/rack\.py, line {NEXT}: invalid syntax"),
    "an exception": (
        "import json\njson.loads('{')",
        "Rack",
        rf"JSONDecodeError: .*\(.*/rack\.py, line {NEXT + 1}\)",
    ),
    "an exit": ("raise SystemExit(0)", "Rack", rf"SystemExit: 0 \(.*/rack\.py, line {NEXT}\)"),
    "lacking methods": (
        "class Half(Provider):\n    def observe(self): ...",
        "Half",
        "class Half lacks destroy, provision; a provider has provision, destroy and observe",
    ),
    "a parameter too few": (
        "class Bad(Rack):\n    def provision(self, id): ...",
        "Bad",
        r"expected Bad\.provision\(self, id, spec\), got \(self, id\)",
    ),
    "a parameter too many": (
        "class Bad(Rack):\n    async def observe(self, now): ...",
        "Bad",
        r"expected Bad\.observe\(self\), got \(self, now\)",
    ),
    "an __init__ of its own": (
        "class Bad(Rack):\n    def __init__(self): ...",
        "Bad",
        r"expected Bad\.__init__\(self, name, folder, options\), got \(self\)",
    ),
    "no method": ("class Bad(Rack):\n    observe = 5", "Bad", r"Bad\.observe: expected a method, got 5"),
    "properties of no type": (
        "class Bad(Rack):\n    Properties = dict",
        "Bad",
        "Bad.Properties: expected a msgspec Struct type or Raw",
    ),
    "options of no type": (
        "class Bad(Rack):\n    Options = None",
        "Bad",
        "Bad.Options: expected a msgspec Struct type, got None",
    ),
    "a type that JSON can not hold": (
        "import pathlib\nclass Odd(Struct):\n    x: list[pathlib.Path] = []\nclass Bad(Rack):\n    Options = Odd",
        "Bad",
        r"Bad\.Options has Path, which msgspec can't decode",
    ),
    "no batch": ("class Bad(Rack):\n    batch = 0", "Bad", r"Bad\.batch: expected an integer >= 1, got 0"),
    "a batch in quotes": (
        "class Bad(Rack):\n    batch = '20'",
        "Bad",
        r"Bad\.batch: expected an integer >= 1, got '20'",
    ),
    "an example that is no object": (
        "class Bad(Rack):\n    example = 5",
        "Bad",
        r"Bad\.example: expected a dict or None, got 5",
    ),
    "an example that JSON can not hold": (
        "class Bad(Rack):\n    example = {'cpus': object()}",
        "Bad",
        r"Bad\.example: TypeError: Encoding objects of type object is unsupported",
    ),
    "a type that there is not": (
        "class Odd(Struct):\n    x: 'Nothing'\nclass Bad(Rack):\n    Options = Odd",
        "Bad",
        "Bad.Options: NameError: name 'Nothing' is not defined",
    ),
}
"""What is appended to a file that is right, the class that is asked for, and what is said."""

FORMS = {
    "rack.py": "expected a class, too, as in rack.py:Rack",
    "rack.py:": "expected module:Class",
    ":Rack": "expected module:Class",
    "nofile.py:Rack": "nofile.py: No such file",
    "./nofile:Rack": "nofile: No such file",
    "/dev/null:Rack": "/dev/null is not a regular file",
    "nomodule:Rack": "no module 'nomodule' is installed, nor in PYTHONPATH",
    "json.nomodule:Rack": "no module 'json.nomodule'",
    "nomodule.rack:Rack": "no module 'nomodule'",
    "..rack:Rack": "no module",
    "nope": "simulator; others are module:Class or path/to/file.py:Class",
}
"""Names of no provider, and what is said."""

HARMLESS = [
    "def provision(self, id, spec, more=None): ...",
    "def provision(self, *arguments): ...",
    "@staticmethod\n    def observe(): return []",
    "@classmethod\n    def observe(cls): return []",
]
"""Methods that can be called with what they will be called with."""

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only what root runs must be root's")


@pytest.fixture
def rack(tmp_path: Path) -> Callable[[str], Path]:
    """Write a file with a provider that is right, and something after it; give its path."""

    def write(more: str = "") -> Path:
        path = tmp_path / "rack.py"
        path.write_text(f"{RACK}{more}\n")
        return path

    return write


def fails(home: Path, *arguments: str, **variables: str) -> str:
    """Run a command that must fail as wrong use; give its one line on stderr, without its name."""
    done = command(home, *arguments, **variables)
    assert (2, "") == (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    return line.removeprefix("infrakit-instance: ")


def in_path(folder: Path) -> str:
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_a_provider_in_a_file_is_run(run: Callable[..., Daemon], rack: Callable[..., Path]) -> None:
    """A daemon runs a provider that is in a file, and keeps nothing compiled beside it."""
    path = rack()
    daemon = run("--provider", f"{path}:Rack", "--option", "address=10.0.0.2", *FAST)
    id = daemon.provision({"cpus": 2})
    assert [id] == daemon.described()
    assert not (path.parent / "__pycache__").exists()


def test_a_provider_in_a_module_is_found(home: Path, rack: Callable[..., Path]) -> None:
    """A provider may be in any module that Python finds, also as a class within another."""
    path = rack("class Outer:\n    Inner = Rack")
    for name in ("rack:Rack", "rack:Outer.Inner"):
        assert command(home, "provider", name, PYTHONPATH=in_path(path.parent)).stdout.startswith(
            "Rack: Machines in a rack.\n"
        )


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_provider_is_told(home: Path, rack: Callable[..., Path], wrong: str) -> None:
    """Whatever is wrong with a file or a class in it is one line that names it, and where it can the line of the file."""
    more, name, says = WRONG[wrong]
    path = rack(more)
    line = fails(home, "--provider", f"{path}:{name}")
    assert line.startswith(f"provider '{path}:{name}': ")
    assert re.search(says, line)


@pytest.mark.parametrize("name", FORMS)
def test_what_names_no_provider_is_told(home: Path, name: str) -> None:
    """What names no provider is one line that says what was looked for; installed ones are named."""
    line = fails(home, "--provider", name)
    assert line.startswith(f"provider {name!r}")
    assert FORMS[name] in line


@pytest.mark.parametrize("method", HARMLESS)
def test_methods_that_can_be_called_are_right(home: Path, rack: Callable[..., Path], method: str) -> None:
    """Methods need not have the SDK's parameters, as long as they take what they are called with."""
    path = rack(f"class Other(Rack):\n    {method}")
    assert 0 == command(home, "provider", f"{path}:Other").returncode


def test_an_exception_when_a_provider_is_made_is_told(home: Path, rack: Callable[..., Path]) -> None:
    """What a provider's `__init__` raises is one line, with the line of the file; `--log 5` has the traceback."""
    path = rack("class Boom(Rack):\n    def __init__(self, *arguments):\n        raise KeyError('fan')")
    assert f"provider Boom: KeyError: 'fan' ({path}, line {NEXT + 2})" == fails(home, "--provider", f"{path}:Boom")
    assert "Traceback" in command(home, "--provider", f"{path}:Boom", "--log", "5").stderr


def test_two_installed_providers_of_one_name_are_told(home: Path, tmp_path: Path, rack: Callable[..., Path]) -> None:
    """A name that two distributions have is refused, with both; others are found."""
    rack()
    for name, more in (("racks", "single = rack:Rack"), ("shelves", "")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[pyinfrakit.providers]\ndouble = rack:Rack\n{more}\n")
    line = fails(home, "--provider", "double", PYTHONPATH=in_path(tmp_path))
    assert "provider 'double' is installed by racks and shelves" in line
    assert 0 == command(home, "provider", "single", PYTHONPATH=in_path(tmp_path)).returncode
    _, _, installed = fails(home, "--provider", "nope", PYTHONPATH=in_path(tmp_path)).partition("installed: ")
    assert {"double", "file", "simulator", "single"} <= set(installed.partition(";")[0].split(", "))


# the command `provider`


def test_the_command_shows_what_a_provider_takes(home: Path, rack: Callable[..., Path]) -> None:
    """`provider` shows the docstring's first line, properties and options as tables, and an example of each."""
    lines = command(home, "provider", f"{rack()}:Rack").stdout.splitlines()
    assert "Rack: Machines in a rack." == lines[0]
    assert ["PROPERTY", "TYPE", "DEFAULT"] == lines[2].split()
    assert ["cpus", "integer", ">=", "1", "required", "how", "many"] == lines[3].split()
    assert ["token", "secret", "-"] == lines[4].split()
    assert 'For example: {"cpus": 1}' == lines[6]
    assert ["address", "string", '"10.0.0.1"', "of", "the", "rack"] == lines[9].split()
    assert "For example: --option address=10.0.0.1" == lines[11]


def test_the_command_shows_a_schema(home: Path, rack: Callable[..., Path]) -> None:
    """`provider --schema` prints the JSON Schema of the properties, in which a secret is only written."""
    schema = json.loads(command(home, "provider", f"{rack()}:Rack", "--schema").stdout)
    properties = schema["$defs"]["Wanted"]["properties"]
    assert {"type": "integer", "minimum": 1, "description": "how many"} == properties["cpus"]
    assert {"type": "string", "writeOnly": True} == properties["token"]["anyOf"][0]


def test_the_command_tells_that_anything_is_right(home: Path) -> None:
    """For a provider that takes any properties and no options, `provider` says so."""
    shown = command(home, "provider", "file").stdout
    assert "Any properties." in shown
    assert "No options." in shown


# who may change what root runs


@root_only
@pytest.mark.parametrize(
    ("mode", "owner", "says"), [(0o664, 0, "0664"), (0o646, 0, "0646"), (0o600, 65534, "belongs to user 65534")]
)
def test_root_runs_no_file_of_others(home: Path, rack: Callable[..., Path], mode: int, owner: int, says: str) -> None:
    """A provider's file that others may write, or own, is not run by root, and neither is a module's."""
    path = rack("print('this was run')")
    path.chmod(mode)
    os.chown(path, owner, 0)
    for name in (f"{path}:Rack", "rack:Rack"):
        line = fails(home, "--provider", name, PYTHONPATH=in_path(path.parent))
        assert line.startswith(f"provider '{name}': {path}: {path} ")
        assert says in line


@root_only
@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o775, 0), (0o755, 65534), (0o1777, 65534)])
def test_root_runs_nothing_in_folders_of_others(home: Path, tmp_path: Path, mode: int, owner: int) -> None:
    """Where others may put another folder in the place of one on the way to the file, it is not run; the folder is named."""
    (tmp_path / "open" / "own").mkdir(parents=True)
    (tmp_path / "open" / "own" / "rack.py").write_text(RACK)
    (tmp_path / "open").chmod(mode)
    os.chown(tmp_path / "open", owner, 0)
    assert f": {tmp_path / 'open'} " in fails(home, "--provider", f"{tmp_path / 'open' / 'own' / 'rack.py'}:Rack")


@root_only
def test_root_runs_its_own_file_in_a_sticky_folder(home: Path, tmp_path: Path) -> None:
    """In a folder such as /tmp others can't replace what is root's, and that is run."""
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "rack.py").write_text(RACK)
    assert 0 == command(home, "provider", f"{tmp_path / 'sticky' / 'rack.py'}:Rack").returncode


@root_only
def test_root_follows_links_that_others_can_not_turn(tmp_path: Path) -> None:
    """A link's folder counts as well as its target's, and so does the link's owner."""
    for folder in ("own", "open", "sticky"):
        (tmp_path / folder).mkdir()
    target = tmp_path / "own" / "rack.py"
    target.write_text(RACK)
    for folder in ("own", "open", "sticky"):
        (tmp_path / folder / "link.py").symlink_to("../own/../own/rack.py")
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "sticky").chmod(0o1777)
    paths.check_trusted(tmp_path / "own" / "link.py")
    paths.check_trusted(tmp_path / "sticky" / "link.py")
    with pytest.raises(CannotStart, match="open may be written by others"):
        paths.check_trusted(tmp_path / "open" / "link.py")
    os.chown(tmp_path / "sticky" / "link.py", 65534, 0, follow_symlinks=False)
    with pytest.raises(CannotStart, match=r"link\.py belongs to user 65534"):
        paths.check_trusted(tmp_path / "sticky" / "link.py")


@root_only
def test_a_user_may_run_what_others_may_write(tmp_path: Path) -> None:
    """For anybody but root, who may write a file is their own affair."""
    path = tmp_path / "rack.py"
    path.touch()
    path.chmod(0o666)
    script = "import os, pathlib, sys; from pyinfrakit import paths; os.setuid(65534); paths.check_trusted(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert ("", 0) == (done.stderr, done.returncode)
