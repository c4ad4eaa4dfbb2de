"""`infrakit up` and `infrakit down` with the fleets of the examples."""

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil  # type: ignore[import-untyped]
import pytest

from pyinfrakit.group.status import GroupStatus, MemberStatus
from pyinfrakit.rpc.client import RemoteError
from pyinfrakit.rpc.group.client import GroupClient
from support.harness import INFRAKIT, ROOT, Daemon, command, environment, eventually

EXAMPLES = ROOT / "examples"

Run = Callable[..., Daemon]


def start(run: Run, path: Path, *arguments: str, name: str = "group") -> Daemon:
    """Start a fleet. Only events explain what happens soon: it polls once in ten minutes."""
    program = (sys.executable, "-m", "pyinfrakit", "up", str(path), "--poll-interval", "600")
    return run(*arguments, name=name, program=program)


def read_status(daemon: Daemon, id: str) -> GroupStatus:
    with daemon.client() as client:
        return GroupClient(client).status(id)


def settle(daemon: Daemon, id: str, size: int) -> dict[str, MemberStatus]:
    """Wait until a group has *size* healthy members and nothing to do; return them by ID."""

    def is_settled() -> dict[str, MemberStatus] | None:
        try:
            status = read_status(daemon, id)
        except RemoteError:
            return None  # the socket is there before the file's groups are committed
        is_whole = size == status.healthy == len(status.members)
        return {each.id: each for each in status.members} if is_whole and status.is_converged else None

    found: dict[str, MemberStatus] = eventually(is_settled, f"group {id} has {size} healthy members")
    return found


def read_live(member: MemberStatus) -> dict[str, Any]:
    live: dict[str, Any] = msgspec.json.decode(member.properties)
    return live


def fetch(member: MemberStatus) -> str:
    live = read_live(member)
    with urllib.request.urlopen(f"http://{live['address']}:{live['port']}/", timeout=10) as response:
        return str(response.read().decode())


def change(tmp_path: Path, old: str, new: str) -> Path:
    """Return a copy of the example with web servers in which *new* stands for *old*."""
    text = (EXAMPLES / "web.yaml").read_text()
    assert old in text
    (tmp_path / "web.yaml").write_text(text.replace(old, new))
    return tmp_path / "web.yaml"


def test_web_servers_heal_update_and_survive_the_fleet(run: Run, home: Path, tmp_path: Path) -> None:
    """Servers answer, a killed one is replaced, an update reaches all, a stop leaves them, and `down` leaves none."""
    daemon = start(run, EXAMPLES / "web.yaml")
    members = settle(daemon, "web", 3)
    assert {f"hello from {id}\n" for id in members} == {fetch(each) for each in members.values()}
    victim = next(iter(members))
    psutil.Process(read_live(members[victim])["pid"]).kill()
    eventually(lambda: victim not in settle(daemon, "web", 3), "the killed server is replaced")
    path = change(tmp_path, "GREETING: hello", "GREETING: goodbye")
    assert 2 == command(home, "group", "plan", str(path), program=INFRAKIT).returncode
    assert 0 == command(home, "group", "commit", str(path), program=INFRAKIT).returncode
    updated = settle(daemon, "web", 3)
    assert {f"goodbye from {id}\n" for id in updated} == {fetch(each) for each in updated.values()}
    assert 0 == command(home, "group", "plan", str(path), program=INFRAKIT).returncode
    daemon.stop(signal.SIGINT)
    assert {f"goodbye from {id}\n" for id in updated} == {fetch(each) for each in updated.values()}
    again = start(run, path)
    assert updated.keys() == settle(again, "web", 3).keys()
    again.stop()
    done = command(home, "down", str(path), "--yes", program=INFRAKIT)
    assert (0, True) == (done.returncode, done.stdout.endswith("destroyed web\n"))
    assert not any(psutil.pid_exists(read_live(each)["pid"]) for each in updated.values())


def test_a_fleet_of_another_name_runs_beside(run: Run, home: Path) -> None:
    """Two fleets run from one file under different names, each with members of its own; `down` ends a running one."""
    one, two = (start(run, EXAMPLES / "web.yaml"), start(run, EXAMPLES / "web.yaml", "--name", "two", name="two"))
    first, second = settle(one, "web", 3), settle(two, "web", 3)
    ports = {read_live(each)["port"] for each in [*first.values(), *second.values()]}
    assert 6 == len(ports)
    done = command(home, "down", str(EXAMPLES / "web.yaml"), "--yes", "--name", "two", program=INFRAKIT)
    assert (0, "destroyed web\n") == (done.returncode, done.stdout)
    assert first.keys() == settle(one, "web", 3).keys()
    assert 0 == command(home, "down", str(EXAMPLES / "web.yaml"), "--yes", program=INFRAKIT).returncode


def test_a_quorum_keeps_its_logical_ids(run: Run, home: Path) -> None:
    """A member of a quorum that is killed comes back under its logical ID."""
    daemon = start(run, EXAMPLES / "quorum.yaml")
    members = settle(daemon, "quorum", 3)
    names = {each.logical_id for each in members.values()}
    victim = next(iter(members))
    psutil.Process(read_live(members[victim])["pid"]).kill()
    eventually(lambda: victim not in settle(daemon, "quorum", 3), "the killed member is replaced")
    assert names == {each.logical_id for each in settle(daemon, "quorum", 3).values()}
    assert 0 == command(home, "down", str(EXAMPLES / "quorum.yaml"), "--yes", program=INFRAKIT).returncode


def test_a_full_pool_falls_back_to_the_next(run: Run) -> None:
    """Members come from the first pool up to its maximum, and the others from the second."""
    members = settle(start(run, EXAMPLES / "pools.yaml"), "workers", 5)
    assert ["cloud", "cloud", "rack", "rack", "rack"] == sorted(each.plugin for each in members.values())


HUNG = """\
plugins: {{sim: {{provider: simulator}}}}
groups:
  - ID: {id}
    Properties:
      Allocation: {{Size: 5}}
      Instance: {{Plugin: sim}}
      Drain: {{Exec: [sh, -c, "echo {{ID}} >>{log}; sleep 60"], Timeout: 3s}}
"""


@pytest.mark.parametrize("is_running", [True, False])
def test_down_drains_all_members_at_once(run: Run, home: Path, tmp_path: Path, is_running: bool) -> None:
    """While the drain hooks of all groups hang, `down` says so; all members drain before the first one is destroyed."""
    paths = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    log = tmp_path / "drained"
    paths[0].write_text(HUNG.format(id="one", log=log))
    paths[1].write_text(HUNG.format(id="two", log=log).partition("\n")[2])
    program = (sys.executable, "-m", "pyinfrakit", "up", *map(str, paths))
    daemon = run(program=program, name="group")
    ids = {*settle(daemon, "one", 5), *settle(daemon, "two", 5)}
    if not is_running:
        daemon.stop()
    done = command(home, "down", *map(str, paths), "--yes", program=INFRAKIT)
    assert (0, True) == (done.returncode, done.stdout.endswith("destroyed one, two\n"))
    assert ids == set(log.read_text().split())
    for group in ("one", "two"):
        lines = [line for line in done.stderr.splitlines() if line.startswith(f"waiting for {group}: 5 members (")]
        assert any(line.endswith("the group is being destroyed; it drains, for at most 33 s") for line in lines)


def test_an_interrupted_down_does_not_claim_the_end(run: Run, home: Path, tmp_path: Path) -> None:
    """`down` that is interrupted exits with 130 and says of no group that it is destroyed; the next one ends it."""
    slow = "{provider: simulator}\n\ngroups: [{ID: slow, Properties: {Allocation: {Size: 1}, Instance: "
    path = tmp_path / "slow.yaml"
    path.write_text(f"plugins:\n  sim: {slow}{{Plugin: sim, Properties: {{destroy_delay: 5}}}}}}}}]\n")
    daemon = start(run, path)
    settle(daemon, "slow", 1)
    daemon.stop()
    down = [*INFRAKIT, "down", str(path), "--yes"]
    with subprocess.Popen(down, env=environment(home), stdout=subprocess.PIPE, text=True) as interrupted:
        assert interrupted.stdout is not None
        next(line for line in interrupted.stdout if "the group is being destroyed" in line)
        interrupted.send_signal(signal.SIGINT)
        assert "destroyed slow" not in interrupted.stdout.read()
    assert 130 == interrupted.returncode
    done = command(home, "down", str(path), "--yes", program=INFRAKIT)
    assert (0, True) == (done.returncode, done.stdout.endswith("destroyed slow\n"))


def test_a_wrong_file_is_refused_with_its_line(home: Path, tmp_path: Path) -> None:
    """An error in the file stops the start in one line, with file, line, column and field."""
    path = change(tmp_path, "{Size: 3}", "{Size: many}")
    done = command(home, "up", str(path), program=INFRAKIT)
    assert 2 == done.returncode
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"infrakit: {path}:10:")
    assert 'Properties.Allocation.Size: expected an integer or null, got "many"' in line


FORMS = {
    "yaml": "plugins: {sim: {provider: simulator}}\ngroups: {web: {Allocation: {Size: 1}, Instance: {Plugin: sim},\n"
    "  Updating: {OnFailure: retry}}}\n",
    "toml": 'plugins.sim.provider = "simulator"\n[groups.web]\nAllocation.Size = 1\nInstance.Plugin = "sim"\n'
    'Updating.OnFailure = "retry"\n',
    "json": '{"plugins": {"sim": {"provider": "simulator"}}, "groups": {"web": {"Allocation": {"Size": 1},\n'
    '  "Instance": {"Plugin": "sim"}, "Updating": {"OnFailure": "retry"}}}}\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_choice_is_refused_with_the_right_ones(home: Path, tmp_path: Path, form: str) -> None:
    """In a fleet file of any form, a value that is none of the choices is an error that lists them."""
    path = tmp_path / f"fleet.{form}"
    path.write_text(FORMS[form])
    done = command(home, "up", str(path), program=INFRAKIT)
    assert 2 == done.returncode
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"infrakit: {path}:")
    assert line.endswith('groups.web.Updating.OnFailure: expected "pause" or "undo", got "retry"')
