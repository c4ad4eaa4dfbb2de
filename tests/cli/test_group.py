"""`infrakit`: groups, instances and plugins, in our own form and in the forms of all InfraKit releases."""

import json
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import FAST
from pyinfrakit import __version__
from support.harness import INFRAKIT, PROGRAMS, Daemon, command, eventually

PAPER = (sys.executable, str(PROGRAMS / "paper_groups.py"))
PROPERTIES = {"Allocation": {"Size": 2}, "Instance": {"Plugin": "rack1", "Properties": {"n": 1}}}
WEB = {"ID": "web", "Properties": PROPERTIES}
TAGS = "infrakit.group=web,tier=web"


@pytest.fixture
def controller(run: Callable[..., Daemon]) -> Daemon:
    """Start a controller that has the group `web` of two members."""
    daemon = run(name="group", program=PAPER)
    ok(daemon.home, "group", "commit", "-", input=json.dumps(WEB))
    return daemon


def ok(home: Path, *arguments: str, input: str = "") -> str:
    """Run a command that must succeed without output on stderr, and return its output."""
    done = command(home, *arguments, input=input, program=INFRAKIT)
    assert ("", 0) == (done.stderr, done.returncode)
    return done.stdout


def fails(home: Path, *arguments: str, input: str = "", code: int = 1) -> str:
    """Run a command that must fail, and return its one line on stderr."""
    done = command(home, *arguments, input=input, program=INFRAKIT)
    assert ("", code) == (done.stdout, done.returncode)
    (line,) = done.stderr.splitlines()
    return line.removeprefix("infrakit: ")


def sized(size: int) -> str:
    return json.dumps({"ID": "web", "Properties": {**PROPERTIES, "Allocation": {"Size": size}}})


# the program


def test_version(home: Path) -> None:
    """`version` prints the program's name and version."""
    assert f"infrakit {__version__}\n" == ok(home, "version")


def test_without_a_command_it_shows_its_commands(home: Path) -> None:
    """`infrakit` alone prints its help."""
    text = ok(home)
    for each in ("group", "instance", "plugin"):
        assert f"\n  {each} " in text


def test_a_wrong_command_gets_the_nearest_one(home: Path) -> None:
    """An unknown command is wrong use, and the message has the command that looks like it."""
    assert "No such command 'grup'; did you mean 'group'?; see `infrakit --help`" == fails(home, "grup", code=2)
    assert "did you mean 'describe'?" in fails(home, "group", "descrbe", "web", code=2)
    assert "Missing command; see `infrakit group --help`" == fails(home, "group", code=2)


# groups, as InfraKit's command line has them


def test_commit_prints_what_infrakit_prints(controller: Daemon, tmp_path: Path) -> None:
    """`commit` takes a file, with --pretend too, and prints InfraKit's texts."""
    path = tmp_path / "web.json"
    path.write_text(sized(3))
    added = "Adding 1 instances to increase the group size to 3\n"
    would = f"Committing web would involve: {added}"
    assert would == ok(controller.home, "group", "commit", str(path), "--pretend")
    assert f"Committed web: {added}" == ok(controller.home, "group", "commit", str(path))
    assert "Committed web: Noop\n" == ok(controller.home, "group", "commit", str(path))


def test_commit_takes_yaml(controller: Daemon, tmp_path: Path) -> None:
    """A file is YAML by its suffix or with -y."""
    text = "ID: db\nProperties: {Allocation: {Size: 1}, Instance: {Plugin: rack1}}\n"
    (tmp_path / "db.yml").write_text(text)
    assert "Committed db: Managing 1 instances\n" == ok(controller.home, "group", "commit", str(tmp_path / "db.yml"))
    assert "Committed db: Noop\n" == ok(controller.home, "group", "commit", "-y", "-", input=text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"Properties": {}}', "-: missing required field ID"),
        ('{"ID": 1}', "-:1:2: ID: expected a string, got 1"),
        ("[]", "-: expected an object, got an array"),
        ("{", "-:1:2: not JSON: it ends too early"),
        ('{"ID": "db"}', "-: missing required field Properties"),
    ],
)
def test_commit_refuses_an_invalid_file(controller: Daemon, text: str, message: str) -> None:
    """A file that is no group's spec is an error that names the field."""
    assert message == fails(controller.home, "group", "commit", "-", input=text)


def test_describe_prints_infrakits_columns(controller: Daemon) -> None:
    """`describe` prints ID, LOGICAL and TAGS as InfraKit does; -q leaves out the heads."""
    rows = [f"{f'web-{number}':30}\t{'  -   ':30}\t{TAGS}" for number in range(2)]
    assert [f"{'ID':30}\t{'LOGICAL':30}\tTAGS", *rows] == ok(controller.home, "group", "describe", "web").splitlines()
    assert rows == ok(controller.home, "group", "describe", "web", "-q").splitlines()


def test_ls_prints_ids(controller: Daemon) -> None:
    """`ls` prints the groups' IDs under a head; -q leaves out the head."""
    assert "ID\nweb\n" == ok(controller.home, "group", "ls")
    assert "web\n" == ok(controller.home, "group", "ls", "-q")
    ok(controller.home, "group", "free", "web")
    assert "" == ok(controller.home, "group", "ls", "-q")


def test_inspect_prints_a_spec_that_commit_takes(controller: Daemon) -> None:
    """`inspect` prints a group's spec; a commit of that changes nothing."""
    text = ok(controller.home, "group", "inspect", "web")
    assert PROPERTIES["Instance"] == json.loads(text)["Properties"]["Instance"]
    assert "Committed web: Noop\n" == ok(controller.home, "group", "commit", "-", input=text)
    assert "Group 'x' is not being watched" == fails(controller.home, "group", "inspect", "x")


def test_free_and_destroy_print_what_infrakit_prints(controller: Daemon) -> None:
    """`free` and `destroy` do not ask, and print InfraKit's texts; then the group is unknown."""
    assert "Freed web\n" == ok(controller.home, "group", "free", "web")
    assert "Group 'web' is not being watched" == fails(controller.home, "group", "destroy", "web")
    ok(controller.home, "group", "commit", "-", input=json.dumps(WEB))
    assert "destroy web initiated\n" == ok(controller.home, "group", "destroy", "web")


def test_scale_prints_and_sets_the_size(controller: Daemon) -> None:
    """`scale` prints the size, and with a number sets it."""
    assert "Group web at 2 instances\n" == ok(controller.home, "group", "scale", "web")
    assert "Group web at 2 instances, scale to 0\n" == ok(controller.home, "group", "scale", "web", "0")
    assert "Group web at 0 instances\n" == ok(controller.home, "group", "scale", "web")
    assert "group x not found" == fails(controller.home, "group", "scale", "x", "1")
    assert "-1 is not in the range" in fails(controller.home, "group", "scale", "web", "--", "-1", code=2)


def test_destroy_instance_takes_members(controller: Daemon) -> None:
    """`destroy-instance` destroys members and shrinks the group; an unknown one is an error."""
    assert "Initiated.\n" == ok(controller.home, "group", "destroy-instance", "web", "web-0")
    assert "Group web at 1 instances\n" == ok(controller.home, "group", "scale", "web")
    assert "no member 'x': it never existed here, or is gone" == fails(
        controller.home, "group", "destroy-instance", "web", "x"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("group", "--name", "mine", "describe", "web"),
        ("group", "describe", "web", "--name", "mine"),
        ("group", "describe", "--name=mine", "web"),
        ("group", "--name", "mine/web", "describe"),
        ("group", "--name", "mine/groups", "describe", "web"),
        ("mine", "describe", "web"),
        ("mine/web", "describe"),
        ("local", "mine", "ls", "web"),
        ("local", "mine/groups", "describe", "web"),
        ("local", "mine/web", "describe", "web"),
    ],
    ids=" ".join,
)
def test_the_forms_of_all_releases_reach_a_controller(run: Callable[..., Daemon], arguments: tuple[str, ...]) -> None:
    """A controller of any name is reached in the form of every InfraKit release."""
    daemon = run(name="mine", program=PAPER)
    ok(daemon.home, "local", "mine", "commit-group", "-", input=json.dumps(WEB))
    assert 3 == len(ok(daemon.home, *arguments).splitlines())


def test_the_last_releases_verbs_work(controller: Daemon) -> None:
    """`groups`, `free-group` and `commit-group` are further names of verbs."""
    assert "ID\nweb\n" == ok(controller.home, "local", "group", "groups")
    assert "Freed web\n" == ok(controller.home, "local", "group", "free-group", "web")
    text = ok(controller.home, "group", "commit-group", "-", input=json.dumps(WEB))
    assert "Committed web: Managing 2 instances\n" == text


def test_dir_chooses_the_folder_of_sockets(controller: Daemon) -> None:
    """`--dir` is the folder of sockets, before or after the verb."""
    elsewhere = controller.home / "elsewhere"
    controller.socket.parent.rename(elsewhere)
    assert "web\n" == ok(controller.home, "group", "--dir", str(elsewhere), "ls", "-q")
    assert "web\n" == ok(controller.home, "group", "ls", "-q", "--dir", str(elsewhere))
    message = f"no plugin at {controller.socket}: there is no such socket; is the plugin running?"
    assert message == fails(controller.home, "group", "ls")


# our own verbs


def test_describe_shows_state_and_health(controller: Daemon) -> None:
    """With -w, `describe` shows all members with state, health, configuration and reason; -o json prints all."""
    spec = {"ID": "db", "Properties": {**PROPERTIES, "Allocation": {"LogicalIDs": ["a", "lost"]}}}
    ok(controller.home, "group", "commit", "-", input=json.dumps(spec))
    head, *rows = [line.split("  ") for line in ok(controller.home, "group", "describe", "db", "-w").splitlines()]
    assert ["ID", "LOGICAL", "STATE", "HEALTH", "CONFIG", "SINCE", "REASON", "TAGS"] == [
        *filter(None, map(str.strip, head))
    ]
    assert ["ready", "non-functional"] == [[*filter(None, row)][2].strip() for row in rows]
    wide = ok(controller.home, "group", "describe", "db", "-o", "wide")
    assert "it seems lost" in wide
    assert 2 == len(ok(controller.home, "group", "describe", "db", "-wq").splitlines())
    assert 2 == len(json.loads(ok(controller.home, "group", "describe", "db", "-o", "json"))["Members"])


def test_ls_shows_sizes(controller: Daemon) -> None:
    """With -w, `ls` shows each group's size, its healthy and outdated members and its phase."""
    head, row = ok(controller.home, "group", "ls", "-w").splitlines()
    assert ["ID", "SIZE", "HEALTHY", "OUTDATED", "PHASE", "TROUBLE"] == head.split()
    assert ["web", "2", "2", "0", "idle", "-"] == row.split()
    (group,) = json.loads(ok(controller.home, "group", "ls", "-o", "json"))
    assert {"ID": "web", "Size": 2, "Healthy": 2, "Outdated": 0, "Phase": "idle", "Trouble": ""} == group


def test_plan_exits_with_2_if_something_would_change(controller: Daemon) -> None:
    """`plan` prints each step with its reason, and the exit status says whether there are any."""
    assert "web: Noop; at most 1 unavailable at once\n" == ok(controller.home, "group", "plan", "-", input=sized(2))
    done = command(controller.home, "group", "plan", "-", input=sized(3), program=INFRAKIT)
    assert (2, "") == (done.returncode, done.stderr)
    first, head, step = done.stdout.splitlines()
    assert "web: Adding 1 instances to increase the group size to 3; at most 1 unavailable at once" == first
    assert ["STEP", "ACTION", "MEMBER", "NEW", "REASON"] == head.split()
    assert ["1", "create", "-", "-", "member", "2", "of", "3", "is", "missing"] == step.split()
    assert "web-0\n" not in ok(controller.home, "group", "describe", "web", "-q")


def test_plan_prints_json(controller: Daemon) -> None:
    """With -o json, `plan` prints what the text has."""
    done = command(controller.home, "group", "plan", "-", "-o", "json", input=sized(3), program=INFRAKIT)
    (report,) = json.loads(done.stdout)
    step = {"Number": 1, "Verb": "create", "Subject": "", "New": "", "Reason": "member 2 of 3 is missing"}
    assert ("web", [step], 1, True) == (report["ID"], report["Steps"], report["Budget"], report["HasChanges"])


@pytest.mark.parametrize("arguments", [("nope.json",), ("-", "--nope"), (), ("-", "-o", "xml")], ids=" ".join)
def test_plan_exits_with_1_on_any_error(controller: Daemon, arguments: tuple[str, ...]) -> None:
    """No error of `plan` is mistaken for a plan with changes."""
    assert "" != fails(controller.home, "group", "plan", *arguments, input="{}")


def test_why_explains_a_group_and_a_member(controller: Daemon) -> None:
    """`why` prints the steps of a group or of one member, with reasons."""
    assert "nothing to do" == ok(controller.home, "group", "why", "web").splitlines()[-1]
    spec = {"ID": "db", "Properties": {**PROPERTIES, "Allocation": {"LogicalIDs": ["a", "lost"]}}}
    ok(controller.home, "group", "commit", "-", input=json.dumps(spec))
    text = ok(controller.home, "group", "why", "db")
    assert "members  2 of 2: 1 healthy, 0 outdated" in text
    assert ["hold", "db-1", "it", "seems", "lost"] == text.splitlines()[-1].split()
    assert text.splitlines()[-1] == ok(controller.home, "group", "why", "db", "lost").splitlines()[-1]
    assert "nothing to do" == ok(controller.home, "group", "why", "db", "db-0").splitlines()[-1]
    (step,) = json.loads(ok(controller.home, "group", "why", "db", "-o", "json"))
    assert {"Verb": "hold", "Subject": "db-1", "Reason": "it seems lost"} == step
    assert "no member of db 'x': it never existed here, or is gone" == fails(controller.home, "group", "why", "db", "x")


def test_history_and_undo(controller: Daemon) -> None:
    """`history` lists commits and who made them; `undo` goes back by one, or to one of them."""
    ok(controller.home, "group", "commit", "-", input=sized(3))
    assert "Committed web: Noop\n" == ok(controller.home, "group", "undo", "web")
    assert "Group web at 2 instances\n" == ok(controller.home, "group", "scale", "web")
    ok(controller.home, "group", "undo", "web", "2")
    assert "Group web at 3 instances\n" == ok(controller.home, "group", "scale", "web")
    head, *rows = ok(controller.home, "group", "history", "web").splitlines()
    assert ["NUMBER", "TIME", "BY", "CAUSE", "DETAILS"] == head.split()
    assert ["commit", "commit", "undo", "undo"] == [row.split()[4] for row in rows]
    assert all(f"@{socket.gethostname()}" in row for row in rows)
    commits = json.loads(ok(controller.home, "group", "history", "web", "-o", "json"))
    assert [2, 3, 2, 3] == [each["Properties"]["Allocation"]["Size"] for each in commits]
    assert "group web has no commit 9" == fails(controller.home, "group", "undo", "web", "9")


def test_an_update_is_paused_resumed_and_aborted(controller: Daemon) -> None:
    """`pause`, `resume` and `abort` change the phase of an update."""
    assert "paused web\n" == ok(controller.home, "group", "pause", "web", "--reason", "a fair")
    assert "update   paused: a fair" in ok(controller.home, "group", "why", "web")
    assert "resumed web\n" == ok(controller.home, "group", "resume", "web")
    assert "update   rolling" in ok(controller.home, "group", "why", "web")
    assert "aborted web\n" == ok(controller.home, "group", "abort", "web")
    assert "update   aborted" in ok(controller.home, "group", "why", "web")


def test_a_member_is_protected(controller: Daemon) -> None:
    """`protect` and `unprotect` show in the reason of a member."""
    assert "protected web-1\n" == ok(controller.home, "group", "protect", "web", "web-1")
    assert "protected" in ok(controller.home, "group", "describe", "web", "-w")
    assert "unprotected web-1\n" == ok(controller.home, "group", "unprotect", "web", "web-1")
    assert "protected" not in ok(controller.home, "group", "describe", "web", "-w")


def test_confirm_releases_held_losses(controller: Daemon) -> None:
    """`confirm` prints the members whose loss was held."""
    spec = {"ID": "db", "Properties": {**PROPERTIES, "Allocation": {"LogicalIDs": ["lost"]}}}
    ok(controller.home, "group", "commit", "-", input=json.dumps(spec))
    assert "confirmed db-0\n" == ok(controller.home, "group", "confirm", "db")
    assert "nothing is held\n" == ok(controller.home, "group", "confirm", "db")


# instances


def test_instance_is_infrakit_instance(daemon: Daemon) -> None:
    """`infrakit instance VERB` is `infrakit-instance VERB`."""
    id = daemon.provision(infrakit_group="web")
    assert command(daemon.home, "describe", "rack1").stdout == ok(daemon.home, "instance", "describe", "rack1")
    assert f"destroyed {id}\n" == ok(daemon.home, "instance", "destroy", "rack1", id)


def test_instance_without_a_verb_is_the_daemon(home: Path) -> None:
    """`infrakit instance --name NAME` without a verb runs a plugin."""
    with Daemon(home, *FAST, program=(*INFRAKIT, "instance")) as daemon:
        assert [daemon.provision()] == daemon.described()


@pytest.mark.parametrize("form", [("instance", "--name", "rack1"), ("rack1",), ("local", "rack1")], ids=" ".join)
def test_instances_in_infrakits_form(daemon: Daemon, form: tuple[str, ...]) -> None:
    """In the forms of all InfraKit releases, the verbs leave out NAME and print what InfraKit's print."""
    spec: dict[str, Any] = {"Properties": {}, "Tags": {"infrakit.group": "web"}, "LogicalID": "a"}
    id = ok(daemon.home, *form, "provision", "-", input=json.dumps(spec)).strip()
    row = f"{id:30}\t{'a':30}\tinfrakit.group=web"
    assert f"{'ID':30}\t{'LOGICAL':30}\tTAGS\n{row}\n" == ok(daemon.home, *form, "describe")
    assert f"{row}\n" == ok(daemon.home, *form, "describe", "-q", "--tags", "infrakit.group=web")
    assert "" == ok(daemon.home, *form, "describe", "-q", "--tags", "infrakit.group=db")
    assert "validate:ok\n" == ok(daemon.home, *form, "validate", "-", input='{"n": 1}')
    assert "validate:ok\n" == ok(daemon.home, *form, "validate", "-", input=json.dumps(spec))
    assert f"destroyed {id}\n" == ok(daemon.home, *form, "destroy", id)


def test_the_name_may_follow_the_verb(daemon: Daemon) -> None:
    """As in InfraKit, `--name` may follow the verb; `--dir` may precede it."""
    id = daemon.provision()
    folder = str(daemon.socket.parent)
    assert id in ok(daemon.home, "instance", "describe", "--name", "rack1")
    assert id in ok(daemon.home, "instance", "describe", "-q", "--name=rack1", id)
    assert id in ok(Path("/nowhere"), "instance", "--dir", folder, "--name", "rack1", "describe")


# plugins


def test_plugin_ls_lists_live_sockets(controller: Daemon, run: Callable[..., Daemon]) -> None:
    """`plugin ls` prints the name and the socket of each plugin that runs, as InfraKit does."""
    other = run(*FAST, name="rack1")
    rows = [f"{'group':20}\t{controller.socket}", f"{'rack1':20}\t{other.socket}"]
    assert [f"{'NAME':20}\tLISTEN", *rows] == ok(controller.home, "plugin", "ls").splitlines()
    assert rows == ok(controller.home, "plugin", "ls", "-q").splitlines()
    wide = [line.split() for line in ok(controller.home, "plugin", "ls", "-w").splitlines()]
    expected = [["INTERFACE", "NAME", "LISTEN"], ["Group/0.1.1", "group", str(controller.socket)]]
    assert [*expected, ["Instance/0.6.1", "rack1", str(other.socket)]] == wide


def test_plugin_ls_names_sockets_without_a_plugin(controller: Daemon) -> None:
    """`plugin ls` leaves out a socket on which nothing listens, and names it on stderr."""
    controller.kill()
    eventually(lambda: stat.S_ISSOCK(os.stat(controller.socket).st_mode))
    done = command(controller.home, "plugin", "ls", "-q", program=INFRAKIT)
    assert (0, "") == (done.returncode, done.stdout)
    assert f"infrakit: nothing listens on {controller.socket}: its plugin is gone\n" == done.stderr


def test_plugin_ls_without_plugins(home: Path) -> None:
    """`plugin ls` on a fresh machine prints the heads alone."""
    assert f"{'NAME':20}\tLISTEN\n" == ok(home, "plugin", "ls")
