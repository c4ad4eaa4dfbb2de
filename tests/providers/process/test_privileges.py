"""What a spec can reach as the daemon's user: nothing. Tests with a daemon of root's, and with other users' processes."""

import os
import pwd
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyinfrakit.rpc.client import RemoteError
from support.harness import Daemon, command, eventually, root_only
from support.processes import USER, Start, destroy, read_live, sh_command, sleep_command, wait_for_problem

OTHER = "daemon"
"""An account that is neither root's nor the instances'."""


@pytest.fixture
def shared(home: Path) -> Path:
    """A folder in which everybody can create files."""
    folder = home / "shared"
    folder.mkdir(parents=True)
    for each in (home.parent, home):
        each.chmod(0o755)
    folder.chmod(0o777)
    return folder


@pytest.fixture
def of_root(home: Path) -> Path:
    """A folder that only root can use."""
    folder = home / "of-root"
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    return folder


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@root_only
def test_the_environment_of_a_spec_has_no_effect_as_root(start: Start, shared: Path, of_root: Path) -> None:
    """Variables for the dynamic linker take effect as the user: no program writes a file of root's for them."""
    daemon = start()
    for folder in (shared, of_root):
        variables = {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": f"{folder}/linker", "LD_PRELOAD": "/no/such.so"}
        spec = {"Properties": sh_command("/bin/true; sleep 600", environment=variables), "Init": "/bin/true"}
        daemon.call("Instance.Provision", Spec=spec)
    files = eventually(lambda: len(found := list(shared.iterdir())) >= 4 and found, "the linker writes files")
    assert {pwd.getpwnam(USER).pw_uid} == {path.stat().st_uid for path in files}
    assert [] == list(of_root.iterdir())


@root_only
def test_a_preloaded_library_runs_as_the_user_only(start: Start, shared: Path) -> None:
    """The code of a library in `LD_PRELOAD` runs as the user, from its first program on."""
    source = shared / "library.c"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n__attribute__((constructor)) static void note(void) {\n"
        f'FILE *out = fopen("{shared}/proof", "a"); if (out) {{ fprintf(out, "%d %d\\n", getuid(), geteuid()); }} }}'
    )
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", shared / "library.so", source], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no C compiler")
    (shared / "library.so").chmod(0o755)
    start().provision({"command": "true", "environment": {"LD_PRELOAD": f"{shared}/library.so"}})
    user = pwd.getpwnam(USER).pw_uid
    assert {f"{user} {user}"} == set(eventually(lambda: read(shared / "proof").splitlines(), "the library runs"))


@root_only
@pytest.mark.parametrize(
    ("properties", "says"),
    [
        (lambda folder: sleep_command(directory=str(folder)), "can't go there"),
        (lambda folder: {"command": f"{folder}/tool"}, "there is no such file"),
        (lambda folder: {"command": "tool", "environment": {"PATH": str(folder)}}, "there is no such file"),
    ],
)
def test_the_user_can_not_use_what_only_root_can(
    start: Start, of_root: Path, properties: Callable[[Path], dict[str, Any]], says: str
) -> None:
    """The directory is entered, and the command is looked up and executed, as the user."""
    tool = of_root / "tool"
    tool.write_text("#!/bin/sh\nsleep 600\n")
    tool.chmod(0o755)
    with pytest.raises(RemoteError, match=says):
        start().provision(properties(of_root))


@root_only
def test_a_process_can_not_become_root_again(start: Start) -> None:
    """A process has the user's IDs, real, effective and saved, its groups, and no capability."""
    daemon = start()
    id = daemon.provision(sleep_command())
    eventually(lambda: "status" in read_live(daemon, id))
    lines = Path(f"/proc/{read_live(daemon, id)['pid']}/status").read_text().splitlines()
    status = {name: value.split() for name, value in (line.split(":", 1) for line in lines)}
    user = pwd.getpwnam(USER)
    assert [str(user.pw_uid)] * 4 == status["Uid"]
    assert [str(user.pw_gid)] * 4 == status["Gid"]
    assert sorted(os.getgrouplist(USER, user.pw_gid)) == sorted(map(int, status["Groups"]))
    assert {"0" * 16} == {status[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}


def test_an_environment_arrives_whole(start: Start) -> None:
    """Values may be empty, and may have any character but NUL."""
    daemon = start()
    values = {
        "EMPTY": "",
        "LINES": "a\nb\n",
        "EQUALS": "=x==",
        "TEXT": "für $HOME `id` 'x' \"",
    }
    id = daemon.provision(sh_command("cat /proc/self/environ; echo; sleep 600", environment=values))
    out = daemon.state.with_name("rack1.processes") / id / "stdout"
    shown = eventually(lambda: (text := read(out)).endswith("\0\n") and text).split("\0")
    assert [] == [name for name, value in values.items() if f"{name}={value}" not in shown]


def test_too_large_an_environment_fails_the_provision(start: Start) -> None:
    """An environment that the kernel can't pass on is an error that says so."""
    with pytest.raises(RemoteError, match="can't be started: Argument list too long"):
        start().provision(sleep_command(environment={"BIG": "x" * 200_000}))


@root_only
def test_a_folder_that_another_user_can_move_stops_the_start(home: Path, shared: Path) -> None:
    """The daemon refuses instance folders below a folder of another user: its owner could put others in their place."""
    os.chown(shared, pwd.getpwnam(OTHER).pw_uid, -1)
    folder = ("--option", f"folder={shared}/instances")
    result = command(home, "--provider", "process", "--option", f"user={USER}", *folder, "--log", "1")
    assert 2 == result.returncode
    assert f"{shared} belongs to user" in result.stderr


@root_only
def test_another_users_process_with_the_mark_is_left_alone(start: Start, mark: str) -> None:
    """A destroy ignores the mark of a process whose user is neither the instances' nor was: it neither kills nor waits."""
    daemon = start()
    id = daemon.provision(sleep_command())
    forged = {"INFRAKIT_INSTANCE": id, "PYINFRAKIT_MARK": mark}
    stranger = subprocess.Popen(["sleep", "600"], env=forged, user=OTHER, group=OTHER, extra_groups=[])
    try:
        destroy(daemon, id)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@root_only
def test_output_files_are_the_users_and_nothing_else(start: Start) -> None:
    """Of an instance's folder, only the two files of its output belong to its user."""
    daemon = start()
    id = daemon.provision(sleep_command())
    folder = daemon.state.with_name("rack1.processes") / id
    root = {path.name for path in folder.iterdir() if path.stat().st_uid == 0}
    assert {"instance.json", "life"} == root - {"cgroup"}
    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)


NONSENSE = [
    "boot {boot} 99999999999999999999\n",
    "boot {boot} ²\nexit ²\n",
    "boot {boot} 1\nexit 99999999999\n",
    "failed init x\n",
    "failed \x1b[2J\n",
    "boot {boot} 1\nmain 99999999999999999999 (x) S" + " 99999999999999999999" * 30 + "\n",
    "boot {boot} 1\nmain -1 (x) S" + " -1" * 30 + "\n",
    "\0" * 100_000,
]


@pytest.mark.parametrize("text", NONSENSE)
def test_a_file_that_makes_no_sense_harms_no_other_instance(start: Start, text: str) -> None:
    """Whatever processes write into their instance's file, others are observed, and the instance can be destroyed."""
    daemon = start()
    broken, other = daemon.provision(sleep_command()), daemon.provision(sh_command("sleep 1; exit 7"))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    write_life(daemon, broken, text.replace("{boot}", boot))
    assert "exited with status 7" == wait_for_problem(daemon, other)
    destroy(daemon, broken)


def write_life(daemon: Daemon, id: str, text: str) -> None:
    (daemon.state.with_name("rack1.processes") / id / "life").write_text(text)
