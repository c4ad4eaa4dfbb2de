"""Providers load by name or path, and each failure to load one is explained in one line."""

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
from support.harness import Daemon, command, read_usage_error, root_only

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
"""The number of the line after `RACK`."""

WRONG = {
    "no class": ("", "Rakc", "/rack.py has no class 'Rakc'; it has Rack"),
    "another class": ("", "Wanted", r"expected a subclass of pyinfrakit\.provider\.Provider, got <class '.*Wanted'>"),
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
    "missing methods": (
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
    "a dict as the type of properties": (
        "class Bad(Rack):\n    Properties = dict",
        "Bad",
        "Bad.Properties: expected a msgspec Struct type or Raw",
    ),
    "None as the type of options": (
        "class Bad(Rack):\n    Options = None",
        "Bad",
        "Bad.Options: expected a msgspec Struct type, got None",
    ),
    "a type that JSON cannot hold": (
        "import pathlib\nclass Odd(Struct):\n    x: list[pathlib.Path] = []\nclass Bad(Rack):\n    Options = Odd",
        "Bad",
        r"Bad\.Options: has Path, which msgspec can't decode",
    ),
    "a batch of zero": ("class Bad(Rack):\n    batch = 0", "Bad", r"Bad\.batch: expected an integer >= 1, got 0"),
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
    "an example that JSON cannot hold": (
        "class Bad(Rack):\n    example = {'cpus': object()}",
        "Bad",
        r"Bad\.example: TypeError: Encoding objects of type object is unsupported",
    ),
    "an undefined type": (
        "class Odd(Struct):\n    x: 'Nothing'\nclass Bad(Rack):\n    Options = Odd",
        "Bad",
        "Bad.Options: NameError: name 'Nothing' is not defined",
    ),
}
"""The code appended to a valid file, the class to load, and a pattern of the error."""

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
"""Names of no provider, each with its error."""

HARMLESS = [
    "def provision(self, id, spec, more=None): ...",
    "def provision(self, *arguments): ...",
    "@staticmethod\n    def observe(): return []",
    "@classmethod\n    def observe(cls): return []",
]
"""Methods whose parameters differ from the SDK's but accept its calls."""


@pytest.fixture
def write_rack(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a valid provider, followed by more code, to a file and returns its path."""

    def write(more: str = "") -> Path:
        path = tmp_path / "rack.py"
        path.write_text(f"{RACK}{more}\n")
        return path

    return write


def join_python_path(folder: Path) -> str:
    """Return a PYTHONPATH that starts with *folder*."""
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_a_provider_in_a_file_runs(run: Callable[..., Daemon], write_rack: Callable[..., Path]) -> None:
    """A daemon runs a provider from a file, and leaves no compiled file beside it."""
    path = write_rack()
    daemon = run("--provider", f"{path}:Rack", "--option", "address=10.0.0.2", *FAST)
    id = daemon.provision({"cpus": 2})
    assert [id] == daemon.described()
    assert not (path.parent / "__pycache__").exists()


def test_a_provider_in_a_module_is_found(home: Path, write_rack: Callable[..., Path]) -> None:
    """A provider may be in any module that Python can import, even as a nested class."""
    path = write_rack("class Outer:\n    Inner = Rack")
    for name in ("rack:Rack", "rack:Outer.Inner"):
        assert command(home, "provider", name, PYTHONPATH=join_python_path(path.parent)).stdout.startswith(
            "Rack: Machines in a rack.\n"
        )


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_in_a_provider_is_explained(home: Path, write_rack: Callable[..., Path], mistake: str) -> None:
    """A mistake in a provider's file or class is one line that names it and, if possible, the line of the file."""
    more, name, message = WRONG[mistake]
    path = write_rack(more)
    line = read_usage_error(home, "--provider", f"{path}:{name}")
    assert line.startswith(f"provider '{path}:{name}': ")
    assert re.search(message, line)


@pytest.mark.parametrize("name", FORMS)
def test_a_name_of_no_provider_is_explained(home: Path, name: str) -> None:
    """A name of no provider causes a one-line error that says what the loader looked for and which providers exist."""
    line = read_usage_error(home, "--provider", name)
    assert line.startswith(f"provider {name!r}")
    assert FORMS[name] in line


@pytest.mark.parametrize("method", HARMLESS)
def test_methods_with_compatible_parameters_are_valid(home: Path, write_rack: Callable[..., Path], method: str) -> None:
    """Methods need not have the SDK's parameters if they accept its calls."""
    path = write_rack(f"class Other(Rack):\n    {method}")
    assert 0 == command(home, "provider", f"{path}:Other").returncode


def test_an_exception_in_a_constructor_is_explained(home: Path, write_rack: Callable[..., Path]) -> None:
    """An exception from a provider's `__init__` is one line with its place in the file; `--log 5` adds the traceback."""
    path = write_rack("class Boom(Rack):\n    def __init__(self, *arguments):\n        raise KeyError('fan')")
    assert f"provider Boom: KeyError: 'fan' ({path}, line {NEXT + 2})" == read_usage_error(
        home, "--provider", f"{path}:Boom"
    )
    assert "Traceback" in command(home, "--provider", f"{path}:Boom", "--log", "5").stderr


def test_a_provider_name_of_two_distributions_is_refused(
    home: Path, tmp_path: Path, write_rack: Callable[..., Path]
) -> None:
    """A name that two distributions use is refused, and the error names both; other names still load."""
    write_rack()
    for name, more in (("racks", "single = rack:Rack"), ("shelves", "")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[pyinfrakit.providers]\ndouble = rack:Rack\n{more}\n")
    line = read_usage_error(home, "--provider", "double", PYTHONPATH=join_python_path(tmp_path))
    assert "provider 'double': installed by racks and shelves" in line
    assert 0 == command(home, "provider", "single", PYTHONPATH=join_python_path(tmp_path)).returncode
    _, _, installed = read_usage_error(home, "--provider", "nope", PYTHONPATH=join_python_path(tmp_path)).partition(
        "installed: "
    )
    assert {"double", "file", "simulator", "single"} <= set(installed.partition(";")[0].split(", "))


# --- The command `provider`


def test_the_command_describes_a_provider(home: Path, write_rack: Callable[..., Path]) -> None:
    """`provider` prints the docstring's first line, tables of properties and options, and an example of each."""
    lines = command(home, "provider", f"{write_rack()}:Rack").stdout.splitlines()
    assert "Rack: Machines in a rack." == lines[0]
    assert ["PROPERTY", "TYPE", "DEFAULT"] == lines[2].split()
    assert ["cpus", "integer", ">=", "1", "required", "how", "many"] == lines[3].split()
    assert ["token", "secret", "-"] == lines[4].split()
    assert 'For example: {"cpus": 1}' == lines[6]
    assert ["address", "string", '"10.0.0.1"', "of", "the", "rack"] == lines[9].split()
    assert "For example: --option address=10.0.0.1" == lines[11]


def test_the_command_shows_a_schema(home: Path, write_rack: Callable[..., Path]) -> None:
    """`provider --schema` prints the JSON Schema of the properties, which marks secrets as write-only."""
    schema = json.loads(command(home, "provider", f"{write_rack()}:Rack", "--schema").stdout)
    properties = schema["$defs"]["Wanted"]["properties"]
    assert {"type": "integer", "minimum": 1, "description": "how many"} == properties["cpus"]
    assert {"type": "string", "writeOnly": True} == properties["token"]["anyOf"][0]


def test_the_command_describes_a_provider_without_a_schema(home: Path) -> None:
    """`provider` says so if a provider takes any properties and no options."""
    output = command(home, "provider", "file").stdout
    assert "Any properties." in output
    assert "No options." in output


# --- Permissions of files that root loads


@root_only
@pytest.mark.parametrize(
    ("mode", "owner", "message"), [(0o664, 0, "0664"), (0o646, 0, "0646"), (0o600, 65534, "belongs to user 65534")]
)
def test_root_loads_no_file_that_others_may_change(
    home: Path, write_rack: Callable[..., Path], mode: int, owner: int, message: str
) -> None:
    """Root refuses a provider's file or module that another user owns or may write."""
    path = write_rack("print('this was run')")
    path.chmod(mode)
    os.chown(path, owner, 0)
    for name in (f"{path}:Rack", "rack:Rack"):
        line = read_usage_error(home, "--provider", name, PYTHONPATH=join_python_path(path.parent))
        assert line.startswith(f"provider '{name}': {path}: {path} ")
        assert message in line


@root_only
@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o775, 0), (0o755, 65534), (0o1777, 65534)])
def test_root_loads_nothing_from_folders_that_others_may_change(
    home: Path, tmp_path: Path, mode: int, owner: int
) -> None:
    """Root refuses a file if others may replace a folder on its path, and the error names that folder."""
    (tmp_path / "open" / "own").mkdir(parents=True)
    (tmp_path / "open" / "own" / "rack.py").write_text(RACK)
    (tmp_path / "open").chmod(mode)
    os.chown(tmp_path / "open", owner, 0)
    assert f": {tmp_path / 'open'} " in read_usage_error(
        home, "--provider", f"{tmp_path / 'open' / 'own' / 'rack.py'}:Rack"
    )


@root_only
def test_root_loads_its_own_file_in_a_sticky_folder(home: Path, tmp_path: Path) -> None:
    """Root loads its own file from a sticky folder such as /tmp, because others cannot replace it."""
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "rack.py").write_text(RACK)
    assert 0 == command(home, "provider", f"{tmp_path / 'sticky' / 'rack.py'}:Rack").returncode


@root_only
def test_root_follows_links_that_others_cannot_redirect(tmp_path: Path) -> None:
    """Root checks the owner and the folder of a link as well as those of its target."""
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
def test_only_root_refuses_files_that_others_may_write(tmp_path: Path) -> None:
    """Users other than root may load files that others may write."""
    path = tmp_path / "rack.py"
    path.touch()
    path.chmod(0o666)
    script = "import os, pathlib, sys; from pyinfrakit import paths; "
    script += "os.setuid(65534); paths.check_trusted(pathlib.Path(sys.argv[1]))"
    result = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert ("", 0) == (result.stderr, result.returncode)
