"""Instances that are local processes: the real daemon, and real processes that are killed."""

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
from pyinfrakit.providers.process.provider import Process, Settings
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.testing import ProviderContract
from support.harness import COMMAND, PROGRAMS, Daemon, command, eventually
from support.load import Caller, check, loaded
from support.processes import (
    USER,
    Instances,
    Start,
    broken,
    carrying,
    end,
    gone,
    live,
    none_left,
    script,
    session,
    sleeping,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs processes as another user")


def folder(daemon: Daemon, id: str) -> Path:
    return daemon.state.with_name("rack1.processes") / id


def handle(daemon: Daemon, id: str) -> psutil.Process:
    record = daemon.record(id)
    assert record is not None
    assert record.Handle is not None
    return psutil.Process(int(record.Handle))


def failure(daemon: Daemon, properties: dict[str, Any], init: str = "") -> str:
    """Give what a provision that fails is told."""
    with pytest.raises(RemoteError) as error:
        daemon.call("Instance.Provision", Spec={"Properties": properties, "Init": init})
    return str(error.value)


def files(process: psutil.Process) -> dict[str, str]:
    """Give what a process has open, by descriptor."""
    found = {}
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found[path.name] = os.readlink(path)
    return found


# what runs


def test_a_group_of_processes_of_which_one_is_killed(start: Start, instances: Instances) -> None:
    """It is set aside with the reason, so that InfraKit replaces it; the others are described, with what is known of them."""
    daemon = start()
    ids = [daemon.provision(sleeping(), infrakit_group="w") for _ in range(4)]
    eventually(lambda: "status" in live(daemon, ids[0]))
    shown = live(daemon, ids[0])
    assert {"pid": handle(daemon, ids[0]).pid, "status": "running"} == {key: shown[key] for key in ("pid", "status")}
    assert shown["started"].endswith("Z")
    eventually(lambda: set(ids) == instances.mains().keys())
    end([handle(daemon, ids[2])])
    assert "killed by SIGKILL" == broken(daemon, ids[2])
    assert sorted({*ids} - {ids[2]}) == sorted(daemon.described(infrakit_group="w"))
    gone(daemon, ids[2])
    assert not folder(daemon, ids[2]).exists()
    assert sorted({*ids} - {ids[2]}) == sorted(instances.mains())


def test_a_process_has_a_clean_environment(start: Start, mark: str, home: Path) -> None:
    """Nothing of the daemon's comes through: no variable, file, directory or ignored signal; its output is its own."""
    home.mkdir()
    inherited = ("sh", "-c", 'trap "" HUP INT USR1; umask 077; exec 7</etc/passwd; exec "$@"', "sh", *COMMAND)
    daemon = start(program=inherited)
    id = daemon.provision(sleeping(environment={"COLOUR": "red", "path": "x", "line": "y"}, directory="/usr"))
    process = handle(daemon, id)
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
    place = folder(daemon, id)
    assert {"0": "/dev/null", "1": str(place / "stdout"), "2": str(place / "stderr")} == files(process)
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
    """With that user's groups, and no rights of root's, from `Init` on."""
    daemon = start()
    spec = {"Properties": script("id -u; id -G; sleep 600"), "Init": "id -u; id -G"}
    id = daemon.call("Instance.Provision", Spec=spec)["ID"]
    user = pwd.getpwnam(USER)
    said = eventually(lambda: len(lines := (folder(daemon, id) / "stdout").read_text().split()) == 4 and lines)
    assert [str(user.pw_uid), str(user.pw_gid)] * 2 == said
    status = Path(f"/proc/{handle(daemon, id).pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status


@as_root
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "option user: expected the user that processes run as"),
        (("--option", "user=nobody-at-all"), "option user: there is no user 'nobody-at-all'"),
        (("--option", "user=root"), "nothing is run as root"),
    ],
)
def test_root_does_not_run_processes_as_root(home: Path, options: tuple[str, ...], says: str) -> None:
    """The daemon does not start, and says why in one line."""
    result = command(home, "--provider", "process", *options, "--log", "1")
    assert 2 == result.returncode
    assert says in result.stderr
    assert 1 == len(result.stderr.splitlines())


@as_root
def test_a_folder_that_others_may_use_is_refused(home: Path) -> None:
    """What stands there says whom root sends signals to."""
    wide = home / "wide"
    wide.mkdir(parents=True)
    wide.chmod(0o777)
    result = command(
        home, "--provider", "process", "--option", f"user={USER}", "--option", f"folder={wide}", "--log", "1"
    )
    assert 2 == result.returncode
    assert f"folder {wide}: expected one that is ours" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_others_can_not_run_processes_as_another_user(home: Path) -> None:
    """The daemon does not start; its own user's name is fine."""
    result = command(home, "--provider", "process", "--option", "user=root", "--log", "1")
    assert f"only root runs processes as another user, and this is {getpass.getuser()}" in result.stderr


# what is wrong with a command


def test_what_can_not_be_run_fails_the_provision(start: Start, instances: Instances, tmp_path: Path) -> None:
    """No such command, one that is not executable, no such directory: each is told, and nothing is left of it."""
    daemon = start()
    text = tmp_path / "text"
    text.write_text("")
    assert "command 'no-such-thing': there is no such file; PATH is /usr/local/bin:" in failure(
        daemon, {"command": "no-such-thing"}
    )
    assert "command '/etc/passwd': " in failure(daemon, {"command": "/etc/passwd"})
    assert "may not execute it" in failure(daemon, {"command": "/etc/passwd"})
    assert "directory '/no/such': " in failure(daemon, sleeping(directory="/no/such"))
    assert "can't go there" in failure(daemon, sleeping(directory="/etc/passwd"))
    assert "can't be started: Argument list too long" in failure(
        daemon, {"command": "true", "arguments": ["x" * 200_000]}
    )
    eventually(lambda: not daemon.saved()["NonFunctional"])
    assert [] == [path for path in folder(daemon, "x").parent.iterdir() if not path.name.startswith(".")]
    assert [] == instances.all()


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({}, "Properties: missing required field command"),
        ({"command": ""}, "Properties.command: expected a string of length >= 1"),
        ({"command": "a\0b"}, "Properties.command: expected no character with the code 0"),
        ({"command": "a", "argument": []}, "has an unknown field argument"),
        ({"command": "a", "directory": "tmp"}, "Properties.directory: expected a string matching regex '^/'"),
        ({"command": "a", "environment": {"A-B": "x"}}, "Properties.environment.A-B: expected the name of a variable"),
        (
            {"command": "a", "environment": {"PYINFRAKIT_MARK": "x"}},
            "Properties.environment.PYINFRAKIT_MARK: is set by",
        ),
    ],
)
def test_wrong_properties_are_refused(start: Start, properties: dict[str, Any], says: str) -> None:
    """Before anything is recorded, with the field that is wrong."""
    daemon = start()
    assert says in failure(daemon, properties)
    assert [] == daemon.saved()["Instances"]


# Init


def test_init_runs_first(start: Start) -> None:
    """Once, before the command is looked up, in its directory and with its environment; a script of any kind."""
    daemon = start()
    python = f"#!{sys.executable}\nimport os, sys\nprint(os.environ['COLOUR'], os.getcwd(), flush=True)"
    if os.geteuid() == 0:
        python = "#!/usr/bin/env sh\necho $COLOUR $(pwd)"
    spec = {
        "Properties": script("echo then; sleep 600", environment={"COLOUR": "red"}, directory="/usr"),
        "Init": python,
    }
    id = daemon.call("Instance.Provision", Spec=spec)["ID"]
    eventually(lambda: "red /usr\nthen\n" == (folder(daemon, id) / "stdout").read_text())


def test_a_failing_init_fails_the_provision(start: Start, instances: Instances) -> None:
    """With its status and what it said last, but for its own words; the command never runs, and what it began is ended."""
    daemon = start()
    init = "sleep 600 & setsid sleep 600 & echo can not reach rack5 >&2; TOKEN=swordfish; set -x; test $TOKEN = salmon"
    told = failure(daemon, script("touch ran"), init)
    assert "Init exited with status 1: can not reach rack5 | " in told
    assert "swordfish" not in told
    assert "swordfish" not in daemon.log
    eventually(lambda: not daemon.saved()["NonFunctional"])
    assert [] == instances.all()


def test_an_init_that_takes_too_long_fails_the_provision(start: Start, instances: Instances) -> None:
    """After as long as the option says, and it is ended."""
    daemon = start("--option", "init_timeout=0.3")
    assert "Init has not ended after 0.3 s" in failure(daemon, sleeping(), "sleep 600")
    eventually(lambda: not daemon.saved()["NonFunctional"])
    assert [] == instances.all()


def with_init(instances: Instances) -> list[str]:
    """Give what processes show that have not ended meanwhile, once Init is one of them."""
    shown = []
    for process in instances.all():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            shown.append(shown_of(process.pid))
    return shown if any("/proc/self/fd/4" in each for each in shown) else []


def test_init_is_shown_to_nobody(start: Start, instances: Instances) -> None:
    """Neither while it runs nor after it is its text in a command line, an environment, the log, or a file of the provider's."""
    secret = "join-token-swordfish-4711"
    daemon = start("--log", "5")
    spec = {"Properties": script("sleep 600"), "Init": f"token={secret}; sleep 3; true"}

    with ThreadPoolExecutor(1) as pool:
        provision = pool.submit(daemon.call, "Instance.Provision", Spec=spec)
        shown = eventually(lambda: with_init(instances), "Init runs")
        assert not provision.done()
        id = provision.result()["ID"]
    assert not any(secret in each for each in [*shown, shown_of(handle(daemon, id).pid), daemon.log])
    assert [] == [path for path in folder(daemon, id).iterdir() if secret in path.read_text()]
    assert not any("memfd" in link for link in files(handle(daemon, id)).values())


def shown_of(pid: int) -> str:
    return "".join(Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ"))


# how it ends


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
def test_how_a_process_ended_is_told(start: Start, text: str, reason: str) -> None:
    """Also by the next daemon, where it ended while there was none."""
    daemon = start()
    watched, unwatched = (
        daemon.provision(script(text)),
        daemon.provision(script(f"trap '{text}' USR1; echo; {FOREVER}")),
    )
    process = handle(daemon, unwatched)
    assert reason == broken(daemon, watched)
    eventually((folder(daemon, unwatched) / "stdout").read_text)
    daemon.kill()
    process.send_signal(signal.SIGUSR1)
    eventually(lambda: not process.is_running())
    daemon.start()
    assert reason == broken(daemon, unwatched)
    assert reason == broken(daemon, watched)


FOREVER = "while :; do sleep 0.05; done"


def record_handle(daemon: Daemon, id: str) -> str:
    entries = daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]
    return str(next(each["Handle"] for each in entries if each["ID"] == id))


def test_nothing_is_known_of_how_it_ended_without_its_shell(start: Start) -> None:
    """It works on where its shell is killed. When it ends then, or while its shell is stopped, that is told."""
    daemon = start()
    orphan, zombie = daemon.provision(sleeping()), daemon.provision(sleeping())
    handle(daemon, orphan).parent().kill()
    handle(daemon, zombie).parent().suspend()
    end([handle(daemon, zombie)])
    assert "ended, with no exit status known" == broken(daemon, zombie)
    assert [orphan] == daemon.described()
    end([handle(daemon, orphan)])
    assert "ended, with no exit status known" == broken(daemon, orphan)
    for id in (orphan, zombie):
        gone(daemon, id)


def test_the_daemon_keeps_no_zombies(start: Start) -> None:
    """What ended is waited for."""
    daemon = start()
    for _ in range(3):
        broken(daemon, daemon.provision(script("exit 1")))
    eventually(lambda: not psutil.Process(daemon.pid).children())


def test_a_process_id_that_is_used_again_is_another_process(start: Start, instances: Instances) -> None:
    """The instance has ended, and a destroy leaves the other one alone."""
    daemon = start()
    id, innocent = daemon.provision(sleeping()), daemon.provision(sleeping())
    other = handle(daemon, innocent)
    life = folder(daemon, id) / "life"
    end(instances.of(id))
    lines = [line for line in life.read_text().splitlines() if line.split()[0] in ("boot", "main")]
    life.write_text("\n".join(lines).replace(f"\nmain {record_handle(daemon, id)} ", f"\nmain {other.pid} ") + "\n")
    assert "ended, with no exit status known" == broken(daemon, id)
    gone(daemon, id)
    assert other.is_running()
    assert [innocent] == daemon.described()


def test_processes_of_before_a_reboot_have_ended(start: Start, instances: Instances) -> None:
    """Whatever process has the ID, and even the start, by now."""
    daemon = start()
    id = daemon.provision(sleeping())
    process = handle(daemon, id)
    life = folder(daemon, id) / "life"
    daemon.kill()
    life.write_text("boot another 1700000000\n" + life.read_text().partition("\n")[2])
    daemon.start()
    assert "ended, with no exit status known: the machine was restarted" == broken(daemon, id)
    assert process.is_running()
    gone(daemon, id)
    assert [] == instances.of(id)


# what is found again


def test_processes_outlive_the_daemon(start: Start, instances: Instances) -> None:
    """A hundred and twenty, through kills and a stop of the daemon: the same ones, and none is lost or doubled."""
    daemon = start()
    with daemon.client() as client:
        for _ in range(120):
            client.call("Instance.Provision", {"Spec": {"Properties": sleeping(), "Tags": {}}})
    before, described = eventually(lambda: len(mains := instances.mains()) == 120 and mains), daemon.described()
    assert all(1 == len(pids) for pids in before.values())
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        daemon.stop(how)
        daemon.start()
    assert before == instances.mains()
    assert described == daemon.described()
    eventually(lambda: "status" in live(daemon, described[0]))
    assert before == {id: [live(daemon, id)["pid"]] for id in described}


OVERWRITES = """
import ctypes, time
fields = open("/proc/self/stat").read().rpartition(") ")[2].split()
start, end = int(fields[47]), int(fields[48])
ctypes.memset(start, 120, end - start)
print("done", flush=True)
time.sleep(600)
"""


def test_a_process_that_overwrites_its_environment_is_found_again(start: Start, instances: Instances) -> None:
    """As those that set their title do; after a restart, and also to be destroyed."""
    python = shutil.which("python3", path="/usr/bin:/bin") if os.geteuid() == 0 else sys.executable
    if python is None:
        pytest.skip(f"there is no Python that {USER} may run")
    daemon = start()
    id = daemon.provision({"command": python, "arguments": ["-c", OVERWRITES]})
    process = handle(daemon, id)
    eventually(lambda: "done" in (folder(daemon, id) / "stdout").read_text())
    assert process.pid not in [each.pid for each in instances.all()]
    daemon.kill()
    daemon.start()
    eventually(lambda: "status" in live(daemon, id))
    assert "running" == live(daemon, id)["status"]
    gone(daemon, id)
    assert not process.is_running()


def test_records_are_rebuilt_from_processes(start: Start) -> None:
    """After a lost state file they are orphans, with the tags that they were last given, and are adopted."""
    daemon = start()
    id = daemon.provision(sleeping(), infrakit_group="w", logical="m1")
    daemon.call("Instance.Label", Instance=id, Labels={"tier": "web"})
    eventually(lambda: "web" in (folder(daemon, id) / "instance.json").read_text())
    process = handle(daemon, id)
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


# what they write


def test_output_is_kept_within_bounds(start: Start) -> None:
    """The end of it, until the instance is destroyed."""
    daemon = start("--option", "log_size=8192")
    busy = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); echo line $i; echo error $i >&2; done"
    busy += "; while sleep 0.1; do echo line $i; echo error $i >&2; done"  # what is written while it is cut may be lost
    id = daemon.provision(script(busy))

    def short(log: Path) -> str:
        text = log.read_text()
        return text if len(text) <= 8192 and " 20000\n" in text else ""

    for log in (folder(daemon, id) / "stdout", folder(daemon, id) / "stderr"):
        text = eventually(partial(short, log), f"{log.name} is kept short")
        assert text.split()[0] in ("line", "error"), "it begins with a whole line"
    gone(daemon, id)
    assert not folder(daemon, id).exists()


# destroy


STUBBORN = """
trap '' TERM
setsid sh -c 'sleep 600 & setsid sleep 600 & exit' &
env -i sleep 600 &
sh -c 'while :; do sleep 600 & sleep 0.02; kill $!; done' &
while :; do sleep 600; done
"""


def test_all_that_a_process_started_is_ended(start: Start, instances: Instances) -> None:
    """What left its session, what has nothing in its environment, what ignores SIGTERM, and what is started meanwhile."""
    daemon = start(grace=0.3)
    id, other = daemon.provision(script(STUBBORN)), daemon.provision(sleeping())
    bystander = psutil.Popen(["sleep", "600"], env={"INFRAKIT_INSTANCE": id, "PYINFRAKIT_MARK": "another"})
    try:
        eventually(lambda: len(instances.of(id)) >= 6)
        own_session = session(handle(daemon, id).pid)
        everything = [*instances.of(id), *own_session]
        assert any(each not in instances.of(id) for each in own_session), "one has a clean environment"
        gone(daemon, id)
        assert [] == instances.of(id)
        assert [] == [each for each in everything if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        assert bystander.poll() is None
        assert handle(daemon, other).is_running()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_may_end_in_its_own_time(start: Start, tmp_path: Path) -> None:
    """SIGTERM comes first, and what it does about it within the grace is not cut short."""
    daemon = start(grace=10)
    id = daemon.provision(
        script("trap 'sleep 0.5; exec 3>&-; echo tidy; kill -9 $$' TERM; echo up; while :; do sleep 0.05; done")
    )
    out = folder(daemon, id) / "stdout"
    eventually(lambda: "up" in out.read_text())
    with out.open() as kept:
        gone(daemon, id)
        assert "tidy" in kept.read()


def test_several_are_ended_together(start: Start, instances: Instances) -> None:
    """Forty that ignore SIGTERM take one grace, not forty."""
    daemon = start("--calls-at-once", "1", grace=1)
    ids = [daemon.provision(script("trap '' TERM; while :; do sleep 600; done")) for _ in range(40)]
    for id in ids:
        daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: not daemon.saved()["NonFunctional"], "all are gone", patience=15)
    assert [] == instances.all()


def test_what_ended_by_itself_is_destroyed_with_what_it_left(start: Start, instances: Instances) -> None:
    """Though neither it nor its shell is there any more."""
    daemon = start()
    id = daemon.provision(script("setsid sleep 600 & sleep 600 & exit 1"))
    assert "exited with status 1" == broken(daemon, id)
    assert instances.of(id)
    gone(daemon, id)
    assert [] == carrying(f"INFRAKIT_INSTANCE={id}")


# crashes


def dying(run: Start, mark: str, step: str) -> Daemon:
    return run("--mark", mark, program=(sys.executable, str(DYING), step))


def at_rest(daemon: Daemon, instances: Instances) -> bool:
    """Is there nothing left to do, and exactly one process for each record?"""
    records = daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]
    mains = instances.mains()
    one_each = all(1 == len(pids) for pids in mains.values()) and {each["ID"] for each in records} == mains.keys()
    return one_each and all(each["State"] == "ready" for each in records)


DYING = PROGRAMS / "dying_process.py"


@pytest.mark.parametrize("step", [*STEPS, *INSIDE_PROVISION])
def test_a_crash_in_a_provision_leaves_one_process_or_none(
    run: Start, start: Start, mark: str, instances: Instances, step: str
) -> None:
    """Before the record is written there is nothing after the restart, from then on exactly one instance with one process."""
    first = dying(run, mark, f"provision: {step}")
    init = f"sleep {3 if step == 'in the call' else 0.4}; true"
    with pytest.raises(Unreachable):
        first.call("Instance.Provision", Spec={"Properties": sleeping(), "Init": init})
    assert first.process is not None
    assert -9 == first.process.wait()

    second = start()
    eventually(lambda: at_rest(second, instances), "records and processes agree")
    assert (0 if step == "before the record" else 1) == len(second.described())
    if second.described():
        assert "running" == eventually(lambda: live(second, second.described()[0]).get("status"))


@pytest.mark.parametrize("step", [*STEPS, *INSIDE_DESTROY])
def test_a_crash_in_a_destroy_ends_with_all_or_nothing_done(
    run: Start, start: Start, mark: str, instances: Instances, step: str
) -> None:
    """Before the record is written the instance lives on, from then on it is destroyed, also by the next daemon."""
    before = start()
    kept, lost = before.provision(sleeping()), before.provision(script("trap '' TERM; exec /usr/bin/sleep 600"))
    before.stop()

    first = dying(run, mark, f"destroy: {step}")
    with contextlib.suppress(Unreachable):  # the reply may come before the provider is called
        first.call("Instance.Destroy", Instance=lost)
    assert first.process is not None
    assert -9 == first.process.wait()

    second = start()
    eventually(lambda: at_rest(second, instances), "records and processes agree")
    left = [kept, lost] if step == "before the record" else [kept]
    assert sorted(left) == sorted(second.described())
    assert sorted(left) == sorted(path.name for path in folder(second, kept).parent.iterdir())


@pytest.mark.parametrize("victims", ["all", "shells"])
def test_a_provision_is_begun_anew_where_nothing_is_left_to_wait_for(
    start: Start, instances: Instances, victims: str
) -> None:
    """Where daemon and shell were killed before the command began, what they left is ended, and then there is one process."""
    daemon = start("--provision-wait", "0")
    daemon.call("Instance.Provision", Spec={"Properties": sleeping(), "Init": "sleep 60 & sleep 3"})
    eventually(lambda: 3 <= len(instances.all()), "Init runs")
    daemon.kill()
    end([each for each in instances.all() if victims == "all" or "sleep" not in each.name()])
    daemon.start()
    eventually(lambda: at_rest(daemon, instances), "there is one process")
    status = eventually(lambda: live(daemon, daemon.described()[0]).get("status"))
    assert "running" == status
    assert 2 == len([each for each in instances.all() if each.name() == "sleep"]), "the second Init's, and the command"


KILLS = 50


@pytest.mark.long
def test_kills_under_load_lose_and_double_no_process(start: Start, instances: Instances) -> None:
    """Fifty times killed under the load of three clients: each instance that there should be has one process."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    daemon = start(grace=0.2)
    callers = [Caller(name, dice.randrange(2**32), sleeping(), most=10) for name in "xyz"]
    for _ in range(KILLS):
        with loaded(daemon, callers):
            time.sleep(dice.uniform(0, 0.15))
        daemon.start()
        check(daemon, callers)
    eventually(lambda: at_rest(daemon, instances), "records and processes agree")
    check(daemon, callers)
    assert [] == [each for caller in callers for each in caller.failures]
    assert sorted(daemon.described()) == sorted(instances.mains())
    assert sorted(daemon.described()) == sorted(path.name for path in folder(daemon, "x").parent.iterdir())


# the contract of all providers


class TestContract(ProviderContract):
    """Its machines are processes."""

    @pytest.fixture(autouse=True)
    def ended(self) -> Iterator[None]:
        """Leave no process behind."""
        self.token = uuid.uuid4().hex
        yield
        eventually(lambda: none_left(f"TEST={self.token}"), "all of the test's processes end")

    def provider(self, folder: Path) -> Process:
        return Process("contract", folder, Settings(user=USER if os.geteuid() == 0 else None, grace=0.2))

    def properties(self, provider: Provider) -> Mapping[str, Any]:
        return sleeping(environment={"TEST": self.token})

    def wrong_properties(self) -> Sequence[Mapping[str, Any]]:
        return [sleeping(environment={"": "x"}), {"command": ""}, {"command": "\0"}, sleeping(directory="home")]

    def stuck(self, provider: Provider, id: str) -> AbstractContextManager[None]:
        return unremovable(provider.folder / "contract.processes", id)


@contextlib.contextmanager
def unremovable(folder: Path, id: str) -> Iterator[None]:
    """Have something where the instance's folder is moved to before it is removed."""
    obstacle = folder / f".{id}.gone"
    obstacle.touch()
    yield
    obstacle.unlink()
