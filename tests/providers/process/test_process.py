"""Local processes as instances: tests with a real daemon, and with real processes that they kill."""

import contextlib
import getpass
import os
import pwd
import random
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from dying import STEPS
from dying_process import INSIDE_DESTROY, INSIDE_PROVISION
from pyinfrakit.errors import Unreachable
from pyinfrakit.provider import Provider
from pyinfrakit.providers.process.options import Options
from pyinfrakit.providers.process.provider import Process
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.testing import ProviderContract
from support.harness import COMMAND, PROGRAMS, Daemon, command, eventually
from support.load import Caller, check, loaded
from support.processes import (
    AS_USER,
    USER,
    Instances,
    Start,
    destroy,
    find_processes,
    find_session,
    kill,
    kill_all,
    read_live,
    sh_command,
    sleep_command,
    wait_for_problem,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs processes as another user")


def folder_of(daemon: Daemon, id: str) -> Path:
    return daemon.state.with_name("rack1.processes") / id


def find_main(daemon: Daemon, id: str) -> psutil.Process:
    record = daemon.record(id)
    assert record is not None
    assert record.Handle is not None
    return psutil.Process(int(record.Handle))


def provision_error(daemon: Daemon, properties: dict[str, Any], init: str = "") -> str:
    """Return the error of a provision that fails."""
    with pytest.raises(RemoteError) as error:
        daemon.call("Instance.Provision", Spec={"Properties": properties, "Init": init})
    return str(error.value)


def list_files(process: psutil.Process) -> dict[str, str]:
    """Return the open files of a process, by descriptor."""
    found = {}
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the process closed it meanwhile
            found[path.name] = os.readlink(path)
    return found


# running processes


def test_a_killed_process_is_set_aside(start: Start, instances: Instances) -> None:
    """A killed process is set aside with the reason, and the others of its group stay described with live properties."""
    daemon = start()
    ids = [daemon.provision(sleep_command(), infrakit_group="w") for _ in range(4)]
    eventually(lambda: "status" in read_live(daemon, ids[0]))
    shown = read_live(daemon, ids[0])
    assert {"pid": find_main(daemon, ids[0]).pid, "status": "running"} == {key: shown[key] for key in ("pid", "status")}
    assert shown["started"].endswith("Z")
    eventually(lambda: set(ids) == instances.mains().keys())
    kill([find_main(daemon, ids[2])])
    assert "killed by SIGKILL" == wait_for_problem(daemon, ids[2])
    assert sorted({*ids} - {ids[2]}) == sorted(daemon.described(infrakit_group="w"))
    destroy(daemon, ids[2])
    assert not folder_of(daemon, ids[2]).exists()
    assert sorted({*ids} - {ids[2]}) == sorted(instances.mains())


def test_a_group_that_died_with_its_host_is_set_aside(start: Start) -> None:
    """If all processes of a group end while no daemon runs, the next one sets all of them aside, and holds none."""
    daemon = start()
    ids = [daemon.provision(sleep_command(), infrakit_group="w") for _ in range(4)]
    processes = [find_main(daemon, id) for id in ids]
    daemon.kill()
    kill(processes)
    daemon.start()
    assert {"killed by SIGKILL"} == {wait_for_problem(daemon, id) for id in ids}
    assert [] == daemon.described()


def test_a_process_has_a_clean_environment(start: Start, mark: str, home: Path) -> None:
    """A process inherits no variable, file, directory, umask or ignored signal from the daemon, and has its own output."""
    home.mkdir()
    inherited = ("sh", "-c", 'trap "" HUP INT USR1; umask 077; exec 7</etc/passwd; exec "$@"', "sh", *COMMAND)
    daemon = start(program=inherited)
    id = daemon.provision(sleep_command(environment={"COLOUR": "red", "path": "x", "line": "y"}, directory="/usr"))
    process = find_main(daemon, id)
    settled = (["/usr/bin/sleep", "600"], psutil.STATUS_SLEEPING)
    eventually(lambda: (process.cmdline(), process.status()) == settled, "the shell has become the command")
    user = pwd.getpwuid(process.uids().real)
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LANG": "C.UTF-8",
        "COLOUR": "red",
        "path": "x",
        "line": "y",
        "INFRAKIT_INSTANCE": id,
        "PYINFRAKIT_MARK": mark,
    }
    shells_own = ("PWD", "OLDPWD", "SHLVL", "_")
    assert environment == {key: value for key, value in process.environ().items() if key not in shells_own}
    assert "/usr" == process.cwd()
    place = folder_of(daemon, id)
    assert {"0": "/dev/null", "1": str(place / "stdout"), "2": str(place / "stderr")} == list_files(process)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert 0 == int(status["SigIgn"], 16) & 0xFFFF
    assert 0 == int(status["SigBlk"], 16)
    assert "0022" == status["Umask"]
    assert os.getsid(process.pid) != os.getsid(daemon.pid)
    assert all(0o600 == (place / name).stat().st_mode & 0o777 for name in ("stdout", "stderr", "life", "instance.json"))


@as_root
def test_processes_run_as_their_user(start: Start) -> None:
    """`Init` and the command run with the user's groups and without root's capabilities."""
    daemon = start()
    spec = {"Properties": sh_command("id -u; id -G; sleep 600"), "Init": "id -u; id -G"}
    id = daemon.call("Instance.Provision", Spec=spec)["ID"]
    user = pwd.getpwnam(USER)
    output = eventually(lambda: len(lines := (folder_of(daemon, id) / "stdout").read_text().split()) == 4 and lines)
    assert [str(user.pw_uid), str(user.pw_gid)] * 2 == output
    status = Path(f"/proc/{find_main(daemon, id).pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status


@as_root
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--option", "user=nobody-at-all"), "option user: there is no user 'nobody-at-all'"),
        (("--option", "user=root"), "no process runs as root"),
    ],
)
def test_root_runs_no_process_as_root(home: Path, options: tuple[str, ...], says: str) -> None:
    """A daemon of root's without another existing user does not start, and says why in one line."""
    result = command(home, "--provider", "process", *options, "--log", "1")
    assert 2 == result.returncode
    assert says in result.stderr
    assert 1 == len(result.stderr.splitlines())


@as_root
def test_a_folder_that_is_not_private_stops_the_start(home: Path) -> None:
    """The daemon refuses a folder that others can write to: files in it decide which processes get root's signals."""
    wide = home / "wide"
    wide.mkdir(parents=True)
    wide.chmod(0o777)
    result = command(
        home, "--provider", "process", "--option", f"user={USER}", "--option", f"folder={wide}", "--log", "1"
    )
    assert 2 == result.returncode
    assert f"folder {wide}: expected a folder of this user with mode 0700" in result.stderr


def test_instances_elsewhere_stop_the_start(start: Start, tmp_path: Path) -> None:
    """With a folder that lacks instances whose processes run, the daemon does not start: they are not gone."""
    daemon = start()
    id = daemon.provision(sleep_command())
    process = find_main(daemon, id)
    daemon.stop()
    other = ("--option", f"folder={tmp_path / 'other'}")
    result = command(daemon.home, "--name", "rack1", "--provider", "process", *AS_USER, *other, "--log", "1")
    assert 2 == result.returncode
    assert f"lacks {id}, which runs: set the option folder to the folder of the instances" in result.stderr
    kill([process])
    daemon.arguments = (*daemon.arguments, *other)
    daemon.start()
    eventually(lambda: daemon.record(id) is None, "its process is gone, and so is the instance")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can switch users")
def test_only_root_runs_processes_as_another_user(home: Path) -> None:
    """A daemon that is not root's does not start with another user in its options."""
    result = command(home, "--provider", "process", "--option", "user=root", "--log", "1")
    assert f"only root runs processes as another user, and this is {getpass.getuser()}" in result.stderr


# wrong commands


def test_a_command_that_can_not_run_fails_the_provision(start: Start, instances: Instances, tmp_path: Path) -> None:
    """A missing command or directory, or a command that is not executable, is an error, and leaves nothing behind."""
    daemon = start()
    text = tmp_path / "text"
    text.write_text("")
    assert "command 'no-such-thing': there is no such file; PATH is /usr/local/bin:" in provision_error(
        daemon, {"command": "no-such-thing"}
    )
    assert "command '/etc/passwd': " in provision_error(daemon, {"command": "/etc/passwd"})
    assert "may not execute it" in provision_error(daemon, {"command": "/etc/passwd"})
    assert "directory '/no/such': " in provision_error(daemon, sleep_command(directory="/no/such"))
    assert "can't go there" in provision_error(daemon, sleep_command(directory="/etc/passwd"))
    assert "can't be started: Argument list too long" in provision_error(
        daemon, {"command": "true", "arguments": ["x" * 200_000]}
    )
    eventually(lambda: not daemon.saved()["NonFunctional"])
    assert [] == [path for path in folder_of(daemon, "x").parent.iterdir() if not path.name.startswith(".")]
    assert [] == instances.all()


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({}, "Properties: missing required field command"),
        ({"command": ""}, "Properties.command: expected a string of length >= 1"),
        ({"command": "a\0b"}, "Properties.command: expected no NUL character"),
        ({"command": "a", "argument": []}, "has an unknown field argument"),
        ({"command": "a", "directory": "tmp"}, "Properties.directory: expected a string matching regex '^/'"),
        ({"command": "a", "environment": {"A-B": "x"}}, "Properties.environment.A-B: expected the name of a variable"),
        (
            {"command": "a", "environment": {"PYINFRAKIT_MARK": "x"}},
            "Properties.environment.PYINFRAKIT_MARK: is set by",
        ),
        ({"command": "a", "ports": ["http", ""]}, "Properties.ports[1]: expected lower-case letters, digits, _"),
        ({"command": "a", "ports": ["Http"]}, "such as \"http\", got 'Http'"),
        ({"command": "a", "ports": ["a-b"]}, "Properties.ports[0]: expected lower-case letters, digits, _"),
        ({"command": "a", "ports": ["a", "b", "a"]}, "Properties.ports[2]: duplicate name 'a'"),
        ({"command": "a", "ports": [80]}, "Properties.ports[0]: expected a string, got 80"),
        (
            {"command": "a", "ports": ["a"], "environment": {"PORT_A": "80"}},
            "Properties.environment.PORT_A: is set by the provider",
        ),
    ],
)
def test_wrong_properties_are_refused(start: Start, properties: dict[str, Any], says: str) -> None:
    """Wrong properties are an error that names the field, before anything is recorded."""
    daemon = start()
    assert says in provision_error(daemon, properties)
    assert [] == daemon.saved()["Instances"]


# Init


def test_init_runs_before_the_command(start: Start) -> None:
    """`Init` may be any kind of script, and runs once in the command's directory and environment."""
    daemon = start()
    python = f"#!{sys.executable}\nimport os, sys\nprint(os.environ['COLOUR'], os.getcwd(), flush=True)"
    if os.geteuid() == 0:
        python = "#!/usr/bin/env sh\necho $COLOUR $(pwd)"
    spec = {
        "Properties": sh_command("echo then; sleep 600", environment={"COLOUR": "red"}, directory="/usr"),
        "Init": python,
    }
    id = daemon.call("Instance.Provision", Spec=spec)["ID"]
    eventually(lambda: "red /usr\nthen\n" == (folder_of(daemon, id) / "stdout").read_text())


def test_a_failing_init_fails_the_provision(start: Start, instances: Instances) -> None:
    """The error has Init's status and last output without its own words; its children are ended, and no command runs."""
    daemon = start()
    init = "sleep 600 & setsid sleep 600 & echo can not reach rack5 >&2; TOKEN=swordfish; set -x; test $TOKEN = salmon"
    error = provision_error(daemon, sh_command("touch ran"), init)
    assert "Init exited with status 1: can not reach rack5 | " in error
    assert "swordfish" not in error
    assert "swordfish" not in daemon.log
    eventually(lambda: not daemon.saved()["NonFunctional"])
    assert [] == instances.all()


def test_an_init_that_times_out_fails_the_provision(start: Start, instances: Instances) -> None:
    """An `Init` is ended after the time in the option."""
    daemon = start("--option", "init_timeout=0.3")
    assert "Init timed out after 0.3 s" in provision_error(daemon, sleep_command(), "sleep 600")
    eventually(lambda: not daemon.saved()["NonFunctional"])
    assert [] == instances.all()


def read_shown_with_init(instances: Instances) -> list[str]:
    """Return the command lines and environments of all processes, once `Init` is one of them."""
    shown = []
    for process in instances.all():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            shown.append(read_shown(process.pid))
    return shown if any("/proc/self/fd/4" in each for each in shown) else []


def test_the_text_of_init_is_hidden(start: Start, instances: Instances) -> None:
    """The text of `Init` is in no command line, environment, log or file of the provider, neither during its run nor after."""
    secret = "join-token-swordfish-4711"
    daemon = start("--log", "5")
    spec = {"Properties": sh_command("sleep 600"), "Init": f"token={secret}; sleep 3; true"}

    with ThreadPoolExecutor(1) as pool:
        provision = pool.submit(daemon.call, "Instance.Provision", Spec=spec)
        shown = eventually(lambda: read_shown_with_init(instances), "Init runs")
        assert not provision.done()
        id = provision.result()["ID"]
    assert not any(secret in each for each in [*shown, read_shown(find_main(daemon, id).pid), daemon.log])
    assert [] == [path for path in folder_of(daemon, id).iterdir() if secret in path.read_text()]
    assert not any("memfd" in link for link in list_files(find_main(daemon, id)).values())


def read_shown(pid: int) -> str:
    return "".join(Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ"))


# how processes end


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 3", "exited with status 3"),
        ("exit 0", "exited with status 0"),
        ("kill -TERM $$", "killed by SIGTERM"),
        ("kill -INT $$", "killed by SIGINT"),
        ("kill -KILL $$", "killed by SIGKILL"),
        ("exit 255", "exited with status 255"),
    ],
)
def test_the_reason_says_how_the_process_ended(start: Start, text: str, reason: str) -> None:
    """The reason of an ended process is its status or signal, also if it ended while no daemon ran."""
    daemon = start()
    watched, unwatched = (
        daemon.provision(sh_command(text)),
        daemon.provision(sh_command(f"trap '{text}' USR1; echo; {FOREVER}")),
    )
    process = find_main(daemon, unwatched)
    assert reason == wait_for_problem(daemon, watched)
    eventually((folder_of(daemon, unwatched) / "stdout").read_text)
    daemon.kill()
    process.send_signal(signal.SIGUSR1)
    eventually(lambda: not process.is_running())
    daemon.start()
    assert reason == wait_for_problem(daemon, unwatched)
    assert reason == wait_for_problem(daemon, watched)


RARELY = ("--sync-interval", "600")
"""The flags of a daemon that observes only at its start, and when its provider reports a change."""


def test_the_end_of_a_process_is_observed_at_once(start: Start) -> None:
    """A daemon observes the end of a process when it comes, also of one that an earlier daemon started."""
    daemon = start(*RARELY)
    ids = [daemon.provision(sleep_command(), infrakit_group="w") for _ in range(20)]
    kill([find_main(daemon, id) for id in ids[:10]])
    assert {"killed by SIGKILL"} == {wait_for_problem(daemon, id) for id in ids[:10]}
    assert set(ids[10:]) == set(daemon.described())
    daemon.kill()
    daemon.start()
    eventually(lambda: "status" in read_live(daemon, ids[10]), "the first observation found the processes")
    kill([find_main(daemon, id) for id in ids[10:]])
    assert {"killed by SIGKILL"} == {wait_for_problem(daemon, id) for id in ids[10:]}


def test_a_process_that_ends_during_its_provision_is_observed(start: Start) -> None:
    """A process that ends while its provision returns is observed once the provision has ended."""
    daemon = start(*RARELY)
    for _ in range(10):
        assert "exited with status 3" == wait_for_problem(daemon, daemon.provision(sh_command("exit 3")))


def test_the_end_of_a_process_without_its_shell_is_observed_at_once(start: Start) -> None:
    """If the shell of a process is killed, the daemon watches the process itself."""
    daemon = start(*RARELY)
    id = daemon.provision(sleep_command())
    find_main(daemon, id).parent().kill()
    time.sleep(0.3)  # either end may come first, but mostly the daemon watches the process by then
    assert [id] == daemon.described()
    kill([find_main(daemon, id)])
    assert "ended with unknown exit status" == wait_for_problem(daemon, id)


FOREVER = "while :; do sleep 0.05; done"


def read_handle(daemon: Daemon, id: str) -> str:
    entries = daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]
    return str(next(each["Handle"] for each in entries if each["ID"] == id))


def test_a_process_without_its_shell_ends_with_unknown_status(start: Start) -> None:
    """A process outlives its killed shell; its end without a working shell is observed, with unknown status."""
    daemon = start()
    orphan, zombie = daemon.provision(sleep_command()), daemon.provision(sleep_command())
    find_main(daemon, orphan).parent().kill()
    find_main(daemon, zombie).parent().suspend()
    kill([find_main(daemon, zombie)])
    assert "ended with unknown exit status" == wait_for_problem(daemon, zombie)
    assert [orphan] == daemon.described()
    kill([find_main(daemon, orphan)])
    assert "ended with unknown exit status" == wait_for_problem(daemon, orphan)
    for id in (orphan, zombie):
        destroy(daemon, id)


def test_the_daemon_keeps_no_zombies(start: Start) -> None:
    """The daemon waits for each shell that has ended."""
    daemon = start()
    for _ in range(3):
        wait_for_problem(daemon, daemon.provision(sh_command("exit 1")))
    eventually(lambda: not psutil.Process(daemon.pid).children())


def test_a_reused_pid_is_another_process(start: Start, instances: Instances) -> None:
    """An instance whose PID another process has counts as ended, and its destroy leaves the other process alone."""
    daemon = start()
    id = daemon.provision(sleep_command())
    time.sleep(0.05)  # the start time, in hundredths of a second, tells processes with the same PID apart
    innocent = daemon.provision(sleep_command())
    other = find_main(daemon, innocent)
    life = folder_of(daemon, id) / "life"
    daemon.kill()
    kill(instances.of(id))
    lines = [line for line in life.read_text().splitlines() if line.split()[0] in ("boot", "main")]
    life.write_text("\n".join(lines).replace(f"\nmain {read_handle(daemon, id)} ", f"\nmain {other.pid} ") + "\n")
    daemon.start()
    assert "ended with unknown exit status" == wait_for_problem(daemon, id)
    destroy(daemon, id)
    assert other.is_running()
    assert [innocent] == daemon.described()


def test_processes_from_before_a_reboot_have_ended(start: Start, instances: Instances) -> None:
    """A process recorded in an earlier boot counts as ended, even if one has its PID and start time now."""
    daemon = start()
    id = daemon.provision(sleep_command())
    process = find_main(daemon, id)
    life = folder_of(daemon, id) / "life"
    daemon.kill()
    life.write_text("boot another 1700000000\n" + life.read_text().partition("\n")[2])
    daemon.start()
    assert "ended with unknown exit status: the machine was restarted" == wait_for_problem(daemon, id)
    assert process.is_running()
    destroy(daemon, id)
    assert [] == instances.of(id)


# recovery


def test_processes_outlive_the_daemon(start: Start, instances: Instances) -> None:
    """Kills and a stop of the daemon neither lose nor double any of 120 processes."""
    daemon = start()
    with daemon.client() as client:
        for _ in range(120):
            client.call("Instance.Provision", {"Spec": {"Properties": sleep_command(), "Tags": {}}})
    before, described = eventually(lambda: len(mains := instances.mains()) == 120 and mains), daemon.described()
    assert all(1 == len(pids) for pids in before.values())
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        daemon.stop(how)
        daemon.start()
    assert before == instances.mains()
    assert described == daemon.described()
    eventually(lambda: "status" in read_live(daemon, described[0]))
    assert before == {id: [read_live(daemon, id)["pid"]] for id in described}


OVERWRITES = """
import ctypes, time
fields = open("/proc/self/stat").read().rpartition(") ")[2].split()
start, end = int(fields[47]), int(fields[48])
ctypes.memset(start, 120, end - start)
print("done", flush=True)
time.sleep(600)
"""


def test_a_process_that_overwrites_its_environment_is_recovered(start: Start, instances: Instances) -> None:
    """A restarted daemon recognizes, and destroys, a process that overwrote its environment to set its title."""
    python = shutil.which("python3", path="/usr/bin:/bin") if os.geteuid() == 0 else sys.executable
    if python is None:
        pytest.skip(f"there is no Python that {USER} may run")
    daemon = start()
    id = daemon.provision({"command": python, "arguments": ["-c", OVERWRITES]})
    process = find_main(daemon, id)
    eventually(lambda: "done" in (folder_of(daemon, id) / "stdout").read_text())
    assert process.pid not in [each.pid for each in instances.all()]
    daemon.kill()
    daemon.start()
    eventually(lambda: "status" in read_live(daemon, id))
    assert "running" == read_live(daemon, id)["status"]
    destroy(daemon, id)
    assert not process.is_running()


def test_records_are_rebuilt_from_processes(start: Start) -> None:
    """After the loss of the state file, processes are orphans with their latest tags, and can be adopted."""
    daemon = start()
    id = daemon.provision(sleep_command(), infrakit_group="w", logical="m1")
    daemon.call("Instance.Label", Instance=id, Labels={"tier": "web"})
    eventually(lambda: "web" in (folder_of(daemon, id) / "instance.json").read_text())
    process = find_main(daemon, id)
    daemon.stop()
    daemon.state.unlink()
    daemon.start()
    with daemon.remote() as plugin:
        eventually(lambda: [id] == [orphan.ID for orphan in plugin.orphans()])
    daemon.call("Operator.AdoptOrphans")
    assert [id] == daemon.described(infrakit_group="w", tier="web")
    record = daemon.record(id)
    assert record is not None
    assert ("m1", str(process.pid)) == (record.LogicalID, record.Handle)


# output


def test_output_is_kept_within_bounds(start: Start) -> None:
    """The provider cuts long output to its end, from the start of a line, and removes it with the instance."""
    daemon = start("--option", "log_size=8192")
    busy = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); echo line $i; echo error $i >&2; done"
    busy += "; while sleep 0.1; do echo line $i; echo error $i >&2; done"  # output at the instant of a cut may be lost
    id = daemon.provision(sh_command(busy))

    def short(log: Path) -> str:
        text = log.read_text()
        return text if len(text) <= 8192 and " 20000\n" in text else ""

    for log in (folder_of(daemon, id) / "stdout", folder_of(daemon, id) / "stderr"):
        text = eventually(partial(short, log), f"{log.name} is kept short")
        assert text.split()[0] in ("line", "error"), "output begins with a whole line"
    destroy(daemon, id)
    assert not folder_of(daemon, id).exists()


# destroy


STUBBORN = """
trap '' TERM
setsid sh -c 'sleep 600 & setsid sleep 600 & exit' &
env -i sleep 600 &
sh -c 'while :; do sleep 600 & sleep 0.02; kill $!; done' &
while :; do sleep 600; done
"""


def test_a_destroy_ends_all_descendants(start: Start, instances: Instances) -> None:
    """A destroy ends descendants in other sessions, with empty environments, deaf to SIGTERM, or started meanwhile."""
    daemon = start(grace=0.3)
    id, other = daemon.provision(sh_command(STUBBORN)), daemon.provision(sleep_command())
    bystander = psutil.Popen(["sleep", "600"], env={"INFRAKIT_INSTANCE": id, "PYINFRAKIT_MARK": "another"})
    try:
        eventually(lambda: len(instances.of(id)) >= 6)
        own_session = find_session(find_main(daemon, id).pid)
        everything = [*instances.of(id), *own_session]
        assert any(each not in instances.of(id) for each in own_session), "one has a clean environment"
        destroy(daemon, id)
        assert [] == instances.of(id)
        assert [] == [each for each in everything if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        assert bystander.poll() is None
        assert find_main(daemon, other).is_running()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_has_the_grace_to_end(start: Start, tmp_path: Path) -> None:
    """SIGTERM comes first, and the process can use the whole grace for its cleanup."""
    daemon = start(grace=10)
    id = daemon.provision(
        sh_command("trap 'sleep 0.5; exec 3>&-; echo tidy; kill -9 $$' TERM; echo up; while :; do sleep 0.05; done")
    )
    out = folder_of(daemon, id) / "stdout"
    eventually(lambda: "up" in out.read_text())
    with out.open() as kept:
        destroy(daemon, id)
        assert "tidy" in kept.read()


def test_a_batch_of_processes_shares_one_grace(start: Start, instances: Instances) -> None:
    """The destroy of 40 processes that ignore SIGTERM takes one grace, not 40."""
    daemon = start("--calls-at-once", "1", grace=1)
    ids = [daemon.provision(sh_command("trap '' TERM; while :; do sleep 600; done")) for _ in range(40)]
    for id in ids:
        daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: not daemon.saved()["NonFunctional"], "all are gone", patience=15)
    assert [] == instances.all()


def test_a_destroy_ends_processes_that_an_ended_command_left(start: Start, instances: Instances) -> None:
    """A destroy ends background processes even after both the command and its shell are gone."""
    daemon = start()
    id = daemon.provision(sh_command("setsid sleep 600 & sleep 600 & exit 1"))
    assert "exited with status 1" == wait_for_problem(daemon, id)
    assert instances.of(id)
    destroy(daemon, id)
    assert [] == find_processes(f"INFRAKIT_INSTANCE={id}")


# crashes


def start_dying(run: Start, mark: str, step: str) -> Daemon:
    return run("--mark", mark, program=(sys.executable, str(DYING), step))


def is_settled(daemon: Daemon, instances: Instances) -> bool:
    """Return whether all records are ready and each has exactly one process."""
    records = daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]
    mains = instances.mains()
    one_each = all(1 == len(pids) for pids in mains.values()) and {each["ID"] for each in records} == mains.keys()
    return one_each and all(each["State"] == "ready" for each in records)


DYING = PROGRAMS / "dying_process.py"


@pytest.mark.parametrize("step", [*STEPS, *INSIDE_PROVISION])
def test_a_crash_in_a_provision_leaves_one_process_or_none(
    run: Start, start: Start, mark: str, instances: Instances, step: str
) -> None:
    """A crash before the record is written leaves nothing; any later one leaves one instance with one process."""
    first = start_dying(run, mark, f"provision: {step}")
    init = f"sleep {3 if step == 'in the call' else 0.4}; true"
    with pytest.raises(Unreachable):
        first.call("Instance.Provision", Spec={"Properties": sleep_command(), "Init": init})
    assert first.process is not None
    assert -9 == first.process.wait()

    second = start()
    eventually(lambda: is_settled(second, instances), "records and processes agree")
    assert (0 if step == "before the record" else 1) == len(second.described())
    if second.described():
        assert "running" == eventually(lambda: read_live(second, second.described()[0]).get("status"))


@pytest.mark.parametrize("step", [*STEPS, *INSIDE_DESTROY])
def test_a_crash_in_a_destroy_leaves_all_or_nothing(
    run: Start, start: Start, mark: str, instances: Instances, step: str
) -> None:
    """After a crash before the record is written, the instance lives on; after any later one, it is destroyed."""
    before = start()
    kept, lost = (
        before.provision(sleep_command()),
        before.provision(sh_command("trap '' TERM; exec /usr/bin/sleep 600")),
    )
    before.stop()

    first = start_dying(run, mark, f"destroy: {step}")
    with contextlib.suppress(Unreachable):  # the reply may come before the call to the provider
        first.call("Instance.Destroy", Instance=lost)
    assert first.process is not None
    assert -9 == first.process.wait()

    second = start()
    eventually(lambda: is_settled(second, instances), "records and processes agree")
    left = [kept, lost] if step == "before the record" else [kept]
    assert sorted(left) == sorted(second.described())
    assert sorted(left) == sorted(path.name for path in folder_of(second, kept).parent.iterdir())


@pytest.mark.parametrize("victims", ["all", "shells"])
def test_an_interrupted_provision_starts_anew(start: Start, instances: Instances, victims: str) -> None:
    """If daemon and shell are killed before the command began, the next start ends the rest, then starts one process."""
    daemon = start("--provision-wait", "0")
    daemon.call("Instance.Provision", Spec={"Properties": sleep_command(), "Init": "sleep 60 & sleep 3"})
    eventually(lambda: 3 <= len(instances.all()), "Init is running")
    daemon.kill()
    kill([each for each in instances.all() if victims == "all" or "sleep" not in each.name()])
    daemon.start()
    eventually(lambda: is_settled(daemon, instances), "there is one process")
    status = eventually(lambda: read_live(daemon, daemon.described()[0]).get("status"))
    assert "running" == status
    assert 2 == len([each for each in instances.all() if each.name() == "sleep"]), "the second Init's, and the command"


KILLS = 50


@pytest.mark.long
def test_kills_under_load_lose_and_double_no_process(start: Start, instances: Instances) -> None:
    """After each of 50 kills of a daemon under the load of three clients, every instance has one process."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    daemon = start(grace=0.2)
    callers = [Caller(name, dice.randrange(2**32), sleep_command(), most=10) for name in "xyz"]
    for _ in range(KILLS):
        with loaded(daemon, callers):
            time.sleep(dice.uniform(0, 0.15))
        daemon.start()
        check(daemon, callers)
    eventually(lambda: is_settled(daemon, instances), "records and processes agree")
    check(daemon, callers)
    assert [] == [each for caller in callers for each in caller.failures]
    assert sorted(daemon.described()) == sorted(instances.mains())
    assert sorted(daemon.described()) == sorted(path.name for path in folder_of(daemon, "x").parent.iterdir())


# the contract of providers


class TestContract(ProviderContract):
    """The provider fulfills the contract of all providers."""

    @pytest.fixture(autouse=True)
    def cleanup(self) -> Iterator[None]:
        """End all processes of the test."""
        self.token = uuid.uuid4().hex
        yield
        eventually(lambda: kill_all(f"TEST={self.token}"), "all of the test's processes end")

    def provider(self, folder: Path) -> Process:
        return Process("contract", folder, Options(user=USER if os.geteuid() == 0 else None, grace=0.2))

    def properties(self, provider: Provider) -> Mapping[str, Any]:
        return sleep_command(environment={"TEST": self.token})

    def wrong_properties(self) -> Sequence[Mapping[str, Any]]:
        return [
            sleep_command(environment={"": "x"}),
            {"command": ""},
            {"command": "\0"},
            sleep_command(directory="home"),
        ]

    def stuck(self, provider: Provider, id: str) -> AbstractContextManager[None]:
        return block_removal(provider.folder / "contract.processes", id)


@contextlib.contextmanager
def block_removal(folder: Path, id: str) -> Iterator[None]:
    """Put a file in the place that the instance's folder moves to before its removal."""
    obstacle = folder / f".{id}.gone"
    obstacle.touch()
    yield
    obstacle.unlink()
