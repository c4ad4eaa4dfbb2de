"""The user's executables are a provider like any other, whatever they do."""

import contextlib
import json
import os
import pwd
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import FAST
from dying import STEPS
from pyinfrakit.errors import TryAgain, Unreachable
from pyinfrakit.providers.exec import protocol
from pyinfrakit.providers.exec.requests import Requests
from pyinfrakit.providers.exec.runner import Runner
from pyinfrakit.rpc.client import RemoteError
from support import executables
from support.executables import BUILT, Examples
from support.harness import PROGRAMS, Daemon, command, eventually, root_only

Run = Callable[..., Daemon]


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which executables keep their machines."""
    folder = tmp_path / "machines"
    folder.mkdir()
    monkeypatch.setenv("MACHINES", str(folder))
    return folder


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes an executable: `shell("provision() { exit 3; }")`."""
    return lambda verbs: executables.shell(tmp_path / "rack", verbs)


def options(path: Path, **more: Any) -> tuple[str, ...]:
    """Return a daemon's arguments. Missing machines do not matter: many executables here observe none."""
    values = {"command": path, "environment": "MACHINES", **more}
    flags = (part for key, value in values.items() for part in ("--option", f"{key}={value}"))
    return ("--provider", "exec", *FAST, "--missing-after", "10000", *flags)


@pytest.fixture(params=["sh", "node", pytest.param("go", marks=BUILT)])
def example(request: pytest.FixtureRequest, examples: Examples) -> Path:
    """An executable from the examples."""
    return examples.get(request.param)


def test_the_examples_are_providers(run: Run, machines: Path, example: Path) -> None:
    """Each example creates machines, reports broken ones and destroys them, also after a restart of the daemon."""
    arguments = options(example)
    daemon = run(*arguments, "--mark", "m1")
    ids = [daemon.provision({"size": "small"}, infrakit_group="w") for _ in range(3)]
    assert sorted(ids) == sorted(path.name for path in (machines / "m1").iterdir())
    assert f"file-{ids[0]}" == handle(daemon, ids[0])
    (machines / "m1" / ids[0]).write_text("")
    eventually(lambda: ids[0] not in daemon.described(), "a broken machine is not described")
    daemon.stop()

    again = run(*arguments)
    assert sorted(ids[1:]) == sorted(again.described(infrakit_group="w"))
    for id in ids:
        again.call("Instance.Destroy", Instance=id)
    eventually(lambda: not list((machines / "m1").iterdir()), "all machines are gone")
    eventually(lambda: not again.saved()["NonFunctional"], "all records are gone")
    assert " bug" not in again.log


def handle(daemon: Daemon, id: str) -> str | None:
    record = daemon.record(id)
    assert record is not None
    return record.Handle


@pytest.mark.parametrize("language", ["node", pytest.param("go", marks=BUILT)])
def test_the_examples_refuse_wrong_properties(run: Run, machines: Path, examples: Examples, language: str) -> None:
    """Examples that read properties name the wrong one and the expected value."""
    daemon = run(*options(examples.get(language)))
    with pytest.raises(RemoteError, match=r'Properties.size: expected "small" or "large", got "huge"'):
        daemon.provision({"size": "huge"})
    assert [] == daemon.described()


def test_a_request_is_complete(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A provision request holds the whole spec, a destroy request the instances and the reason."""
    keep = """provision() { cat >$MACHINES/provision; }
        destroy() { cat >$MACHINES/destroy; echo '{"destroyed": []}'; }"""
    daemon = run(*options(shell(keep)), "--mark", "m1")
    spec = {
        "Properties": {"b": 1, "a": [2.50]},
        "Tags": {"k": "v"},
        "Init": "#!/bin/sh",
        "LogicalID": "10.0.0.1",
        "Attachments": [{"ID": "vol-1", "Type": "disk"}],
    }
    id = daemon.call("Instance.Provision", Spec=spec)["ID"]
    daemon.call("Instance.Destroy", Instance=id, Context={"Reason": "terminate"})
    destroy = eventually(
        lambda: (machines / "destroy").exists() and (machines / "destroy").read_text(),
        "the executable gets the destroy request",
    )

    about = {"version": 1, "plugin": "rack1", "mark": "m1", "ids": [id]}
    expected = {
        "properties": {"b": 1, "a": [2.50]},
        "tags": {"k": "v"},
        "init": "#!/bin/sh",
        "logical_id": "10.0.0.1",
        "attachments": [{"id": "vol-1", "type": "disk"}],
    }
    assert {**about, "verb": "provision", "id": id, "spec": expected} == json.loads(
        (machines / "provision").read_text()
    )
    instance = {
        "id": id,
        "handle": None,
        "logical_id": "10.0.0.1",
        "tags": {"k": "v"},
        "properties": {"b": 1, "a": [2.50]},
    }
    request = json.loads(destroy)
    assert {**about, "verb": "destroy", "instances": [instance]} == {k: v for k, v in request.items() if k != "reason"}
    assert "terminate" == request["reason"]


def test_the_environment_is_clean(
    run: Run, machines: Path, shell: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executable gets a few common variables, those that the options name, and those about the request."""
    monkeypatch.setenv("RACK_TOKEN", "t")
    monkeypatch.setenv("OTHER_TOKEN", "t")
    daemon = run(*options(shell("provision() { env >$MACHINES/env; }"), environment="MACHINES, RACK_TOKEN"))
    id = daemon.provision()
    variables = dict(line.split("=", 1) for line in (machines / "env").read_text().splitlines())
    ours = {"MACHINES", "RACK_TOKEN", "INFRAKIT_PLUGIN", "INFRAKIT_MARK", "INFRAKIT_IDS"}
    assert ours | {name for name in ("PATH", "HOME", "LANG") if name in os.environ} == variables.keys() - {
        "PWD",
        "_",
        "SHLVL",
        "OLDPWD",
    }
    assert id == variables["INFRAKIT_IDS"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "provision: expected the path of an executable, here or as command"),
        ({"command": "{folder}/nothing"}, "provision: {folder}/nothing does not exist"),
        ({"command": "{folder}"}, "provision: {folder} is not a regular file"),
        ({"command": "{rack}", "observe": "{folder}/data"}, "observe: {folder}/data is not executable"),
        ({"command": "{rack}", "label": "{folder}/nothing"}, "label: {folder}/nothing does not exist"),
        ({"command": "{rack}", "environment": "NO_SUCH"}, "environment: variable 'NO_SUCH' is not set"),
        ({"command": "{rack}", "timeout": "0"}, "> 0.0"),
        ({"command": "{rack}", "timeout": "nan"}, "> 0.0"),
        ({"command": "{folder}/open/rack"}, "{folder}/open may be written by others"),
    ],
)
def test_an_unfit_option_stops_the_start(
    home: Path, tmp_path: Path, shell: Callable[[str], Path], values: Mapping[str, str], message: str
) -> None:
    """A missing, unfit or untrusted executable, or another wrong option, stops the start with one line."""
    if "/open/" in str(values) and os.geteuid() != 0:
        pytest.skip("only root trusts nobody else")
    paths = {"folder": str(tmp_path), "rack": str(shell(""))}
    (tmp_path / "data").write_text("")
    (tmp_path / "open").mkdir()
    executables.shell(tmp_path / "open" / "rack")
    (tmp_path / "open").chmod(0o777)
    flags = [part for key, value in values.items() for part in ("--option", f"{key}={value.format(**paths)}")]
    result = command(home, "--name", "rack1", "--provider", "exec", *flags)
    assert 2 == result.returncode
    assert message.format(**paths) in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("""echo '{"problem": "no rack is free"}'; exit 69""", "provision failed: rack provision: no rack is free"),
        ("echo no rack is free >&2; exit 69", "provision failed: rack provision: no rack is free"),
        ("exit 69", "provision failed: rack provision: exit status 69 without a reason"),
        ("""echo '{"problem": "busy", "after": 3}'; exit 75""", "provision failed: rack provision: busy"),
        (
            """echo '{"field": "size", "problem": "too large"}'; exit 65""",
            "provision failed: Properties.size: too large",
        ),
        (
            "echo one >&2; echo two >&2; exit 3",
            "provision failed: rack provision: a bug of the executable: exit status 3: two",
        ),
        ("kill -9 $$", "provision failed: rack provision: a bug of the executable: ended by SIGKILL"),
        ("exit 64", "provision failed: rack provision: a bug of the executable: exit status 64"),
        ("""echo '{"after": "soon"}'; exit 75""", 'rack provision: after: expected a number or null, got "soon"'),
        ("echo nonsense", "rack provision: not JSON: "),
        ("""echo '{"handle": 5}'""", "rack provision: handle: expected a string or null, got 5"),
        ("""echo '{"properties": [1]}'""", "rack provision: properties: expected an object or null, got an array"),
        ("""printf '"\\377"'""", "rack provision: not UTF-8 at byte 1"),
        ("echo []", "rack provision: expected an object, got an array"),
    ],
)
def test_an_exit_status_becomes_an_error(
    run: Run, machines: Path, shell: Callable[[str], Path], script: str, message: str
) -> None:
    """Exit statuses tell the caller to fix, retry or give up. An invalid result names executable, verb and field."""
    daemon = run(*options(shell(f"provision() {{ {script}; }}")))
    with pytest.raises(RemoteError) as error:
        daemon.provision({"size": "large"})
    assert message in str(error.value)
    eventually(lambda: not daemon.saved()["NonFunctional"], "the machine that may exist is cleaned up")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ('{"machines": [{"id": "a"}, {"id": 5}]}', "rack observe: machines[1].id: expected a string, got 5"),
        ('{"machines": [{"id": ""}]}', "rack observe: machines[0].id: expected "),
        ('{"machines": [{}]}', "rack observe: machines[0]: missing required field id"),
        (
            '{"machines": [{"id": "a", "tags": {"k": null}}]}',
            "rack observe: machines[0].tags.k: expected a string, got null",
        ),
        ('{"machine": []}', "rack observe: missing required field machines"),
        ("", "rack observe: empty"),
        ("[" * 200, "rack observe: nested more than 128 levels deep"),
    ],
)
def test_a_wrong_observation_concludes_nothing(
    run: Run, machines: Path, shell: Callable[[str], Path], result: str, message: str
) -> None:
    """An invalid observation is an error that names the field. No instance counts as missing."""
    daemon = run(*options(shell(f"observe() {{ echo '{result}'; }}")))
    id = daemon.provision()
    eventually(lambda: message in daemon.log, "the error is logged")
    assert [id] == daemon.described()


def test_unknown_keys_are_ignored(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A result may have members that this version of the protocol does not know."""
    daemon = run(*options(shell("""provision() { echo '{"handle": "h", "version": 7}'; }""")))
    assert "h" == handle(daemon, daemon.provision())


def test_a_destroy_has_an_outcome_for_each_machine(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A machine that is not reported as destroyed is destroyed again later, and the log says why."""
    verbs = """destroy() {
            if [ ! -e $MACHINES/go ]; then
                echo '{"destroyed": [], "failed": {"'$INFRAKIT_IDS'": {"problem": "stuck", "after": 0.1}}}'
            elif [ ! -e $MACHINES/silent ]; then
                touch $MACHINES/silent
                echo '{"destroyed": []}'
            else
                echo '{"destroyed": ["'$INFRAKIT_IDS'"]}'
            fi
        }"""
    daemon = run(*options(shell(verbs)))
    id = daemon.provision()
    daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: f"work on {id}: stuck; again in 0.1 s" in daemon.log, "the machine is stuck")
    (machines / "go").touch()
    eventually(lambda: "neither destroyed nor failed has this instance" in daemon.log, "a missing outcome is an error")
    eventually(lambda: daemon.record(id) is None, "it is destroyed in the end")


def test_a_failed_provision_is_retried(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A provision that fails after the caller got its ID is retried after the delay from the executable."""
    verbs = """provision() { [ -e $MACHINES/go ] && exit 0; sleep 0.3; echo '{"problem": "busy", "after": 0.2}'; exit 75; }"""
    daemon = run(*options(shell(verbs)), "--provision-wait", "0.1")
    id = daemon.provision()
    eventually(lambda: f"work on {id}: rack provision: busy; again in 0.2 s" in daemon.log, "the failure is logged")
    (machines / "go").touch()
    eventually(lambda: "ready" == state(daemon, id), "it is provisioned in the end")


def state(daemon: Daemon, id: str) -> str | None:
    record = daemon.record(id)
    return None if record is None else record.State


def test_a_timeout_ends_the_whole_group(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A timeout ends the executable and its children, after a moment to clean up."""
    verbs = """provision() {
            (trap '' TERM; exec sleep 600) &
            echo $! >$MACHINES/pid
            trap 'touch $MACHINES/terminated; exit 1' TERM
            wait
        }"""
    daemon = run(*options(shell(verbs), timeout=3))
    with pytest.raises(RemoteError, match=r"rack provision: timed out after 3 s"):
        daemon.provision()
    assert (machines / "terminated").exists()
    eventually(lambda: is_gone(int((machines / "pid").read_text())), "it is gone")


def is_gone(pid: int) -> bool:
    """Return whether a process is gone, or a zombie."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_an_executable_that_ignores_sigterm_is_killed(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """SIGKILL follows SIGTERM if the executable does not exit."""
    verbs = "provision() { trap '' TERM; echo $$ >$MACHINES/pid; sleep 600; sleep 600; }"
    daemon = run(*options(shell(verbs), timeout=3), "--provision-wait", "14")
    with pytest.raises(RemoteError, match=r"timed out after 3 s"):
        daemon.provision()
    eventually(lambda: is_gone(int((machines / "pid").read_text())), "it is gone")


@pytest.mark.parametrize("flood", ["yes", "yes >&2", "head -c 2000000 /dev/zero"])
def test_endless_output_ends_the_run(run: Run, machines: Path, shell: Callable[[str], Path], flood: str) -> None:
    """Output beyond the limit is an error, and most of a flood on stderr is not logged."""
    daemon = run(*options(shell(f"provision() {{ echo $$ >$MACHINES/pid; {flood}; }}"), output_limit=1000000))
    with pytest.raises(RemoteError, match=r"rack provision: wrote more than 1000000 bytes"):
        daemon.provision()
    eventually(lambda: is_gone(int((machines / "pid").read_text())), "it is gone")
    assert len(daemon.log) < 100000


def test_background_processes_delay_nothing(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A background process that holds stdin, stdout and stderr delays neither this call nor the next one."""
    verbs = """provision() { sleep 600 <&0 & echo $! >$MACHINES/pid; echo '{"handle": "h"}'; }
        destroy() { kill $(cat $MACHINES/pid); echo '{"destroyed": ["'$INFRAKIT_IDS'"]}'; }"""
    daemon = run(*options(shell(verbs)))
    id = daemon.provision()
    assert "h" == handle(daemon, id)
    assert not is_gone(int((machines / "pid").read_text()))
    daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: daemon.record(id) is None, "it is destroyed")
    eventually(lambda: is_gone(int((machines / "pid").read_text())), "it is gone")


def test_a_vanished_executable_is_an_error(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """Calls fail while the executable is missing, and work again once it is back."""
    path = shell("")
    daemon = run(*options(path))
    path.rename(path.with_name("away"))
    with pytest.raises(RemoteError, match=r"can't be run: No such file or directory"):
        daemon.provision()
    eventually(lambda: "can't be observed" in daemon.log, "it can't be observed either")
    path.with_name("away").rename(path)
    eventually(lambda: "can be observed again" in daemon.log, "it is observed again")
    assert [daemon.provision()] == daemon.described()


def test_a_removed_folder_is_made_again(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """If somebody removes the folder of requests, the next request makes it again, for the daemon's user alone."""
    daemon = run(*options(shell("provision() { sleep 1; }")), "--provision-wait", "0.1")
    first = daemon.provision()
    folder = daemon.state.parent / "rack1.exec"
    shutil.rmtree(folder)
    second = daemon.provision()
    assert 0o700 == folder.stat().st_mode & 0o777
    eventually(lambda: all(each["State"] == "ready" for each in daemon.saved()["Instances"]), "all provisions end well")
    assert {first, second} == set(daemon.described())
    assert 0 == daemon.stop()
    assert not folder.exists()


def test_a_file_in_place_of_the_folder_is_an_error(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """While something else is in the place of the folder, requests fail, and work again once it is gone."""
    daemon = run(*options(shell("")))
    folder = daemon.state.parent / "rack1.exec"
    daemon.call("Instance.DescribeInstances")
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(RemoteError, match=r"rack1.exec: "):
        daemon.provision()
    folder.unlink()
    assert [daemon.provision()] == daemon.described()


@root_only
def test_a_folder_of_another_user_stops_the_start(run: Run, home: Path, shell: Callable[[str], Path]) -> None:
    """The daemon refuses a folder of requests that another user made: that user could replace requests."""
    folder = home / "state" / "rack1.exec"
    folder.mkdir(parents=True)
    os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    option = f"command={shell('')}"
    result = command(home, "--name", "rack1", "--provider", "exec", "--option", option, "--log", "1")
    assert 2 == result.returncode
    assert "rack1.exec: expected a folder of this user with mode 0700" in result.stderr


def test_a_stop_ends_executables_and_leaves_nothing(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """An orderly stop leaves no running executable and no request file."""
    daemon = run(*options(shell("provision() { echo $$ >$MACHINES/pid; sleep 600; }")), "--provision-wait", "0.1")
    daemon.provision()
    pid = eventually(lambda: (machines / "pid").exists() and (machines / "pid").read_text(), "the executable works")
    assert 0 == daemon.stop()
    eventually(lambda: is_gone(int(pid)), "it is gone")
    assert not (daemon.state.parent / "rack1.exec").exists()


def test_a_stop_ends_an_observation_without_an_error(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A stop during an observation leaves nothing behind and logs no error."""
    daemon = run(*options(shell("observe() { touch $MACHINES/observing; sleep 600; }")))
    eventually((machines / "observing").exists, "the executable works")
    assert 0 == daemon.stop()
    assert "Traceback" not in daemon.log
    assert not (daemon.state.parent / "rack1.exec").exists()


def test_a_stop_while_a_run_starts_leaves_nothing(tmp_path: Path, shell: Callable[[str], Path]) -> None:
    """A stop at any instant of a run waits until the run's request file is gone."""
    executable = shell("observe() { sleep 600; }")
    for number in range(100):
        requests = Requests(tmp_path / "requests")
        requests.open()
        runner = Runner("rack1", tmp_path, requests)
        runner.start("m1", {}, 1000)

        def observe(runner: Runner = runner) -> None:
            with contextlib.suppress(TryAgain):
                runner.run(executable, protocol.Request("observe"), protocol.ObserveResult, 60)

        run = threading.Thread(target=observe)
        run.start()
        time.sleep(number * 0.0001)
        runner.stop()
        requests.close()
        assert not (tmp_path / "requests").exists(), f"{number / 10:g} ms after it began"
        run.join(60)
        assert not run.is_alive()


def test_secrets_are_not_logged(
    run: Run, machines: Path, shell: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log hides init, properties and variables, even if an executable prints all that it reads."""
    monkeypatch.setenv("RACK_TOKEN", "token-from-outside")
    loud = 'set -x; request=$(cat); env >&2; echo "$request" >&2; echo "$request" | cut -c 5-; exit 3'
    names = "MACHINES,RACK_TOKEN"
    daemon = run(
        *options(shell(f"provision() {{ {loud}; }}; destroy() {{ {loud}; }}"), environment=names), "--log", "5"
    )
    spec = {
        "Properties": {"password": 'pass"word-1'},
        "Init": '#!/bin/sh\njoin --token init-"token"-é\n',
        "Tags": {"k": "shown"},
    }
    with pytest.raises(RemoteError) as error:
        daemon.call("Instance.Provision", Spec=spec)
    eventually(lambda: "rack destroy: a bug of the executable" in daemon.log, "the executable fails to clean up")
    assert "shown" in daemon.log
    for secret in ("init-", "word-1", "token-from-outside"):
        assert secret not in daemon.log + str(error.value)


def test_labels_and_adoptions_reach_the_executable(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """An executable that supports these verbs gets the tags and adopts machines."""
    verbs = """label() { cat >$MACHINES/label; }
        adopt() { echo '{}'; }"""
    daemon = run(*options(shell(verbs)))
    id = daemon.provision()
    daemon.call("Instance.Label", Instance=id, Labels={"k": "v"})
    eventually(
        lambda: (machines / "label").exists() and (machines / "label").read_text(), "the executable gets the tags"
    )
    assert {"k": "v"} == json.loads((machines / "label").read_text())["tags"]
    assert 0 == command(daemon.home, "adopt", "rack1", "bought-in-2019").returncode
    assert "bought-in-2019" in [handle(daemon, each) for each in daemon.described()]


def test_an_executable_without_adopt_adopts_nothing(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """Without the verbs, an adoption is an error and labels are kept in the record only."""
    daemon = run(*options(shell("")))
    id = daemon.provision()
    daemon.call("Instance.Label", Instance=id, Labels={"k": "v"})
    assert [id] == daemon.described(k="v")
    result = command(daemon.home, "adopt", "rack1", "bought-in-2019")
    assert 1 == result.returncode
    assert "bought-in-2019: no executable can adopt machines" in result.stderr


def list_machines(machines: Path) -> list[str]:
    return sorted(path.name for path in (machines / "made").iterdir())


def at_rest(daemon: Daemon, machines: Path) -> bool:
    """Return whether all records are ready and agree with the machines."""
    records = daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]
    return all(each["State"] == "ready" for each in records) and sorted(
        each["ID"] for each in records
    ) == list_machines(machines)


def alone(machines: Path) -> bool:
    """Return whether no two runs worked on the same instance at once."""
    return not (machines / "overlaps").exists()


SLOW = {"delay": 0.5, "destroy_delay": 0.5}


def dying(run: Run, step: str, path: Path) -> Daemon:
    return run(str(path), program=(sys.executable, str(PROGRAMS / "dying_exec.py"), step))


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_a_provision_leaves_one_machine_or_none(run: Run, tmp_path: Path, machines: Path, step: str) -> None:
    """A new daemon waits for the executable of the killed one before it retries, so that there is one machine at most."""
    path = executables.slow_machines(tmp_path / "slow")
    first = dying(run, f"provision: {step}", path)
    with pytest.raises(Unreachable):
        first.provision(SLOW, infrakit_group="w")
    assert first.process is not None
    assert -9 == first.process.wait()

    second = run(*options(path))
    eventually(lambda: at_rest(second, machines), "records and machines agree")
    assert (0 if step == "before the record" else 1) == len(list_machines(machines))
    assert list_machines(machines) == second.described(infrakit_group="w")
    assert alone(machines)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_a_destroy_does_all_or_nothing(run: Run, tmp_path: Path, machines: Path, step: str) -> None:
    """A destroy that a crash interrupts is completed by the next daemon, if it was recorded."""
    path = executables.slow_machines(tmp_path / "slow")
    before = run(*options(path))
    kept, lost = before.provision(), before.provision(SLOW)
    before.stop()

    first = dying(run, f"destroy: {step}", path)
    with contextlib.suppress(Unreachable):  # the reply may come before the provider is called
        first.call("Instance.Destroy", Instance=lost)
    assert first.process is not None
    assert -9 == first.process.wait()

    second = run(*options(path))
    eventually(lambda: at_rest(second, machines), "records and machines agree")
    left = sorted([kept, lost] if step == "before the record" else [kept])
    assert left == list_machines(machines)
    assert left == sorted(second.described())
    assert alone(machines)


def has_run(machines: Path, request: str) -> bool:
    """Return whether an executable got this request, such as ``provision ID``."""
    return (machines / "runs").exists() and request in (machines / "runs").read_text().splitlines()


def test_a_provision_that_outlives_its_daemon_is_not_doubled(run: Run, tmp_path: Path, machines: Path) -> None:
    """While an executable of a killed daemon still creates a machine, the next daemon requests nothing for it."""
    path = executables.slow_machines(tmp_path / "slow")
    (machines / "hold").touch()
    first = run(*options(path), "--provision-wait", "0.1")
    ids = [first.provision() for _ in range(3)]
    eventually(lambda: all(has_run(machines, f"provision {id}") for id in ids), "all executables work")
    first.kill()

    second = run(*options(path))
    eventually(lambda: f"still works on {ids[0]}" in second.log, "the wait is logged")
    second.call("Instance.Destroy", Instance=ids[0])
    (machines / "hold").unlink()
    eventually(lambda: at_rest(second, machines), "records and machines agree")
    assert sorted(ids[1:]) == list_machines(machines)
    assert alone(machines)
    second.stop()
    assert not (second.state.parent / "rack1.exec").exists()


def test_a_running_executable_is_known_without_its_file(run: Run, tmp_path: Path, machines: Path) -> None:
    """The next daemon waits for an executable of a killed one, also after somebody removed the folder of requests."""
    path = executables.slow_machines(tmp_path / "slow")
    (machines / "hold").touch()
    first = run(*options(path), "--provision-wait", "0.1")
    id = first.provision()
    eventually(lambda: has_run(machines, f"provision {id}"), "the executable works")
    first.kill()

    second = run(*options(path))
    shutil.rmtree(second.state.parent / "rack1.exec")
    eventually(lambda: f"still works on {id}" in second.log, "the wait is logged")
    (machines / "hold").unlink()
    eventually(lambda: at_rest(second, machines), "records and machines agree")
    assert [id] == list_machines(machines)
    assert alone(machines)


def test_a_destroy_that_outlives_its_daemon_is_not_doubled(run: Run, tmp_path: Path, machines: Path) -> None:
    """While an executable of a killed daemon still destroys a machine, the next daemon waits before it retries."""
    path = executables.slow_machines(tmp_path / "slow")
    first = run(*options(path))
    lost, kept = first.provision(), first.provision()
    (machines / "hold").touch()
    first.call("Instance.Destroy", Instance=lost)
    eventually(lambda: has_run(machines, f"destroy {lost}"), "the executable works")
    first.kill()

    second = run(*options(path))
    eventually(lambda: f"still works on {lost}" in second.log, "the wait is logged")
    assert [kept] == second.described()
    (machines / "hold").unlink()
    eventually(lambda: at_rest(second, machines), "records and machines agree")
    assert [kept] == list_machines(machines)
    assert alone(machines)


KILLS = 30


@pytest.mark.long
def test_random_crashes_under_load_lose_and_double_nothing(run: Run, tmp_path: Path, machines: Path) -> None:
    """Records and machines agree in the end, after any number of crashes under load."""
    arguments = (*options(executables.slow_machines(tmp_path / "slow")), "--provision-wait", "0.05")
    luck = random.Random(7)
    wanted: set[str] = set()
    unwanted: set[str] = set()
    for _ in range(KILLS):
        daemon = run(*arguments)
        for _ in range(luck.randrange(1, 6)):
            wanted.add(daemon.provision({"delay": 3 * luck.random(), "destroy_delay": luck.random()}))
        for id in luck.sample(sorted(wanted), len(wanted) // 3):
            daemon.call("Instance.Destroy", Instance=id)
            wanted.discard(id)
            unwanted.add(id)
        time.sleep(luck.random() / 2)
        daemon.kill()
    last = run(*arguments)
    eventually(lambda: at_rest(last, machines), "records and machines agree", patience=60)
    assert sorted(wanted) == list_machines(machines)
    assert not unwanted & set(list_machines(machines))
    assert alone(machines)
