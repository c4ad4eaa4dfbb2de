"""Executables of the user's are a provider like any other, whatever they do."""

import contextlib
import json
import os
import random
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
from pyinfrakit.providers.exec import wire
from pyinfrakit.providers.exec.requests import Requests
from pyinfrakit.providers.exec.runner import Bounds, Runner
from pyinfrakit.rpc.client import RemoteError
from support import executables
from support.executables import BUILT, Examples
from support.harness import PROGRAMS, Daemon, command, eventually

Run = Callable[..., Daemon]


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where executables have their machines."""
    folder = tmp_path / "machines"
    folder.mkdir()
    monkeypatch.setenv("MACHINES", str(folder))
    return folder


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], Path]:
    """Write an executable: `shell("provision() { exit 3; }")`."""
    return lambda verbs: executables.shell(tmp_path / "rack", verbs)


def options(path: Path, **more: Any) -> tuple[str, ...]:
    """Give the arguments of a daemon for which nothing is missing soon: many of the executables here observe nothing."""
    given = {"command": path, "environment": "MACHINES", **more}
    flags = (part for key, value in given.items() for part in ("--option", f"{key}={value}"))
    return ("--provider", "exec", *FAST, "--missing-after", "10000", *flags)


@pytest.fixture(params=["sh", "node", pytest.param("go", marks=BUILT)])
def example(request: pytest.FixtureRequest, examples: Examples) -> Path:
    """Each of the examples."""
    return examples.get(request.param)


def test_the_examples_are_providers(run: Run, machines: Path, example: Path) -> None:
    """The same provider in three languages makes machines, tells of broken ones, destroys them, and outlives a restart."""
    arguments = options(example)
    daemon = run(*arguments, "--mark", "m1")
    ids = [daemon.provision({"size": "small"}, infrakit_group="w") for _ in range(3)]
    assert sorted(ids) == sorted(path.name for path in (machines / "m1").iterdir())
    assert f"file-{ids[0]}" == handle(daemon, ids[0])
    (machines / "m1" / ids[0]).write_text("")
    eventually(lambda: ids[0] not in daemon.described(), "a broken machine is not shown")
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
    """Those that read properties say which are wrong, and what would be right."""
    daemon = run(*options(examples.get(language)))
    with pytest.raises(RemoteError, match=r'Properties.size: expected "small" or "large", got "huge"'):
        daemon.provision({"size": "huge"})
    assert [] == daemon.described()


def test_a_request_has_all_that_there_is_to_know(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A provision is asked for with the whole spec, a destroy with its instances and the reason."""
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
        lambda: (machines / "destroy").exists() and (machines / "destroy").read_text(), "it is asked to destroy"
    )

    about = {"version": 1, "plugin": "rack1", "mark": "m1", "ids": [id]}
    wanted = {
        "properties": {"b": 1, "a": [2.50]},
        "tags": {"k": "v"},
        "init": "#!/bin/sh",
        "logical_id": "10.0.0.1",
        "attachments": [{"id": "vol-1", "type": "disk"}],
    }
    assert {**about, "verb": "provision", "id": id, "spec": wanted} == json.loads((machines / "provision").read_text())
    instance = {
        "id": id,
        "handle": None,
        "logical_id": "10.0.0.1",
        "tags": {"k": "v"},
        "properties": {"b": 1, "a": [2.50]},
    }
    asked = json.loads(destroy)
    assert {**about, "verb": "destroy", "instances": [instance]} == {k: v for k, v in asked.items() if k != "reason"}
    assert "terminate" == asked["reason"]


def test_the_environment_is_clean(
    run: Run, machines: Path, shell: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executable gets a few variables that everything needs, those that are named, and those that tell of the request."""
    monkeypatch.setenv("RACK_TOKEN", "t")
    monkeypatch.setenv("OTHER_TOKEN", "t")
    daemon = run(*options(shell("provision() { env >$MACHINES/env; }"), environment="MACHINES, RACK_TOKEN"))
    id = daemon.provision()
    got = dict(line.split("=", 1) for line in (machines / "env").read_text().splitlines())
    ours = {"MACHINES", "RACK_TOKEN", "INFRAKIT_PLUGIN", "INFRAKIT_MARK", "INFRAKIT_IDS"}
    assert ours | {name for name in ("PATH", "HOME", "LANG") if name in os.environ} == got.keys() - {
        "PWD",
        "_",
        "SHLVL",
        "OLDPWD",
    }
    assert id == got["INFRAKIT_IDS"]


@pytest.mark.parametrize(
    ("given", "message"),
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
def test_what_can_not_work_stops_the_start(
    home: Path, tmp_path: Path, shell: Callable[[str], Path], given: Mapping[str, str], message: str
) -> None:
    """A start with an executable that is missing, is none, or may be changed by others, ends with one line that says so."""
    if "/open/" in str(given) and os.geteuid() != 0:
        pytest.skip("only root is held to that")
    places = {"folder": str(tmp_path), "rack": str(shell(""))}
    (tmp_path / "data").write_text("")
    (tmp_path / "open").mkdir()
    executables.shell(tmp_path / "open" / "rack")
    (tmp_path / "open").chmod(0o777)
    flags = [part for key, value in given.items() for part in ("--option", f"{key}={value.format(**places)}")]
    ended = command(home, "--name", "rack1", "--provider", "exec", *flags)
    assert 2 == ended.returncode
    assert message.format(**places) in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("""echo '{"problem": "no rack is free"}'; exit 69""", "provision failed: rack provision: no rack is free"),
        ("echo no rack is free >&2; exit 69", "provision failed: rack provision: no rack is free"),
        ("exit 69", "provision failed: rack provision: exit status 69, with no word on why"),
        ("""echo '{"problem": "busy", "after": 3}'; exit 75""", "provision failed: rack provision: busy"),
        (
            """echo '{"field": "size", "problem": "too large"}'; exit 65""",
            "provision failed: Properties.size: too large",
        ),
        ("echo one >&2; echo two >&2; exit 3", "provision failed: rack provision: it has a bug: exit status 3: two"),
        ("kill -9 $$", "provision failed: rack provision: it has a bug: ended by SIGKILL"),
        ("exit 64", "provision failed: rack provision: it has a bug: exit status 64"),
        ("""echo '{"after": "soon"}'; exit 75""", 'rack provision: after: expected a number or null, got "soon"'),
        ("echo nonsense", "rack provision: not JSON: "),
        ("""echo '{"handle": 5}'""", "rack provision: handle: expected a string or null, got 5"),
        ("""echo '{"properties": [1]}'""", "rack provision: properties: expected an object or null, got an array"),
        ("""printf '"\\377"'""", "rack provision: not UTF-8 at byte 1"),
        ("echo []", "rack provision: expected an object, got an array"),
    ],
)
def test_what_went_wrong_is_told(
    run: Run, machines: Path, shell: Callable[[str], Path], status: str, told: str
) -> None:
    """Exit statuses stand for what the caller does next; a wrong result names the executable, the verb and the field."""
    daemon = run(*options(shell(f"provision() {{ {status}; }}")))
    with pytest.raises(RemoteError) as error:
        daemon.provision({"size": "large"})
    assert told in str(error.value)
    eventually(lambda: not daemon.saved()["NonFunctional"], "what may have been left is cleaned up")


@pytest.mark.parametrize(
    ("result", "told"),
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
    run: Run, machines: Path, shell: Callable[[str], Path], result: str, told: str
) -> None:
    """What is not a result is an error that says where, and no instance is taken to be gone."""
    daemon = run(*options(shell(f"observe() {{ echo '{result}'; }}")))
    id = daemon.provision()
    eventually(lambda: told in daemon.log, "it is told")
    assert [id] == daemon.described()


def test_unknown_keys_are_ignored(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A result may say more than this version of the protocol knows."""
    daemon = run(*options(shell("""provision() { echo '{"handle": "h", "version": 7}'; }""")))
    assert "h" == handle(daemon, daemon.provision())


def test_a_destroy_tells_an_outcome_for_each(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """What is not said to be destroyed is asked for again, and why is told."""
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
    eventually(lambda: f"work on {id}: stuck; again in 0.1 s" in daemon.log, "it is stuck")
    (machines / "go").touch()
    eventually(lambda: "neither destroyed nor failed has this instance" in daemon.log, "a missing outcome is an error")
    eventually(lambda: daemon.record(id) is None, "it is destroyed in the end")


def test_a_failed_call_is_made_again(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """After the caller was given the ID, a provision that fails for now is asked for again, when the executable says."""
    verbs = """provision() { [ -e $MACHINES/go ] && exit 0; sleep 0.3; echo '{"problem": "busy", "after": 0.2}'; exit 75; }"""
    daemon = run(*options(shell(verbs)), "--provision-wait", "0.1")
    id = daemon.provision()
    eventually(lambda: f"work on {id}: rack provision: busy; again in 0.2 s" in daemon.log, "it is told")
    (machines / "go").touch()
    eventually(lambda: "ready" == state(daemon, id), "it is provisioned in the end")


def state(daemon: Daemon, id: str) -> str | None:
    record = daemon.record(id)
    return None if record is None else record.State


def test_a_time_out_ends_the_whole_group(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """An executable that takes too long is ended, and whatever it started; it is given a moment to clean up."""
    verbs = """provision() {
            (trap '' TERM; exec sleep 600) &
            echo $! >$MACHINES/pid
            trap 'touch $MACHINES/asked; exit 1' TERM
            wait
        }"""
    daemon = run(*options(shell(verbs), timeout=3))
    with pytest.raises(RemoteError, match=r"rack provision: no answer for 3 s; it was ended"):
        daemon.provision()
    assert (machines / "asked").exists()
    eventually(lambda: is_gone(int((machines / "pid").read_text())), "it is gone")


def is_gone(pid: int) -> bool:
    """Is a process gone, or a zombie that nobody has waited for yet?"""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_one_that_ignores_its_end_is_killed(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """SIGKILL follows SIGTERM."""
    verbs = "provision() { trap '' TERM; echo $$ >$MACHINES/pid; sleep 600; sleep 600; }"
    daemon = run(*options(shell(verbs), timeout=3), "--provision-wait", "14")
    with pytest.raises(RemoteError, match=r"no answer for 3 s; it was ended"):
        daemon.provision()
    eventually(lambda: is_gone(int((machines / "pid").read_text())), "it is gone")


@pytest.mark.parametrize("flood", ["yes", "yes >&2", "head -c 2000000 /dev/zero"])
def test_output_without_end_is_ended(run: Run, machines: Path, shell: Callable[[str], Path], flood: str) -> None:
    """More output than the limit is an error; what says too much on stderr is not all told."""
    daemon = run(*options(shell(f"provision() {{ echo $$ >$MACHINES/pid; {flood}; }}"), output_limit=1000000))
    with pytest.raises(RemoteError, match=r"rack provision: more than 1000000 bytes of output; it was ended"):
        daemon.provision()
    eventually(lambda: is_gone(int((machines / "pid").read_text())), "it is gone")
    assert len(daemon.log) < 100000


def test_who_outlives_the_executable_is_not_waited_for(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A process that is left behind, and holds all that it was given, delays neither this call nor the next one."""
    verbs = """provision() { sleep 600 <&0 & echo $! >$MACHINES/pid; echo '{"handle": "h"}'; }
        destroy() { kill $(cat $MACHINES/pid); echo '{"destroyed": ["'$INFRAKIT_IDS'"]}'; }"""
    daemon = run(*options(shell(verbs)))
    id = daemon.provision()
    assert "h" == handle(daemon, id)
    assert not is_gone(int((machines / "pid").read_text()))
    daemon.call("Instance.Destroy", Instance=id)
    eventually(lambda: daemon.record(id) is None, "it is destroyed")
    eventually(lambda: is_gone(int((machines / "pid").read_text())), "it is gone")


def test_an_executable_that_vanishes_is_told(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """What can't be run any more is an error of the call, and works again once it is back."""
    path = shell("")
    daemon = run(*options(path))
    path.rename(path.with_name("away"))
    with pytest.raises(RemoteError, match=r"can't be run: No such file or directory"):
        daemon.provision()
    eventually(lambda: "can't be observed" in daemon.log, "it can't be observed either")
    path.with_name("away").rename(path)
    eventually(lambda: "can be observed again" in daemon.log, "it is observed again")
    assert [daemon.provision()] == daemon.described()


def test_a_stop_ends_executables_and_leaves_nothing(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """A daemon that stops in order leaves no executable at work and no file of a request."""
    daemon = run(*options(shell("provision() { echo $$ >$MACHINES/pid; sleep 600; }")), "--provision-wait", "0.1")
    daemon.provision()
    pid = eventually(lambda: (machines / "pid").exists() and (machines / "pid").read_text(), "it is at work")
    assert 0 == daemon.stop()
    eventually(lambda: is_gone(int(pid)), "it is gone")
    assert not (daemon.state.parent / "rack1.exec").exists()


def test_a_stop_ends_an_observation_without_fuss(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """It leaves nothing either, and is no error."""
    daemon = run(*options(shell("observe() { touch $MACHINES/observing; sleep 600; }")))
    eventually((machines / "observing").exists, "it is at work")
    assert 0 == daemon.stop()
    assert "Traceback" not in daemon.log
    assert not (daemon.state.parent / "rack1.exec").exists()


def test_a_stop_beside_a_run_that_begins_leaves_nothing(tmp_path: Path, shell: Callable[[str], Path]) -> None:
    """At whichever instant of a run the stop comes, it waits until the run's request is gone."""
    executable = shell("observe() { sleep 600; }")
    for number in range(100):
        requests = Requests(tmp_path / "requests")
        requests.open()
        runner = Runner("rack1", tmp_path, requests)
        runner.start("m1", {})

        def observe(runner: Runner = runner) -> None:
            with contextlib.suppress(TryAgain):
                runner.run(executable, wire.observe(), wire.Observed, Bounds(60, 1000))

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
    """Even an executable that tells all it reads has nothing secret in the log: not init, not properties, not its environment."""
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
    eventually(lambda: "rack destroy: it has a bug" in daemon.log, "it is asked to clean up")
    assert "shown" in daemon.log
    for secret in ("init-", "word-1", "token-from-outside"):
        assert secret not in daemon.log + str(error.value)


def test_labels_and_adoption_are_asked_for(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """An executable that knows these verbs is told of tags, and takes in machines; one that does not is not missed."""
    verbs = """label() { cat >$MACHINES/label; }
        adopt() { echo '{}'; }"""
    daemon = run(*options(shell(verbs)))
    id = daemon.provision()
    daemon.call("Instance.Label", Instance=id, Labels={"k": "v"})
    eventually(lambda: (machines / "label").exists() and (machines / "label").read_text(), "it is told")
    assert {"k": "v"} == json.loads((machines / "label").read_text())["tags"]
    assert 0 == command(daemon.home, "adopt", "rack1", "bought-in-2019").returncode
    assert "bought-in-2019" in [handle(daemon, each) for each in daemon.described()]


def test_without_the_verb_nothing_is_adopted(run: Run, machines: Path, shell: Callable[[str], Path]) -> None:
    """Where no executable can adopt machines, that is said; labels are kept in the record alone."""
    daemon = run(*options(shell("")))
    id = daemon.provision()
    daemon.call("Instance.Label", Instance=id, Labels={"k": "v"})
    assert [id] == daemon.described(k="v")
    ended = command(daemon.home, "adopt", "rack1", "bought-in-2019")
    assert 1 == ended.returncode
    assert "bought-in-2019: there is no executable that can adopt machines" in ended.stderr


def made(machines: Path) -> list[str]:
    return sorted(path.name for path in (machines / "made").iterdir())


def at_rest(daemon: Daemon, machines: Path) -> bool:
    """Is there nothing left to do, and do records and machines agree?"""
    records = daemon.saved()["Instances"] + daemon.saved()["NonFunctional"]
    return all(each["State"] == "ready" for each in records) and sorted(each["ID"] for each in records) == made(
        machines
    )


def alone(machines: Path) -> bool:
    """Did every run of the executable have its instance to itself?"""
    return not (machines / "overlaps").exists()


SLOW = {"delay": 0.5, "destroy_delay": 0.5}


def dying(run: Run, step: str, path: Path) -> Daemon:
    return run(str(path), program=(sys.executable, str(PROGRAMS / "dying_exec.py"), step))


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_a_provision_leaves_one_machine_or_none(run: Run, tmp_path: Path, machines: Path, step: str) -> None:
    """The executable may outlive the daemon: the next one has it end before it asks again, and there is one machine."""
    path = executables.slow_machines(tmp_path / "slow")
    first = dying(run, f"provision: {step}", path)
    with pytest.raises(Unreachable):
        first.provision(SLOW, infrakit_group="w")
    assert first.process is not None
    assert -9 == first.process.wait()

    second = run(*options(path))
    eventually(lambda: at_rest(second, machines), "records and machines agree")
    assert (0 if step == "before the record" else 1) == len(made(machines))
    assert made(machines) == second.described(infrakit_group="w")
    assert alone(machines)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_a_destroy_ends_with_all_or_nothing_done(
    run: Run, tmp_path: Path, machines: Path, step: str
) -> None:
    """Before the record is written the instance lives on, from then on it is destroyed, also by the next daemon."""
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
    assert left == made(machines)
    assert left == sorted(second.described())
    assert alone(machines)


def begun(machines: Path, what: str) -> bool:
    """Has an executable begun with this?"""
    return (machines / "begun").exists() and what in (machines / "begun").read_text().splitlines()


def test_a_provision_that_outlives_its_daemon_is_not_doubled(run: Run, tmp_path: Path, machines: Path) -> None:
    """While an executable of a daemon that was killed makes a machine, the next daemon asks for nothing about that instance."""
    path = executables.slow_machines(tmp_path / "slow")
    (machines / "hold").touch()
    first = run(*options(path), "--provision-wait", "0.1")
    ids = [first.provision() for _ in range(3)]
    eventually(lambda: all(begun(machines, f"provision {id}") for id in ids), "all are at work")
    first.kill()

    second = run(*options(path))
    eventually(lambda: f"still at work on {ids[0]}" in second.log, "it is told")
    second.call("Instance.Destroy", Instance=ids[0])
    (machines / "hold").unlink()
    eventually(lambda: at_rest(second, machines), "records and machines agree")
    assert sorted(ids[1:]) == made(machines)
    assert alone(machines)
    second.stop()
    assert not (second.state.parent / "rack1.exec").exists()


def test_a_destroy_that_outlives_its_daemon_is_not_doubled(run: Run, tmp_path: Path, machines: Path) -> None:
    """While an executable of a daemon that was killed destroys a machine, the next daemon waits, and asks again then."""
    path = executables.slow_machines(tmp_path / "slow")
    first = run(*options(path))
    lost, kept = first.provision(), first.provision()
    (machines / "hold").touch()
    first.call("Instance.Destroy", Instance=lost)
    eventually(lambda: begun(machines, f"destroy {lost}"), "it is at work")
    first.kill()

    second = run(*options(path))
    eventually(lambda: f"still at work on {lost}" in second.log, "it is told")
    assert [kept] == second.described()
    (machines / "hold").unlink()
    eventually(lambda: at_rest(second, machines), "records and machines agree")
    assert [kept] == made(machines)
    assert alone(machines)


KILLS = 30


@pytest.mark.long
def test_random_crashes_under_load_lose_and_double_nothing(run: Run, tmp_path: Path, machines: Path) -> None:
    """However often the daemon is killed while members come and go, records and machines agree in the end."""
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
    assert sorted(wanted) == made(machines)
    assert not unwanted & set(made(machines))
    assert alone(machines)
